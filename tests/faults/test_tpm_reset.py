"""A TPM that is reset between any two commands of sealing: its counter jumps, and sealing goes on."""

import pytest

from attestd.audit.seal import Sealer
from attestd.errors import RollbackError, TpmUnavailableError
from attestd.lineage.entry import EntryType
from attestd.tcg.attest import ClockInfo
from tests.audit.conftest import log
from tests.audit.harness import BOOT, NOW, Log, allow

__all__ = ["log"]


def lose_power(log: Log) -> None:
    """Without shutdown: the counter goes to the end of its interval."""
    clock = log.tpm.clock
    log.tpm.clock = ClockInfo(clock.clock, clock.reset_count + 1, clock.restart_count, safe=False)
    log.tpm.counter |= 0xFF
    log.tpm.before = log.tpm.after = lambda _: None


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("command", ["sign_release", "quote", "step_counter"])
def test_reset_in_the_middle_of_a_batch(log: Log, command: str, counted: bool) -> None:
    sealer = log.sealer()
    sealer.seal([allow(1)], now=NOW, boot=BOOT)

    def fail(name: str) -> None:
        if name == command:
            lose_power(log)
            raise TpmUnavailableError("the connection was lost")

    setattr(log.tpm, "after" if counted else "before", fail)
    with pytest.raises(TpmUnavailableError):
        sealer.seal([allow(2)], now=NOW, boot=BOOT)
    result = sealer.seal([allow(3)], now=NOW, boot=BOOT)
    committed = command == "step_counter"
    assert result.unreleased == ((1,) if committed else ())
    assert result.checkpoint.batch.counter == 0x100
    assert result.sealed[0].type is EntryType.DECISION_ALLOW
    assert log.verify().size == 2 + committed
    assert log.recover().voids == ()


def test_reset_between_start_and_the_first_batch(log: Log) -> None:
    log.seal([allow(1)])
    recovery = log.recover()
    sealer = Sealer(log.open(), log.tpm, log.keys, counter=recovery.counter, resets=recovery.resets)
    lose_power(log)
    assert sealer.seal([allow(2)], now=NOW, boot=BOOT).checkpoint.batch.counter == 0x100


def test_jump_without_reset_in_the_middle_of_a_batch(log: Log) -> None:
    sealer = log.sealer()
    sealer.seal([allow(1)], now=NOW, boot=BOOT)

    def fail(name: str) -> None:
        if name == "step_counter":
            raise TpmUnavailableError("no answer")

    log.tpm.before = fail
    with pytest.raises(TpmUnavailableError):
        sealer.seal([allow(2)], now=NOW, boot=BOOT)
    log.tpm.before = lambda _: None
    log.tpm.counter |= 0xFF
    with pytest.raises(RollbackError, match="log counter"):
        sealer.seal([allow(3)], now=NOW, boot=BOOT)
    assert log.open().size == 2
