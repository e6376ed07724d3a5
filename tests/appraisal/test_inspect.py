"""Logs read by themselves: what they stand for, and what is striking."""

import pytest

from attestd.appraisal.inspect import ImaInspection, best_bank, inspect_ima, inspect_log
from attestd.errors import MalformedError
from attestd.tcg.eventlog.parse import parse_event_log
from attestd.tcg.eventlog.quirks import QUIRKS, Quirk
from attestd.tcg.eventlog.types import EventType
from tests.tcg.eventlog.build import BOOTS, RECORDED, event, log, separators, sha1_event
from tests.tcg.ima.build import data, entry, ima_list, pcr10

LIMIT = 1024 * 1024


def ima(list_: bytes, name: str | None = None) -> ImaInspection:
    pcrs = inspect_log(parse_event_log(RECORDED[name][0])).pcrs if name else {}
    return inspect_ima(list_, pcrs=pcrs, max_bytes=LIMIT)


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_recorded(name):
    data_, banks = RECORDED[name]
    found = inspect_log(parse_event_log(data_))
    for bank, values in banks.items():
        replayed = {index: value for index, value in found.pcrs[bank].items() if index != 11}
        assert replayed == {index: values[index] for index in replayed}
    assert found.bank == ("sha1" if name == "debian-10" else "sha256")
    rules = [item.rule for item in found.findings]
    without_line = ["command_lines"] * (name == "debian-10")
    assert rules == ["secure_boot"] * (2 * name.startswith("ubuntu")) + without_line
    assert any(note.startswith(QUIRKS[Quirk.VARIABLE_DATA_ONLY]) for note in found.notes)


def test_banks():
    assert best_bank(("sha1", "sha384", "sha256")) == "sha256"
    assert best_bank(("sha1",)) == "sha1"
    with pytest.raises(MalformedError, match="no bank"):
        best_bank(())


def test_notes():
    banks = ("sha1", "sha256", "sm3")
    [holed] = [event(1, EventType.SEPARATOR, bytes(4), banks=("sha256",))]
    found = inspect_log(parse_event_log(log(holed, banks=banks) + bytes(9)))
    assert list(found.pcrs) == ["sha256"]
    assert found.notes == (
        QUIRKS[Quirk.ZERO_PADDING],
        "event log: event 1 (EV_SEPARATOR, PCR 1) has no sha1 digest: this bank cannot be replayed",
        "bank 0x0012 is not replayed: its hash is not known here",
    )
    with pytest.raises(MalformedError, match="no bank"):
        inspect_log(parse_event_log(log(banks=("sm3",))))


def test_an_empty_log_is_a_finding():
    [found] = inspect_log(parse_event_log(log())).findings
    assert str(found) == "the log: expected events that extend a PCR, found none"
    assert inspect_log(parse_event_log(sha1_event(0, EventType.SEPARATOR, bytes(4)))).findings


def test_findings():
    found = [str(item) for item in inspect_log(parse_event_log(log(*separators()))).findings]
    assert found == [
        "PCR 7: expected Secure Boot on, before the separator, found none",
        "the log: expected a kernel command line, found none",
    ]


@pytest.mark.parametrize("name", ["shim-grub-ms-sb", "uki-sb", "uki-sb-cmdline2"])
def test_recorded_ima_lists(name):
    list_ = (BOOTS / name / "binary_runtime_measurements").read_bytes()
    found = ima(list_, name)
    pcrs = RECORDED[name][1]
    assert found.values["sha1"] == pcrs["sha1"][10]
    assert found.values["sha256"] == pcrs["sha256"][10]
    assert found.padded["sha384"] == pcrs["sha384"][10]
    assert found.findings == ()
    other = "uki-sb" if name != "uki-sb" else "shim-grub-ms-sb"
    [mismatch] = ima(list_, other).findings
    assert str(mismatch).startswith("IMA entry 0: boot_aggregate: expected one of")


def test_ima_findings():
    first = data(b"boot_aggregate")
    list_ = entry(first) + entry(data(b"/x"), violation=True) + entry(b"junk", b"new")
    found = ima(list_)
    assert [str(item) for item in found.findings] == [
        "PCR 10: IMA entry 1: /x: expected a digest, found a violation",
        "PCR 10: IMA entry 2: expected an entry of a known form, found IMA entry 2: unknown template b'new'",
    ]
    assert (found.entries, found.values["sha256"]) == (3, pcr10("sha256", first, None, b"junk"))
    for list_ in (b"", ima_list(data(b"/x")), entry(b"junk", b"new")):
        assert (
            str(ima(list_).findings[-1]) == "PCR 10: expected boot_aggregate as the first entry, found none"
        )
