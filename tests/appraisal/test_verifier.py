"""A remote verifier and hosts that lie to it: nothing is accepted twice, from elsewhere, or from another state."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from attestd.appraisal.evidence import log_digest, make_boot_logs, parse_evidence
from attestd.appraisal.host_state import HostState, ImaState, parse_host_state
from attestd.appraisal.state import BootAppraiser
from attestd.errors import AttestdError, EvidenceIncompleteError, MalformedError, VerificationError
from attestd.strict import canonical
from attestd.tcg.binding import Purpose
from tests.appraisal.attesting import BAD, GOOD, Attesting, ima_policy
from tests.tcg.eventlog.build import BOOTS
from tests.tcg.ima.build import ima_list
from tests.world import Host, format_time


def refused(attesting: Attesting, evidence: bytes, error: type[AttestdError] = VerificationError) -> str:
    state = attesting.state
    with pytest.raises(error) as raised:
        attesting.verify(evidence)
    assert type(raised.value) is error
    assert attesting.state == state
    return str(raised.value)


def test_a_good_host_and_then_only_what_is_new() -> None:
    attesting = Attesting()
    found = attesting.verify()
    assert (found.findings, found.count) == ((), 0)
    assert found.appraisal.approval is not None
    assert found.appraisal.boot is not None
    assert found.appraisal.boot.looked_at > 10
    assert found.appraisal.ima is not None
    assert found.appraisal.ima.looked_at == 1
    assert found.logs == canonical(attesting.logs)
    attesting.tick()
    attesting.items += [GOOD] * 3
    asked = attesting.ask()
    assert asked.eventlog == log_digest(attesting.logs)
    assert asked.ima is not None
    assert asked.ima.offset == len(ima_list(GOOD))
    evidence = attesting.answer(asked)
    sent = parse_evidence(evidence)
    assert sent.eventlog is not None
    assert sent.eventlog.log is None
    assert len(evidence) < 4096, "the logs go once a boot"
    again = attesting.verify(evidence)
    assert (again.count, again.logs) == (0, None)
    assert again.appraisal.ima is not None
    assert again.appraisal.ima.looked_at == 4


def test_what_needs_no_reading() -> None:
    """A verifier reads logs elsewhere: it asks before whether there are any."""

    def is_quick(attesting: Attesting, evidence: bytes) -> bool:
        verifier = attesting.verifier
        authentic = verifier.authenticate(parse_evidence(evidence), trust=attesting.trust, now=attesting.now)
        return verifier.is_quick(authentic)

    attesting = Attesting()
    first = attesting.answer()
    assert not is_quick(attesting, first)
    attesting.verify(first)
    attesting.tick()
    assert is_quick(attesting, attesting.answer())
    assert is_quick(attesting, attesting.answer(logs=None))
    attesting.items += [GOOD] * 500
    assert not is_quick(attesting, attesting.answer())
    plain = Attesting(boot=False, ima=False)
    assert is_quick(plain, plain.answer())


@pytest.mark.parametrize(("boot", "ima"), [(False, False), (True, False), (False, True)])
def test_policies_that_look_at_less(boot: bool, ima: bool) -> None:
    attesting = Attesting(boot=boot, ima=ima)
    found = attesting.verify()
    assert found.count == 0
    assert ((found.appraisal.boot is None), (found.appraisal.ima is None)) == (not boot, not ima)
    attesting.tick()
    assert attesting.verify().count == 0


# --- freshness ---------------------------------------------------------------------------------------------------


def test_the_same_evidence_twice() -> None:
    attesting = Attesting()
    evidence = attesting.answer()
    attesting.verify(evidence)
    assert "the very quote that was accepted last: a replay" in refused(attesting, evidence)


def test_an_older_quote_that_comes_late() -> None:
    attesting = Attesting()
    first = attesting.answer()
    attesting.tick()
    attesting.verify()
    assert "clock went back: an older quote" in refused(attesting, first)


def test_a_tpm_that_was_cleared() -> None:
    attesting = Attesting()
    attesting.verify()
    attesting.tick(reset_count=0, restart_count=0)
    assert "fewer resets than before: it was cleared" in refused(attesting, attesting.answer())


def test_a_challenge_that_is_over() -> None:
    attesting = Attesting()
    evidence = attesting.answer()
    attesting.now += timedelta(minutes=1)
    assert "it was over at" in refused(attesting, evidence)


def test_the_challenge_of_another_verifier() -> None:
    attesting = Attesting()
    asked = attesting.ask(key=bytes(32))
    assert "this verifier did not make it" in refused(attesting, attesting.answer(asked))


def test_the_challenge_for_another_host() -> None:
    attesting = Attesting()
    other = Host("other", root=attesting.world.root)
    asked = attesting.ask(host=other.id)
    mine = attesting.ask()
    assert "this verifier did not make it" in refused(
        attesting, attesting.answer(replace(mine, challenge=asked.challenge))
    )


def test_a_challenge_with_a_later_end() -> None:
    """The end stands in the challenge: who changes it changes what the MAC is over."""
    attesting = Attesting()
    asked = attesting.ask()
    later = attesting.ask(expires=attesting.now + timedelta(days=1)).challenge
    mixed = later[:11] + asked.challenge[11:]
    assert "this verifier did not make it" in refused(
        attesting, attesting.answer(replace(asked, challenge=mixed))
    )


# --- whose ---------------------------------------------------------------------------------------------------------


def test_evidence_of_another_host() -> None:
    """Enrolled as well, in the same state, and asked itself."""
    attesting = Attesting()
    other = Host("other", root=attesting.world.root)
    attesting.world.records[other.id] = attesting.world.host_record(other)
    assert "extraData" in refused(attesting, attesting.answer(signer=other))  # which names the host
    other.id = attesting.host.id
    assert "signature" in refused(attesting, attesting.answer(signer=other))


def test_a_software_key() -> None:
    attesting = Attesting()
    thief = Host("thief", root=attesting.world.root)
    thief.id = attesting.host.id
    assert "signature" in refused(attesting, attesting.answer(signer=thief))


def test_a_quote_for_another_purpose() -> None:
    attesting = Attesting()
    assert "extraData" in refused(attesting, attesting.answer(purpose=Purpose.QUOTE))


def test_a_host_that_is_not_enrolled() -> None:
    attesting = Attesting()
    evidence = attesting.answer()
    attesting.world.records.clear()
    assert "is not enrolled" in refused(attesting, evidence)


def test_a_revoked_host() -> None:
    attesting = Attesting()
    evidence = attesting.answer()
    attesting.world.revocations["hosts"] = [attesting.host.id]
    assert "is revoked" in refused(attesting, evidence)


def test_a_record_that_is_over() -> None:
    attesting = Attesting()
    world = attesting.world
    world.records[attesting.host.id] = world.host_record(attesting.host, not_after=format_time(world.now))
    assert "holds from" in refused(attesting, attesting.answer())


def test_a_policy_that_is_gone() -> None:
    attesting = Attesting()
    evidence = attesting.answer()
    attesting.world.platforms = {"other": attesting.world.platform_file("other")}
    assert "no usable platform policy 'local'" in refused(attesting, evidence)


def test_governance_that_expired() -> None:
    attesting = Attesting()
    evidence = attesting.answer()
    attesting.now = attesting.trust.expires
    assert "governance expired" in refused(attesting, evidence)


# --- which state ---------------------------------------------------------------------------------------------------


def test_values_that_were_not_quoted() -> None:
    attesting = Attesting()
    real = {**attesting.quoted(), 4: bytes(32)}
    assert "composite" in refused(attesting, attesting.answer(about=real))


@pytest.mark.parametrize("missing", [7, 10])
def test_fewer_pcrs(missing: int) -> None:
    attesting = Attesting()
    values = {pcr: value for pcr, value in attesting.quoted().items() if pcr != missing}
    assert "PCR" in refused(attesting, attesting.answer(values=values), MalformedError)


def test_other_pcrs() -> None:
    """A quote by the host, over what it likes better."""
    attesting = Attesting()
    asked = attesting.ask()
    attesting.with_boot = attesting.with_ima = False
    attesting.publish()
    evidence = attesting.answer(asked)
    attesting.with_boot = attesting.with_ima = True
    attesting.publish()
    assert "the quote is over" in refused(attesting, evidence)


def test_a_state_that_is_not_approved() -> None:
    attesting = Attesting(boot=False, ima=False)
    attesting.values[4] = bytes(32)
    found = attesting.verify()
    assert found.appraisal.approval is None
    assert found.count == len(found.findings) == 1
    assert "does not approve" in found.findings[0]


def test_a_boot_that_does_not_comply() -> None:
    attesting = Attesting()
    attesting.line = "quiet"
    attesting.publish()
    found = attesting.verify()
    assert found.count == 1
    assert "kernel command line" in found.findings[0]


def test_another_boots_log() -> None:
    attesting = Attesting()
    firmware = (BOOTS / "uki-sb-cmdline2" / "binary_bios_measurements").read_bytes()
    logs = make_boot_logs(firmware=firmware, userspace=b"", command_line=attesting.line)
    found = attesting.verify(attesting.answer(logs=logs))
    assert "by nothing that a log tells" in " ".join(found.findings)


def test_a_host_without_logs_that_are_asked_for() -> None:
    attesting = Attesting()
    assert "there is no event log" in refused(attesting, attesting.answer(logs=None))
    assert "there is no IMA list" in refused(attesting, attesting.answer(ima=None))


def test_what_a_host_is() -> None:
    attesting = Attesting(ima=False)
    attesting.publish(min_tier="hardware", userspace=["verity"])
    attesting.world.platforms["local"]["lifecycle"]["valid_until"] = format_time(attesting.now)
    found = attesting.verify()
    assert found.findings == (
        "tier: expected hardware or stronger, found software",
        "user space: expected verity, found none",
        f"platform policy 'local' was valid until {format_time(attesting.now)}",
    )
    assert found.count == 3


# --- the event log, once a boot -----------------------------------------------------------------------------------


def by_reference(attesting: Attesting, digest: str | None = None) -> bytes:
    value = json.loads(attesting.answer())
    value["eventlog"] = {"sha256": digest or log_digest(attesting.logs), "log": None}
    return canonical(value)


def test_a_log_that_was_never_sent() -> None:
    attesting = Attesting()
    assert "send it whole" in refused(attesting, by_reference(attesting), EvidenceIncompleteError)
    attesting.verify()
    attesting.tick()
    assert "send it whole" in refused(attesting, by_reference(attesting, "ab" * 32), EvidenceIncompleteError)


def test_a_reference_is_enough_while_it_is_remembered_and_the_log_where_it_is_not() -> None:
    attesting = Attesting()
    attesting.verify()
    kept = dict(attesting.kept)
    attesting.kept.clear()
    attesting.tick()
    assert attesting.verify().count == 0, "the same log, values and rules: nobody reads it again"
    attesting.boots = BootAppraiser()
    attesting.tick()
    assert "is not kept" in refused(attesting, by_reference(attesting), EvidenceIncompleteError)
    attesting.kept = {name: kept[name].replace(b'"userspace":""', b'"userspace":"AA"') for name in kept}
    assert "is another" in refused(attesting, by_reference(attesting), EvidenceIncompleteError)
    attesting.kept = kept
    assert attesting.verify().count == 0


def test_a_reference_after_a_reset() -> None:
    attesting = Attesting()
    attesting.verify()
    attesting.tick(reset_count=attesting.clock.reset_count + 1, clock=1)
    assert attesting.verify(by_reference(attesting)).count == 0, "it leads to the new boot's values"
    attesting.tick(reset_count=attesting.clock.reset_count + 1, clock=1)
    attesting.values[7] = bytes([1]) * 32
    assert "by nothing that a log tells" in " ".join(attesting.verify(by_reference(attesting)).findings)


def test_a_log_that_is_another_than_its_digest() -> None:
    attesting = Attesting()
    value = json.loads(attesting.answer())
    value["eventlog"]["sha256"] = "ab" * 32
    with pytest.raises(MalformedError, match="the logs' digest is"):
        parse_evidence(canonical(value))


# --- IMA -----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_allowed_stays_one_until_the_next_boot() -> None:
    attesting = Attesting()
    attesting.verify()
    attesting.tick()
    attesting.items.append(BAD)
    found = attesting.verify()
    assert found.count == 1
    assert "/bin/evil" in found.findings[0]
    attesting.tick()
    attesting.items.append(GOOD)
    assert attesting.verify().findings == found.findings, "it is not sent again, and not forgotten"
    attesting.tick(reset_count=attesting.clock.reset_count + 1)
    attesting.items = [GOOD]
    assert attesting.verify().count == 0


def test_more_than_is_told_is_counted() -> None:
    attesting = Attesting()
    attesting.items += [BAD] * 150
    found = attesting.verify()
    assert (len(found.findings), found.count) == (100, 150)
    attesting.tick()
    attesting.items += [BAD]
    assert attesting.verify().count == 151


def test_a_list_that_was_rewound() -> None:
    """A host that ran something, and says that it did not: PCR 10 tells."""
    attesting = Attesting()
    attesting.items.append(BAD)
    attesting.verify()
    attesting.tick()
    clean = ima_list(GOOD, GOOD)
    assert "is not the list of this quote" in refused(attesting, attesting.answer(ima=(0, clean)))


def test_entries_left_out() -> None:
    attesting = Attesting()
    attesting.verify()
    attesting.tick()
    attesting.items += [BAD, GOOD]
    asked = attesting.ask()
    assert asked.ima is not None
    lie = attesting.answer(asked, ima=(asked.ima.offset, ima_list(GOOD)))
    assert "send it from its start" in refused(attesting, lie, EvidenceIncompleteError)


@pytest.mark.parametrize("by", [-1, 1, 10_000])
def test_offsets_that_lie(by: int) -> None:
    attesting = Attesting()
    attesting.verify()
    attesting.tick()
    asked = attesting.ask()
    assert asked.ima is not None
    lie = attesting.answer(asked, ima=(asked.ima.offset + by, b""))
    assert "send it from its start" in refused(attesting, lie, EvidenceIncompleteError)


def test_an_offset_of_a_host_that_is_not_known() -> None:
    attesting = Attesting()
    assert "expected 0 or 0" in refused(attesting, attesting.answer(ima=(10, b"")), EvidenceIncompleteError)


def test_a_list_from_its_start_is_looked_at_again() -> None:
    attesting = Attesting()
    attesting.items.append(BAD)
    assert attesting.verify().count == 1
    attesting.tick()
    found = attesting.verify(attesting.answer(ima=(0, ima_list(*attesting.items))))
    assert (found.count, found.appraisal.ima and found.appraisal.ima.looked_at) == (1, 2)


def test_entries_after_the_quote_are_not_proved_and_asked_for_again() -> None:
    attesting = Attesting()
    found = attesting.verify(attesting.answer(ima=(0, ima_list(GOOD, BAD))))
    assert found.count == 0
    attesting.tick()
    attesting.items.append(BAD)
    assert attesting.verify().count == 1


def test_another_ima_policy_looks_at_the_whole_list() -> None:
    attesting = Attesting()
    attesting.items.append(BAD)
    assert attesting.verify().count == 1
    attesting.policy_file = ima_policy("/bin/more")
    attesting.publish()
    attesting.tick()
    asked = attesting.ask()
    assert asked.ima is None
    assert attesting.verify(attesting.answer(asked)).count == 1
    assert attesting.state is not None
    assert len(attesting.state.ima) == 1, "of policies that are in force"


def test_a_restart_without_reset() -> None:
    """PCRs begin anew, as after hibernation."""
    attesting = Attesting()
    attesting.items += [GOOD, GOOD]
    attesting.verify()
    attesting.tick(restart_count=attesting.clock.restart_count + 1)
    attesting.items = [GOOD]
    found = attesting.verify()
    assert found.count == 0
    assert found.appraisal.ima is not None
    assert found.appraisal.ima.looked_at == 1


# --- every field ----------------------------------------------------------------------------------------------------


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [path, *(found for name, item in value.items() for found in _paths(item, (*path, name)))]
    return [path]


PATHS = [path for path in _paths(json.loads(Attesting().answer())) if path]
HARMLESS = {("agent",)}


def _other(value: Any) -> Any:
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return ("b" if value[:1] != "b" else "c") + value[1:] if value else "AAAA"
    return None


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize("change", ["other", "gone"])
def test_each_field_changed(path: tuple[Any, ...], change: str) -> None:
    attesting = Attesting()
    value = json.loads(attesting.answer())
    inner = value
    for name in path[:-1]:
        inner = inner[name]
    if change == "gone":
        del inner[path[-1]]
    else:
        inner[path[-1]] = _other(inner[path[-1]])
    try:
        found = attesting.verify(canonical(value))
    except (MalformedError, VerificationError):
        return
    assert path in HARMLESS
    assert change == "other"
    assert found.count == 0


# --- what is kept --------------------------------------------------------------------------------------------------


def state() -> HostState:
    attesting = Attesting()
    attesting.items.append(BAD)
    attesting.verify()
    assert attesting.state is not None
    return attesting.state


def test_a_state_is_its_bytes() -> None:
    found = state()
    assert parse_host_state(found.to_bytes()) == found


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(v=2),
        lambda value: value.update(passed=True),
        lambda value: value["last"].update(clock="1"),
        lambda value: value["last"].update(reset_count=-1),
        lambda value: value.update(ima={"x": {}}),
        lambda value: next(iter(value["ima"].values())).update(value="00"),
        lambda value: next(iter(value["ima"].values())).update(padded=None),
        lambda value: next(iter(value["ima"].values())).update(count=0),
    ],
)
def test_a_state_that_is_none(change: Callable[[Any], None]) -> None:
    value = json.loads(state().to_bytes())
    change(value)
    with pytest.raises(MalformedError):
        parse_host_state(canonical(value))
    with pytest.raises(MalformedError):
        parse_host_state(state().to_bytes() + b" ")


def test_a_clock_of_64_bits() -> None:
    attesting = Attesting(boot=False, ima=False)
    attesting.clock = replace(attesting.clock, clock=2**64 - 1)
    assert attesting.verify().state.clock.clock == 2**64 - 1


def test_policies_that_are_no_longer_in_force_are_not_kept() -> None:
    attesting = Attesting()
    attesting.verify()
    assert attesting.state is not None
    [(name, item)] = attesting.state.ima.items()
    assert isinstance(item, ImaState)
    policies = {f"{number:064x}": item for number in range(16)}
    attesting.state = HostState(v=1, last=attesting.state.last, eventlog=None, ima=policies)
    attesting.tick()
    assert set(attesting.verify(attesting.answer(ima=(0, ima_list(GOOD)))).state.ima) == {name}
