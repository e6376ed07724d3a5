"""docs/governance.md, every command in order, in one shell: what it says is printed is printed, what it says holds holds."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestd.distribution.repository import Repository
from attestd.governance.metadata import verify_metadata
from tests.docs.forked import command_line
from tests.docs.test_readme import MARK, ROOT, Step, kill_runner

PAGE = (ROOT / "docs" / "governance.md").read_text("utf-8")
BLOCK = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)


def steps() -> list[Step]:
    found = []
    for block in BLOCK.findall(PAGE):
        found += re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    return [Step(command, expected) for command, expected in found]


def status_of(step: Step) -> int:
    """What is refused for want of signatures fails, and what is denied."""
    return 64 if "attestd: targets version 1 has 1 of 2" in step.expected else step.status


def script() -> str:
    lines = []
    for step in steps():
        lines += [step.command, f"printf '{MARK}%d{MARK}' $?; printf '{MARK}' >&2"]
        if "serve" in step.command:  # whoever reads takes longer than this from one line to the next
            lines.append("until attestd status --state-dir host1 >/dev/null 2>&1; do sleep 0.1; done")
    return "\n".join([*lines, "wait"])


@pytest.fixture
def home(short_dir: Path) -> Iterator[Path]:
    (short_dir / "passphrase").write_text("a passphrase\n")
    (short_dir / "passphrase").chmod(0o600)
    (short_dir / "yes").write_text("y\n" * 2_000_000)
    (short_dir / "work").mkdir()
    yield short_dir
    kill_runner(short_dir / "work" / "host1")


@pytest.mark.timeout(300)
def test_every_command_does_what_the_page_says(home: Path) -> None:
    with command_line(home), (home / "yes").open() as answers:
        done = subprocess.run(
            ["bash", "-c", script()],
            cwd=home / "work",
            env={
                "HOME": str(home),
                "PATH": f"{home}:/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG": "C.UTF-8",
                "ATTESTD_PASSPHRASE_FILE": str(home / "passphrase"),
            },
            stdin=answers,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    *pairs, _ = done.stdout.split(MARK)
    printed, statuses, said = pairs[::2], pairs[1::2], done.stderr.split(MARK)
    assert len(printed) == len(steps()), done.stderr
    for step, output, words, status in zip(steps(), printed, said, statuses, strict=False):
        assert int(status) == status_of(step), (step.command, output, words)
        # On a terminal both streams are one; here nobody knows which came first.
        shown = (output + words, words + output)
        assert any(re.search(step.pattern(), text) for text in shown), (step.command, output, words)
    still_verifies(home / "work")


def still_verifies(work: Path) -> None:
    """A host that was given the very first root follows through all of it, also from the restored directory."""
    anchor = (work / "old" / "metadata" / "1.root.json").read_bytes()
    for directory in (work / "web", work / "restored" / "published"):

        def fetch(name: str, max_bytes: int, *, top: Path = directory) -> bytes | None:
            path = top / "metadata" / name
            return path.read_bytes()[: max_bytes + 1] if path.exists() else None

        found = verify_metadata(fetch, root=anchor, floor=None)
        assert (found.versions.root, found.versions.snapshot) == (5, 12)
    accepted = Repository(work / "governance").validate().trust
    assert accepted.revocations.requesters == {65534}
    assert accepted.authorities.teams.keys() == {"web"}
    assert os.path.exists(work / "web-again" / "metadata" / "1.root.json")


def test_each_role_has_its_runbooks() -> None:
    section = PAGE.partition("## When a key is lost or stolen")[2]
    for role in (
        "### root, fewer",
        "### root, as many",
        "### targets",
        "### snapshot and timestamp",
        "### A team's",
    ):
        assert role in section
