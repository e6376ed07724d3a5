"""Somebody with the disk while the host is off: edits, truncates, rolls back, clones. And with another kernel on this TPM.

What is edited byte by byte is in tests/audit; here it is the whole host that boots again on what was left for it.
"""

import asyncio
import contextlib
import logging
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.agent.assemble import assembled
from attestd.agent.core import Core
from attestd.agent.keystore import load_keys, save_keys
from attestd.audit import files
from attestd.audit.seal import Charge, Pending
from attestd.audit.store import LogStore
from attestd.authorization.artifact import parse_artifact
from attestd.errors import RollbackError, StoreError, VerificationError
from attestd.governance.trust import Trust
from attestd.lineage.entry import EntryType, join_entry
from attestd.lineage.receipt import parse_receipt
from attestd.runner.claims import Claims
from attestd.tcg.public import authority_public, parse_public
from attestd.tlog.proof import TlogProof, format_proof
from attestd.tlog.tree import inclusion_proof
from attestd.tpm.embedded import EmbeddedTpm
from tests.host import Host, wait_for

# What a trigger could do that no later check undoes: uses are not counted, leaves are not kept.
TRIGGERS = {
    "of an honest name": ("evil", "charges", "CREATE TRIGGER evil BEFORE INSERT ON charges BEGIN SELECT RAISE(IGNORE); END"),
    "of SQLite's own": (
        "sqlite_evil", "charges",
        "CREATE TRIGGER sqlite_evil BEFORE INSERT ON charges BEGIN SELECT RAISE(IGNORE); END",
    ),
}  # fmt: skip


def plant(path: Path, name: str, table: str, sql: str) -> None:
    """Writes into the schema what CREATE would not take."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA writable_schema = ON")
        row = ("trigger", name, table, 0, sql)
        database.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", row)
        database.commit()


@pytest.mark.parametrize("which", TRIGGERS)
def test_a_trigger_in_the_log(tmp_path: Path, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.db"
    files.create(str(path), origin="o", host_id="h", log_id="l", created="2026-01-31T12:00:00Z")
    plant(path, *TRIGGERS[which])
    with monkeypatch.context() as weakened:
        weakened.setattr(files, "_check_schema", lambda *_: None)
        with closing(files.open_log(str(path))) as log:
            log.execute("INSERT INTO charges (artifact, n, seq) VALUES ('a', 1, 0)")
            assert log.execute("SELECT count(*) FROM charges").fetchone() == (0,), "the use was not counted"
    for open_ in (files.open_log, files.open_log_readonly):
        with pytest.raises(RollbackError, match="the schema was edited"):
            open_(str(path))


def test_a_trigger_in_the_runners_record(tmp_path: Path) -> None:
    path = tmp_path / "runner.db"
    Claims(path).close()
    Claims(path).close()
    sql = "CREATE TRIGGER sqlite_evil BEFORE INSERT ON uses BEGIN SELECT RAISE(IGNORE); END"
    plant(path, "sqlite_evil", "uses", sql)
    with pytest.raises(StoreError, match="its schema was edited"):
        Claims(path)


# -- the whole host ------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def in_place_of_the_agent(host: Host) -> AsyncIterator[Core]:
    """Whoever has the disk has the agent's keys, and may use them on this TPM with any kernel and any program."""
    async with assembled(host.layout, host.configuration, logging.getLogger("attack")) as agent:
        yield agent.core


def edit(path: Path, *statements: str) -> None:
    """Edits a database as a hex editor would: no trigger stops it, and the schema looks as before."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        triggers = database.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            database.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            database.execute(statement)
        for _, sql in triggers:
            database.execute(sql)


def receipt_under(host: Host, seq: int, *, size: int) -> bytes:
    """A leaf with the checkpoint of another batch than its own: RFC 6962 proofs lead there from any earlier leaf."""
    with closing(LogStore.open(str(host.layout.log), readonly=True)) as store:
        checkpoint = store.checkpoint_covering(size - 1)
        assert checkpoint is not None
        assert checkpoint.size == size
        path = tuple(inclusion_proof(seq, size, store.node))
        return format_proof(TlogProof(store.entry(seq), seq, path, checkpoint.note))


def test_leaves_forged_under_another_kernel(stopped: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a state that nobody approved the TPM still quotes: a decision.allow gets into the log, under a record batch.

    A later good boot seals batches for release over a tree that contains it. None of them makes it a release.
    """
    host, mark = stopped.start(), stopped.work / "ran"
    assert host.run("/bin/true").status == 0
    host.wait_settled()
    (honest,) = host.entries(EntryType.DECISION_ALLOW)
    assert host.stop() == 0

    def as_allow(*, type_: EntryType, **members: Any) -> bytes:
        forged = EntryType.DECISION_ALLOW if type_ is EntryType.DECISION_DENY else type_
        return join_entry(type_=forged, **members)

    body = {**honest.body, "argv": ["/usr/bin/touch", str(mark)]}

    async def forge() -> int:
        async with in_place_of_the_agent(host) as core:
            digests = {"sha1": bytes(20), "sha256": bytes(32), "sha384": bytes(48)}
            await asyncio.wrap_future(core.port.other(lambda tpm: tpm.extend(4, digests)))
            monkeypatch.setattr("attestd.audit.seal.join_entry", as_allow)
            sealed = await core.seal(Pending(EntryType.DECISION_DENY, body))
            monkeypatch.undo()
            return sealed.sealed.seq

    async def release_after_a_good_boot() -> int:
        async with in_place_of_the_agent(host) as core:
            trust = core.trust()
            assert isinstance(trust, Trust)
            await core.evidence.ensure(trust.platforms["local"], trust=trust, max_age_s=60)
            charge = Charge(honest.body["artifact"]["id"], None)
            pending = Pending(EntryType.DECISION_ALLOW, honest.body, charge, lambda _: honest.body)
            sealed = await core.seal(pending, platform=trust.platforms["local"])
            assert sealed.sealed.denial is None
            return sealed.sealed.seq + 1

    seq = asyncio.run(forge())
    size = asyncio.run(release_after_a_good_boot())
    assert parse_receipt(host.receipt(seq)).entry.type is EntryType.DECISION_ALLOW
    for receipt in (host.receipt(seq), receipt_under(host, seq, size=size)):
        with pytest.raises(VerificationError, match="not in a batch sealed for release"):
            host.verify_receipt(receipt)
    assert host.verify_receipt(host.receipt(size - 1)).approval is not None, "the good one stays good"

    # And the agent that finds it in its log does not go on with it.
    host.start(wait=False)
    assert host.wait_ended() == 1
    assert "mode record, but a decision.allow in its batch" in host.agent_log
    assert not mark.exists()


