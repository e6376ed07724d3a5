"""A mesh in trouble: the network breaks, controllers lie, and everybody is killed. Nothing runs for which too few vouch, and
once the trouble is over everything goes on without help."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from attestd.codes import Code
from attestd.lineage.entry import EntryType
from attestd.lineage.receipt import parse_receipt, verify_receipt
from attestd.strict import parse_time
from tests.agent.test_rekey import clear
from tests.between import Between, Passing, Way, changed, delayed, half_open, lost, silent, through
from tests.controller.running import PostgreSQL, postgresql
from tests.faults.client import Told, execute
from tests.fleet import Member
from tests.host import wait_for
from tests.mesh import NAMES, Mesh

TRUE = "/usr/bin/true"
ADD_CHECKPOINT, EVIDENCE = "/witness/add-checkpoint", "/v1/evidence"
# How long a decision waits for verifiers, and a release for witnesses.
WAIT_S = 1
# From when the trouble is over until all goes on: what a controller is left alone for, and what a loaded machine takes.
RECOVER_S = 60.0


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


@pytest.fixture(scope="module")
def mesh(database: PostgreSQL) -> Iterator[Mesh]:
    """One controller on PostgreSQL, one on SQLite, one host; two of each must vouch for everything."""
    with Mesh(databases={"one": database.database()}) as mesh:
        mesh.governance("mesh", "--verifiers", "2", "--witnesses", "2")
        mesh.enrol(1, mesh_wait_s=WAIT_S, witness_wait_s=WAIT_S)
        yield mesh


@pytest.fixture(scope="module")
def host(mesh: Mesh) -> Member:
    return mesh.hosts[0]


@pytest.fixture(scope="module")
def artifact(host: Member) -> bytes:
    return host.authorize(TRUE)


@pytest.fixture(autouse=True)
def _healed(mesh: Mesh) -> Iterator[None]:
    yield
    for between in mesh.between.values():
        between.way = through


def run(host: Member, artifact: bytes) -> Told:
    return execute(host.layout.agent_socket, [TRUE], cwd=host.work, artifact=artifact)


def denied(host: Member, artifact: bytes) -> None:
    told = run(host, artifact)
    assert (told.status, told.code) == (None, Code.MESH_UNAVAILABLE), told


def recovered(host: Member, artifact: bytes) -> None:
    """It runs again, without anybody's help."""
    wait_for("it runs again", lambda: run(host, artifact).status == 0, timeout_s=RECOVER_S)


def started(host: Member) -> set[str]:
    """The decisions that were acted on, once each has its outcome in the log."""
    host.wait_settled()
    return {item.body["leaf"] for item in host.entries(EntryType.EXECUTION_START)}


def vouched(host: Member) -> None:
    """The log is sound, and whatever ran has a receipt that shows who vouched for it."""
    ran = started(host)
    host.require_sound()
    for item in host.entries(EntryType.DECISION_ALLOW):
        if item.id in ran:
            assert item.body["witness_quorum"] == len(NAMES)
            host.verify_receipt(host.receipt(item.seq))


@pytest.mark.parametrize("way", [lost, silent, half_open], ids=lambda way: way.__name__)
def test_no_way_to_a_witness(mesh: Mesh, host: Member, artifact: bytes, way: Way) -> None:
    recovered(host, artifact)
    before = started(host)
    mesh.between["two"].way = way
    start = time.monotonic()
    denied(host, artifact)
    assert time.monotonic() - start < RECOVER_S
    assert started(host) == before
    mesh.between["two"].way = through
    recovered(host, artifact)


def test_a_slow_way(mesh: Mesh, host: Member, artifact: bytes) -> None:
    """Slower than one is used to, and in time."""
    recovered(host, artifact)
    mesh.between["two"].way = delayed(WAIT_S / 4)
    recovered(host, artifact)


def test_a_witness_that_lies(mesh: Mesh, host: Member, artifact: bytes) -> None:
    recovered(host, artifact)
    honest, other = (
        next(item for item in reversed(between.passed) if (item.path, item.status) == (ADD_CHECKPOINT, 200))
        for between in (mesh.between["two"], mesh.between["one"])
    )
    before = started(host)
    lies: dict[str, tuple[int, bytes]] = {
        "a cosignature of another checkpoint": (200, honest.answer),
        "the other witness's": (200, other.answer),
        "that it has seen nothing": (409, b"0\n"),
        "that it has seen more": (409, b"99999999\n"),
        "that the log forked": (422, b""),
    }
    for lie, answer in lies.items():
        told = lied(mesh.between["two"], ADD_CHECKPOINT, lambda _, answer=answer: answer)  # type: ignore[misc]
        wait_for(f"it is told {lie}, and denied", lambda told=told: tells(host, artifact) and told)  # type: ignore[misc]
    assert started(host) == before
    mesh.between["two"].way = through
    recovered(host, artifact)
    vouched(host)


def tells(host: Member, artifact: bytes) -> bool:
    """Asks for an execution, which must be denied."""
    denied(host, artifact)
    return True


def lied(between: Between, path: str, lie: Callable[[Passing], tuple[int, bytes]]) -> list[Passing]:
    """From now on its answers are lies; those it told, as they come."""
    told: list[Passing] = []

    def tell(passing: Passing) -> tuple[int, bytes]:
        told.append(passing)
        return lie(passing)

    between.way = changed(tell, path=path)
    return told


