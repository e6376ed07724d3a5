"""Group commit: concurrent requests share a checkpoint. One thread seals; the TPM's own thread signs."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from attestd.agent.metrics import Metrics
from attestd.agent.tpm_port import TpmPort
from attestd.audit.seal import Pending, Sealed, Sealer, SealResult
from attestd.codes import Code, Denial
from attestd.errors import AttestdError, RollbackError, StoreError, TpmError, UsageError
from attestd.governance.platform import Approval, PlatformPolicy

__all__ = ["Receipt", "SealService", "sealing_denial"]

# With the half second in which the runner's spool is looked at: start and exit are sealed within one second.
LAZY_S: Final = 0.5
MAX_WAITING: Final = 1024
# Of the time that the last batch took: how long at most to wait for company, and how long after the last to come.
COMPANY: Final = 0.5
PAUSE: Final = 0.125
# How many checkpoints are with witnesses while the next one gathers, and after how long one holds up nobody any more.
MAX_ROUNDS: Final = 2
ROUND_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """A sealed entry: what it became, and on demand its tlog-proof."""

    sealed: Sealed
    _result: SealResult
    _index: int
    _note: bytes | None = None

    @property
    def size(self) -> int:
        """Of its checkpoint."""
        return self._result.checkpoint.size

    def cosigned(self, note: bytes) -> "Receipt":
        """The same under a checkpoint that witnesses have cosigned."""
        return replace(self, _note=note)

    def to_bytes(self) -> bytes:
        """The `.tlog-proof`."""
        return self._result.receipt(self._index, note=self._note)


@dataclass(slots=True)
class _Waiting:
    pending: Pending
    platform: PlatformPolicy | None
    approval: Approval | None
    witnesses: int
    future: "Future[Receipt]" = field(default_factory=Future)


class SealService:
    """Collects entries and seals them in batches, in a thread of its own.

    A batch holds decisions of one platform policy version; entries that belong to none go along with any. Entries
    that are in no hurry wait up to half a second for company.

    A batch waits for those who were answered with the last one, as long as they keep coming, for a part of the time that
    one took: they ask again in a moment, and would otherwise find the next batch gone without them. One requester alone
    never waits.

    What witnesses must cosign is sealed while no more than one checkpoint is with them: a round of theirs takes as long for one
    entry as for a hundred, and they take a log's checkpoints one after the other.
    """

    def __init__(
        self,
        sealer: Sealer,
        port: TpmPort,
        *,
        max_batch: int,
        now: Callable[[], datetime],
        boot: str,
        on_sealed: Callable[[SealResult, int], None],
        metrics: Metrics | None = None,
    ) -> None:
        """Takes over a sealer; `start` starts it.

        Args:
            sealer: The log's one sealer.
            port: Its TPM; told before each batch which approval it is for.
            max_batch: Entries a checkpoint.
            now: Trusted time.
            boot: The boot id.
            on_sealed: Called in the sealing thread after each batch, before anyone gets a receipt of it, with how many
                witnesses must cosign it; if any, `round_over` is to be called.
            metrics: Where batches are counted; None: nowhere else.
        """
        self._sealer, self._port, self._max_batch = sealer, port, max_batch
        self._now, self._boot, self._on_sealed = now, boot, on_sealed
        self._metrics = metrics or Metrics()
        self._urgent: deque[_Waiting] = deque()
        self._held: deque[_Waiting] = deque()
        self._rounds: dict[int, tuple[float, int]] = {}  # by size: since when, with how many entries
        self._lazy: deque[_Waiting] = deque()
        self._lazy_due = math.inf
        self._changed = threading.Condition()
        self._gathered, self._gather_until, self._pause_s = 1, -math.inf, 0.0
        self._last_came = -math.inf
        self._stopping = False
        self._fatal: RollbackError | None = None
        self._thread = threading.Thread(target=self._run, name="seal", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def fatal(self) -> RollbackError | None:
        """Why nothing can be sealed any more, if so: the log contradicts its TPM."""
        return self._fatal

    @property
    def waiting(self) -> int:
        """How many entries wait to be sealed."""
        return len(self._urgent) + len(self._held) + len(self._lazy)

    def round_over(self, size: int) -> None:
        """Witnesses have cosigned the checkpoint of that size, or will not: those who waited for it may ask again."""
        with self._changed:
            began, count = self._rounds.pop(size, (None, 0))
            if began is not None:
                self._admit()
                self._await_company(count, time.monotonic() - began)
                self._changed.notify()

    def submit(
        self,
        pending: Pending,
        *,
        platform: PlatformPolicy | None = None,
        approval: Approval | None = None,
        witnesses: int = 0,
        lazy: bool = False,
    ) -> "Future[Receipt]":
        """Hands in an entry.

        Args:
            pending: The entry.
            platform: For a decision that allows: the platform policy it was decided under.
            approval: The approved state the evidence showed.
            witnesses: How many witnesses must cosign it.
            lazy: It may wait for company, up to half a second.

        Returns:
            Its receipt; or the StoreError, TpmError or RollbackError for which it was not sealed.
        """
        waiting = _Waiting(pending, platform, approval, witnesses)
        with self._changed:
            many = len(self._urgent) + len(self._held) >= MAX_WAITING
            if self._fatal is not None or self._stopping or many:
                reason = self._fatal or StoreError(
                    "the agent is stopping" if self._stopping else "too many wait"
                )
                waiting.future.set_exception(reason)
                return waiting.future
            if lazy and not self._lazy:
                self._lazy_due = time.monotonic() + LAZY_S
            (self._lazy if lazy else self._held if witnesses else self._urgent).append(waiting)
            self._admit()
            self._last_came = time.monotonic()
            # Woken for each, the thread would only take turns with this one.
            if lazy or len(self._urgent) in (1, self._gathered) or len(self._held) == 1:
                self._changed.notify()
        return waiting.future

    def stop(self) -> None:
        """Seals what waits, then ends the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._seal(batch)

    def _next_batch(self) -> list[_Waiting]:
        """Waits for a batch; empty only when the service stops and nothing waits any more."""
        with self._changed:
            while True:
                while (patience_s := self._patience_s()) is None or patience_s > 0:
                    self._changed.wait(patience_s)
                taken = self._take()
                # Marked as running: from here on nobody can cancel it. What was cancelled before, nobody waits for.
                batch = [item for item in taken if item.future.set_running_or_notify_cancel()]
                if batch or not taken:
                    return batch

    def _patience_s(self) -> float | None:
        """How long to wait from now: until something is due; None: until something comes."""
        self._admit()
        if self._stopping or len(self._urgent) >= self._gathered:
            return 0.0
        gathered = min(self._gather_until, self._last_came + self._pause_s)
        due = min(gathered, self._lazy_due) if self._urgent else self._lazy_due
        if self._held:
            due = min(due, *(began + ROUND_S for began, _ in self._rounds.values()))
        return None if due == math.inf else max(0.0, due - time.monotonic())

    def _admit(self) -> None:
        """Lets in what witnesses must cosign, unless so many checkpoints are with them."""
        now = time.monotonic()
        self._rounds = {size: found for size, found in self._rounds.items() if now < found[0] + ROUND_S}
        if self._stopping or len(self._rounds) < MAX_ROUNDS:
            self._urgent += self._held
            self._held.clear()

    def _await_company(self, answered: int, took_s: float) -> None:
        self._gathered = min(self._max_batch, answered + len(self._urgent))
        self._last_came = time.monotonic()
        self._gather_until, self._pause_s = self._last_came + took_s * COMPANY, took_s * PAUSE

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rest: deque[_Waiting] = deque()
        key = next((item.platform.digest for item in self._urgent if item.platform), None)
        for item in self._urgent:
            fits = item.platform is None or item.platform.digest == key
            (batch if fits and len(batch) < self._max_batch else rest).append(item)
        while self._lazy and len(batch) < self._max_batch:
            batch.append(self._lazy.popleft())
        self._urgent = rest
        if not self._lazy:
            self._lazy_due = math.inf
        return batch

    def _seal(self, batch: Sequence[_Waiting]) -> None:
        named = next((item for item in batch if item.platform), None)
        pendings, start = [item.pending for item in batch], time.monotonic()
        self._gathered = 1  # If it fails, nobody waits for company.
        try:
            self._port.expect(named.platform if named else None, named.approval if named else None)
            result = self._sealer.seal(pendings, now=self._now(), boot=self._boot)
            took_s = time.monotonic() - start
            self._metrics.sealed(pendings, result, took_s)
            self._on_sealed(result, self._begin_round(batch, result))
        except AttestdError as error:
            self._fail(batch, error)
        except Exception as error:  # noqa: BLE001 - the edge of the thread: a bug must deny, not end sealing unseen
            self._fail(batch, StoreError(f"sealing failed: {type(error).__name__}: {error}"))
        else:
            self._await_company(len(batch), took_s)
            for index, item in enumerate(batch):
                item.future.set_result(Receipt(result.sealed[index], result, index))

    def _begin_round(self, batch: Sequence[_Waiting], result: SealResult) -> int:
        """How many witnesses must cosign the batch."""
        needed = [
            item.witnesses
            for item, sealed in zip(batch, result.sealed, strict=True)
            if item.witnesses and sealed.denial is None
        ]
        if needed:
            with self._changed:
                self._rounds[result.checkpoint.size] = time.monotonic(), len(batch)
        return max(needed, default=0)

    def _fail(self, batch: Sequence[_Waiting], error: AttestdError) -> None:
        self._metrics.seal_failed()
        if isinstance(error, RollbackError):
            with self._changed:
                self._fatal = error
                waiting = [*self._urgent, *self._held, *self._lazy]
                self._urgent.clear()
                self._held.clear()
                self._lazy.clear()
                self._lazy_due = math.inf
                batch = [*batch, *(item for item in waiting if item.future.set_running_or_notify_cancel())]
        for item in batch:
            item.future.set_exception(error)


def sealing_denial(error: BaseException) -> Denial:
    """The denial that a failure to seal comes to: nothing is released that is not recorded."""
    if isinstance(error, TpmError):
        return Denial(
            Code.TPM_UNAVAILABLE,
            f"the decision could not be sealed: {error}",
            "see attestd doctor; then try again",
        )
    if isinstance(error, (StoreError, UsageError)):
        return Denial(
            Code.AUDIT_UNAVAILABLE,
            f"the decision could not be sealed: {error}",
            "see attestd doctor; then try again",
        )
    return Denial(
        Code.INTERNAL_ERROR,
        f"the decision could not be sealed: {type(error).__name__}",
        "see the agent's log",
    )