def test_uses_taken_back(stopped: Host) -> None:
    """Charges and the runner's own count are edited together: the log shows that an allow is not charged.

    Residual: that takes the first verification after a start, so a used-up artifact could be used once more in the
    seconds before it ends (with a million entries: minutes). The use is a leaf all the same.
    """
    host = stopped.start()
    artifact = host.issue("/bin/true", max_uses=1)
    assert host.exec("/bin/true", authorization=artifact).status == 0
    assert host.exec("/bin/true", authorization=artifact).status == 77
    host.wait_settled()
    assert host.stop() == 0
    host.kill_runner()
    edit(host.layout.log, "DELETE FROM charges")
    edit(host.layout.runner / "runner.db", "DELETE FROM uses")
    host.start(wait=False)
    assert host.wait_ended() == 1
    assert "each decision.allow is charged" in host.agent_log


def test_revocations_taken_back(stopped: Host) -> None:
    """Older governance is as well signed as newer: but the log tells what was seen, and so does the runner's record."""
    host = stopped.start()
    artifact = host.issue("/bin/true")
    shutil.copytree(host.layout.trust, host.top / "before")
    host.revoke(artifacts=[parse_artifact(artifact).id])
    wait_for("the agent sees it", lambda: host.exec("/bin/true", authorization=artifact).status == 77)
    host.wait_entry(EntryType.GOVERNANCE_UPDATE)
    assert host.stop() == 0
    host.kill_runner()
    shutil.rmtree(host.layout.trust)
    shutil.copytree(host.top / "before", host.layout.trust)
    host.start()
    result = host.exec("/bin/true", authorization=artifact)
    assert (result.status, "governance_mismatch" in result.stderr) == (77, True), result
    assert "version 1" in host.runner_info()["governance"]["problem"]


def test_keys_without_the_policy(stopped: Host) -> None:
    """The attacker makes a release key in this very TPM, whose policy an authority of their own approves."""
    host = stopped
    root = ec.generate_private_key(ec.SECP256R1()).public_key()
    embedded = EmbeddedTpm(host.layout.tpm)
    embedded.start()
    with embedded.open() as tpm:
        _, auth = load_keys(host.layout.keys)
        mine = tpm.create_keys(root_name=parse_public(authority_public(root)).name, auth_values=auth)
    embedded.stop()
    host.layout.keys.unlink()
    save_keys(host.layout.keys, mine, auth)
    host.start(wait=False)
    assert host.wait_ended() == 1
    assert "of other keys than this host has now" in host.agent_log
    assert len(host.entries()) == 1, "nothing was sealed"


def test_a_copy_without_the_tpm(stopped: Host, short_dir: Path) -> None:
    """All of the disk on another machine: keys that do not load, and nothing else."""
    host = stopped.start()
    assert host.run("/bin/true").status == 0
    host.wait_settled()
    assert host.stop() == 0
    shutil.rmtree(host.layout.tpm)  # the other machine's own
    host.start(wait=False)
    assert host.wait_ended() == 1
    assert "Traceback" not in host.agent_log
    assert "tpm:" in host.agent_log


def test_a_host_that_the_runner_is_told_to_be(stopped: Host) -> None:
    """Pinned at init, in the runner's own directory; whoever edits it there gets nothing run."""
    path = stopped.layout.host
    path.write_bytes(path.read_bytes().replace(stopped.id.encode(), b"ab" * 32))
    host = stopped.start()
    result = host.run("/bin/true")
    assert (result.status, "identity_mismatch" in result.stderr) == (77, True)
