"""Targets: what client, agent and runner tell each other, and the files and options that they read."""

import asyncio
import contextlib
import json
import os
import socket
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any, cast

import click

from attestd.agent.ask import _answer
from attestd.agent.core import Core
from attestd.agent.executions import _parse
from attestd.agent.installed import InstalledArtifacts
from attestd.agent.keystore import load_keys, save_keys
from attestd.agent.operations import serve_operation
from attestd.agent.runner_link import RunnerError, RunnerLink
from attestd.audit.offline import verify_stored
from attestd.audit.store import LogStore
from attestd.cli.params import DURATION, PATTERN
from attestd.client import Ended
from attestd.client.answer import answer
from attestd.client.explain import explain
from attestd.client.options import Options, parse
from attestd.client.report import plain
from attestd.client.run import _decided, exactly, exit_status
from attestd.codes import Denied
from attestd.distribution.signer import generate, load_authority
from attestd.errors import (
    AgentError,
    ForbiddenError,
    MalformedError,
    RollbackError,
    StoreError,
    UsageError,
    VerificationError,
)
from attestd.paths import load_configuration
from attestd.runner.__main__ import _pinned_host
from attestd.runner.request import Here, verify_request
from attestd.strict import canonical
from attestd.tcg.binding import Purpose
from attestd.tlog.checkpoint import BatchMode
from attestd.tlog.tiles import format_bundle
from attestd.wire import (
    Frame,
    FrameReader,
    Kind,
    WireError,
    decode_fields,
    encode_fields,
    encode_frame,
)
from swtpm.daemon import Daemon
from tests.fuzz import valid
from tests.fuzz.formats import LIMIT
from tests.fuzz.target import target
from tests.fuzz.tpm import AUTH, BLOBS
from tests.fuzz.valid import GRANTED, TRUST, WORLD
from tests.world import BOOT, NOW, SELECTION, Log, b64

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
    asked = _parse(Frame(Kind.REQUEST, data, [1, 2, 3, 4, 5], None), 1001)
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
    fields = [receipt or GRANTED.receipt, GRANTED.artifact, b"tty0", *counts, *variables, b"deploy"]
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
    here = Here(TRUST, WORLD.host.id, BOOT, NOW, "user")
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

        log = harness.Log(Path("agent.db"))
        log.seal([harness.record(), harness.allow()])
        self.store = LogStore.open(log.path, readonly=True)
        self.leaf = self.store.node(0, 0).hex()
        self.loop = asyncio.new_event_loop()

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
    with ours, theirs:
        ours.setblocking(False)
        answer(ours, decode_fields(data, 32), [b"ls"])


def _decision(*fields: bytes) -> bytes:
    return encode_fields(list(fields))


CHECKS = canonical({"body": {"checks": [{"n": 1, "name": "format", "outcome": "verified", "detail": "x"}]}})


@target(
    WireError, Ended,
    seeds=lambda: [_decision(b"allow", b"0", b"", b"", b"", b"ab", CHECKS, b""),
                   _decision(b"deny", b"77", b"expired", b"sentence \x1b[2J", b"hint", b"", b"", b"")],
)  # fmt: skip
def client_decision(data: bytes) -> None:
    frame = Frame(Kind.DECISION, data, [], None)
    if len(decode_fields(data, 8)) == 2:
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


# --- files ---------------------------------------------------------------------------------------------------------

TOML = (
    b'# attestd\ntpm = "device:/dev/tpmrm0"\ntpm_deadline_s = 5\nevidence_interval_s = 30\nmax_batch = 128\n'
)


@target(UsageError, seeds=lambda: [TOML, b"", b"[a.b]\nc = [1, {d = 1979-05-27T07:32:00Z}]\n"])
def configuration(data: bytes) -> None:
    path = Path("attestd.toml")
    path.write_bytes(data)
    assert 1 <= load_configuration(path, {}).max_batch <= 4096


def _keys() -> list[bytes]:
    path = Path("keys-seed.json")
    save_keys(path, BLOBS, AUTH)
    return [path.read_bytes()]


@target(MalformedError, UsageError, seeds=_keys, is_json=True)
def keys_file(data: bytes) -> None:
    path = Path("keys.json")
    path.touch(mode=0o600)
    path.write_bytes(data)
    assert load_keys(path)


@target(MalformedError, seeds=lambda: [canonical({"v": 1, "host": WORLD.host.id})], is_json=True)
def pinned_host(data: bytes) -> None:
    Path("host.json").write_bytes(data)
    assert len(_pinned_host(Path())) == 64


@target(seeds=lambda: [b"%d\n" % os.getpid(), b"1\n", b"-1", "\u0661".encode()])
def swtpm_pid(data: bytes) -> None:
    Path("swtpm.pid").write_bytes(data)
    assert Daemon(Path()).pid() is None, "no process here is a software TPM of this directory"


def _private_keys() -> list[bytes]:
    for kind in ("ed25519", "p256"):
        for path in (Path(f"{kind}.pem"), Path(f"{kind}.pub")):
            path.unlink(missing_ok=True)
        generate(kind, Path(f"{kind}.pem"))
    return [Path(f"{kind}.pem").read_bytes() for kind in ("ed25519", "p256")]


@target(MalformedError, UsageError, StoreError, seeds=_private_keys, max_bytes=8192)
def private_key(data: bytes) -> None:
    path = Path("key.pem")
    path.touch(mode=0o600)
    path.write_bytes(data)
    authority = load_authority(str(path))
    public, signature = authority.sign(b"x")
    public.verify(b"x", signature)


NOT_A_LOG = (MalformedError, VerificationError, RollbackError, StoreError)


def _database() -> list[bytes]:
    from attestd.audit import schema

    path = Path("seed.db")
    path.unlink(missing_ok=True)
    log = Log(WORLD.host)
    schema.create(
        str(path), origin=log.origin, host_id=WORLD.host.id, log_id=log.log_id, created="2026-01-31T12:00:00Z"
    )
    return [path.read_bytes()]


@target(*NOT_A_LOG, seeds=_database, max_bytes=1 << 20)
def log_database(data: bytes) -> None:
    for path in (Path("log.db"), Path("log.db-wal"), Path("log.db-shm")):
        path.unlink(missing_ok=True)
    Path("log.db").write_bytes(data)
    verify_stored(Path("log.db"), trust=TRUST, processes=1, progress=lambda *_: None)


@cache
def _export(directory: str) -> Path:
    """An export but for its entries."""
    log = Log(WORLD.host)
    log.entries, log.frontier, log.nodes = list(WORLD.log.entries), WORLD.log.frontier, WORLD.log.nodes
    top = Path(directory) / "export"
    size = len(log.entries)
    for name in (f"tile/0/000.p/{size}", f"tile/entries/000.p/{size}"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
    (top / "checkpoint").write_bytes(
        log.seal(mode=BatchMode.RECORD, pcr_digest=WORLD.pcr_digest, selection=SELECTION)
    )
    (top / f"tile/0/000.p/{size}").write_bytes(b"".join(log.nodes[0, index] for index in range(size)))
    return top


@target(*NOT_A_LOG, seeds=lambda: [format_bundle(valid.ENTRIES)])
def exported_entries(data: bytes) -> None:
    top = _export(os.getcwd())
    (top / f"tile/entries/000.p/{len(valid.ENTRIES)}").write_bytes(data)
    found = verify_stored(top, trust=TRUST, processes=1, progress=lambda *_: None)
    assert found.size == len(valid.ENTRIES)
    json.dumps(found.time)
