"""Targets: what client, agent and runner tell each other, and their options."""

import asyncio
import contextlib
import os
import socket
from concurrent.futures import Future
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import click

from attestd.agent.ask import _answer
from attestd.agent.asked import parse_request
from attestd.agent.core import Core
from attestd.agent.installed import InstalledArtifacts
from attestd.agent.operations import serve_operation
from attestd.agent.runner_link import RunnerError, RunnerLink
from attestd.audit.store import LogStore
from attestd.cli.params import DURATION, PATTERN
from attestd.client import Ended
from attestd.client.answer import answer
from attestd.client.explain import explain
from attestd.client.options import Options, parse
from attestd.client.run import _decided, exactly, exit_status
from attestd.codes import Denied
from attestd.errors import (
    AgentError,
    ForbiddenError,
    MalformedError,
    UsageError,
)
from attestd.paths import find_layout
from attestd.plain import plain
from attestd.runner.request import verify_request
from attestd.strict import canonical
from attestd.tcg.binding import Purpose
from attestd.wire import (
    Frame,
    FrameReader,
    Kind,
    WireError,
    decode_fields,
    encode_fields,
    encode_frame,
)
from tests.fuzz import valid
from tests.fuzz.formats import LIMIT
from tests.fuzz.target import target
from tests.fuzz.valid import GRANTED, TRUST, WORLD
from tests.world import SALT, b64

# --- frames --------------------------------------------------------------------------------------------------------


@target(WireError, seeds=lambda: [encode_fields([b"exec", b"", b"x" * 20]), encode_fields([])])
def wire_fields(data: bytes) -> None:
    assert encode_fields(decode_fields(data, 65_536)) == data


@target(WireError, EOFError, seeds=lambda: [encode_frame(Kind.GO), encode_frame(Kind.REQUEST, b"abc") * 2])
def wire_frames(data: bytes) -> None:
    """A whole stream; its end is told as one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        reader = FrameReader(ours)
        read = b""
        try:
            while (frame := reader.receive()) is not None:
                read += encode_frame(frame.kind, frame.payload)
        except EOFError:
            assert read == data


def _request(*words: bytes) -> bytes:
    return encode_fields([b"exec", b"json,tty0", GRANTED.artifact, b"", *words])


@target(
    WireError, seeds=lambda: [_request(b"deploy", b"--env"), encode_fields([b"check", b"", b"", b"", b"x"])]
)
def client_request(data: bytes) -> None:
    asked = parse_request(Frame(Kind.REQUEST, data, [1, 2, 3, 4, 5], None), 1001)
    assert asked.argv
    asked.descriptors = []


@cache
def _descriptors() -> tuple[int, ...]:
    sockets = socket.socketpair()
    null = os.open("/dev/null", os.O_RDWR)
    directory = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    program = os.open("/bin/true", os.O_RDONLY)
    return (sockets[0].detach(), null, null, null, directory, program) if sockets[1].detach() else ()


def _execute(*, env: int = 1, receipt: bytes | None = None) -> bytes:
    variables = [b"PATH=/bin", b"A="][:env]
    counts = [b"0", b"0", str(env).encode()]
    fields = [
        receipt or GRANTED.receipt,
        GRANTED.artifact,
        b"tty0",
        SALT,
        *counts,
        b"a.b.c\na",
        *variables,
        b"deploy",
    ]
    return b"\0" + encode_fields(fields)


@target(
    WireError,
    Denied,
    seeds=lambda: [_execute(), _execute(env=2), _execute(receipt=valid.RECORDED)],
    max_bytes=LIMIT,
)
def runner_request(data: bytes) -> None:
    """What a broken agent hands to the runner, with descriptors of files that are no part of any approval."""
    extra = data[0] % 4 if data else 0
    descriptors = [*_descriptors(), *[_descriptors()[-1]] * extra]
    here = WORLD.here(trust=TRUST)
    with verify_request(Frame(Kind.EXECUTE, data[1:], descriptors, None), here, descriptor_limit=(64, 64)):
        raise AssertionError("/bin/true was never approved")


class Told(RunnerLink):
    """A runner that says anything."""

    def __init__(self, kind: bytes, fields: list[bytes]) -> None:
        super().__init__(Path("runner.sock"))
        self._said = kind, fields

    async def _ask(self, *_: Any) -> tuple[bytes, list[bytes]]:
        return self._said


def _run(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("waited for something")


@target(
    RunnerError,
    seeds=lambda: [
        canonical({"id": 1, "type": "execution.start", "body": {"at": "x"}}),
        canonical({"isolation": "user", "pid": 1, "running": 0, "spool": "x", "uid": 0, "version": "1"}),
        b"identity_mismatch\0sentence\0hint",
        b"ran",
    ],
    is_json=True,
)
def runner_answers(data: bytes) -> None:
    fields = data.split(b"\0")
    _run(Told(Kind.ACCEPTED, fields).execute(cast(Any, _Payload())))
    for asked in (
        lambda: Told(Kind.FORFEITED, fields).forfeit("log", 1),
        lambda: Told(Kind.REJECTED, fields).execute(cast(Any, _Payload())),
        lambda: Told(Kind.INFORMED, fields).info(),
    ):
        with contextlib.suppress(RunnerError):
            _run(asked())
    for item in _run(Told(Kind.SPOOLED, fields).spool()):
        assert 0 <= item.id < 2**63
        canonical(item.body)


class _Payload:
    descriptors = ()

    def payload(self) -> bytes:
        return b""


# --- the agent's operations, and its answers -----------------------------------------------------------------------


class Port:
    """The software keys of the world in place of the TPM's thread."""

    def quote_values(self, selection: Any, bound: bytes) -> "Future[Any]":
        attest, signature = WORLD.host.quote(
            Purpose.QUOTE, bound, selection=selection, pcr_digest=WORLD.pcr_digest
        )
        return _done((attest, signature, WORLD.values))

    def other(self, _: Any) -> "Future[Any]":
        return _done(None)


