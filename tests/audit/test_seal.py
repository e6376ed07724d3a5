"""The sealing protocol, step by step. Crashes and failing writes: test_faults.py."""

import contextlib
from datetime import timedelta

import msgspec
import pytest

from attestd.audit.pending import MAX_BODY_BYTES
from attestd.audit.seal import Charge, Pending, Sealed, Sealer
from attestd.audit.sealing_tpm import QuoteEvidence
from attestd.codes import Code, Denial
from attestd.errors import (
    MalformedError,
    RollbackError,
    TpmError,
    TpmRefusedError,
    TpmUnavailableError,
    UsageError,
)
from attestd.lineage.entry import EntryType, parse_entry
from attestd.tlog.checkpoint import BatchMode
from attestd.tlog.note import parse_note
from attestd.tlog.tree import leaf_hash
from tests.audit.harness import ARTIFACT, BOOT, NOW, Log, allow, delegated, record
from tests.audit.software_tpm import SoftwareTpm

OTHER = "07" * 32


def _types(sealed: tuple[Sealed, ...]) -> list[EntryType]:
    return [item.type for item in sealed]


def test_step_1_an_allow_is_sealed_by_both_keys(log: Log):
    [result] = log.seal([record(), allow(7)])
    assert log.tpm.calls == ["sign_release", "quote", "step_counter"]
    assert _types(result.sealed) == [EntryType.ATTESTATION, EntryType.DECISION_ALLOW]
    assert (result.checkpoint.batch.mode, result.checkpoint.batch.first) == (BatchMode.RELEASE, 0)
    verified = log.keys.verify(parse_note(result.note))
    assert verified.checkpoint == result.checkpoint
    assert len(parse_note(result.note).signatures) == 2
    entry = parse_entry(result.sealed[1].entry)
    assert (entry.seq, entry.boot, entry.time) == (1, BOOT, "2026-01-31T12:00:00.000000Z")
    assert entry.body == {"artifact": ARTIFACT, "number": 7}
    assert result.sealed[1].leaf_hash == leaf_hash(result.sealed[1].entry)


def test_step_1_without_an_allow_only_the_quote_seals(log: Log):
    [result] = log.seal([record()])
    assert log.tpm.calls == ["quote", "step_counter"]
    assert result.checkpoint.batch.mode is BatchMode.RECORD
    assert len(parse_note(result.note).signatures) == 1


def test_step_1_the_checkpoint_says_the_counter_plus_one(log: Log):
    results = log.seal([record()], [allow()], [record()])
    assert [result.checkpoint.batch.counter for result in results] == [8, 9, 10]
    assert log.tpm.counter == 10


def test_step_1_uses_are_charged_within_and_across_batches(log: Log):
    results = log.seal(
        [allow(1, max_uses=3), allow(2, max_uses=3), allow(3, artifact=OTHER)],
        [allow(4, max_uses=3), allow(5, max_uses=3), allow(6, artifact=OTHER)],
    )
    denied = results[1].sealed[1]
    assert denied.type is EntryType.DECISION_DENY
    assert denied.denial is not None
    assert denied.denial.code is Code.USES_EXHAUSTED
    assert "at most 3 uses" in denied.denial.sentence
    assert parse_entry(denied.entry).body["code"] == "uses_exhausted"
    allowed = (*results[0].sealed, results[1].sealed[0], results[1].sealed[2])
    assert {item.denial for item in allowed} == {None}
    assert log.open().charges(0, 6) == [
        (0, ARTIFACT, 1),
        (1, ARTIFACT, 2),
        (2, OTHER, 1),
        (3, ARTIFACT, 3),
        (5, OTHER, 2),
    ]


