"""Controllers that answer, that say no in each way, and that are away."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from attestd.agent import controllers
from attestd.agent.controllers import Backoff, CallThreads, Controller
from attestd.errors import MalformedError, StoreError, UsageError, VerificationError
from attestd.strict import canonical
from tests.distribution import web
from tests.distribution.web import Behaviour, Handler, Web, serving
from tests.host import wait_for

NAME = "v1/x"


@pytest.fixture
def server() -> Iterator[Web]:
    with serving({NAME: b"yes"}) as found:
        yield found


def saying(status: int, data: bytes) -> Behaviour:
    def behave(handler: Handler, _: bytes) -> None:
        handler.answer(data, status=status)

    return behave


def post(server: Web, max_bytes: int = 1000, deadline_s: float = 10) -> bytes:
    found = Controller(f"{server.url}/").post(f"/{NAME}", b"{}", max_bytes=max_bytes, deadline_s=deadline_s)
    return found.data


def test_an_answer(server: Web) -> None:
    assert post(server) == b"yes"
    assert server.bodies == [b"{}"]
    server.behaviours[NAME] = saying(409, b"12")
    found = Controller(server.url).post(f"/{NAME}", b"", max_bytes=1, accepted=(200, 409))
    assert (found.status, found.data) == (409, b"12")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, VerificationError) for status in (201, 400, 403, 404, 409, 415)),
        *((status, StoreError) for status in (408, 429, 500, 503)),
    ],
)
def test_an_answer_that_says_no(server: Web, status: int, error: type[Exception]) -> None:
    for data, words in (
        (canonical({"detail": "the reason"}), "the reason"),
        (b"{", "no words"),
        (b"[" * 100_000, "no words"),
        (canonical({"detail": 7}), "no words"),
    ):
        server.behaviours[NAME] = saying(status, data)
        with pytest.raises(error, match=rf"{words} \(status {status}\)"):
            post(server, max_bytes=1 << 20)


def _late(look_up: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    time.sleep(0.3)
    return look_up(*arguments, **named)


def test_answers_that_are_none(server: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    server.behaviours[NAME] = web.endless
    with pytest.raises(MalformedError, match="larger than the 1000 bytes"):
        post(server)
    server.behaviours[NAME] = web.redirecting
    with pytest.raises(VerificationError, match=r"moved to 'http://127.0.0.1:1/elsewhere'"):
        post(server)
    server.behaviours[NAME] = web.dripping_headers
    with pytest.raises(StoreError, match="no whole answer came within"):
        post(server, deadline_s=0.3)
    # Nobody is connected yet when it is late: what comes then is cut off all the same.
    monkeypatch.setattr(socket, "getaddrinfo", partial(_late, socket.getaddrinfo))
    began = time.monotonic()
    with pytest.raises(StoreError, match="no whole answer came within"):
        post(server, deadline_s=0.1)
    assert time.monotonic() - began < 3
    monkeypatch.undo()
    server.server_close()
    with pytest.raises(StoreError, match="refused"):
        Controller(server.url.replace("127.0.0.1", "127.0.0.2")).post("/x", b"", max_bytes=1)


def test_addresses_that_are_none() -> None:
    for url in ("", "ftp://x", "http://", "http://h/?q=1", "http://["):
        with pytest.raises(UsageError, match="expected https://"):
            Controller(url)
    with pytest.raises(UsageError, match=r"controller_ca .*PEM file"):
        Controller("https://h", ca="/dev/null/none")


def test_threads_do_not_hold_up_the_loop_and_are_cut(server: Web) -> None:
    server.behaviours[NAME] = web.silent

    async def ask() -> float:
        threads, slow = CallThreads(), [Controller(server.url) for _ in range(8)]
        calls = [threads.run(partial(one.post, f"/{NAME}", b"", max_bytes=9)) for one in slow]
        waiting = [asyncio.ensure_future(call) for call in calls]
        start = time.monotonic()
        await asyncio.to_thread(wait_for, "all asked", lambda: len(server.asked) == len(slow))
        for one in slow:
            one.close()
        threads.stop()
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(error, StoreError) for error in errors)
        with pytest.raises(RuntimeError, match="shutdown"):
            await threads.run(threading.get_ident)
        return time.monotonic() - start

    assert asyncio.run(ask()) < 3


def test_one_that_is_away_is_asked_later_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(controllers.time, "monotonic", lambda: now)
    monkeypatch.setattr(controllers.random, "uniform", lambda _, most: most)
    backoff, waits = Backoff(), []
    for _ in range(10):
        assert backoff.is_due()
        backoff.asked()
        backoff.failed()
        assert not backoff.is_due()
        waits.append(backoff.wait_s)
        now += backoff.wait_s
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    backoff.asked()
    backoff.failed()
    now += 0.9
    assert not backoff.is_due(urgent=True)
    now += 0.2
    assert backoff.is_due(urgent=True)
    assert not backoff.is_due()
    backoff.answered()
    assert (backoff.is_due(), backoff.wait_s, backoff.failures) == (True, 0, 0)
