"""Boots beside their PCR values: rules, and what changed between two, on recorded boots and on what hides."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import pytest

from attestd.appraisal.logs import LogAppraisal
from attestd.appraisal.state import BootAppraiser, BootState, _weight, appraise_state, state_changes
from attestd.tcg.eventlog.parse import UntrustedEvent, parse_event_log
from attestd.tcg.eventlog.replay import replay
from attestd.tcg.eventlog.userspace import parse_userspace_log
from tests.appraisal.test_boot import rules
from tests.tcg.eventlog.build import BOOTS, RECORDED, log
from tests.world import World

UKI = (0, 2, 4, 7, 11, 12)


def boot(name: str, values: Mapping[int, bytes] | None = None, *, bank: str = "sha256") -> BootState:
    data = (BOOTS / name / "binary_bios_measurements").read_bytes()
    line = (BOOTS / name / "cmdline").read_text().rstrip("\n")
    return BootState(parse_event_log(data), (), line, bank, values or RECORDED[name][1][bank])


def extended(state: BootState, pcr: int, content: bytes = b"later") -> BootState:
    value = hashlib.sha256(state.values[pcr] + hashlib.sha256(content).digest()).digest()
    return replace(state, values={**state.values, pcr: value})


def test_boot_phases_without_a_log_of_them() -> None:
    state = boot("uki-sb")
    events = state.events(11)
    assert events is not None
    assert [item.value for item in events[-2:]] == ["sysinit", "ready"]
    assert boot("shim-grub-ms-sb").events(11) is not None
    without = replace(state, values={4: state.values[4]})
    assert len(without.log.events) == len(without.firmware.events), "of PCR 11 nothing is asked"


def test_user_space_that_keeps_a_log() -> None:
    state = boot("uki-sb")
    records = b"".join(
        b'\x1e{"pcr":11,"digests":[{"hashAlg":"sha256","digest":"%s"}],"content":{"string":"%s"}}\n'
        % (hashlib.sha256(phase).hexdigest().encode(), phase)
        for phase in (b"sysinit", b"ready", b"shutdown")
    )
    logged = replace(state, userspace=parse_userspace_log(records, first=len(state.firmware.events)))
    events = logged.events(11)
    assert events is not None
    assert [item.value for item in events[-2:]] == ["sysinit", "ready"], (
        "what came after the quote is not proved"
    )


def test_a_boot_that_complies() -> None:
    state = boot("uki-sb")
    found = appraise_state(state, rules=rules(secure_boot="required", command_lines=[state.command_line]))
    assert found.findings == ()
    assert found.looked_at > 10


def test_a_boot_that_does_not() -> None:
    allowed = [boot("uki-sb").command_line]
    found = appraise_state(boot("uki-sb-cmdline2"), rules=rules(command_lines=allowed))
    assert found.count == len(found.findings) == 1
    assert "PCR 11: kernel command line in section .cmdline: expected" in found.findings[0]
    assert "debug_variant=2" in found.findings[0]


@pytest.mark.parametrize("pcr", [4, 7])
def test_a_pcr_that_no_log_explains(pcr: int) -> None:
    state = extended(boot("uki-sb"), pcr)
    found = appraise_state(state, rules=rules(separators="required", secure_boot="required"))
    assert found.findings == (f"PCR {pcr}: extended after the boot, by nothing that a log tells",)
    assert (found.looked_at, found.count) == (0, 1)


def test_the_log_of_another_boot() -> None:
    state = replace(boot("uki-sb"), values=RECORDED["uki-sb-cmdline2"][1]["sha256"])
    found = appraise_state(state, rules=rules(images=["ab" * 32], sections={".linux": ["ab" * 32]}))
    assert found.count == 2, "PCRs 4 and 11"


def test_each_pcr_by_itself_but_not_at_one_time() -> None:
    """No moment of the boot had these values together."""
    state = boot("uki-sb")
    early = replace(state, values={**state.values, 7: bytes(32)})
    found = appraise_state(early, rules=rules(secure_boot="required", images=["ab" * 32]))
    assert found.count == 1
    assert "it is not the log of this quote" in found.findings[0]


def test_a_log_without_the_bank() -> None:
    state = replace(boot("uki-sb"), firmware=parse_event_log(log(banks=("sha1",))))
    found = appraise_state(state, rules=rules(secure_boot="required", sections={".linux": ["ab" * 32]}))
    assert "no bank 'sha256'" in found.findings[0]
    assert state.events(4) is None


def test_nothing_changed() -> None:
    assert state_changes(boot("uki-sb"), boot("uki-sb"), pcrs=UKI) == ()


def test_another_command_line() -> None:
    before, after = boot("uki-sb"), boot("uki-sb-cmdline2")
    found = state_changes(before, after, pcrs=UKI)
    assert [finding.split(":")[0] for finding in found] == ["PCR 4", "PCR 11"]
    expected = f"PCR 11: kernel command line in section .cmdline changed: `{before.command_line}` -> `{after.command_line}`"
    assert found[1] == f"{expected} (event 30)"
    assert state_changes(before, after, pcrs=(0, 7)) == ()


def test_extended_after_the_boot() -> None:
    before = boot("uki-sb")
    for pcr in (4, 23):
        after = extended(before, pcr)
        assert state_changes(before, after, pcrs=(0, 4, 23)) == (
            f"PCR {pcr}: extended after the boot, by nothing that a log tells",
        )


@pytest.mark.parametrize("known", [True, False])
def test_a_boot_before_that_explains_nothing(known: bool) -> None:
    """Its values were of a moment when it was extended, or are not known."""
    after = boot("uki-sb")
    before = extended(after, 4)
    if not known:
        before = replace(before, values={pcr: value for pcr, value in before.values.items() if pcr != 4})
    (found,) = state_changes(before, after, pcrs=(4,))
    was = before.values[4].hex() if known else "not recorded"
    assert found == f"PCR 4: {after.values[4].hex()}, where it was {was}"


def test_appraisals_that_are_remembered() -> None:
    """By log, policy and the values that the rules look at; no more than there is room for."""
    state, world = boot("uki-sb"), World()
    policy = world.trust().platforms["local"]
    checked, read = rules(secure_boot="required"), []

    def load(values: Mapping[int, bytes]) -> BootState:
        read.append(dict(values))
        return replace(state, values=values)

    boots = BootAppraiser(room=2)

    def appraise(log_: str, *, values: Mapping[int, bytes] = state.values) -> int:
        found = boots.appraise(log_, policy=policy, rules=checked, values=values, load=load)
        return found.count

    assert (appraise("a"), appraise("a"), len(read)) == (0, 0, 1)
    assert read == [{7: state.values[7]}]
    assert (appraise("a", values={**state.values, 4: bytes(32)}), len(read)) == (0, 1), "no rule looks at it"
    assert (appraise("a", values={**state.values, 7: bytes(32)}), len(read)) == (1, 2)
    appraise("b")
    appraise("a")
    assert len(read) == 4, "the oldest went for the third"
    assert boots.remembers("a", policy=policy, rules=checked, values=state.values)
    assert not boots.remembers("c", policy=policy, rules=checked, values=state.values)

    # Another thread is as fast: what it remembers stays, and is counted once.
    def meanwhile(values: Mapping[int, bytes]) -> BootState:
        appraise("c")
        return load(values)

    boots.appraise("c", policy=policy, rules=checked, values=state.values, load=meanwhile)
    assert boots.remembers("a", policy=policy, rules=checked, values=state.values)
    # Many findings take the room of many boots.
    assert _weight(LogAppraisal(9, (), 0)) == 1
    assert _weight(LogAppraisal(9, ("x" * 256, "y" * 600), 2)) == 4


def test_a_boot_that_differs_in_everything() -> None:
    """As many events as a log may have: the first differences are told."""
    before = boot("uki-sb")
    digests = [hashlib.sha256(b"%d" % n).digest() for n in range(1000)]
    events = tuple(UntrustedEvent(n, 4, 13, {"sha256": digest}, b"") for n, digest in enumerate(digests))
    log = replace(before.firmware, banks=("sha256",), events=events)
    after = replace(before, firmware=log, values={4: replay(log, "sha256")[4]})
    found = state_changes(before, after, pcrs=(4,))
    assert len(found) == 101
    assert found[-1].endswith(" more differences")