def test_step_1_children_use_up_their_parent(log: Log):
    """Within a batch, across batches, and together with uses of the parent itself: all charges of an allow, or none."""
    parent, one, two = (ARTIFACT, 3), "01" * 32, "02" * 32
    results = log.seal(
        [delegated(1, artifact=one, parent=parent), delegated(2, artifact=two, parent=parent)],
        [allow(3, max_uses=3), delegated(4, artifact=one, parent=parent)],
        [delegated(5, artifact=two, parent=parent)],
    )
    types = [item.type for result in results for item in result.sealed]
    assert types == [EntryType.DECISION_ALLOW] * 3 + [EntryType.DECISION_DENY] * 2
    assert f"at most 3 uses of artifact {ARTIFACT}" in results[1].sealed[1].denial.sentence
    with contextlib.closing(log.open()) as store:
        assert store.charges(0, 5) == [
            (0, one, 1), (0, ARTIFACT, 1), (1, two, 1), (1, ARTIFACT, 2), (2, ARTIFACT, 3)
        ]  # fmt: skip
        assert [store.uses(artifact) for artifact in (one, two, ARTIFACT)] == [1, 1, 3]
        assert store.find_stray() is None
    assert log.verify().types[EntryType.DECISION_ALLOW] == 3


def test_step_1_an_exhausted_allow_alone_is_sealed_by_the_quote(log: Log):
    [result] = log.seal([allow(max_uses=0)])
    assert result.checkpoint.batch.mode is BatchMode.RECORD
    assert "sign_release" not in log.tpm.calls


def test_step_2_a_refusal_turns_each_allow_into_a_denial(log: Log):
    log.tpm.state = b"bad"
    [result] = log.seal([allow(1, max_uses=1), record(2), allow(3, max_uses=0)])
    assert result.checkpoint.batch.mode is BatchMode.RECORD
    assert _types(result.sealed) == [EntryType.DECISION_DENY, EntryType.ATTESTATION, EntryType.DECISION_DENY]
    codes = [item.denial.code if item.denial else None for item in result.sealed]
    assert codes == [Code.ENVIRONMENT_UNTRUSTED, None, Code.USES_EXHAUSTED]
    assert "TPM_RC_POLICY_FAIL" in result.sealed[0].denial.sentence
    assert parse_entry(result.sealed[0].entry).body["code"] == "environment_untrusted"
    assert log.open().uses(ARTIFACT) == 0
    assert log.verify().types[EntryType.DECISION_ALLOW] == 0


def test_step_2_a_quote_of_another_state_is_a_refusal_too(log: Log):
    def pcrs_change(name: str) -> None:
        if name == "sign_release":
            log.tpm.state = b"changed"

    log.tpm.after = pcrs_change
    [result] = log.seal([allow()])
    assert log.tpm.calls == ["sign_release", "quote", "quote", "step_counter"]
    assert result.sealed[0].denial is not None
    assert result.sealed[0].denial.code is Code.ENVIRONMENT_UNTRUSTED
    assert result.checkpoint.batch.mode is BatchMode.RECORD


def test_step_2_after_a_refusal_an_approved_state_releases_again(log: Log):
    sealer = log.sealer()
    log.tpm.state = b"bad"
    sealer.seal([allow(max_uses=1)], now=NOW, boot=BOOT)
    log.tpm.state = log.tpm.approved
    result = sealer.seal([allow(max_uses=1)], now=NOW, boot=BOOT)
    assert result.sealed[0].type is EntryType.DECISION_ALLOW


def test_step_3_everything_is_in_the_log_before_the_counter_steps(log: Log):
    sizes = []

    def look(name: str) -> None:
        if name == "step_counter":
            sizes.append((log.open().size, log.open().uses(ARTIFACT)))

    log.tpm.before = look
    log.seal([allow(), record()])
    assert sizes == [(2, 1)]


@pytest.mark.parametrize("skipped", [-1, 1])
def test_step_4_another_counter_value_releases_nothing(log: Log, skipped: int):
    sealer = log.sealer()
    log.tpm.counter += skipped
    with pytest.raises(RollbackError, match="log counter went to"):
        sealer.seal([allow()], now=NOW, boot=BOOT)
    with pytest.raises(RollbackError, match="nothing is sealed any more"):
        sealer.seal([allow()], now=NOW, boot=BOOT)


def test_receipts_are_those_that_the_log_gives(log: Log):
    for result in log.seal(
        [record()], [allow(n) for n in range(5)], [record()], [allow(n) for n in range(3)]
    ):
        receipts = [result.receipt(index) for index in range(len(result.sealed))]
        assert receipts == [log.open().receipt(item.seq) for item in result.sealed]


