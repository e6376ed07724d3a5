"""A host whose releases witnesses must cosign: real controllers, real host."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner

from attestd.agent.ask import AgentSocket
from attestd.agent.doctor import examine
from attestd.agent.records import find_record
from attestd.agent.rotate import rotate
from attestd.audit.store import LogStore
from attestd.cli.why import why_command
from attestd.errors import VerificationError
from attestd.lineage.entry import EntryType
from attestd.lineage.receipt import parse_receipt
from tests.agent.test_exec import denied
from tests.controller.running import Controller
from tests.host import Host, Logged, Result, wait_for
from tests.witnessed import configure, publish_mesh, url_of, vkey_of, witness_of


@dataclass
class Mesh:
    """A host and its two witnesses."""

    host: Host
    one: Controller
    two: Controller

    def names(self) -> dict[str, tuple[str, str]]:
        return {
            name: (url_of(found), vkey_of(found)) for name, found in (("one", self.one), ("two", self.two))
        }

    def run(self, witnesses: int, *options: str) -> Result:
        artifact = self.host.issue("/bin/echo", "hello", witnesses=witnesses)
        return self.host.exec("/bin/echo", "hello", authorization=artifact, options=options)

    def witness(self, node: str) -> dict[str, Any]:
        found = next(item for item in self.host.status()["witnesses"] if item["node"] == node)
        return dict(found)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with Host.create() as host, witness_of(host, "1") as one, witness_of(host, "2") as two:
        made = Mesh(host, one.start(), two.start())
        publish_mesh(host, made.names())
        configure(host, witness_wait_s=2, witness_interval_s=1)
        host.start()
        yield made


def test_a_release_is_cosigned(mesh: Mesh) -> None:
    host = mesh.host
    receipt = host.top / "receipt"
    result = mesh.run(2, "--json", "--receipt", str(receipt))
    assert (result.status, result.stdout) == (0, b"hello\n"), (result, host.agent_log)
    verified = host.verify_receipt(receipt.read_bytes())
    assert set(verified.witnesses) == {"witness.example/1", "witness.example/2"}
    # From the log it is the same.
    assert parse_receipt(host.receipt(verified.entry.seq)).note == parse_receipt(receipt.read_bytes()).note
    decision = result.json
    assert decision["body"]["checks"][13]["detail"] == "2 witnesses, 2 must cosign"


def test_what_needs_none_is_cosigned_later(mesh: Mesh) -> None:
    """The newest checkpoint, now and then."""
    assert mesh.run(0).status == 0
    size = mesh.host.status()["log"]["size"]
    for node in ("one", "two"):
        wait_for(
            "the newest checkpoint is cosigned", lambda node=node: mesh.witness(node)["cosigned"] >= size
        )


def test_too_few_is_denied_and_void(mesh: Mesh) -> None:
    """One of two is killed: what needs two is denied and says which did not answer, what needs one runs."""
    mesh.two.kill()
    try:
        assert mesh.run(1).status == 0
        decision = mesh.run(2, "--json").json
        assert (decision["code"], decision["exit"]) == ("mesh_unavailable", 69)
        said = decision["sentence"]
        assert said.startswith(
            "2 of the witnesses must cosign this decision's checkpoint, 1 did: two: http://"
        )
        void = mesh.host.outcome(decision["id"])
        assert void.type is EntryType.DECISION_VOID
        assert void.body["reason"] == f"mesh_unavailable: {said}"
        record = find_record(decision["id"], agent=agent(mesh.host), layout=mesh.host.layout)
        assert record.void == void.body["reason"]
        assert "made void, it never ran: mesh_unavailable" in why(mesh.host, decision["id"])
        assert mesh.witness("two")["problem"]
        assert "look at that controller" in doctor(mesh.host, "witness two")
        assert "witness.lost witness=witness.example/2" in mesh.host.agent_log
        assert denied(mesh.run(3), "mesh_unavailable", 69) == "3 witnesses must cosign a release, there are 2"
    finally:
        mesh.two.start()
    assert mesh.run(2).status == 0
    assert mesh.witness("two")["problem"] is None
    assert "witness.back witness=witness.example/2" in mesh.host.agent_log
    mesh.host.wait_settled()
    mesh.host.require_sound()


def test_a_witness_whose_database_was_restored(mesh: Mesh) -> None:
    """Database and anchors together, as with a machine's snapshot: the agent shows it what it cosigned (ADR 0025)."""
    two, copy = mesh.two, mesh.two.state / "snapshot"
    two.kill()
    shutil.copytree(two.state / "controller", copy)
    two.start()
    assert mesh.run(2).status == 0
    two.kill()
    shutil.rmtree(two.state / "controller")
    copy.rename(two.state / "controller")
    two.start()
    said = denied(mesh.run(2), "mesh_unavailable", 69)
    # The second is what it answers where the newest checkpoint, for which nobody waits, came before.
    assert re.search("its database (was restored from a copy|is older than what it has cosigned)", said), said
    two.wait_said("critical witness.rolled_back error=.*has this witness's cosignature")
    assert mesh.witness("two")["rolled_back"]
    assert "CRITICAL witness.rolled_back witness=witness.example/2" in mesh.host.agent_log
    assert "restores its newer database" in doctor(mesh.host, "witness two")
    assert mesh.run(1).status == 0


