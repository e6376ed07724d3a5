"""Group commit: what is sealed together, and what happens to waiting entries when something fails."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from attestd.agent import sealing as module
from attestd.agent.sealing import Receipt, SealService, sealing_denial
from attestd.audit.seal import SealResult
from attestd.codes import Code
from attestd.errors import (
    MalformedError,
    RollbackError,
    StoreError,
    TpmError,
    TpmRefusedError,
    TpmUnavailableError,
)
from attestd.lineage.entry import EntryType
from attestd.lineage.receipt import parse_receipt
from tests.audit.conftest import log
from tests.audit.harness import BOOT, NOW, Log, allow, record
from tests.host import wait_for

__all__ = ["log"]


class Bench:
    """A service over a real log and a software TPM that can be held."""

    def __init__(self, log: Log, *, max_batch: int = 256) -> None:
        self.log = log
        self.batches: list[tuple[str | None, int]] = []
        self.results: list[SealResult] = []
        self.quorums: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.failure: Exception | None = None
        self.named: str | None = None
        log.tpm.before = self.before
        self.service = SealService(
            log.sealer(), self, max_batch=max_batch, now=self.now, boot=BOOT, on_sealed=self.on_sealed,  # type: ignore[arg-type]
        )  # fmt: skip

    def now(self) -> datetime:
        return NOW

    def expect(self, platform: Any, _: Any) -> None:
        self.named = platform and platform.digest

    def before(self, call: str) -> None:
        self.entered.set()
        assert self.gate.wait(20)
        if call == "quote" and self.failure is not None:
            raise self.failure

    def on_sealed(self, result: SealResult, quorum: int) -> None:
        self.quorums.append(quorum)
        self.batches.append((self.named, len(result.sealed)))
        self.results.append(result)

    def hold(self) -> "Future[Receipt]":
        """Lets the TPM hang on a first entry, so that what comes meanwhile waits."""
        self.gate.clear()
        self.entered.clear()
        future = self.service.submit(record())
        assert self.entered.wait(20)
        return future


@pytest.fixture
def bench(log: Log, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(module, "ROUND_S", 60)  # no round of witnesses is over before the test says so
    bench = Bench(log)
    bench.service.start()
    yield bench
    bench.gate.set()
    bench.service.stop()


def platform(name: str) -> Any:
    return SimpleNamespace(digest=name)


def get(future: "Future[Receipt]") -> Receipt:
    return future.result(20)


def test_entries_that_wait_share_a_checkpoint(bench: Bench) -> None:
    first = bench.hold()
    futures = [bench.service.submit(record(number)) for number in range(50)]
    bench.gate.set()
    assert get(first).sealed.seq == 0
    receipts = [get(future) for future in futures]
    assert [receipt.sealed.seq for receipt in receipts] == list(range(1, 51))
    assert bench.batches == [(None, 1), (None, 50)]
    parsed = parse_receipt(receipts[7].to_bytes())
    assert (parsed.entry.seq, parsed.checkpoint.size) == (8, 51)


def slow(bench: Bench, seconds: float) -> None:
    """Each command of the TPM takes so long: quote and counter step, so a batch twice that."""
    bench.log.tpm.before = lambda _: time.sleep(seconds)


def test_a_batch_waits_for_those_who_were_answered_with_the_last_one(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come one after another, as from a loop that answers and decides; the first does not take the TPM away."""
    monkeypatch.setattr(module, "COMPANY", 100)
    monkeypatch.setattr(module, "PAUSE", 100)
    bench = Bench(log, max_batch=8)  # which the first does not go with
    bench.service.start()
    first = bench.hold()
    futures = [bench.service.submit(record(number)) for number in range(8)]
    slow(bench, 0.3)
    bench.gate.set()
    get(first)
    for future in futures:
        get(future)
    again = []
    for number in range(8):
        again.append(bench.service.submit(record(number)))
        time.sleep(0.005)
    for future in again:
        get(future)
    bench.service.stop()
    assert bench.batches == [(None, 1), (None, 8), (None, 8)]