def test_time_never_decreases(log: Log):
    sealer = log.sealer()
    for moment in (NOW, NOW - timedelta(hours=1), NOW + timedelta(microseconds=1)):
        sealer.seal([record()], now=moment, boot=BOOT)
    reopened = log.sealer().seal([record()], now=NOW - timedelta(days=1), boot=BOOT)
    times = [parse_entry(data).time for _, data in log.open().entries(0, 4)]
    assert times == [
        "2026-01-31T12:00:00.000000Z",
        "2026-01-31T12:00:00.000000Z",
        "2026-01-31T12:00:00.000001Z",
        "2026-01-31T12:00:00.000001Z",
    ]
    assert parse_entry(reopened.sealed[0].entry).time == times[-1]


@pytest.mark.parametrize("call", ["sign_release", "quote"])
def test_without_a_tpm_nothing_is_sealed(log: Log, call: str):
    def fail(name: str) -> None:
        if name == call:
            raise TpmUnavailableError("no answer within 5 s")

    sealer = log.sealer()
    log.tpm.before = fail
    with pytest.raises(TpmUnavailableError):
        sealer.seal([allow(max_uses=1)], now=NOW, boot=BOOT)
    assert log.open().size == 0
    log.tpm.before = lambda _: None
    result = sealer.seal([allow(max_uses=1)], now=NOW, boot=BOOT)
    assert (result.sealed[0].type, result.unreleased) == (EntryType.DECISION_ALLOW, ())


class _FaultyTpm(SoftwareTpm):
    """Signs something else than it was given, as a disturbed bus would make it."""

    faulty = ""

    def sign_release(self, text: bytes) -> bytes:
        return super().sign_release(text + b"x" if self.faulty == "sign_release" else text)

    def quote(self, extra_data: bytes) -> QuoteEvidence:
        if self.faulty == "empty quote":
            return QuoteEvidence(b"", b"", approved=True)
        return super().quote(extra_data[::-1] if self.faulty == "quote" else extra_data)


@pytest.mark.parametrize("faulty", ["sign_release", "quote", "empty quote"])
def test_signatures_that_do_not_verify_never_get_into_the_log(log: Log, faulty: str):
    tpm = _FaultyTpm()
    sealer = Sealer(log.open(), tpm, tpm.keys(log.origin), counter=tpm.counter)
    tpm.faulty = faulty
    with pytest.raises(TpmError, match="do not verify"):
        sealer.seal([allow()], now=NOW, boot=BOOT)
    assert log.open().size == 0
    tpm.faulty = ""
    assert sealer.seal([allow()], now=NOW, boot=BOOT).checkpoint.size == 1


def test_a_refusal_to_seal_a_record_is_an_error(log: Log):
    def refuse(name: str) -> None:
        if name == "quote":
            raise TpmRefusedError("no")

    log.tpm.before = refuse
    with pytest.raises(TpmRefusedError):
        log.seal([record()])
    assert log.open().size == 0


def test_nothing_to_seal_is_a_usage_error(log: Log):
    with pytest.raises(UsageError, match="nothing to seal"):
        log.seal([])


def test_keys_of_another_log_are_a_usage_error(log: Log):
    keys = log.tpm.keys(log.origin + "1")
    with pytest.raises(UsageError, match="cannot seal"):
        Sealer(log.open(), log.tpm, keys, counter=0)


@pytest.mark.parametrize(
    "members",
    [
        {"type": EntryType.DECISION_ALLOW, "body": {}},
        {"type": EntryType.DECISION_ALLOW, "body": {}, "charge": Charge(ARTIFACT, 1)},
        {"type": EntryType.DECISION_ALLOW, "body": {}, "to_denial": lambda _: {}},
        {"type": EntryType.DECISION_DENY, "body": {}, "charge": Charge(ARTIFACT, 1)},
        {"type": EntryType.DECISION_DENY, "body": {}, "to_denial": lambda _: {}},
    ],
)
def test_an_allow_always_costs_a_use_and_can_become_a_denial(members: dict):
    with pytest.raises(UsageError, match="charge and to_denial belong"):
        Pending(**members)


def test_nothing_but_an_allow_becomes_a_denial():
    with pytest.raises(UsageError, match="only a decision"):
        record().to_denial(Denial(Code.ENVIRONMENT_UNTRUSTED, "sentence", "hint"))