def test_a_verifier_that_lies(mesh: Mesh, host: Member, artifact: bytes) -> None:
    """The agent begins anew, so that it holds no result, and one of two verifiers is not to be had."""
    recovered(host, artifact)
    between = mesh.between["two"]
    honest = next(item for item in reversed(between.passed) if item.path == EVIDENCE and item.status == 200)
    other = next(
        item for item in reversed(mesh.between["one"].passed) if item.path == EVIDENCE and item.status == 200
    )
    before = started(host)
    lies: dict[str, Callable[[Passing], tuple[int, bytes]]] = {
        "an earlier result": lambda _: (200, honest.answer),
        "the other verifier's": lambda _: (200, other.answer),
        "a result that was changed": lambda passing: (200, swapped(passing.answer)),
    }
    between.way = lost
    host.kill_agent()
    host.start()
    denied(host, artifact)
    for lie, change in lies.items():
        told = lied(between, EVIDENCE, change)
        wait_for(f"it is told {lie}, and denied", lambda told=told: tells(host, artifact) and told)  # type: ignore[misc]
    assert started(host) == before
    between.way = through
    recovered(host, artifact)


def swapped(token: bytes) -> bytes:
    """A token of which one bit of what is signed is another."""
    head, claims, signature = token.split(b".")
    return b".".join((head, claims[:-3] + bytes([claims[-3] ^ 1]) + claims[-2:], signature))


def test_everybody_is_killed(mesh: Mesh, host: Member, artifact: bytes, database: PostgreSQL) -> None:
    recovered(host, artifact)
    pid = mesh.controllers["one"].process
    with load(host, artifact) as told:
        for trouble in (
            lambda: kill_controller(mesh, "one"),
            lambda: kill_agent(host),
            lambda: kill_database(database),
            lambda: kill_controller(mesh, "two"),
        ):
            ran(told)
            trouble()
        ran(told)
    assert mesh.controllers["one"].process is not pid
    recovered(host, artifact)
    vouched(host)
    acted = started(host)
    assert {item.leaf for item in told if item.status is not None} <= acted
    assert {item.code for item in told} <= {None, Code.MESH_UNAVAILABLE}, (
        "denied for what it was, and for nothing else"
    )


def ran(told: list[Told]) -> None:
    """Waits until commands ran since now."""
    since = len(told)
    wait_for("commands run", lambda: any(item.status == 0 for item in told[since:]), timeout_s=RECOVER_S)


def kill_controller(mesh: Mesh, name: str) -> None:
    mesh.controllers[name].kill()
    time.sleep(0.3)
    mesh.start(name)


def kill_agent(host: Member) -> None:
    host.kill_agent()
    host.start()


def kill_database(database: PostgreSQL) -> None:
    database.kill()
    time.sleep(0.3)
    database.start()


@contextlib.contextmanager
def load(host: Member, artifact: bytes) -> Iterator[list[Told]]:
    """Clients that ask without end; what they were told."""
    told: list[Told] = []
    stopped = threading.Event()

    def ask() -> None:
        while not stopped.is_set():
            told.append(run(host, artifact))
            time.sleep(0.02)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        stopped.set()
        for thread in threads:
            thread.join(90)


def test_its_tpm_is_cleared(mesh: Mesh, host: Member, artifact: bytes) -> None:
    """By the runbook (docs/operations.md): new keys, which operators admit at both controllers, and all goes on; the old ones are over."""
    recovered(host, artifact)
    host.wait_settled()
    receipt = host.receipt(host.entries(EntryType.DECISION_ALLOW)[-1].seq)
    before = mesh.trust.hosts[host.id]
    assert host.stop() == 0
    clear(host)
    host.start(wait=False)
    assert host.wait_ended() != 0
    assert "it was cleared, or is another one (attestd rekey --lost" in (host.top / "agent.log").read_text()
    rekey = ("rekey", "--yes", "--lost", "--json", "--wait", "0")
    waiting = host.attestd(*rekey)
    assert (waiting.status, "2 enrollers must sign, 0 did" in waiting.stderr) == (69, True), waiting
    assert "other keys than before: its TPM was cleared" in waiting.stderr
    for controller in mesh.controllers.values():
        shown = controller.attestd("approve", host.id, "--yes").stderr
        assert f"WARNING: the keys before (ak {before.ak_name.hex()}) end at " in shown
    signed = host.attestd(*rekey)
    assert signed.status == 0, signed
    record, ended = signed.json["waits"]
    mesh.governance("enroll", record, "--ended", ended, "--yes")
    version = mesh.publish()
    done = host.attestd(*rekey)
    assert (done.status, done.json["waits"]) == (0, []), done
    host.start()
    host.wait_version(version)
    recovered(host, artifact)
    vouched(host)
    trust = mesh.trust
    assert trust.hosts[host.id].ak_name != before.ak_name
    old = verify_receipt(parse_receipt(receipt), trust=trust)
    assert old.host.ak_name == before.ak_name
    # Until then, and no longer.
    assert parse_time(old.entry.time) <= old.host.not_after < datetime.now(UTC)
