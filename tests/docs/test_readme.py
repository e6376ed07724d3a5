"""The README's tour, line by line, on a real software TPM: what it says is printed is printed."""

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MARK = "\x1e"
# Whoever reads takes longer than this from one line to the next.
UNTIL_IT_SERVES = "until attestd status >/dev/null 2>&1; do sleep 0.1; done"


@dataclass(frozen=True)
class Step:
    command: str
    expected: str

    @property
    def status(self) -> int:
        return 77 if self.expected.startswith("attestd: denied:") else 0

    def pattern(self) -> str:
        """Dots stand for anything: alone on a line, for any lines."""
        lines = (
            "(?s:.*)" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n"
            for line in self.expected.splitlines()
        )
        return rf"\A{''.join(lines)}\Z"


def tour() -> list[Step]:
    """The commands of the tour's block, each with what is printed below it."""
    found = re.search(
        r"<!-- tour -->\n```console\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL
    )
    assert found is not None
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", found[1], re.MULTILINE)
    return [Step(command, expected) for command, expected in steps]


def script(steps: list[Step]) -> str:
    lines = []
    for step in steps:
        lines += [step.command, f"printf '{MARK}%d{MARK}' $?; printf '{MARK}' >&2"]
        if step.command.endswith("&"):
            lines.append(UNTIL_IT_SERVES)
    return "\n".join([*lines, "wait"])


def kill_runner(state: Path) -> None:
    """The runner outlives the agent: it is ended by the process id that the kernel names."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(state / "run" / "runner.sock"))
        except OSError:
            return
        pid = struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    os.kill(pid, signal.SIGTERM)


@pytest.fixture
def home() -> Iterator[Path]:
    # Not tmp_path: sockets below it would have too long a path.
    path = Path(tempfile.mkdtemp(prefix="tour-", dir="/tmp"))
    (path / ".venv").mkdir()
    (path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    yield path
    kill_runner(path / "attestd-tour")
    shutil.rmtree(path)


def test_the_tour_does_what_it_says(home):
    steps = tour()
    done = subprocess.run(
        ["bash", "-c", script(steps)],
        cwd=home,
        env={
            "HOME": str(home),
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    *pairs, _ = done.stdout.split(MARK)
    printed, statuses, said = pairs[::2], pairs[1::2], done.stderr.split(MARK)
    assert len(printed) == len(steps), done.stderr
    for step, output, words, status in zip(steps, printed, said, statuses, strict=False):
        assert int(status) == step.status, (step.command, words)
        assert re.search(step.pattern(), output + words), (step.command, output, words)


def test_the_tour_has_what_a_newcomer_needs():
    commands = [step.command for step in tour()]
    words = " ".join(commands)
    assert len(commands) == 10
    for word in ("init", "serve", "authorization issue", "exec", "why", "audit verify", "verify receipt"):
        assert f"attestd {word}" in words


def test_the_commands_come_first():
    text = (ROOT / "README.md").read_text("utf-8")
    assert re.match(r"# attestd\n\n.*\n\n```sh\nmake demo .*\nmake demo-mesh .*\nmake test .*\n```", text)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in ("demo", "demo-mesh", "test"))
