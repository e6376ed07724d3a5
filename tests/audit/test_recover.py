# ruff: noqa: S608 - the statements are made of what stands in this file
"""The start-up checks, one by one."""

from datetime import timedelta
from pathlib import Path

import pytest

from attestd.audit.recover import MAX_COUNTER_JUMP, settle_counter, unsettled_allows, void_body
from attestd.audit.seal import Pending
from attestd.errors import RollbackError, TpmUnavailableError, UsageError
from attestd.lineage.entry import EntryType
from attestd.tcg.attest import ClockInfo
from attestd.tlog.tree import leaf_hash
from tests.audit.harness import BOOT, NOW, Log, allow, record
from tests.audit.software_tpm import SoftwareTpm

NOON = "2026-01-31T12:00:00.000000Z"


def _advance(log: Log, *, resets: int = 0, restarts: int = 0, clock: int = 0, safe: bool = True) -> None:
    then = log.tpm.clock
    log.tpm.clock = ClockInfo(
        reset_count=then.reset_count + resets,
        restart_count=then.restart_count + restarts,
        clock=then.clock + clock,
        safe=safe,
    )


def test_a_log_that_is_as_it_was_left(started: Log):
    recovery = started.recover()
    assert (recovery.counter, recovery.voids, recovery.notes) == (started.tpm.counter, (), ())


def test_check_1_an_empty_log_was_truncated(log: Log):
    with pytest.raises(RollbackError, match="it was truncated"):
        log.recover()


def test_check_1_a_log_truncated_without_its_checkpoint(started: Log):
    started.tamper("DELETE FROM leaves WHERE seq = 4")
    with pytest.raises(RollbackError, match="4 leaves, its last checkpoint covers 5"):
        started.recover()


def test_check_1_an_edited_tree(started: Log):
    started.tamper("UPDATE nodes SET hash = zeroblob(32) WHERE level = 2")
    with pytest.raises(RollbackError, match="nodes were edited"):
        started.recover()


@pytest.mark.parametrize("change", ["counter = '00000000000000ff'", "mode = 'release'", "first = 3"])
def test_check_1_a_row_that_is_not_what_was_signed(started: Log, change: str):
    started.tamper(f"UPDATE checkpoints SET {change} WHERE size = 5")
    with pytest.raises(RollbackError, match="signs other values than its row has"):
        started.recover()


def test_check_2_a_checkpoint_of_another_tpm(started: Log):
    started.tpm, tpm = SoftwareTpm(counter=started.tpm.counter), started.tpm
    assert tpm.counter == started.tpm.counter
    started.keys = started.tpm.keys(started.origin)
    with pytest.raises(RollbackError, match="does not verify"):
        started.recover()


@pytest.mark.parametrize("size", [1, 4])
def test_check_2_a_checkpoint_of_another_size(started: Log, size: int):
    started.tamper(
        f"UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE size = {size}) WHERE size = 5"
    )
    with pytest.raises(RollbackError, match="signs other values"):
        started.recover()


def test_check_3_a_cleared_tpm(started: Log):
    _advance(started, resets=-1, clock=10**6)
    with pytest.raises(RollbackError, match=r"the TPM was cleared.*attestd rekey --lost"):
        started.recover()


@pytest.mark.parametrize("back", [{"restarts": -1, "clock": 5}, {"clock": -1}])
def test_check_3_a_clock_that_went_back(log: Log, back: dict[str, int]):
    _advance(log, restarts=2)
    log.seal([record()])
    _advance(log, **back)
    with pytest.raises(RollbackError, match="went back"):
        log.recover()


@pytest.mark.parametrize(
    "forward", [{"resets": 1, "clock": -900}, {"restarts": 1, "clock": -900}, {"clock": 1}]
)
def test_check_3_resets_count_before_restarts_before_the_clock(started: Log, forward: dict[str, int]):
    _advance(started, **forward)
    assert started.recover().notes == ()


def test_check_3_an_unsafe_clock_is_recorded_not_fatal(started: Log):
    _advance(started, resets=1, safe=False)
    [note] = started.recover().notes
    assert "safe = 0" in note


def test_check_4_one_below_is_a_crash_after_the_commit(started: Log):
    started.seal([allow(1), record(), allow(2)])
    started.tpm.counter -= 1
    recovery = started.recover()
    assert (recovery.voids, recovery.counter, started.tpm.counter) == ((5, 7), 11, 11)
    assert started.recover().voids == ()  # stepped once: the second start finds nothing