def agent(host: Host) -> AgentSocket:
    return AgentSocket(os.fsencode(host.layout.agent_socket))


def why(host: Host, name: str) -> str:
    """What a person reads."""
    done = CliRunner().invoke(why_command, ["--state-dir", str(host.state), name])
    return done.output


def doctor(host: Host, area: str) -> str:
    """The remedy for what is wrong there."""
    [found] = [item for item in examine(host.layout, agent(host)) if item.area == area]
    return str(found.remedy)


def cosigned_by_both(host: Host) -> Logged | None:
    """A release that has both witnesses' lines: of an earlier test, after which there may be one witness only."""
    for item in host.entries(EntryType.DECISION_ALLOW):
        with contextlib.suppress(VerificationError):
            if len(host.verify_receipt(host.receipt(item.seq)).witnesses) == 2:
                return item
    return None


def test_a_rotated_log_and_then_one_that_was_restored(mesh: Mesh) -> None:
    """A new log is a new origin. An old one, restored with its TPM, agrees with it; the witness saw more of it."""
    host = mesh.host
    closed = cosigned_by_both(host)
    if closed is None:
        assert mesh.run(2).status == 0
        host.wait_settled()
        closed = cosigned_by_both(host)
    assert closed is not None
    receipt = host.receipt(closed.seq)
    assert host.stop() == 0
    rotated = rotate(host.layout, host.configuration, host.top / "export")
    with contextlib.closing(LogStore.open(str(rotated.shard), readonly=True)) as shard:
        assert shard.receipt(closed.seq) == receipt
    assert len(host.verify_receipt(receipt).witnesses) == 2
    shutil.copytree(host.state, host.top / "copy", symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
    host.start()
    assert mesh.run(1).status == 0
    wait_for("a witness has it all", lambda: mesh.witness("one")["cosigned"] >= host.status()["log"]["size"])
    host.wait_settled()
    assert host.stop() == 0
    host.kill_runner()
    shutil.rmtree(host.state)
    shutil.copytree(host.top / "copy", host.state, symlinks=True)
    host.start()
    wait_for("the witness refuses", lambda: mesh.witness("one")["forked"])
    assert "this log was restored from a copy" in denied(mesh.run(1), "mesh_unavailable", 69)
    assert mesh.run(0).status == 0
    assert "CRITICAL log.forked witness=witness.example/1" in host.agent_log
    assert "A witness refuses this log" in doctor(host, "witness one")
