"""docs/governance.md, every command in order, in one shell: what it says is printed is printed, what it says holds holds."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from attestd.distribution.repository import Repository
from attestd.governance.metadata import verify_metadata
from tests.docs.forked import command_line
from tests.docs.test_readme import MARK, ROOT, Step, script

PAGE = (ROOT / "docs" / "governance.md").read_text("utf-8")
BLOCK = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)


def steps() -> list[Step]:
    found = []
    for block in BLOCK.findall(PAGE):
        found += re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    return [Step(command, expected) for command, expected in found]


def status_of(step: Step) -> int:
    """Only what is refused for want of signatures fails."""
    return 64 if "attestd: targets version 1 has 1 of 2" in step.expected else 0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "passphrase").write_text("a passphrase\n")
    (tmp_path / "passphrase").chmod(0o600)
    (tmp_path / "yes").write_text("y\n" * 2_000_000)
    return tmp_path


def test_every_command_does_what_the_page_says(home: Path, short_dir: Path) -> None:
    work = home / "work"
    work.mkdir()
    with command_line(short_dir), (home / "yes").open() as answers:
        done = subprocess.run(
            ["bash", "-c", script(steps())],
            cwd=work,
            env={
                "HOME": str(home),
                "PATH": f"{short_dir}:/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "ATTESTD_PASSPHRASE_FILE": str(home / "passphrase"),
            },
            stdin=answers,
            capture_output=True,
            text=True,
            timeout=110,
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
    still_verifies(work)


def still_verifies(work: Path) -> None:
    """A host that was given the very first root follows through all of it, also from the restored directory."""
    anchor = (work / "old" / "metadata" / "1.root.json").read_bytes()
    for directory in (work / "web", work / "restored" / "published"):

        def fetch(name: str, max_bytes: int, *, top: Path = directory) -> bytes | None:
            path = top / "metadata" / name
            return path.read_bytes()[: max_bytes + 1] if path.exists() else None

        found = verify_metadata(fetch, root=anchor, floor=None)
        assert (found.versions.root, found.versions.snapshot) == (5, 10)
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