def test_nobody_waits_long_for_who_does_not_come_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """`get` waits for 20 s, which is less than what would be waited for here otherwise."""
    monkeypatch.setattr(module, "COMPANY", 100)
    first = bench.hold()
    futures = [bench.service.submit(record(number)) for number in range(8)]
    slow(bench, 0.3)
    bench.gate.set()
    for future in (first, *futures):
        get(future)
    slow(bench, 0.0)
    began = time.monotonic()
    get(bench.service.submit(record()))
    assert time.monotonic() - began > 0.05  # an eighth of the 0.6 s that the last batch took
    monkeypatch.setattr(module, "PAUSE", 100)
    slow(bench, 0.3)
    get(bench.service.submit(record()))
    slow(bench, 0.0)
    get(bench.service.submit(record()))  # alone: not at all


def test_batch_holds_decisions_of_one_platform_version(bench: Bench) -> None:
    bench.hold()
    futures = [
        bench.service.submit(allow(number), platform=platform(name)) for number, name in enumerate("aabab")
    ]
    futures.append(bench.service.submit(record()))
    bench.gate.set()
    for future in futures:
        get(future)
    assert bench.batches == [(None, 1), ("a", 4), ("b", 2)]


def test_batch_has_its_limit(log: Log) -> None:
    bench = Bench(log, max_batch=4)
    bench.service.start()
    bench.hold()
    futures = [bench.service.submit(record(number)) for number in range(10)]
    bench.gate.set()
    assert [get(future).sealed.seq for future in futures] == list(range(1, 11))
    assert bench.batches == [(None, 1), (None, 4), (None, 4), (None, 2)]
    bench.service.stop()


def test_lazy_entries_wait_for_company_but_not_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    lazy = bench.service.submit(record(), lazy=True)
    get(lazy)
    assert time.monotonic() - began > 0.4
    monkeypatch.setattr(module, "LAZY_S", 60)
    lazy = bench.service.submit(record(), lazy=True)
    get(bench.service.submit(record()))
    get(lazy)
    assert bench.batches == [(None, 1), (None, 2)]


def test_lazy_entries_that_keep_coming_do_not_put_each_other_off(bench: Bench) -> None:
    first = bench.service.submit(record(), lazy=True)
    began = time.monotonic()
    while not first.done():
        assert time.monotonic() - began < 20
        bench.service.submit(record(), lazy=True)
        time.sleep(0.05)


def test_what_was_cancelled_before_its_turn_is_not_sealed_and_harms_nobody(bench: Bench) -> None:
    bench.hold()
    futures = [bench.service.submit(record(number)) for number in range(3)]
    assert futures[1].cancel()
    bench.gate.set()
    assert [get(futures[0]).sealed.seq, get(futures[2]).sealed.seq] == [1, 2]
    with pytest.raises(CancelledError):
        futures[1].result(0)
    assert get(bench.service.submit(record())).sealed.seq == 3


def test_what_is_being_sealed_cannot_be_cancelled(bench: Bench) -> None:
    first = bench.hold()
    assert not first.cancel()
    bench.gate.set()
    assert get(first).sealed.seq == 0


def test_only_cancelled_entries_make_no_batch(bench: Bench) -> None:
    bench.hold()
    assert bench.service.submit(record()).cancel()
    bench.gate.set()
    assert get(bench.service.submit(record(), lazy=True)).sealed.seq == 1


@pytest.mark.parametrize("failure", [TpmUnavailableError("gone"), TpmError("odd"), ValueError("a bug")])
def test_failure_is_told_to_the_batch_and_the_next_one_succeeds(bench: Bench, failure: Exception) -> None:
    bench.failure = failure
    error = bench.service.submit(allow(), platform=platform("a")).exception(20)
    assert isinstance(error, TpmError if isinstance(failure, TpmError) else StoreError)
    assert str(failure) in str(error)
    bench.failure = None
    receipt = get(bench.service.submit(allow(), platform=platform("a")))
    assert (receipt.sealed.seq, receipt.sealed.type) == (0, EntryType.DECISION_ALLOW)


def asked(bench: Bench, number: int, witnesses: int = 1) -> "Future[Receipt]":
    return bench.service.submit(allow(number), platform=platform("a"), witnesses=witnesses)


