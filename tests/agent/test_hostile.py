"""What comes over the agent's socket from others than the client: junk, floods, borrowed connections; and much at once."""

import array
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from attestd.lineage.entry import EntryType
from attestd.wire import (
    MAX_PAYLOAD_BYTES,
    FrameReader,
    Kind,
    decode_fields,
    encode_fields,
    encode_frame,
    send_frame,
)
from tests.agent.test_decisions import AS_NOBODY
from tests.host import Host, wait_for

ROOT = Path(__file__).parent.parent.parent


def connect(host: Host, timeout_s: float = 20) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout_s)
    sock.connect(str(host.layout.agent_socket))
    return sock


def request(host: Host, *argv: str, artifact: bytes = b"", mode: bytes = b"exec") -> bytes:
    return encode_fields([mode, b"", artifact, b"", *(word.encode() for word in argv)])


class Descriptors:
    """stdin, stdout, stderr, cwd and executable of a request; what is written to stdout."""

    def __init__(self, host: Host, program: str = "/bin/echo") -> None:
        self.reader, self.writer = os.pipe()
        self.null = os.open("/dev/null", os.O_RDWR)
        self.cwd = os.open(host.work, os.O_RDONLY)
        self.program = os.open(program, os.O_RDONLY)

    @property
    def all(self) -> list[int]:
        return [self.null, self.writer, self.null, self.cwd, self.program]

    def close(self) -> None:
        for descriptor in (self.reader, self.writer, self.null, self.cwd, self.program):
            os.close(descriptor)


@pytest.fixture
def fds(shared: Host) -> Iterator[Descriptors]:
    with closing(Descriptors(shared)) as descriptors:
        yield descriptors


