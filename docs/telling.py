"""How the demos tell: each command as a new user types it, what it said, and whether it is what the story says."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ATTESTD = Path(sys.executable).with_name("attestd")
COLOUR = sys.stdout.isatty()
WIDTH = 100


def paint(text: str, code: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


@dataclass
class Result:
    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


class Story:
    """A story in a directory of its own; `exports` is what its user has in the environment besides."""

    def __init__(self, home: Path, exports: Mapping[str, str]) -> None:
        self.home = home
        self.started = time.monotonic()
        self.outcomes: list[tuple[str, str, bool]] = []
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.environment = {**kept, "HOME": str(home), "COLUMNS": str(WIDTH - 4), **exports}

    # -- telling ---------------------------------------------------------------------------------------------------

    def chapter(self, title: str) -> None:
        print(f"\n{paint(title, '1;36')}")

    def show(self, command: str, result: Result, *, lines: int = 6, sections: Sequence[str] = ()) -> None:
        """What was said: its first lines, or of a long page some sections."""
        self.show_command(command)
        shown = result.text.replace(str(self.home), "~").rstrip().splitlines()
        shown = [line for line, title in titled(shown) if title in sections] if sections else shown
        for line in shown[:lines]:
            for part in textwrap.wrap(line, WIDTH - 4, drop_whitespace=False) or [""]:
                print(f"    {part}")
        if len(shown) > lines:
            print(f"    {paint(f'… {len(shown) - lines} more lines', '2')}")

    def show_command(self, command: str) -> None:
        print(f"  {paint('$ ' + command.replace(str(self.home), '~'), '1')}", flush=True)

    def villain(self, words: str) -> None:
        print(f"  {paint('villain', '1;35')}: {words}")

    def expect(self, claim: str, found: str, ok: bool) -> None:
        mark = paint("✓", "1;32") if ok else paint("✗", "1;31")
        print(f"  {mark} {claim}", flush=True)
        self.outcomes.append((claim, found, ok))

    # -- doing -----------------------------------------------------------------------------------------------------

    def run(
        self, *arguments: str, quiet: bool = False, lines: int = 6, sections: Sequence[str] = ()
    ) -> Result:
        result = self._result(arguments)
        if not quiet:
            self.show("attestd " + " ".join(arguments), result, lines=lines, sections=sections)
        return result

    def run_together(self, *commands: Sequence[str], lines: int = 6) -> list[Result]:
        """Several at once, as several people would; the first is shown, for the others are like it."""
        with ThreadPoolExecutor() as threads:
            results = list(threads.map(self._result, commands))
        self.show("attestd " + " ".join(commands[0]), results[0], lines=lines)
        return results

    def _result(self, arguments: Sequence[str]) -> Result:
        done = subprocess.run(
            [ATTESTD, *arguments],
            capture_output=True,
            text=True,
            cwd=self.home,
            env=self.environment,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def denied(self, claim: str, code: str, *command: str, words: str = "") -> Result:
        result = self.run(*command)
        status = 69 if code == "mesh_unavailable" else 77  # it may help to ask again
        ok = result.status == status and f"denied: {code}:" in result.err and words in result.err
        self.expect(claim, code, ok)
        return result

    def start(self, log: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A command in the background; what it says goes to a file."""
        with (self.home / log).open("ab") as file:
            return subprocess.Popen(
                [ATTESTD, *arguments],
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                cwd=self.home,
                env=self.environment,
            )

    def summary(self, title: str) -> bool:
        failed = [claim for claim, _, ok in self.outcomes if not ok]
        elapsed = time.monotonic() - self.started
        left = max(len(claim) for claim, _, _ in self.outcomes)
        right = max(len(found) for _, found, _ in self.outcomes)
        inner = left + right + 6
        print("\n" + "┏" + "━" * inner + "┓")
        print("┃" + paint(title.center(inner), "1") + "┃")
        print("┣" + "━" * inner + "┫")
        for claim, found, ok in self.outcomes:
            mark = paint("✓", "1;32") if ok else paint("✗", "1;31")
            print(f"┃ {mark} {claim:<{left}}  {found:>{right}} ┃")
        print("┣" + "━" * inner + "┫")
        verdict = "all of it happened as told" if not failed else f"{len(failed)} did not happen as told"
        line = f"{len(self.outcomes) - len(failed)} of {len(self.outcomes)}: {verdict} ({elapsed:.0f} s)"
        print("┃" + line.center(inner) + "┃")
        print("┗" + "━" * inner + "┛")
        return not failed


def titled(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each line with the title that it stands under."""
    title = ""
    for line in lines:
        title = title if line.startswith(" ") else line
        yield line, title


def until(ready: Callable[[], bool], *, seconds: float = 60, pause_s: float = 0.2) -> bool:
    """Waits; whether it came to be."""
    deadline = time.monotonic() + seconds
    while not (done := ready()) and time.monotonic() < deadline:
        time.sleep(pause_s)
    return done


def end(process: subprocess.Popen[bytes] | None, number: int = signal.SIGTERM) -> None:
    """Ends what was started, and waits until it is gone."""
    if process is not None and process.poll() is None:
        process.send_signal(number)
        process.wait(timeout=20)


def end_runner(state: Path) -> None:
    """The runner is nobody's child: the kernel names who listens."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(state / "run" / "runner.sock"))
        except OSError:
            return
        pid = struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