def test_what_comes_while_two_checkpoints_are_with_witnesses_gathers_for_the_next(bench: Bench) -> None:
    get(asked(bench, 0))
    get(asked(bench, 1, witnesses=2))
    futures = [asked(bench, 2 + number, witnesses=number % 3 + 1) for number in range(9)]
    # What needs no witness is not held up.
    get(bench.service.submit(allow(11), platform=platform("a")))
    get(bench.service.submit(record()))
    assert not any(future.done() for future in futures)
    assert bench.service.waiting == 9
    bench.service.round_over(1)
    for future in futures:
        get(future)
    assert [size for _, size in bench.batches] == [1, 1, 1, 1, 9]
    assert bench.quorums == [1, 2, 0, 0, 3]
    bench.service.round_over(1)  # As of one that nobody knows: nothing happens.


def test_witnesses_that_are_slow_hold_up_nobody_for_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROUND_S", 0.3)
    began = time.monotonic()
    for number in range(3):
        get(asked(bench, number))
    assert time.monotonic() - began > 0.25


def test_stopping_seals_also_what_is_held(bench: Bench) -> None:
    for number in range(2):
        get(asked(bench, number))
    future = asked(bench, 2)
    bench.service.stop()
    assert get(future).sealed.seq == 2


def test_rollback_is_told_also_to_what_is_held(bench: Bench) -> None:
    for number in range(2):
        get(asked(bench, number))
    held = asked(bench, 2)
    bench.log.tpm.counter += 5
    bench.service.submit(record())
    assert isinstance(held.exception(20), RollbackError)


def test_a_denial_begins_no_round(bench: Bench) -> None:
    bench.log.tpm.state = b"changed"
    assert get(asked(bench, 0)).sealed.denial is not None
    assert bench.quorums == [0]


def test_refusal_of_the_tpm_is_a_sealed_denial(bench: Bench) -> None:
    bench.log.tpm.state = b"changed"
    receipt = get(bench.service.submit(allow(), platform=platform("a")))
    assert receipt.sealed.type is EntryType.DECISION_DENY
    assert receipt.sealed.denial is not None
    assert receipt.sealed.denial.code is Code.ENVIRONMENT_UNTRUSTED


def test_rollback_is_final_for_all_that_wait_and_all_that_come(bench: Bench) -> None:
    first = bench.hold()
    urgent, lazy = bench.service.submit(record()), bench.service.submit(record(), lazy=True)
    bench.log.tpm.counter += 5
    bench.gate.set()
    for future in (first, urgent, lazy):
        assert isinstance(future.exception(20), RollbackError)
    assert isinstance(bench.service.fatal, RollbackError)
    assert isinstance(bench.service.submit(record()).exception(0), RollbackError)


def test_stopping_seals_what_waits_and_takes_nothing_more(bench: Bench) -> None:
    bench.hold()
    futures = [bench.service.submit(record(), lazy=bool(number % 2)) for number in range(4)]
    stopper = threading.Thread(target=bench.service.stop)
    stopper.start()
    wait_for("it stops", lambda: bench.service._stopping)
    late = bench.service.submit(record())
    bench.gate.set()
    stopper.join(20)
    assert [get(future).sealed.seq for future in futures] == [1, 3, 2, 4]
    assert isinstance(late.exception(0), StoreError)


def test_queue_has_its_limit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    bench.hold()
    futures = [bench.service.submit(record()) for _ in range(5)]
    assert [isinstance(future.exception(0), StoreError) for future in futures[3:]] == [True, True]
    bench.gate.set()
    assert [get(future).sealed.seq for future in futures[:3]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TpmUnavailableError("x"), Code.TPM_UNAVAILABLE),
        (TpmRefusedError("x"), Code.TPM_UNAVAILABLE),
        (StoreError("x"), Code.AUDIT_UNAVAILABLE),
        (RollbackError("x"), Code.AUDIT_UNAVAILABLE),
        (MalformedError("x"), Code.INTERNAL_ERROR),
    ],
)
def test_failure_to_seal_is_a_denial(error: Exception, code: Code) -> None:
    assert sealing_denial(error).code is code
