"""What is said on stderr: one line a record, parseable, with the journal's priorities where the journal reads it."""

import json
import logging
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.journal import MAX_VALUE_CHARACTERS, event, failure, tell_journal

ROOT = Path(__file__).parents[1]
FIELD = re.compile(r' ([a-z_]+)=("(?:[^"\\]|\\.)*"|[^" ]+)')


def parsed(line: str) -> tuple[str, dict[str, str]]:
    """As a reader would take a record apart."""
    name, _, rest = line.partition(" ")
    fields = FIELD.findall(" " + rest) if rest else []
    assert "".join(f" {key}={value}" for key, value in fields) == (" " + rest if rest else "")
    return name, {key: json.loads(value) if value.startswith('"') else value for key, value in fields}


def test_event() -> None:
    assert event("agent.stopped") == "agent.stopped"
    assert event("denied", code="expired", uid=1000, seq=None) == "denied code=expired uid=1000"
    assert event("runner.lost", error='no "runner"') == r'runner.lost error="no \"runner\""'
    assert event("x", path="/a/b", empty="") == 'x path=/a/b empty=""'


@given(st.text(max_size=200), st.text(max_size=50))
def test_no_value_can_look_like_another_field_or_line(first: str, second: str) -> None:
    line = event("e", first=first, second=second)
    assert line.isascii()
    assert line.isprintable()
    assert parsed(line) == ("e", {"first": first, "second": second})


def test_values_are_bounded() -> None:
    _, fields = parsed(event("e", value="a b" * 100_000))
    assert len(fields["value"]) == MAX_VALUE_CHARACTERS + 3
    assert fields["value"].endswith("...")


def test_what_is_decided_at_a_terminal(tmp_path: Path) -> None:
    """The fields of a datagram, each a line: none can be added by what a value holds."""
    address = str(tmp_path / "journal")
    assert not tell_journal("e", identifier="i", address=address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(address)
        line = event("bounded", operator="alice\nPRIORITY=0")
        assert tell_journal(line, identifier="attestd-controller", address=address)
        assert journal.recv(4096).decode().splitlines() == [
            r'MESSAGE=bounded operator="alice\nPRIORITY=0"', "PRIORITY=6", "SYSLOG_IDENTIFIER=attestd-controller",
        ]  # fmt: skip


def test_failure_says_what_and_where_but_not_its_words() -> None:
    try:
        {}["my secret"]
    except KeyError as error:
        fields = failure(error)
    assert fields["error"] == "KeyError"
    assert re.fullmatch(r"test_journal\.py:\d+", fields["where"])


SCRIPT = """
import os, sys
from attestd.errors import StoreError
from attestd.journal import event, logging_to_stderr
if sys.argv[1] == "journal":
    status = os.fstat(2)
    os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
elif sys.argv[1] == "another":
    os.environ["JOURNAL_STREAM"] = "1:2"
elif sys.argv[1] == "gone":
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
with logging_to_stderr(verbose=len(sys.argv) > 2) as log:
    log.debug(event("d"))
    log.info(event("i", text="two\\nlines\\x1b[31m"))
    log.warning("\\x1b[31m100% \\u202e")
    log.error(event("e"))
    log.critical(event("c"))
    try:
        {}["my secret"]
    except KeyError:
        log.exception(event("failed", incident=1))
    try:
        raise StoreError("expected")
    except StoreError as error:
        log.exception(event("failed", error=error))
log.warning("after the context")
"""


def said(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stderr.splitlines()


def test_for_the_journal() -> None:
    lines = said("journal")
    assert [line[:3] for line in lines[:-1]] == ["<6>", "<4>", "<3>", "<2>", "<3>", "<3>"]
    assert lines[0] == r'<6>i text="two\nlines\u001b[31m"'
    assert lines[1] == r"<4>\u001b[31m100% \u202e"
    assert re.fullmatch(r'<3>failed incident=1 error=KeyError where="<string>:\d+"', lines[4])
    assert lines[5] == "<3>failed error=expected"
    assert "secret" not in "".join(lines)
    assert said("journal", "verbose")[0] == "<7>d"


@pytest.mark.parametrize("stream", ["", "another"])
def test_for_people(stream: str) -> None:
    """Also where only the environment speaks of a journal: it is inherited by programs whose stderr is something else."""
    lines = said(stream)
    assert all(re.match(r"\d\d:\d\d:\d\d (info|warning|error|critical) ", line) for line in lines[:-1]), lines


def test_a_stderr_that_takes_nothing_is_no_trouble() -> None:
    assert said("gone") == []


def test_nothing_is_said_outside() -> None:
    assert logging.getLogger("attestd").handlers == []


@pytest.mark.parametrize("page", ["operations", "operations-controller"])
def test_every_event_is_documented(page: str) -> None:
    """ "The journal" of each page: all events that its code has, and no others."""
    controller = {ROOT / "attestd/cli/controller.py", *(ROOT / "attestd/controller").rglob("*.py")}
    every = set((ROOT / "attestd").rglob("*.py"))
    named: set[str] = set()
    for path in controller if page == "operations-controller" else every - controller:
        named |= set(re.findall(r'\bevent\(\s*"([a-z_.]+)"', path.read_text()))
    section = (ROOT / f"docs/{page}.md").read_text().partition("## The journal\n")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\|([^|]+)\|", section, re.MULTILINE)
    documented = set(re.findall(r"`([a-z_.]+)`", "".join(first_cells)))
    assert documented == named
