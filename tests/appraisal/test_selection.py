"""Which PCRs a host's state is made of."""

import pytest

from attestd.appraisal.selection import derive_pcrs, require_command_line, require_sound_pcrs
from attestd.errors import UsageError
from attestd.tcg.eventlog.meaning import Meaning, read_events
from attestd.tcg.eventlog.parse import parse_event_log
from tests.tcg.eventlog.build import RECORDED, event, log


def events(name: str) -> tuple[Meaning, ...]:
    return read_events(parse_event_log(RECORDED[name][0]).events, bank="sha256")


@pytest.mark.parametrize(
    ("name", "pcrs", "loader"),
    [
        ("uki-sb", (0, 2, 4, 7, 11, 12), "a unified kernel image"),
        ("shim-grub-ms-sb", (0, 2, 4, 7, 8, 9, 14), "GRUB"),
        ("rhel8-uefi", (0, 2, 4, 7, 8, 9, 14), "GRUB"),
    ],
)
def test_recorded(name, pcrs, loader):
    found = derive_pcrs(events(name))
    assert (found.pcrs, found.loader) == (pcrs, loader)


def test_another_loader():
    assert derive_pcrs(()) is None
    line = event(12, 13, "quiet\0".encode("utf-16-le"))
    others = read_events(parse_event_log(log(line)).events, bank="sha256")
    assert derive_pcrs(others) is None
    require_command_line(others, (0, 12))
    with pytest.raises(UsageError, match=r"none of the PCRs 0, 4 holds.*It is in PCR 12"):
        require_command_line(others, (0, 4))


def test_a_log_without_a_command_line():
    command = event(8, 13, b"grub_cmd: set", b"set")
    with pytest.raises(UsageError, match="no PCR, by this boot's log"):
        derive_pcrs(read_events(parse_event_log(log(command)).events, bank="sha256"))


def test_ima():
    require_sound_pcrs((0, 11))
    with pytest.raises(UsageError, match="PCR 10 changes with each file"):
        require_sound_pcrs((0, 10))
