"""Floods: signals, requests, denials, connections, descriptors, memory; and clients that do not read or do not write.

Nobody else may have to wait for long, nothing may be released unrecorded, and the flood may cost only what is bounded.
"""

import asyncio
import contextlib
import os
import resource
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from attestd.authorization.artifact import parse_artifact
from attestd.authorization.statement import Statement
from attestd.governance.trust import Trust
from attestd.wire import (
    MAX_PAYLOAD_BYTES,
    FrameReader,
    Kind,
    close_all,
    encode_fields,
    encode_frame,
    send_frame,
)
from tests.attacks.conftest import running
from tests.host import Host
from tests.runner.harness import WAIT_S, Bench
from tests.world import World

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
ATTACKER = 1001


@contextlib.contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """This process, to the kernel and to those it connects to, is another user's."""
    os.setresgid(uid, uid, 0)
    os.setresuid(uid, uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


# -- the runner ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def signals_without_end(bench: Bench) -> Iterator[None]:
    """A requester that may run something sends it signals as fast as the socket takes them."""
    submitted = bench.submit(bench.grant(bench.execution("/bin/sleep", "60")))
    assert submitted.start().kind == Kind.STARTED
    frames = encode_frame(Kind.SIGNAL, encode_fields([b"28"])) * 10_000

    def flood() -> None:
        with contextlib.suppress(OSError):
            while True:
                submitted.client.sendall(frames)

    thread = threading.Thread(target=flood)
    thread.start()
    yield
    submitted.client.shutdown(socket.SHUT_RDWR)
    thread.join()


def is_served(bench: Bench, *, within_s: float) -> bool:
    """Whether the runner answers somebody else."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(within_s)
        sock.connect(str(bench.socket))
        sock.sendall(encode_frame(Kind.INFO))
        try:
            return sock.recv(1) == Kind.INFORMED
        except TimeoutError:
            return False


def test_signals_without_end(bench: Bench) -> None:
    with running("fairness") as weakened, signals_without_end(weakened):
        assert not all(is_served(weakened, within_s=1) for _ in range(5))
    with signals_without_end(bench):
        assert is_served(bench, within_s=5)
        assert bench.run(bench.execution("/bin/echo", "on"))[2] == b"on\n"


# With so few descriptors there is room for 102 commands.
FEW_DESCRIPTORS = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
os.execv(sys.executable, [sys.executable, "-I", "-m", "attestd.runner", *sys.argv[1:]])
"""


@AS_ROOT
def test_commands_of_one_requester(short_dir: Path) -> None:
    """Who may run something without limit keeps all of them waiting for a go: nobody else's would find room."""
    bench = Bench(short_dir).start("-c", FEW_DESCRIPTORS)
    execution = bench.execution("/bin/true", requester_uid=ATTACKER)
    pairs, refused = [], None
    for _ in range(40):
        with acting_as(ATTACKER):
            pairs.append(socket.socketpair())
        submitted = bench.submit(bench.grant(execution), client_end=pairs[-1][1].fileno())
        if submitted.answer.kind != Kind.ACCEPTED:
            refused = submitted.refusal()
            break
    assert (len(pairs) - 1, refused) == (102 // 4, "agent_unavailable")
    assert bench.run(bench.execution("/bin/true"))[0] == 0
    for pair in pairs:
        close_all([sock.detach() for sock in pair])
    bench.close_clients()
    assert bench.stop() == 0


# -- the agent ----------------------------------------------------------------------------------------------------------


def memory_mib(pid: int) -> int:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def open_to_all(host: Host) -> None:
    """As the service's socket is."""
    for directory in (host.top, host.state, host.layout.agent_socket.parent):
        directory.chmod(0o755)
    host.layout.agent_socket.chmod(0o666)


@contextlib.contextmanager
def connected(
    host: Host, count: int, data: bytes, descriptors: Sequence[int] = ()
) -> Iterator[list[socket.socket]]:
    """Connections that began a request, and never end it; those that the agent turns away are gone."""
    with contextlib.ExitStack() as stack:
        kept = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(0.1)
            with contextlib.suppress(OSError):
                sock.connect(str(host.layout.agent_socket))
                socket.send_fds(sock, [data[:5]], descriptors)
                sock.sendall(data[5:])
                kept.append(sock)
        yield kept


@AS_ROOT
def test_descriptors_without_end(stopped: Host) -> None:
    """64 connections of one user, 16 descriptors on each, take more than the 1,024 that a process usually has."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    try:
        host = stopped.start(forked=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    open_to_all(host)
    echo = host.issue("/bin/sh", "-c", "ulimit -Sn", uid=65534)
    with open("/dev/null", "rb") as null, acting_as(ATTACKER):
        flood = connected(host, 64, b"R\x00\x10\x00\x00", [null.fileno()] * 16)
        stack = contextlib.ExitStack()
        held = stack.enter_context(flood)
    with stack:
        assert len(held) == 64
        assert host.exec("/bin/sh", "-c", "ulimit -Sn", authorization=echo).stdout == b"1024\n"


@AS_ROOT
def test_large_requests_of_many_user_ids(host: Host) -> None:
    """With subordinate user ids one user has 65,536: limits a user do not bound what they take together."""
    open_to_all(host)
    idle = memory_mib(host.status()["agent"]["pid"])
    data = b"R" + MAX_PAYLOAD_BYTES.to_bytes(4, "big") + bytes(MAX_PAYLOAD_BYTES - 1)
    with contextlib.ExitStack() as stack:
        for uid in range(200_000, 200_006):
            with acting_as(uid):
                stack.enter_context(connected(host, 16, data))
        # 32 large requests of 2 MiB at a time, each while it grows in up to twice its room.
        assert memory_mib(host.status()["agent"]["pid"]) < idle + 128
        assert host.run("/bin/true").status == 0


def answer_with(host: Host, artifact: bytes, value: bytes) -> int:
    """A client that answers each question for variables with that value; returns how many it is asked for."""
    asked = 0
    null = os.open("/dev/null", os.O_RDWR)
    descriptors = [null, null, null, os.open(host.work, os.O_RDONLY), os.open("/bin/true", os.O_RDONLY)]
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(WAIT_S)
            sock.connect(str(host.layout.agent_socket))
            send_frame(
                sock, Kind.REQUEST, encode_fields([b"exec", b"", artifact, b"", b"/bin/true"]), descriptors
            )
            reader = FrameReader(sock)
            while (frame := reader.receive()) is not None and frame.kind == Kind.NEED:
                needs = frame.fields(100)
                asked += len(needs)
                send_frame(sock, Kind.HERE, encode_fields([b"+" + value] * len(needs)))
    except (EOFError, OSError):
        return asked
    finally:
        close_all(descriptors)
    return asked


def test_variables_without_end(shared: Host) -> None:
    """An artifact that nobody signed asks for 64; the requester has 100 KiB for each, more than any command can get."""
    artifact = shared.issue("/bin/true", env_pass=[f"V{number}" for number in range(64)])
    assert answer_with(shared, artifact, b"x") == 64
    assert answer_with(shared, artifact, b"x" * 100_000) < 28
    assert "variables of more than 1048576 bytes" in shared.agent_log
    assert shared.run("/bin/true").status == 0


def test_a_client_that_does_not_read_its_questions(shared: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions larger than the socket takes wait for the client as long as an answer would, not for ever."""
    from attestd.agent import needs

    class Stuck:
        async def send(self, *_: object) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(needs, "ANSWER_TIMEOUT_S", 0.05)
    with pytest.raises(TimeoutError):
        asyncio.run(needs._ask_some(Stuck(), None, ["env:A"], None))  # type: ignore[arg-type]


def test_evidence_for_an_artifact_that_nobody_signed() -> None:
    """It must be a second old at most, so each use would have the TPM quote: 0.2 s of a real one, and no leaf tells."""
    from attestd.agent.asked import Candidate
    from attestd.agent.executions import _refresh_evidence

    world, taken = World(), []

    class Core:
        def has_evidence(self, _: object) -> bool:
            return False

        async def look(self, _: object) -> None:
            """At the IMA list, which asks no TPM."""

        def trust(self) -> Trust:
            return world.trust()

        async def refresh_evidence(self, statement: Statement) -> None:
            taken.append(statement)

        async def refresh_results(self, statement: Statement) -> None:
            """No verifier is asked for."""

    for author, count in ((World("stranger"), 0), (world, 1)):
        data = author.artifact(host_id=world.host.id, max_evidence_age_s=1)
        candidate = Candidate(data, parse_artifact(data))
        asyncio.run(_refresh_evidence(candidate, world.execution(), cast("Any", Core())))
        assert len(taken) == count
