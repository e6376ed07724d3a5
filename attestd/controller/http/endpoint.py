"""One operation as an ASGI application: who may ask, how much and how fast a body may come, and the answer."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope, Send

from attestd.controller.http.limits import Held, RateLimit, Room
from attestd.controller.http.operation import Answer, Body, Call, Operation, Operator
from attestd.controller.http.problem import Problem

__all__ = ["ANSWER_S", "Endpoint", "Gone", "Resource", "Seen", "send_answer", "too_many"]

BODY_S: Final = 20.0
ANSWER_S: Final = 30.0
# For a large file, however slowly it is read: who reads nothing at all is cut off before.
SEND_S: Final = 600.0
_NOT_MODIFIED: Final = 304
_MAX_QUERY: Final = 16
_MAX_WORDS: Final = 400
_PIECE: Final = 256 * 1024
_NO_LIMIT: Final = contextlib.nullcontext()


class Gone(Exception):
    """Whoever asked went away."""


@dataclass
class Seen:
    """What is known of a request while it is answered.

    Attributes:
        peer: Who asks, as limits count.
        operator: Who asks, by a client certificate.
        correlation_id: Names the request in its answer and in the journal.
        is_whole: Says whether all of its body is here.
        operation: Which it is, once that is known.
    """

    peer: str
    operator: Operator | None
    correlation_id: str
    is_whole: Callable[[], bool]
    operation: str = "unknown"


class Endpoint:
    """One operation."""

    def __init__(
        self, operation: Operation, rate: RateLimit | None, room: Room, *, answer_s: float = ANSWER_S
    ) -> None:
        """Takes the operation, the limits that all of them share, and how long an answer may take."""
        self._operation, self._room, self._answer_s = operation, room, answer_s
        self._rate = None if operation.exempt else rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry.

        Raises:
            Problem: What it answers instead.
            Gone: Nobody waits for an answer.
        """
        seen: Seen = scope["attestd"]
        operation = self._operation
        seen.operation = operation.name
        if self._rate is not None and (wait := self._rate.take(seen.peer, now=time.monotonic())):
            raise too_many(wait)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        # Before the body: who may not ask need not send it.
        if operation.operators_only and seen.operator is None:
            raise Problem(403, "only for operators: present a client certificate that operator_ca issued")
        query = _query(scope["query_string"], operation.query)
        held = self._room.enter(seen.peer)
        try:
            value = await self._value(operation.body, headers, receive, seen, held)
            call = Call(
                value, scope["path_params"], headers, seen.peer, seen.operator, seen.correlation_id, query
            )
            async with asyncio.timeout(self._answer_s):
                answer = await operation.handler(call)
        finally:
            held.leave()
        # A body in memory waits for nothing but a peer that reads, and for that only so long (`Bounds.write_s`).
        async with asyncio.timeout(SEND_S) if answer.file else _NO_LIMIT:
            await send_answer(send, answer, seen.correlation_id, head_only=scope["method"] == "HEAD")

    async def _value(
        self, body: Body | None, headers: dict[str, str], receive: Receive, seen: Seen, held: Held
    ) -> Any:
        if body is None:
            if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
                raise Problem(413, "a body, where none is expected")
            return None
        try:
            async with _NO_LIMIT if seen.is_whole() else asyncio.timeout(BODY_S):
                data = await _read(body.max_bytes, headers.get("content-length"), receive, held)
        except TimeoutError as error:
            raise Problem(408, f"the body did not come within {BODY_S:.0f} s") from error
        return body.take(data, headers.get("content-type", ""))


class Resource:
    """What is at one path: an operation for each method.

    Attributes:
        methods: Those that there are; HEAD is answered as GET is.
    """

    def __init__(self, methods: Mapping[str, Endpoint]) -> None:
        """Takes them, by method."""
        self.methods = {**methods, "HEAD": methods["GET"]} if "GET" in methods else dict(methods)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry, by one of the methods."""
        await self.methods[scope["method"]](scope, receive, send)


def _query(text: bytes, schema: type[msgspec.Struct] | None) -> Any:
    """The parameters of a query: exactly those of the type, each at most once."""
    if schema is None:
        return None
    try:
        pairs = parse_qsl(
            text.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(text),
            errors="strict",
            max_num_fields=_MAX_QUERY,
        )
    except ValueError as error:  # also what is no UTF-8
        raise Problem(400, "the query does not parse") from error
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Problem(400, "the query: a parameter stands there twice")
    try:
        return msgspec.convert(found, schema, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(400, f"the query: {str(error)[:_MAX_WORDS]}") from error


async def _read(max_bytes: int, announced: str | None, receive: Receive, held: Held) -> bytes:
    """The body, or as little of it as shows that it is too large: nothing, where its length says so."""
    if announced is not None and int(announced) > max_bytes:  # the parser lets nothing but digits through
        raise _too_large(max_bytes)
    parts: list[bytes] = []
    left = max_bytes
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        part: bytes = message.get("body", b"")
        left -= len(part)
        if left < 0:
            raise _too_large(max_bytes)
        if not held.take(len(part)):
            raise Problem(503, "too much is being sent at once: ask again", headers={"retry-after": "2"})
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(max_bytes: int) -> Problem:
    return Problem(413, f"the body is larger than {max_bytes} bytes")


def too_many(wait_s: float) -> Problem:
    """The refusal of a peer that asks too often."""
    return Problem(
        429, "too many requests from this address", headers={"retry-after": str(max(1, round(wait_s)))}
    )


async def send_answer(send: Send, answer: Answer, correlation_id: str, *, head_only: bool = False) -> None:
    """Sends an answer, whole, and closes its file."""
    with answer.file or _NO_LIMIT:
        size = len(answer.body) if answer.file is None else os.fstat(answer.file.fileno()).st_size
        headers = [(b"x-correlation-id", correlation_id.encode()), (b"x-content-type-options", b"nosniff")]
        for name, value in answer.headers.items():
            headers.append((name.encode("latin-1"), value.encode("latin-1")))
        if answer.media_type:
            headers.append((b"content-type", answer.media_type.encode()))
        if answer.status != _NOT_MODIFIED:
            headers.append((b"content-length", b"%d" % size))
        if "cache-control" not in answer.headers:
            headers.append((b"cache-control", b"no-store"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        if answer.file is not None and not head_only:
            while piece := await asyncio.to_thread(answer.file.read, _PIECE):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": answer.body})