@pytest.mark.parametrize("counter", [8, 11, 10 + MAX_COUNTER_JUMP])
def test_check_4_any_other_value_without_a_reset_is_rollback(started: Log, counter: int):
    started.tpm.counter = counter
    with pytest.raises(RollbackError, match=f"says log counter 10, the TPM says {counter}"):
        started.recover()
    assert started.tpm.counter == counter  # the evidence is as it was found


@pytest.mark.parametrize("reset", [{"resets": 1}, {"restarts": 1}])
@pytest.mark.parametrize("jump", [1, MAX_COUNTER_JUMP])
def test_check_4_a_reset_may_skip_one_orderly_interval(started: Log, jump: int, reset: dict[str, int]):
    _advance(started, **reset)
    started.tpm.counter += jump
    recovery = started.recover()
    assert (recovery.counter, recovery.voids) == (10 + jump, ())
    assert f"from 10 to {10 + jump}" in recovery.notes[0]
    started.sealer(counter=recovery.counter).seal([record()], now=NOW, boot=BOOT)
    assert started.recover().notes == ()
    assert started.verify().size == 6


@pytest.mark.parametrize("jump", [1, 5, MAX_COUNTER_JUMP - 10, MAX_COUNTER_JUMP - 9])
def test_check_4_after_an_orderly_shutdown_only_the_end_of_the_interval_is_a_jump(started: Log, jump: int):
    """A host is switched off in order, its disk replaced by an older copy: the counter is ahead without a jump."""
    _advance(started, resets=2)
    started.tpm.counter += jump
    started.tpm.shut_down = True
    if (10 + jump) & 255 in (255, 0):  # a reset before that one came without shutdown
        assert started.recover().counter == 10 + jump
    else:
        with pytest.raises(RollbackError, match="rolled back, or another copy"):
            started.recover()


@pytest.mark.parametrize("jump", [-2, MAX_COUNTER_JUMP + 1])
def test_check_4_a_reset_explains_no_more_than_that(started: Log, jump: int):
    _advance(started, resets=1)
    started.tpm.counter += jump
    with pytest.raises(RollbackError, match="log counter"):
        started.recover()


def test_a_restored_copy_is_found(started: Log, tmp_path: Path):
    started.copy_to(tmp_path / "copy")
    started.seal([record()], [allow()])
    started.restore_from(tmp_path / "copy")
    with pytest.raises(RollbackError, match="rolled back, or another copy"):
        started.recover()


def test_a_copy_from_just_before_the_last_batch_is_found(started: Log, tmp_path: Path):
    started.copy_to(tmp_path / "copy")
    started.seal([allow()])
    started.restore_from(tmp_path / "copy")
    with pytest.raises(RollbackError, match="rolled back"):
        started.recover()


def test_settling_steps_at_most_once():
    tpm = SoftwareTpm(counter=4)
    assert settle_counter(tpm, recorded=5) == 5
    assert settle_counter(tpm, recorded=5) == 5
    assert tpm.calls.count("step_counter") == 1


def test_a_tpm_that_does_not_answer_is_no_rollback(started: Log):
    def fail(_: str) -> None:
        raise TpmUnavailableError("no answer")

    started.tpm.before = fail
    with pytest.raises(TpmUnavailableError):
        started.recover()


def test_unsettled_are_the_allows_of_which_the_log_says_nothing_more(started: Log):
    store = started.open()
    leaf = leaf_hash(store.entry(1)).hex()
    assert unsettled_allows(store, since=NOON) == [1, 3]
    started.seal([Pending(EntryType.EXECUTION_START, {"leaf": leaf, "pid": 1})])
    assert unsettled_allows(store, since=NOON) == [3]
    started.seal([Pending(EntryType.DECISION_VOID, void_body(store, 3, reason="client gone"))])
    assert unsettled_allows(store, since=NOON) == []


def test_unsettled_looks_no_further_back_than_asked(started: Log):
    store, later = started.open(), NOW + timedelta(minutes=5)
    started.sealer().seal([allow()], now=later, boot=BOOT)
    assert unsettled_allows(store, since=NOON) == [1, 3, 5]
    assert unsettled_allows(store, since="2026-01-31T12:04:00.000000Z") == [5]


def test_unsettled_allows_of_an_empty_log(log: Log):
    assert unsettled_allows(log.open(), since=NOON) == []


def test_a_void_names_the_allow(started: Log):
    store = started.open()
    leaf = leaf_hash(store.entry(3)).hex()
    assert void_body(store, 3, reason="crash") == {"seq": 3, "leaf": leaf, "reason": "crash"}
    with pytest.raises(UsageError):
        void_body(store, 5, reason="there is none")
