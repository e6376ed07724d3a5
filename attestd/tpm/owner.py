"""One thread owns the TPM: a queue with priorities in front of it, a deadline on each command."""

import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, TypeVar

from attestd.errors import TpmUnavailableError
from attestd.tpm.device import Tpm

__all__ = ["Priority", "TpmOwner"]

_T = TypeVar("_T")
_OPEN_DEADLINE_S: Final = 30.0
_TOO_LATE: Final = "the TPM did not answer within the deadline of the command"


class Priority(IntEnum):
    """Who goes first; within one, first come, first served."""

    SEAL = 0
    EVIDENCE = 1
    OTHER = 2


@dataclass(order=True, slots=True)
class _Job:
    priority: int
    number: int
    deadline: float = field(compare=False)
    call: Callable[[Tpm], Any] = field(compare=False)
    future: Future[Any] = field(compare=False)


class TpmOwner:
    """Runs calls on a `Tpm` in its one thread. Thread-safe.

    A TPM that hangs hangs this thread, and nobody else: who waits gets `TpmUnavailableError` at the deadline; who
    comes while a command is past its deadline, at once. When the TPM comes back, so does the service. A call whose
    deadline passed before its turn is never run; one that was running may still take effect in the TPM.
    """

    def __init__(self, open_tpm: Callable[[], Tpm], *, deadline_s: float = _OPEN_DEADLINE_S) -> None:
        """Opens the TPM in the new thread and waits for it.

        Args:
            open_tpm: Connects and loads the keys. Called again for the next call after the connection was lost.
            deadline_s: For the first opening.

        Raises:
            TpmUnavailableError: There is no TPM, or not in time; and whatever `open_tpm` raises.
        """
        self._open_tpm = open_tpm
        self._tpm: Tpm | None = None
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._alarm = threading.Condition(self._lock)
        self._alarm_at = math.inf
        self._queue: list[_Job] = []
        self._numbers = itertools.count()
        self._current: _Job | None = None
        self._wedged_since: float | None = None
        self._closing = False
        # Daemons: a wedged TPM must not keep the process from ending.
        self._thread = threading.Thread(target=self._run_jobs, name="tpm", daemon=True)
        self._watch = threading.Thread(target=self._watch_deadlines, name="tpm-deadlines", daemon=True)
        self._thread.start()
        self._watch.start()
        try:
            self.submit(Priority.SEAL, _nothing, deadline_s).result()
        except BaseException:
            self.close()
            raise

    @property
    def wedged_s(self) -> float:
        """For how many seconds a command has been past its deadline; 0 when all is well."""
        since = self._wedged_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return len(self._queue)

    def submit(self, priority: Priority, call: Callable[[Tpm], _T], deadline_s: float) -> "Future[_T]":
        """Has a call run on the TPM.

        Args:
            priority: Its place in the queue.
            call: Gets the `Tpm`; runs in its thread.
            deadline_s: Seconds from now, waiting included.

        Returns:
            A future with the call's result or error; `TpmUnavailableError` at the deadline.
        """
        future: Future[_T] = Future()
        job = _Job(priority, next(self._numbers), time.monotonic() + deadline_s, call, future)
        with self._lock:
            refusal = self._refusal()
            if refusal is None:
                heapq.heappush(self._queue, job)
                self._work.notify()
                if job.deadline < self._alarm_at:
                    self._alarm.notify()
        if refusal is not None:
            future.set_exception(TpmUnavailableError(refusal))
        return future

    def close(self, *, patience_s: float = 5.0) -> None:
        """Ends the threads and closes the TPM; calls that wait fail. Repeatable.

        Args:
            patience_s: How long to wait for a running call; a thread that hangs after that is left behind.
        """
        with self._lock:
            self._closing = True
            waiting, self._queue = self._queue, []
            self._work.notify()
            self._alarm.notify()
        for job in waiting:
            _fail(job, "the agent is stopping")
        self._thread.join(patience_s)
        if not self._thread.is_alive():
            self._watch.join(patience_s)

    def _refusal(self) -> str | None:
        if self._closing:
            return "the agent is stopping"
        if self._wedged_since is not None:
            return f"the TPM has not answered for {self.wedged_s:.0f} s past the deadline of a command"
        return None

    def _run_jobs(self) -> None:
        while (job := self._next_job()) is not None:
            if job.deadline <= time.monotonic():
                _fail(
                    job, _TOO_LATE
                )  # the watcher may come late: nothing runs whose answer nobody would wait for
            else:
                self._run(job)
        self._close_tpm()

    def _run(self, job: _Job) -> None:
        try:
            result = job.call(self._opened())
        except Exception as error:  # noqa: BLE001 (it belongs to whoever waits; this thread serves on)
            with suppress(InvalidStateError):  # past its deadline, or cancelled: nobody waits any more
                job.future.set_exception(error)
        else:
            with suppress(InvalidStateError):
                job.future.set_result(result)
        if self._tpm is not None and self._tpm.is_lost:
            self._close_tpm()

    def _next_job(self) -> _Job | None:
        with self._lock:
            self._current, self._wedged_since = None, None
            while not self._closing:
                if not self._queue:
                    self._work.wait()
                elif not (job := heapq.heappop(self._queue)).future.done():
                    self._current = job
                    return job
            self._alarm.notify()
        return None

    def _watch_deadlines(self) -> None:
        with self._lock:
            while not self._closing or self._current is not None:
                expired = self._take_expired()
                if expired:
                    # A future runs its callbacks at once, and they may submit: not under the lock.
                    self._lock.release()
                    try:
                        for job in expired:
                            _fail(job, _TOO_LATE)
                    finally:
                        self._lock.acquire()
                else:
                    self._alarm.wait(
                        None if self._alarm_at == math.inf else self._alarm_at - time.monotonic()
                    )

    def _take_expired(self) -> list[_Job]:
        """Removes the jobs whose deadline has passed from the queue; notices a wedge; sets the next alarm."""
        now = time.monotonic()
        expired = [job for job in self._queue if job.deadline <= now]
        if expired:
            self._queue = [job for job in self._queue if job.deadline > now]
            heapq.heapify(self._queue)
        running = self._current if self._wedged_since is None else None
        if running is not None and running.deadline <= now:
            self._wedged_since = running.deadline
            expired.append(running)
            running = None
        deadlines = [job.deadline for job in (*self._queue, running) if job is not None]
        self._alarm_at = min(deadlines, default=math.inf)
        return expired

    def _opened(self) -> Tpm:
        if self._tpm is None:
            self._tpm = self._open_tpm()
        return self._tpm

    def _close_tpm(self) -> None:
        if self._tpm is not None:
            self._tpm.close()
            self._tpm = None


def _nothing(_: Tpm) -> None:
    """Opens the TPM, and that is all."""


def _fail(job: _Job, message: str) -> None:
    with suppress(InvalidStateError):
        job.future.set_exception(TpmUnavailableError(message))
