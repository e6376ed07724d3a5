"""Group commit: whoever asks while a transaction is written shares the next one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Generic, TypeVar

from attestd.errors import StoreError

__all__ = ["Batches"]

MAX_BATCH: Final = 128
MAX_WAITING: Final = 4096
# From the end of a batch to the next: who asks alone waits for nothing, and of many that ask more go together. A batch of one
# costs several times what another one in it does.
GAP_S: Final = 0.003
# So many are not kept for the gap: the thread writes while the loop still has others to appraise, and not only when it is idle.
MANY: Final = 16

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Batches(Generic[_In, _Out]):
    """Gives what many ask to one function in one thread, as many at a time as wait."""

    def __init__(self, decide: Callable[[Sequence[_In]], Sequence[_Out]], *, name: str) -> None:
        """Takes the function, and the name of its thread; use `running`."""
        self._decide, self._name = decide, name
        self._waiting: list[tuple[_In, asyncio.Future[_Out]]] = []
        self._thread: ThreadPoolExecutor | None = None
        self._is_busy = False
        self._gap: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def submit(self, item: _In) -> _Out:
        """Asks.

        Raises:
            StoreError: Too many wait.
            AttestdError: What the function raised for all whom it was asked for.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise StoreError("too many requests wait for the database")
        future: asyncio.Future[_Out] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._gap is None or len(self._waiting) >= MANY:
            self._begin()
        return await future

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers as long as the context lasts."""
        with ThreadPoolExecutor(1, thread_name_prefix=self._name) as thread:
            self._thread = thread
            self._begin()
            try:
                yield
            finally:
                self._thread = None

    def _begin(self) -> None:
        """Begins a batch, if anybody waits and none is under way."""
        if self._gap is not None:
            self._gap.cancel()
            self._gap = None
        if self._thread is None or self._is_busy or not self._waiting:
            return
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        items, futures = [item for item, _ in batch], [future for _, future in batch]
        try:
            work = asyncio.get_running_loop().run_in_executor(self._thread, self._decide, items)
        except RuntimeError as error:  # no more threads can be had; whoever asks next tries again
            _fail(futures, StoreError(f"the database has no thread: {error}"))
            return
        self._is_busy = True
        work.add_done_callback(partial(self._tell, futures))

    def _tell(
        self, futures: Sequence["asyncio.Future[_Out]"], work: "asyncio.Future[Sequence[_Out]]"
    ) -> None:
        """A batch is over: each is told what came of it, and the next begins, at once or after the gap."""
        error = work.exception()
        if error is None:
            for future, outcome in zip(futures, work.result(), strict=True):
                if not future.done():  # else whoever asked went away
                    future.set_result(outcome)
        else:
            _fail(futures, error)
        self._is_busy = False
        if len(self._waiting) >= MANY:
            self._begin()
        else:
            self._gap = asyncio.get_running_loop().call_later(GAP_S, self._begin)


def _fail(futures: Sequence["asyncio.Future[_Out]"], error: BaseException) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
