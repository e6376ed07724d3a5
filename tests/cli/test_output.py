"""How results look: nothing from outside steers a terminal; colour only on one."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from attestd.cli import output
from attestd.cli.entry_view import entry_facts, summary, user
from attestd.cli.output import Output, mark, text
from attestd.lineage.entry import Entry, EntryType
from tests.cli.conftest import Cli, ran
from tests.host import Host

EVIL = "\x1b]0;owned\x07\u202eevil\r\n"


def on_terminal(*arguments: str, state: Path) -> str:
    """What a command writes to a terminal of 90 columns."""
    leader, follower = pty.openpty()
    environment = {
        "PATH": "/usr/bin:/bin",
        "TERM": "xterm-256color",
        "COLUMNS": "90",
        "LANG": "C.UTF-8",
        "ATTESTD_STATE_DIR": str(state),
    }
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "attestd", *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
    )
    os.close(follower)
    shown = b""
    try:
        while part := os.read(leader, 65536):
            shown += part
    except OSError:
        pass  # a pty's end
    finally:
        os.close(leader)
    assert process.wait() == 0, shown
    return shown.decode()


def test_colour_and_width_on_a_terminal(running: Host) -> None:
    shown = on_terminal("status", state=running.state)
    assert "\x1b[32m" in shown
    assert "✓" in shown
    plain = "".join(
        part.partition("m")[2] if number else part for number, part in enumerate(shown.split("\x1b["))
    )
    assert max(len(line) for line in plain.splitlines()) <= 90
    assert running.id in plain.replace("\r\n", "")


def test_no_escapes_elsewhere(cli: Cli, running: Host) -> None:
    for command in (["status"], ["audit", "tail"], ["why", ran(running)], ["doctor"], ["platform", "show"]):
        assert "\x1b" not in cli.ok(*command).stdout


def test_text_from_outside_is_escaped() -> None:
    shown = text([EVIL, "second"]).plain
    assert shown == "\\u001b]0;owned\\u0007\\u202eevil\\u000d\\u000a\nsecond"


def test_an_entry_from_outside_cannot_steer(capsys: pytest.CaptureFixture[str]) -> None:
    body = {
        "argv": ["x", EVIL], "requester": {"uid": EVIL}, "code": EVIL, "denial": {"sentence": EVIL, "hint": EVIL},
        "env": {EVIL: EVIL}, "executable": {"path": EVIL, "sha256": EVIL}, EVIL: EVIL, "interpreters": [EVIL],
    }  # fmt: skip
    shown = Output()
    for type_ in EntryType:
        entry = Entry(v=1, type=type_, time="2026-01-01T00:00:00.000000Z", seq=1, boot=EVIL, body=body)
        shown.facts(entry_facts(entry, EVIL))
        shown.line(summary(entry))
        shown.table((EVIL, "x"), [(summary(entry), EVIL)])
    printed = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\u202e", "\r"} & set(printed)


def test_columns_line_up(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(("a", "b", "c"), [("1", ["x", "long"], "end"), ("22", "y", "")])
    assert capsys.readouterr().out == "a   b     c\n1   x     end\n    long\n22  y\n"


def test_words_where_ticks_cannot_be_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as stream:
        monkeypatch.setattr(output.sys, "stdout", stream)
        assert [mark(state).plain for state in (True, False, None)] == ["ok", "NO", "-"]


def test_users() -> None:
    assert user(0) == "root (0)"
    assert user(4_000_000_000) == "4000000000"
    assert user("x") == "x"
