"""What `record.py` recorded on a machine of its own: logs that explain PCRs, changes in words, predictions that came true.

These need no machine, and run with all other tests.
"""

import gzip

import pytest

from attestd.tcg.eventlog.diff import diff_events
from attestd.tcg.eventlog.meaning import Meaning, read_events
from attestd.tcg.eventlog.parse import parse_event_log
from attestd.tcg.eventlog.replay import replay
from attestd.tcg.eventlog.userspace import with_phases
from attestd.tcg.ima.replay import start_of_list, verify_list
from tests.vm.record import RECORDED

PHASES = ("sysinit", "ready")
NAMES = ("sb", "sb-again", "sb-cmdline", "sb-kernel", "no-sb")
each = pytest.mark.parametrize("name", NAMES)
banks = pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])


def read(name: str, file: str) -> bytes:
    return (RECORDED / name / file).read_bytes()


def pcrs(name: str, bank: str) -> dict[int, bytes]:
    lines = (line.split() for line in read(name, "pcrs.txt").decode().splitlines())
    return {int(index): bytes.fromhex(value) for found, index, value in lines if found == bank}


def line(name: str) -> str:
    return read(name, "cmdline").decode().rstrip("\n")


def events(name: str) -> tuple[Meaning, ...]:
    log = parse_event_log(read(name, "binary_bios_measurements"))
    return tuple(read_events(log.events, bank="sha256", command_lines=[line(name)]))


def changes(name: str) -> list[str]:
    return [str(change) for change in diff_events(events("sb"), events(name))]


def test_all_are_recorded():
    assert {path.name for path in RECORDED.iterdir() if path.is_dir()} == set(NAMES)


@each
@banks
def test_the_log_and_the_phases_of_user_space_explain_each_pcr_but_that_of_ima(name, bank):
    log = with_phases(parse_event_log(read(name, "binary_bios_measurements")), PHASES)
    explained = replay(log, bank)
    held = pcrs(name, bank)
    assert explained == {index: held[index] for index in explained}
    assert {index for index in range(16) if any(held[index])} == {*explained, 10}


def test_the_same_boot_measures_the_same():
    for bank in ("sha1", "sha256", "sha384"):
        first, again = (
            {index: value for index, value in pcrs(name, bank).items() if index != 10}
            for name in ("sb", "sb-again")
        )
        assert first == again
    assert changes("sb-again") == []


@banks
def test_the_ima_list_replays_to_its_pcr(bank):
    data = gzip.decompress(read("sb", "binary_runtime_measurements.gz"))
    verified = verify_list(data, position=start_of_list(bank), value=pcrs("sb", bank)[10])
    assert verified.end.offset == len(data)


def test_another_command_line_in_words():
    assert (
        f"PCR 11: kernel command line in section .cmdline changed: `{line('sb')}` -> `{line('sb')} init=/bin/sh`"
        in [said.partition(" (event")[0] for said in changes("sb-cmdline")]
    )


def test_another_kernel_in_words():
    said = changes("sb-kernel")
    assert {words.partition(":")[0] for words in said} >= {"PCR 4", "PCR 11"}
    assert not any(words.startswith("PCR 7") for words in said)


def test_secure_boot_off_in_words():
    said = [words for words in changes("no-sb") if words.startswith("PCR 7")]
    assert any("SecureBoot changed: `on` -> `off`" in words for words in said)
    assert not any(words.startswith("PCR 11") for words in changes("no-sb"))