def _done(value: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(value)
    return future


class Agent:
    """What the operations with parameters use of a core."""

    host = WORLD.host.id
    port = Port()
    installed = InstalledArtifacts(Path("installed"))

    def __init__(self) -> None:
        from tests.audit import harness

        self.layout = replace(find_layout("state"), agent=Path.cwd())
        log = harness.Log(self.layout.log)
        log.seal([harness.record(), harness.allow()])
        self.store = LogStore.open(log.path, readonly=True)
        self.leaf = self.store.node(0, 0).hex()
        self.loop = asyncio.new_event_loop()
        self.slow: dict[int, asyncio.Lock] = {}

    def trust(self) -> Any:
        return TRUST


@cache
def _agent(directory: str) -> Agent:
    del directory  # one for each current directory
    return Agent()


def _operations() -> list[bytes]:
    data = b64(bytes(32))
    return [
        canonical({"op": "quote", "challenge": data}),
        canonical({"op": "quote", "challenge": data, "platform": "local"}),
        canonical({"op": "decision", "id": "0"}),
        canonical({"op": "decision", "id": "00" * 32}),
        canonical({"op": "extend", "pcr": 16, "data": data}),
        canonical({"op": "install", "artifact": GRANTED.artifact.decode(), "everyone": False}),
        canonical({"op": "nothing"}),
    ]


@target(seeds=_operations, is_json=True)
def agent_operation(data: bytes) -> None:
    if any(word in data for word in (b"status", b"accept_clock", b"\\u")):
        return  # these take no parameters, and need a running agent
    agent = _agent(os.getcwd())
    answer_ = agent.loop.run_until_complete(serve_operation(data, os.geteuid(), cast(Core, agent)))
    assert list(answer_) in (["ok"], ["error"])
    canonical(answer_)
    for path in Path("installed").glob("*/*"):
        path.unlink()


@target(
    AgentError, UsageError, MalformedError, ForbiddenError,
    seeds=lambda: [b"j" + canonical({"ok": {}}), b"j" + canonical({"error": {"kind": "usage", "message": "x"}}),
                   b"D" + encode_fields([b"deny", b"69", b"c", b"sentence", b"hint", b"", b"", b""])],
    is_json=True,
)  # fmt: skip
def agent_answer(data: bytes) -> None:
    assert isinstance(_answer(Frame(data[:1], data[1:], [], None)), dict)


# --- the client ----------------------------------------------------------------------------------------------------


@target(Ended, seeds=lambda: [b"-a\0x.json\0--json\0--\0/bin/ls\0-l", b"--receipt=r\0ls", b"--help"])
def client_options(data: bytes) -> None:
    words = [os.fsdecode(word) for word in data.split(b"\0")]
    options = parse(["exec", *words])
    assert options.help or options.argv


@target(
    WireError, seeds=lambda: [encode_fields([b"env:PATH", b"file:/etc/passwd", b"lookup:sh:/usr/bin:/bin"])]
)
def client_needs(data: bytes) -> None:
    if any(word in data for word in (b"dev", b"proc", b"sys", b".")):
        return  # opening some devices does something
    ours, theirs = socket.socketpair()
    with ours, theirs, open("/bin/sh", "rb") as executable:
        ours.setblocking(False)
        answer(ours, decode_fields(data, 32), [b"ls"], executable.fileno())


def _decision(*fields: bytes) -> bytes:
    return encode_fields(list(fields))


CHECKS = canonical({"body": {"checks": [{"n": 1, "name": "format", "outcome": "verified", "detail": "x"}]}})


@target(
    WireError, Ended,
    seeds=lambda: [_decision(b"allow", b"0", b"", b"", b"", b"ab", b"7", CHECKS, b""),
                   _decision(b"deny", b"77", b"expired", b"sentence \x1b[2J", b"hint", b"", b"", b"", b"")],
)  # fmt: skip
def client_decision(data: bytes) -> None:
    frame = Frame(Kind.DECISION, data, [], None)
    if len(decode_fields(data, 9)) == 2:
        assert exit_status(exactly(2, frame)[0]) < 256
    ended = None
    try:
        _decided(Options("exec"), frame)
    except Ended as denied:
        ended = denied
    if ended is not None:
        assert 0 < ended.status < 256
        assert plain(ended.sentence + ended.hint).isprintable()
        raise ended


@target(seeds=lambda: [CHECKS], is_json=True)
def client_explanation(data: bytes) -> None:
    for line in explain(data):
        assert plain(line).isprintable() or not line


@target(
    click.BadParameter,
    seeds=lambda: [b'1={"one_of":["a","b"]}', b"15m", b'2={"int":[1,9]}', b"7d"],
)
def command_line_values(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    kind: click.ParamType[Any] = PATTERN if "=" in text else DURATION
    assert kind.convert(text, None, None)
