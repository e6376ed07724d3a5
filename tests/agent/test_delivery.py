"""Results of another thread reach the loop: values, errors, and what was cancelled on either side."""

import asyncio
import threading
from concurrent.futures import Future

import pytest

from attestd.agent.delivery import Delivery
from attestd.errors import StoreError


def test_all_that_another_thread_sets_arrives_and_wakes_the_loop_once() -> None:
    async def test() -> int:
        delivery: Delivery[int] = Delivery()
        futures: list[Future[int]] = [Future() for _ in range(100)]
        loop, woken = asyncio.get_running_loop(), 0
        real = loop.call_soon_threadsafe

        def counted(*arguments: object) -> object:
            nonlocal woken
            woken += 1
            return real(*arguments)  # type: ignore[arg-type]

        loop.call_soon_threadsafe = counted  # type: ignore[assignment, method-assign]
        waiters = [delivery.wait(future) for future in futures]
        thread = threading.Thread(target=lambda: [future.set_result(n) for n, future in enumerate(futures)])
        thread.start()
        thread.join()  # the loop does not turn meanwhile
        assert await asyncio.gather(*waiters) == list(range(100))
        futures = [Future()]
        again = delivery.wait(futures[0])
        futures[0].set_result(7)
        assert await again == 7
        return woken

    assert asyncio.run(test()) == 2


def test_errors_arrive() -> None:
    async def test() -> None:
        delivery: Delivery[int] = Delivery()
        future: Future[int] = Future()
        waiter = delivery.wait(future)
        future.set_exception(StoreError("full"))
        with pytest.raises(StoreError, match="full"):
            await waiter
        done: Future[int] = Future()
        done.set_result(1)
        assert await delivery.wait(done) == 1

    asyncio.run(test())


def test_what_nobody_waits_for_any_more_is_cancelled_unless_it_runs() -> None:
    async def test() -> None:
        delivery: Delivery[int] = Delivery()
        waiting: Future[int] = Future()
        running: Future[int] = Future()
        assert running.set_running_or_notify_cancel()
        for future in (waiting, running):
            waiter = delivery.wait(future)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
        await asyncio.sleep(0)
        assert waiting.cancelled()
        running.set_result(1)
        await asyncio.sleep(0.01)
        assert running.result() == 1

    asyncio.run(test())


def test_a_future_that_was_cancelled_ends_its_waiter() -> None:
    async def test() -> None:
        future: Future[int] = Future()
        waiter = Delivery[int]().wait(future)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(test())
