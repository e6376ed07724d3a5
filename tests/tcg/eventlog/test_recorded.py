"""Logs of real machines: they replay to what their TPMs held, and tpm2_eventlog reads them in the same way."""

import shutil
import subprocess
from pathlib import Path

import pytest

from attestd.tcg.eventlog.covered import DEFINED, covered
from attestd.tcg.eventlog.parse import parse_event_log
from attestd.tcg.eventlog.quirks import Quirk
from attestd.tcg.eventlog.replay import replay, verify_events
from attestd.tcg.eventlog.types import type_name
from tests.tcg.eventlog.build import RECORDED, event, extend, log, separators, sha1_event

each = pytest.mark.parametrize("name", sorted(RECORDED))
PHASES = (b"sysinit", b"ready")


def pcrs_of(name: str) -> dict[str, dict[int, bytes]]:
    """What the log can know: all but PCR 10, which is IMA's."""
    return {
        bank: {index: value for index, value in values.items() if index != 10}
        for bank, values in RECORDED[name][1].items()
    }


def test_eight_logs_are_recorded():
    assert len(RECORDED) == 8


@each
def test_replays_to_what_the_tpm_held(name):
    parsed = parse_event_log(RECORDED[name][0])
    for bank, values in pcrs_of(name).items():
        replayed = replay(parsed, bank)
        if name.startswith("uki"):  # user space extends PCR 11, and is in no firmware log
            replayed[11] = extend(bank, replayed[11], *PHASES)
        assert replayed
        assert replayed == {index: values[index] for index in replayed}
        untouched = set(values) - set(replayed)
        assert all(set(values[index]) in ({0}, {0xFF}) for index in untouched)


@each
def test_the_whole_log_is_proved_by_the_values(name):
    parsed = parse_event_log(RECORDED[name][0])
    for bank, values in pcrs_of(name).items():
        quoted = {index: value for index, value in values.items() if index != 11}
        verified = verify_events(parsed, bank=bank, values=quoted)
        assert verified.events == tuple(e for e in parsed.events if e.extends and e.pcr != 11)
        assert verified.later == 0


@each
def test_what_a_type_defines_to_be_hashed_is_covered(name):
    parsed = parse_event_log(RECORDED[name][0])
    for bank in pcrs_of(name):
        defined = [item for item in parsed.events if item.type in DEFINED]
        assert len(defined) > 15
        assert [str(item) for item in defined if covered(item, bank) is None] == []


def test_quirks_met_in_real_logs():
    met = set()
    for name, (data, banks) in RECORDED.items():
        for item in parse_event_log(data).events:
            found = covered(item, next(iter(banks)))
            met.add((name, found.quirk) if found and found.quirk else None)
    assert {quirk for _, quirk in met - {None}} == {
        Quirk.VARIABLE_DATA_ONLY,
        Quirk.WITHOUT_NUL,
        Quirk.STRUCTURE_PADDING,
    }
    assert {name for name, quirk in met - {None} if quirk == Quirk.STRUCTURE_PADDING} == {
        "cos-93-amd-sev",
        "debian-10",
    }


@each
def test_tpm2_eventlog_reads_the_same(name, tmp_path: Path):
    tool = shutil.which("tpm2_eventlog")
    assert tool, "apt-get install tpm2-tools"
    path = tmp_path / "log"
    path.write_bytes(RECORDED[name][0])
    printed = subprocess.run([tool, str(path)], capture_output=True, text=True, check=True).stdout
    parsed = parse_event_log(RECORDED[name][0])
    body, _, pcrs = printed.partition("\npcrs:\n")
    assert _table(pcrs) == {
        (bank, index): value for bank in parsed.banks for index, value in replay(parsed, bank).items()
    }
    lines = [line.strip() for line in body.splitlines()]
    assert _after(lines, "PCRIndex:") == [str(event.pcr) for event in parsed.events]
    assert _after(lines, "EventType:") == [type_name(event.type) for event in parsed.events]
    # The first event of each log is printed without its digest.
    digests = [value.hex() for event in parsed.events for value in event.digests.values()]
    assert [item.strip('"') for item in _after(lines, "Digest:")][-len(digests) :] == digests


@pytest.mark.parametrize(
    "data",
    [
        log(event(17, 6, b"launch"), event(22, 6, b"x"), event(23, 6, b"y")),
        # No EV_NO_ACTION among them: version 5.4 extends it, against the specification (10.4.1).
        log(*separators(), event(9, 0x80001234, b"vendor")),
        log(*separators(("sha384", "sha512")), banks=("sha384", "sha512")),
        sha1_event(0, 8, b"1") + sha1_event(7, 4, bytes(4)),
    ],
    ids=["launch", "types", "banks", "sha1"],
)
def test_tpm2_eventlog_replays_the_same(data, tmp_path: Path):
    path = tmp_path / "log"
    path.write_bytes(data)
    printed = subprocess.run(["tpm2_eventlog", str(path)], capture_output=True, text=True, check=True).stdout
    parsed = parse_event_log(data)
    assert _table(printed.partition("\npcrs:\n")[2]) == {
        (bank, index): value for bank in parsed.banks for index, value in replay(parsed, bank).items()
    }


def _after(lines: list[str], word: str) -> list[str]:
    return [line.removeprefix(word).strip() for line in lines if line.startswith(word)]


def _table(text: str) -> dict[tuple[str, int], bytes]:
    bank, found = "", {}
    for line in text.splitlines():
        left, _, right = (part.strip() for part in line.partition(":"))
        if right:
            found[bank, int(left)] = bytes.fromhex(right.removeprefix("0x"))
        else:
            bank = left
    return found
