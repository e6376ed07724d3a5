"""The durable record: once, counted, and nothing lost between a crash and the log."""

import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from attestd.codes import Denied
from attestd.errors import StoreError
from attestd.gate.release import VerifiedRelease
from attestd.lineage.entry import EntryType
from attestd.runner.claims import Claims, Ran, Unfinished, read_ran

NOW = "2026-03-01T12:00:00.000000Z"


def release(
    seq: int = 1,
    *,
    artifact: str = "a",
    max_uses: int | None = None,
    above: tuple[tuple[str, int | None], ...] = (),
    log_id: str = "log-1",
) -> VerifiedRelease:
    return VerifiedRelease(
        log_id=log_id,
        seq=seq,
        leaf=f"{seq:064x}",
        artifact_id=artifact,
        max_uses=max_uses,
        above=above,
        request_id="request",
        on_trust_loss="kill",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runner.db"


@pytest.fixture
def claims(path: Path) -> Any:
    opened = Claims(path)
    yield opened
    opened.close()


def test_once(claims: Claims) -> None:
    claims.claim(release(), {}, now=NOW)
    with pytest.raises(Denied) as denied:
        claims.claim(release(), {}, now=NOW)
    assert denied.value.denial.code == "identity_mismatch"
    claims.claim(release(2), {}, now=NOW)
    claims.claim(release(log_id="log-2"), {}, now=NOW)


def test_once_survives_a_restart(claims: Claims, path: Path) -> None:
    claims.claim(release(), {}, now=NOW)
    claims.close()
    with pytest.raises(Denied):
        Claims(path).claim(release(), {}, now=NOW)


def test_uses_are_counted_over_receipts_and_a_refusal_counts_nothing(claims: Claims) -> None:
    claims.claim(release(1, max_uses=2), {}, now=NOW)
    claims.claim(release(2, max_uses=2), {}, now=NOW)
    with pytest.raises(Denied) as denied:
        claims.claim(release(3, max_uses=2), {}, now=NOW)
    assert denied.value.denial.code == "uses_exhausted"
    # The refused receipt was not used up: it is for the agent to make it void.
    assert claims.forfeit("log-1", 3, now=NOW) is True
    claims.claim(release(4, max_uses=None), {}, now=NOW)
    claims.claim(release(5, artifact="b", max_uses=1), {}, now=NOW)


def test_children_use_up_their_parent_and_a_refusal_charges_none_of_them(claims: Claims) -> None:
    parent = (("parent", 2),)
    claims.claim(release(1, artifact="one", above=parent), {}, now=NOW)
    claims.claim(release(2, artifact="parent", max_uses=2), {}, now=NOW)
    with pytest.raises(Denied, match="artifact parent: this would be use 3 of 2"):
        claims.claim(release(3, artifact="two", max_uses=1, above=parent), {}, now=NOW)
    grand = (("root", 5), ("limited", 1))
    claims.claim(release(4, artifact="three", max_uses=1, above=grand), {}, now=NOW)
    with pytest.raises(Denied, match="artifact limited: this would be use 2 of 1"):
        claims.claim(release(5, artifact="four", above=grand), {}, now=NOW)
    for number in range(6, 10):  # of root's five uses only one is gone
        claims.claim(release(number, artifact=str(number), above=(("root", 5),)), {}, now=NOW)
    with pytest.raises(Denied, match="artifact root: this would be use 6 of 5"):
        claims.claim(release(10, artifact="root", max_uses=5), {}, now=NOW)
    claims.claim(release(11, artifact="two", max_uses=1), {}, now=NOW)


def test_a_void_refunds_no_use(claims: Claims) -> None:
    claims.claim(release(1, max_uses=1), {}, now=NOW)
    claims.record_end("log-1", 1, type_=EntryType.DECISION_VOID, body={})
    with pytest.raises(Denied):
        claims.claim(release(2, max_uses=1), {}, now=NOW)


def test_forfeit_and_claim_exclude_each_other(claims: Claims) -> None:
    assert claims.forfeit("log-1", 1, now=NOW) is True
    assert claims.forfeit("log-1", 1, now=NOW) is True
    with pytest.raises(Denied):
        claims.claim(release(1), {}, now=NOW)
    claims.claim(release(2), {}, now=NOW)
    assert claims.forfeit("log-1", 2, now=NOW) is False


def test_unfinished_claims_and_how_they_end(claims: Claims) -> None:
    reference = {"seq": 1}
    claims.claim(release(1), reference, now=NOW)
    assert claims.unfinished() == [Unfinished("log-1", 1, reference, None)]
    claims.record_started("log-1", 1, process={"pid": 7}, body={"pid": 7})
    assert claims.unfinished() == [Unfinished("log-1", 1, reference, {"pid": 7})]
    claims.record_end("log-1", 1, type_=EntryType.EXECUTION_EXIT, body={"status": 0})
    assert claims.unfinished() == []
    claims.forfeit("log-1", 2, now=NOW)
    assert claims.unfinished() == []


def test_the_spool_keeps_order_and_never_reuses_an_id(claims: Claims) -> None:
    claims.claim(release(1), {}, now=NOW)
    claims.record_started("log-1", 1, process={}, body={"n": 1})
    claims.record_end("log-1", 1, type_=EntryType.EXECUTION_EXIT, body={"n": 2})
    spooled = claims.spooled(10)
    assert [(item.id, item.type, item.body) for item in spooled] == [
        (1, EntryType.EXECUTION_START, {"n": 1}),
        (2, EntryType.EXECUTION_EXIT, {"n": 2}),
    ]
    assert [item.id for item in claims.spooled(1)] == [1]
    claims.acknowledge(2)
    assert claims.spooled(10) == []
    claims.record_end("log-1", 1, type_=EntryType.DECISION_VOID, body={})
    assert [item.id for item in claims.spooled(10)] == [3]


def test_each_record_has_an_identity_of_its_own(claims: Claims, path: Path, tmp_path: Path) -> None:
    """Ids start again in a new file: together with this they stay unique."""
    other = Claims(tmp_path / "other.db")
    assert len(claims.spool_id) == 32
    assert claims.spool_id != other.spool_id
    other.close()
    claims.close()
    again = Claims(path)
    assert again.spool_id == claims.spool_id
    again.close()


def test_a_claim_is_on_disk_before_it_returns(path: Path) -> None:
    """The process is killed the moment after: the claim is there."""
    child = os.fork()
    if child == 0:
        Claims(path).claim(release(1), {}, now=NOW)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    claims = Claims(path)
    assert claims.forfeit("log-1", 1, now=NOW) is False
    assert claims._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    claims.close()


def test_a_failed_commit_claims_nothing(claims: Claims, path: Path) -> None:
    """Another process holds the write lock: an error, and no half of it stays."""
    claims._db.execute("PRAGMA busy_timeout = 0")
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        claims.claim(release(1), {}, now=NOW)
    blocker.execute("ROLLBACK")
    blocker.close()
    assert claims.unfinished() == []
    claims.claim(release(1), {}, now=NOW)


@pytest.mark.parametrize("content", [b"no database at all" * 100, b""])
def test_something_else_is_not_a_record(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    if content:
        with pytest.raises(StoreError):
            Claims(path)
        return
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 1")
    other.close()
    with pytest.raises(StoreError, match="not a runner's record"):
        Claims(path)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        Claims(tmp_path / "missing" / "runner.db")


def test_the_last_claim_is_that_of_any_log_and_no_forfeit(claims: Claims) -> None:
    assert claims.last_claim() is None
    claims.forfeit("log-3", 1, now="2026-03-09T00:00:00.000000Z")
    assert claims.last_claim() is None
    for seq, log_id, time in ((2, "log-1", "02"), (7, "log-2", "05"), (9, "log-1", "04")):
        claims.claim(release(seq, log_id=log_id), {}, now=f"2026-03-{time}T00:00:00.000000Z")
    claims.forfeit("log-2", 99, now="2026-03-09T00:00:00.000000Z")
    assert claims.last_claim() == "2026-03-05T00:00:00.000000Z"


def test_what_ran_is_read_beside_the_runner(claims: Claims, path: Path) -> None:
    for seq in (1, 2, 3):
        claims.claim(release(seq), {"leaf": f"{seq:064x}"}, now=NOW)
    claims.record_started("log-1", 1, process={"boot": "b", "pid": 1}, body={})
    claims.record_started("log-1", 2, process={"boot": "b", "pid": 2}, body={})
    claims.record_end("log-1", 2, type_=EntryType.EXECUTION_EXIT, body={})
    claims.record_end("log-1", 3, type_=EntryType.DECISION_VOID, body={})
    assert read_ran(path) == [Ran("log-1", seq, f"{seq:064x}", NOW) for seq in (1, 2)]
    with pytest.raises(StoreError):
        read_ran(path.with_name("missing"))
