"""An application of a test's own operations, served in a thread as the controller serves its."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from attestd.controller.http.application import Application
from attestd.controller.http.limits import RateLimit, Room
from attestd.controller.http.metrics import Metrics
from attestd.controller.http.operation import Answer, Body, Call, Operation, Response, answer_json
from attestd.controller.http.protocol import Bounds
from attestd.controller.http.server import bind, serving
from attestd.errors import StoreError
from attestd.strict import Strict
from tests.controller.running import Client


class Sum(Strict, frozen=True):
    """Two numbers."""

    a: int
    b: int


class Total(msgspec.Struct, frozen=True):
    """Their sum."""

    total: int


async def add(call: Call) -> Answer:
    return answer_json(Total(call.value.a + call.value.b))


async def echo(call: Call) -> Answer:
    return Answer(call.value, "application/octet-stream")


async def show(call: Call) -> Answer:
    return Answer(call.parameters["name"].encode(), "text/plain")


async def operator(call: Call) -> Answer:
    return Answer(("" if call.operator is None else call.operator.sha256).encode(), "text/plain")


BEGUN = threading.Event()  # what takes long was asked for


async def slow(_: Call) -> Answer:
    BEGUN.set()
    await asyncio.sleep(0.5)
    return Answer(b"done", "text/plain")


async def hang(_: Call) -> Answer:
    BEGUN.set()
    await asyncio.sleep(3600)
    raise AssertionError


async def bug(_: Call) -> Answer:
    raise KeyError("a secret of somebody's")


async def broken(_: Call) -> Answer:
    raise StoreError("the disk is full")


async def large(_: Call) -> Answer:
    return Answer(b"x" * (32 << 20), "text/plain")


OK = {200: Response("It.", "text/plain")}


def get(name: str, handler: Any, path: str | None = None, **more: Any) -> Operation:
    return Operation(name, "GET", path or f"/{name}", name, handler, OK, **more)


OPERATIONS = [
    Operation(
        "add", "POST", "/add", "Adds", add, {200: Response("The sum.", schema=Total, example=b'{"total":3}')},
        Body(4096, b'{"a":1,"b":2}', Sum),
    ),
    Operation("echo", "POST", "/echo", "Echoes", echo, OK, Body(1 << 20, b"x", words="anything")),
    get("show", show, "/show/{name}", parameters={"name": "anything"}),
    get("operator", operator, operators_only=True),
    get("slow", slow), get("hang", hang), get("bug", bug), get("broken", broken), get("large", large),
    get("exempt", show, "/exempt/{name}", parameters={"name": "anything"}, exempt=True),
]  # fmt: skip


class Served(Client):
    """Where it listens, and what it counted."""

    def __init__(self, port: int, metrics: Metrics, **options: Any) -> None:
        super().__init__(port, **options)
        self.metrics = metrics

    def counted(self, line: str) -> bool:
        return f"\n{line}\n" in self.metrics.format()


@contextlib.contextmanager
def served(
    *,
    operations: Sequence[Operation] = OPERATIONS,
    rate: RateLimit | None = None,
    connections: int = 64,
    bounds: Bounds | None = None,
    answer_s: float = 30,
    room: Room | None = None,
    certificate: Any = None,
    tls: Any = None,
) -> Iterator[Served]:
    metrics, log = Metrics(), logging.getLogger("attestd")
    listener = bind("127.0.0.1:0")
    port = listener.getsockname()[1]
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    failed: list[BaseException] = []

    async def run() -> None:
        application = Application(
            operations, metrics=metrics, log=log, rate=rate, answer_s=answer_s, room=room
        )
        async with serving(
            application, listener, certificate=certificate, metrics=metrics, log=log,
            connections_of_a_peer=connections, bounds=bounds,
        ):  # fmt: skip
            started.set()
            await stop.wait()

    def main() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(run())
        except BaseException as error:
            failed.append(error)
            started.set()
            raise

    thread = threading.Thread(target=main)
    thread.start()
    started.wait()
    try:
        yield Served(port, metrics, tls=tls)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(40)
        assert not thread.is_alive()
    assert not failed
