"""Group commit: who shares a batch with whom, who waits, and what is told to whom."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from attestd.controller.batch import MANY, MAX_BATCH, MAX_WAITING, Batches
from attestd.errors import StoreError

UNLUCKY = -13


class Decided:
    """The function: squares, a batch after another as the test lets them; what it was given is kept."""

    def __init__(self) -> None:
        self.batches: list[Sequence[int]] = []
        self.may_go = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(items)
        self.begun.release()
        assert self.may_go.acquire(timeout=60)
        if UNLUCKY in items:
            raise StoreError("no such luck")
        return [item * item for item in items]

    async def until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=60)


def with_batches(test: Callable[[Batches[int, int], Decided], Awaitable[None]]) -> None:
    async def run() -> None:
        decided = Decided()
        batches = Batches[int, int](decided, name="test")
        async with batches.running():
            await test(batches, decided)

    asyncio.run(run())


def asks(batches: Batches[int, int], items: Sequence[int]) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batches.submit(item)) for item in items]


def test_who_asks_alone_waits_for_nobody_and_the_rest_shares_the_next() -> None:
    async def test(batches: Batches[int, int], decided: Decided) -> None:
        first = asks(batches, [1])
        await decided.until_begun()
        rest = asks(batches, [2, 3, 4])
        await asyncio.sleep(0)
        assert batches.waiting == 3
        decided.may_go.release(2)
        assert await asyncio.gather(*first, *rest) == [1, 4, 9, 16]
        assert decided.batches == [[1], [2, 3, 4]]

    with_batches(test)


def test_many_do_not_wait_until_the_loop_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread begins while the loop still takes requests, of which there may be many at once."""
    monkeypatch.setattr("attestd.controller.batch.GAP_S", 3600)

    async def test(batches: Batches[int, int], decided: Decided) -> None:
        decided.may_go.release(3)
        assert await batches.submit(0) == 0
        few = asks(batches, range(MANY - 1))
        await asyncio.sleep(0)
        assert batches.waiting == MANY - 1, "the gap lasts"
        more = asks(batches, [MANY])
        await asyncio.gather(*few, *more)
        assert [len(items) for items in decided.batches] == [1, MANY]

    with_batches(test)


def test_a_batch_is_bounded_and_so_is_what_waits() -> None:
    async def test(batches: Batches[int, int], decided: Decided) -> None:
        tasks = asks(batches, range(20, 21 + MAX_WAITING))
        await decided.until_begun()
        assert batches.waiting == MAX_WAITING
        with pytest.raises(StoreError, match="too many requests wait"):
            await batches.submit(1)
        decided.may_go.release(1 + MAX_WAITING)
        assert await asyncio.gather(*tasks) == [item * item for item in range(20, 21 + MAX_WAITING)]
        assert max(map(len, decided.batches)) == MAX_BATCH

    with_batches(test)


def test_an_error_is_told_to_all_of_its_batch_alone() -> None:
    async def test(batches: Batches[int, int], decided: Decided) -> None:
        first = asks(batches, [1])
        await decided.until_begun()
        failing = asks(batches, [12, UNLUCKY])
        decided.may_go.release()
        await asyncio.gather(*first)
        decided.may_go.release()
        assert [str(error) for error in await asyncio.gather(*failing, return_exceptions=True)] == [
            "no such luck"
        ] * 2
        decided.may_go.release()
        assert await batches.submit(5) == 25

    with_batches(test)


def test_who_went_away_is_not_told() -> None:
    async def test(batches: Batches[int, int], decided: Decided) -> None:
        gone, stays = asks(batches, [1, 2])
        await decided.until_begun()
        gone.cancel()
        decided.may_go.release(2)
        assert await stays == 4
        assert gone.cancelled()

    with_batches(test)


def test_after_the_end_nothing_begins() -> None:
    async def run() -> None:
        decided = Decided()
        batches = Batches[int, int](decided, name="test")
        decided.may_go.release(9)
        async with batches.running():
            assert await batches.submit(2) == 4
        late = asyncio.create_task(batches.submit(3))
        await asyncio.sleep(0.05)
        assert not late.done()
        assert decided.batches == [[2]]
        late.cancel()

    asyncio.run(run())


def test_without_a_thread_each_is_told_and_the_next_tries_again() -> None:
    async def test(batches: Batches[int, int], decided: Decided) -> None:
        thread, batches._thread = batches._thread, ThreadPoolExecutor(1)
        batches._thread.shutdown()
        for _ in range(2):
            with pytest.raises(StoreError, match="the database has no thread"):
                await batches.submit(1)
        batches._thread = thread
        decided.may_go.release()
        assert await batches.submit(3) == 9

    with_batches(test)


def test_who_asks_before_it_runs_is_answered_then() -> None:
    async def run() -> None:
        decided = Decided()
        batches = Batches[int, int](decided, name="test")
        [early] = asks(batches, [4])
        await asyncio.sleep(0)
        decided.may_go.release()
        async with batches.running():
            assert await early == 16

    asyncio.run(run())