def test_a_body_that_could_not_be_sealed_is_refused_before_it_joins_a_batch():
    recursive: dict[str, object] = {}
    recursive["self"] = recursive
    largest = MAX_BODY_BYTES - len('{"x":""}')
    Pending(EntryType.ATTESTATION, {"x": "a" * largest})
    for body in ({"x": "a" * (largest + 1)}, {"x": object()}, {"x": "\ud800"}, recursive):
        with pytest.raises(MalformedError, match="body of a attestation"):
            Pending(EntryType.ATTESTATION, body)


def test_the_largest_body_can_be_sealed(log: Log):
    largest = MAX_BODY_BYTES - len('{"x":""}')
    [result] = log.seal([Pending(EntryType.ATTESTATION, {"x": "a" * largest})])
    assert len(result.sealed[0].entry) > MAX_BODY_BYTES


def test_reset_between_batches_is_followed(log: Log):
    sealer = log.sealer()
    sealer.seal([record()], now=NOW, boot=BOOT)
    counter = log.tpm.counter
    log.tpm.clock = msgspec.structs.replace(log.tpm.clock, reset_count=log.tpm.clock.reset_count + 1)
    log.tpm.counter |= 255
    result = sealer.seal([allow()], now=NOW, boot=BOOT)
    assert (counter, result.checkpoint.batch.counter, log.tpm.counter) == (8, 256, 256)
    assert log.verify().size == 2


def test_reset_explains_no_other_counter(log: Log):
    sealer = log.sealer()
    sealer.seal([record()], now=NOW, boot=BOOT)
    log.tpm.clock = msgspec.structs.replace(log.tpm.clock, reset_count=log.tpm.clock.reset_count + 1)
    log.tpm.counter += 256
    with pytest.raises(RollbackError, match="no reset explains"):
        sealer.seal([allow()], now=NOW, boot=BOOT)
    assert log.verify().size == 1  # found before the commit


def test_reset_in_order_leaves_the_counter(log: Log):
    sealer = log.sealer()
    sealer.seal([record()], now=NOW, boot=BOOT)
    log.tpm.clock = msgspec.structs.replace(log.tpm.clock, reset_count=log.tpm.clock.reset_count + 1)
    assert sealer.seal([record()], now=NOW, boot=BOOT).checkpoint.batch.counter == 9


def _reset(log: Log) -> None:
    """Without shutdown: the counter is set to the end of its interval."""
    log.tpm.clock = msgspec.structs.replace(log.tpm.clock, reset_count=log.tpm.clock.reset_count + 1)
    log.tpm.counter |= 255


@pytest.mark.parametrize("counter", [7, 254, 255, 256])
def test_reset_between_commit_and_counter(log: Log, counter: int):
    """The step is then made by the TPM that came back: nothing of the batch is released, and sealing goes on."""
    log.tpm.counter = counter
    reset = {"committed": lambda: _reset(log)}
    sealer = log.sealer(crash_point=lambda name: reset.pop(name, lambda: None)())
    if counter == 255:  # the end of an interval: it looks as if nothing had been
        assert sealer.seal([allow()], now=NOW, boot=BOOT).checkpoint.batch.counter == 256
        return
    with pytest.raises(TpmUnavailableError, match="was reset"):
        sealer.seal([allow()], now=NOW, boot=BOOT)
    result = sealer.seal([record()], now=NOW, boot=BOOT)
    assert result.unreleased == (0,)
    assert result.checkpoint.batch.counter == log.tpm.counter == ((counter | 255) + 2)
    assert log.verify().size == 2
    assert log.recover().voids == ()


def test_reset_between_commit_and_counter_then_a_crash(log: Log):
    sealer = log.sealer(crash_point=lambda name: _reset(log) if name == "committed" else None)
    with pytest.raises(TpmUnavailableError):
        sealer.seal([allow()], now=NOW, boot=BOOT)
    assert log.recover().counter == log.tpm.counter == 256


def test_somebody_else_who_steps_the_counter_is_no_reset(log: Log):
    def step(name: str) -> None:
        log.tpm.counter += name == "committed"

    with pytest.raises(RollbackError, match="someone else steps it"):
        log.sealer(crash_point=step).seal([allow()], now=NOW, boot=BOOT)
