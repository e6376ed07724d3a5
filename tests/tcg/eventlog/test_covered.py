"""Which bytes of an event its digest covers."""

import pytest

from attestd.tcg.eventlog.covered import Covered, covered, split_variable
from attestd.tcg.eventlog.parse import parse_event_log
from attestd.tcg.eventlog.quirks import Quirk
from attestd.tcg.eventlog.types import EventType
from tests.tcg.eventlog.build import GLOBAL, event, log, variable

NAMED = variable("BootOrder", b"\1\0")
SECTION = ".linux\0".encode("utf-16-le")


def found(kind: int, data: bytes, content: bytes | None = None) -> Covered | None:
    return covered(parse_event_log(log(event(8, kind, data, content))).events[1], "sha256")


@pytest.mark.parametrize(
    ("data", "content", "expected"),
    [
        (b"text", b"text", Covered(b"text")),
        (b"text", b"other", None),
        (b"text\0", b"text", Covered(b"text", quirk=Quirk.WITHOUT_NUL)),
        (NAMED, NAMED, Covered(NAMED)),
        (NAMED, b"\1\0", Covered(b"\1\0", quirk=Quirk.VARIABLE_DATA_ONLY)),
        (NAMED + b"x", NAMED, Covered(NAMED, quirk=Quirk.STRUCTURE_PADDING)),
        (NAMED + b"padding!!", NAMED + b"padding!", None),
        (b"grub_cmd: ls\0", b"ls", Covered(b"ls", "grub_cmd", Quirk.WITHOUT_NUL)),
        (b"grub_cmd ls\0", b"ls\0", Covered(b"ls\0", "grub_cmd")),
        (b"kernel_cmdline: /vmlinuz quiet", b"/vmlinuz quiet", Covered(b"/vmlinuz quiet", "kernel_cmdline")),
        (b"grub_kernel_cmdline x\0", b"x", Covered(b"x", "grub_kernel_cmdline", Quirk.WITHOUT_NUL)),
        (SECTION, b".linux\0", Covered(b".linux\0")),
        (SECTION, b"the kernel itself", None),
        (b"ab", b"a", None),
        (b"", b"", Covered(b"")),
        (b"", b"x", None),
    ],
)
@pytest.mark.parametrize("kind", [EventType.IPL, EventType.EFI_VARIABLE_AUTHORITY, 0x1234])
def test_covered_whatever_the_type(kind, data, content, expected):
    assert found(kind, data, content) == expected


def test_events_that_extend_nothing_are_not_covered():
    [_, item] = parse_event_log(log(event(0, EventType.NO_ACTION, b"x"))).events
    assert covered(item, "sha256") is None
    [_, item] = parse_event_log(log(event(0, EventType.ACTION, b"x", banks=("sha1",)))).events
    assert covered(item, "sha256") is None
    assert covered(item, "sha1") == Covered(b"x")


def test_split_variable():
    assert split_variable(NAMED) == (GLOBAL, "BootOrder".encode("utf-16-le"), b"\1\0")
    assert split_variable(NAMED + b"12345678") is not None
    assert split_variable(NAMED + b"123456789") is None
    assert split_variable(NAMED[:-1]) is None
    assert split_variable(b"short") is None
    assert split_variable(GLOBAL + b"\xff" * 16) is None
