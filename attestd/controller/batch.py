"""Group commit: whoever asks while a transaction is written shares the next one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, TypeVar

from attestd.controller.background import in_background
from attestd.errors import StoreError

__all__ = ["Batches"]

MAX_BATCH: Final = 128
MAX_WAITING: Final = 4096
# From the end of a batch to the next: who asks alone waits for nothing, and of many that ask more go together. A batch of one
# costs several times what another one in it does.
GAP_S: Final = 0.003

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Batches(Generic[_In, _Out]):
    """Gives what many ask to one function in one thread, as many at a time as wait."""

    def __init__(self, decide: Callable[[Sequence[_In]], Sequence[_Out]], *, name: str) -> None:
        """Takes the function, and the name of its thread; use `running`."""
        self._decide, self._name = decide, name
        self._waiting: list[tuple[_In, asyncio.Future[_Out]]] = []
        self._some = asyncio.Event()

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
        self._some.set()
        return await future

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers as long as the context lasts."""
        with ThreadPoolExecutor(1, thread_name_prefix=self._name) as thread:
            async with in_background(self._run(thread)):
                yield

    async def _run(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            if not self._waiting:
                self._some.clear()
            try:
                outcomes = await loop.run_in_executor(thread, self._decide, [item for item, _ in batch])
            except Exception as error:  # noqa: BLE001 - whatever it is, each of them is told
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                await asyncio.sleep(GAP_S)
                continue
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if not future.done():  # else whoever asked went away
                    future.set_result(outcome)
            await asyncio.sleep(GAP_S)