def ended(sock: socket.socket) -> bool:
    """Whether the other side closed, without a word."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def open_descriptors(host: Host) -> int:
    return len(os.listdir(f"/proc/{host.status()['agent']['pid']}/fd"))


FRAMES = {
    "nothing": b"",
    "junk": os.urandom(64),
    "http": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown kind": encode_frame(b"?", b""),
    "runner's kind": encode_frame(Kind.EXECUTE, b"x"),
    "announces too much": b"R" + (MAX_PAYLOAD_BYTES + 1).to_bytes(4, "big"),
    "announces 4 GiB": b"R\xff\xff\xff\xff",
    "half a header": b"R\0\0",
    "half a payload": b"R\0\0\0\x10abc",
    "no fields": encode_frame(Kind.REQUEST, b""),
    "field cut short": encode_frame(Kind.REQUEST, b"\0\0\0\xff12"),
    "too many fields": encode_frame(Kind.REQUEST, b"\0\0\0\0" * 70_000),
    "no descriptors": encode_frame(Kind.REQUEST, encode_fields([b"exec", b"", b"", b"", b"/bin/true"])),
    "unknown mode": encode_frame(Kind.REQUEST, encode_fields([b"sudo", b"", b"", b"", b"/bin/true"])),
    "no command": encode_frame(Kind.REQUEST, encode_fields([b"exec", b"", b"", b""])),
    "not UTF-8": encode_frame(Kind.REQUEST, encode_fields([b"exec", b"", b"", b"", b"\xff"])),
    "NUL": encode_frame(Kind.REQUEST, encode_fields([b"exec", b"", b"", b"", b"a\0b"])),
}


@pytest.mark.parametrize("name", FRAMES)
def test_junk_is_dropped(shared: Host, name: str) -> None:
    with connect(shared) as sock:
        sock.sendall(FRAMES[name])
        sock.shutdown(socket.SHUT_WR)
        assert ended(sock)
    assert shared.status()["conditions"]["log"] is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"op":1}', b'{"op":"x"}', b'{"op":"decision"}',
                                  b'{"op":"decision","id":"' + b"9" * 99 + b'"}', b'{"op":"status","op":"status"}',
                                  b'{"op":"quote","challenge":"?"}', b'{"op":"extend","pcr":true,"data":""}',
                                  b"[" * 100_000, b'{"op":"install","artifact":"' + b"a" * 1_100_000 + b'"}'])  # fmt: skip
def test_junk_operations_are_answered_with_an_error(shared: Host, data: bytes) -> None:
    with connect(shared) as sock:
        send_frame(sock, Kind.JSON_REQUEST, data)
        frame = FrameReader(sock).receive()
    assert frame is not None
    assert frame.kind == Kind.JSON_RESPONSE
    assert b'"kind":"usage"' in frame.payload or b'"kind":"malformed"' in frame.payload, frame.payload[:300]


def test_too_many_descriptors(shared: Host, fds: Descriptors) -> None:
    before = open_descriptors(shared)
    many = array.array("i", [fds.null] * 200)
    with connect(shared) as sock:
        sock.sendmsg(
            [encode_frame(Kind.REQUEST, request(shared, "x"))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)]
        )
        assert ended(sock)
    wait_for("descriptors are given back", lambda: open_descriptors(shared) <= before)


@pytest.mark.parametrize("count", [0, 4, 6, 16])
def test_wrong_number_of_descriptors(shared: Host, fds: Descriptors, count: int) -> None:
    before = open_descriptors(shared)
    with connect(shared) as sock:
        send_frame(sock, Kind.REQUEST, request(shared, "/bin/echo"), [fds.null] * count)
        assert ended(sock)
    wait_for("descriptors are given back", lambda: open_descriptors(shared) <= before)


@pytest.mark.parametrize("what", ["pipe", "directory", "socket", "device", "deleted", "path only"])
def test_executable_that_is_no_file_is_a_recorded_denial(shared: Host, fds: Descriptors, what: str) -> None:
    with ExitStack() as stack:
        deleted = shared.work / "deleted"
        deleted.write_bytes(b"#!/bin/sh\n")
        program = {
            "pipe": lambda: fds.reader,
            "directory": lambda: fds.cwd,
            "socket": lambda: stack.enter_context(socket.socket(socket.AF_UNIX)).fileno(),
            "device": lambda: fds.null,
            "deleted": lambda: os.open(deleted, os.O_RDONLY),
            "path only": lambda: os.open("/bin/true", os.O_PATH),
        }[what]()
        deleted.unlink()
        sock = stack.enter_context(connect(shared))
        artifact = shared.issue("/bin/echo")
        send_frame(
            sock, Kind.REQUEST, request(shared, "/bin/echo", artifact=artifact), [*fds.all[:4], program]
        )
        frame = FrameReader(sock).receive()
        if what in ("deleted", "path only"):
            os.close(program)
    assert frame is not None
    outcome, status, code, sentence, _, decision, *_ = decode_fields(frame.payload, 9)
    assert (outcome, status, code) == (b"deny", b"77", b"identity_mismatch"), sentence
    assert shared.entries(EntryType.DECISION_DENY)[-1].id == decision.decode()


def test_arguments_at_the_limits(shared: Host) -> None:
    argv = ["/bin/true", *(str(number) for number in range(5000)), "x" * 100_000, "\u0430\u200b\x1b[2J\n"]
    result = shared.exec(*argv, authorization=shared.issue(*argv))
    assert result.status == 0, result.stderr[:500]
    result = shared.exec("/bin/true", *["y" * 120_000] * 8)
    assert result.status == 77
    assert shared.exec("/bin/true", *["y" * 120_000] * 9).status == 64


# -- borrowed connections -----------------------------------------------------------------------------------------------

SEND = """
import os, sys
from attestd.wire import Kind, encode_fields, send_frame
from socket import socket
sock = socket(fileno=int(sys.argv[1]))
send_frame(sock, getattr(Kind, sys.argv[2]), bytes.fromhex(sys.argv[3]), [int(n) for n in sys.argv[4:]])
"""


def send_elsewhere(
    sock: socket.socket, kind: str, payload: bytes, fds: list[int], *, as_nobody: bool
) -> None:
    """Another process sends over our connection."""
    subprocess.run(
        [*(AS_NOBODY if as_nobody else []), sys.executable, "-c", SEND, str(sock.fileno()), kind, payload.hex(),
         *(str(number) for number in fds)],
        cwd=ROOT, pass_fds=[sock.fileno(), *fds], env={"PYTHONDONTWRITEBYTECODE": "1"}, check=True, timeout=60,
    )  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user")
def test_request_over_anothers_connection_is_dropped(shared: Host, fds: Descriptors) -> None:
    """Root connected (SO_PEERCRED), nobody sends (SCM_CREDENTIALS): it speaks for neither."""
    artifact = shared.issue("/bin/echo", "x")
    before = len(shared.entries(EntryType.DECISION_ALLOW))
    with connect(shared) as sock:
        payload = request(shared, "/bin/echo", "x", artifact=artifact)
        send_elsewhere(sock, "REQUEST", payload, fds.all, as_nobody=True)
        assert ended(sock)
    assert len(shared.entries(EntryType.DECISION_ALLOW)) == before
    assert "sent by uid 65534" in shared.agent_log


@pytest.mark.parametrize("as_nobody", [False, True])
def test_go_of_another_process_runs_nothing(shared: Host, fds: Descriptors, as_nobody: bool) -> None:
    if as_nobody and os.geteuid() != 0:
        pytest.skip("takes root to become another user")
    path = shared.work / f"went-{as_nobody}"
    argv = ("/usr/bin/touch", str(path))
    os.close(fds.program)
    fds.program = os.open("/usr/bin/touch", os.O_RDONLY)
    with connect(shared) as sock:
        reader = FrameReader(sock)
        send_frame(sock, Kind.REQUEST, request(shared, *argv, artifact=shared.issue(*argv)), fds.all)
        decision, ready = reader.receive(), reader.receive()
        assert decision is not None
        assert ready is not None
        assert (decision.kind, ready.kind) == (Kind.DECISION, Kind.READY)
        send_elsewhere(sock, "GO", b"", [], as_nobody=as_nobody)
        refused = reader.receive()
        assert refused is not None
        assert refused.kind == Kind.REFUSED
        status, code, *_ = decode_fields(refused.payload, 4)
    assert (status, code) == (b"77", b"identity_mismatch")
    void = shared.outcome(decode_fields(decision.payload, 9)[5].decode())
    assert (void.type, void.body["code"], path.exists()) == (
        EntryType.DECISION_VOID,
        "identity_mismatch",
        False,
    )


def test_client_that_goes_away_before_its_go_runs_nothing(shared: Host, fds: Descriptors) -> None:
    artifact = shared.issue("/bin/echo", "x")
    with connect(shared) as sock:
        send_frame(sock, Kind.REQUEST, request(shared, "/bin/echo", "x", artifact=artifact), fds.all)
        decision = FrameReader(sock).receive()
    assert decision is not None
    void = shared.outcome(decode_fields(decision.payload, 9)[5].decode())
    assert void.type is EntryType.DECISION_VOID
    assert select.select([fds.reader], [], [], 0)[0] == []


def test_client_that_goes_away_at_once_runs_nothing(shared: Host, fds: Descriptors) -> None:
    artifact = shared.issue("/bin/echo", "x")
    for _ in range(5):
        with connect(shared) as sock:
            send_frame(sock, Kind.REQUEST, request(shared, "/bin/echo", "x", artifact=artifact), fds.all)
    time.sleep(0.2)
    shared.wait_settled()
    assert select.select([fds.reader], [], [], 0)[0] == []


# -- slow and many ------------------------------------------------------------------------------------------------------


def test_slow_clients_are_dropped_and_hold_up_nobody(host: Host) -> None:
    """One never sends, one sends a byte a second, one never reads: after 10 s they are gone."""
    began = time.monotonic()
    with connect(host, 60) as silent, connect(host, 60) as dripping:
        data = encode_frame(Kind.JSON_REQUEST, b'{"op":"status"}')
        for _ in range(2):
            dripping.send(data[:1])
            data = data[1:]
            time.sleep(0.3)
        assert host.run("/bin/true").status == 0
        assert ended(silent)
        assert ended(dripping)
        assert 8 < time.monotonic() - began < 60


def test_idle_connections_of_one_user_leave_room_for_others(host: Host) -> None:
    for path in (host.top, host.state, host.layout.agent_socket.parent, host.work):
        path.chmod(0o711)
    host.layout.agent_socket.chmod(0o666)
    before = open_descriptors(host)
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(host)) for _ in range(200)]
        # 64 may wait; the others are told so at once.
        refused = 0
        for sock in idle[64:]:
            frame = FrameReader(sock).receive()
            assert frame is not None
            refused += decode_fields(frame.payload, 9)[2] == b"agent_unavailable"
        assert refused == 136
        result = host.exec("/bin/true", authorization=host.issue("/bin/true"))
        assert result.status == 69
        assert "64 requests of uid" in result.stderr
        if os.geteuid() == 0:
            other = host.issue("/bin/true", requester_uid=65534)
            assert host.exec("/bin/true", authorization=other, prefix=AS_NOBODY).status == 0
    wait_for("the agent lets go of them", lambda: host.run("/bin/true").status == 0)
    wait_for("the agent lets go of them", lambda: open_descriptors(host) <= before)


def test_many_at_once_share_checkpoints_and_leak_nothing(host: Host) -> None:
    artifact = host.issue("/bin/true")
    assert host.exec("/bin/true", authorization=artifact).status == 0
    host.wait_settled()
    before = open_descriptors(host), len(os.listdir(f"/proc/{host.runner_pid}/fd"))
    checkpoints, decisions = host.checkpoints(), len(host.entries(EntryType.DECISION_ALLOW))
    with ExitStack() as stack:
        clients = []
        for _ in range(64):
            sock, descriptors = (
                stack.enter_context(connect(host, 60)),
                stack.enter_context(closing(Descriptors(host, "/bin/true"))),
            )
            clients.append((sock, FrameReader(sock), descriptors))
        payload = request(host, "/bin/true", artifact=artifact)
        for sock, _, descriptors in clients:
            send_frame(sock, Kind.REQUEST, payload, descriptors.all)
        for sock, reader, descriptors in clients:
            decision, ready = reader.receive(), reader.receive()
            assert decision is not None
            assert ready is not None
            assert decode_fields(decision.payload, 9)[0] == b"allow"
            assert ready.kind == Kind.READY, ready.payload
            send_frame(sock, Kind.GO, encode_fields([b"/bin/true"]), descriptors.all)
        for _, reader, _ in clients:
            started, end = reader.receive(), reader.receive()
            assert started is not None
            assert end is not None
            assert (started.kind, end.kind) == (Kind.STARTED, Kind.EXITED)
            assert decode_fields(end.payload, 2) == [b"0", b""]
    host.wait_settled()
    assert len(host.entries(EntryType.DECISION_ALLOW)) == decisions + 64
    assert host.checkpoints() - checkpoints < 60, "decisions did not share checkpoints"
    wait_for("descriptors are given back", lambda: open_descriptors(host) <= before[0])
    wait_for("the runner's too", lambda: len(os.listdir(f"/proc/{host.runner_pid}/fd")) <= before[1] + 1)
    host.require_sound()


def test_many_whole_clients_at_once(host: Host) -> None:
    artifact = host.issue("/bin/true")
    clients = [host.client("/bin/true", authorization=artifact) for _ in range(40)]
    results = [host.finish(client) for client in clients]
    assert [result.status for result in results] == [0] * 40, [r for r in results if r.status][:2]
    host.wait_settled()
    host.require_sound()


ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_socket_activation(stopped: Host) -> None:
    """systemd hands over the listening socket, and requests wait in it until the agent is ready."""
    path = stopped.top / "activated.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        client = stopped.client(
            "/bin/true", authorization=stopped.issue("/bin/true"), env={"ATTESTD_SOCKET": str(path)}
        )
        serve = [sys.executable, "-m", "tests.agent.serve_entry", str(stopped.state)]
        with (stopped.top / "agent.log").open("ab") as log:
            stopped.agent = subprocess.Popen(
                [sys.executable, "-c", ACTIVATE, str(listener.fileno()), *serve], cwd=ROOT,
                pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        assert stopped.finish(client).status == 0, stopped.agent_log
    assert not stopped.layout.agent_socket.exists()
    assert stopped.stop() == 0


def test_log_is_sound_after_all_this(shared: Host) -> None:
    shared.wait_settled()
    shared.require_sound()
