"""Two boots, event by event, in words."""

import time
from collections.abc import Sequence

import pytest

from attestd.tcg.eventlog.diff import diff_events
from attestd.tcg.eventlog.meaning import Meaning, read_events
from attestd.tcg.eventlog.parse import parse_event_log
from attestd.tcg.eventlog.types import EventType
from tests.tcg.eventlog.build import BOOTS, RECORDED, digest, event, log

T = EventType


def grub(*commands: str) -> list[bytes]:
    return [event(8, T.IPL, b"grub_cmd: " + text.encode(), text.encode()) for text in commands]


def line(text: str) -> bytes:
    return event(12, T.IPL, f"{text}\0".encode("utf-16-le"))


def meanings(events: Sequence[bytes]) -> tuple[Meaning, ...]:
    return read_events(parse_event_log(log(*events)).events, bank="sha256")


def differences(before: Sequence[bytes], after: Sequence[bytes]) -> list[str]:
    return [str(change) for change in diff_events(meanings(before), meanings(after))]


def test_the_same():
    assert differences(grub("a", "b"), grub("a", "b")) == []
    assert differences([], []) == []


def test_a_changed_command_line():
    assert differences([line("quiet")], [line("quiet init=/bin/sh")]) == [
        "PCR 12: kernel command line changed: `quiet` -> `quiet init=/bin/sh` (event 1)"
    ]


def test_digests_of_what_is_not_in_the_log():
    before, after = (event(9, T.IPL, b"/vmlinuz\0", kernel) for kernel in (b"one", b"two"))
    old, new = (digest("sha256", kernel).hex() for kernel in (b"one", b"two"))
    words = f"PCR 9: file read by GRUB /vmlinuz changed: `digest {old}` -> `digest {new}` (event 1)"
    assert differences([before], [after]) == [words]


def test_added_and_missing():
    assert differences(grub("a", "c"), grub("a", "b", "c")) == ["PCR 8: added: GRUB command: `b` (event 2)"]
    assert differences(grub("a", "b", "c"), grub("a", "c")) == ["PCR 8: missing: GRUB command: `b` (event 2)"]
    assert differences([line("x")], []) == ["PCR 12: missing: kernel command line: `x` (event 1)"]
    assert differences([], [line("x")]) == ["PCR 12: added: kernel command line: `x` (event 1)"]


def test_order_counts():
    assert differences(grub("a", "b"), grub("b", "a")) != []


def test_pairs_by_name():
    before = [event(8, T.IPL, b"gone"), *grub("a"), event(8, T.IPL, b"last")]
    after = [*grub("b"), event(8, T.ACTION, b"new")]
    assert differences(before, after) == [
        "PCR 8: missing: event EV_IPL: `gone` (event 1)",
        "PCR 8: GRUB command changed: `a` -> `b` (event 1)",
        "PCR 8: added: action: `new` (event 2)",
        "PCR 8: missing: event EV_IPL: `last` (event 3)",
    ]


def test_what_differs_is_said_wherever_it_stands():
    commands = [f"c{n}" for n in range(80)]
    changed = [*commands[:40], "evil", *commands[41:]]
    assert differences(grub(*commands), grub(*changed)) == [
        "PCR 8: GRUB command changed: `c40` -> `evil` (event 41)"
    ]


def test_logs_made_to_be_slow():
    """Aligning is cubic at worst: where too many differ, they are compared place by place."""
    before = meanings(grub(*[("a", "b")[n * n % 7 % 2] for n in range(4000)]))
    after = meanings(grub(*[("b", "a")[n * n % 5 % 2] for n in range(3000)]))
    start = time.thread_time()
    changes = diff_events(before, after)
    assert time.thread_time() - start < 10
    assert len([change for change in changes if change.after is None]) >= 900
    nearly = meanings(grub(*["a"] * 128)), meanings(grub(*["b", "a"] * 64))
    start = time.thread_time()
    assert diff_events(*nearly)
    assert time.thread_time() - start < 20


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_recorded_command_lines(bank):
    """The same machine, another command line: in words if it is known, else as digests."""
    names = ("uki-sb", "uki-sb-cmdline2")
    lines = [(BOOTS / name / "cmdline").read_text().strip() for name in names]
    for known in ([], lines):
        before, after = (
            read_events(parse_event_log(RECORDED[name][0]).events, bank=bank, command_lines=known)
            for name in names
        )
        changes = diff_events(before, after)
        assert [change.pcr for change in changes] == [4, 9, 11]
        last = f"PCR 11: kernel command line in section .cmdline changed: `{lines[0]}` -> `{lines[1]}` (event 30)"
        assert (str(changes[2]) == last) is bool(known)
