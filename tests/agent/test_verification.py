"""The log is verified while the agent serves: all of it, then what is added, then all of it again."""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestd.agent import verification
from attestd.agent.verification import LogVerification
from attestd.audit.store import LogStore
from attestd.errors import RollbackError, StoreError
from attestd.lineage.checkpoint import LogKeys
from tests.agent.test_exec import denied
from tests.host import Host, wait_for


@pytest.fixture
def served() -> Iterator[Host]:
    """A host that ran one command, stopped."""
    with Host.create() as host:
        host.start()
        assert host.run("/bin/true").status == 0
        host.wait_settled()
        assert host.stop() == 0
        yield host


def of(host: Host) -> LogVerification:
    with contextlib.closing(LogStore.open(str(host.layout.log), readonly=True)) as store:
        origin = store.origin
    record = host.trust.hosts[host.id]
    keys = LogKeys(origin, record.release_spki, record.ak_spki)
    return LogVerification(
        str(host.layout.log), keys, interval_s=0.01, now=lambda: datetime.now(UTC), log=logging.getLogger("t")
    )


def tamper(path: Path, sql: str) -> None:
    """Edits a row, and leaves the schema as it was."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        triggers = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        assert db.execute(sql).rowcount == 1
        for _, text in triggers:
            db.execute(text)


def test_incremental_then_full_again(served: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "FULL_EVERY", 3)
    log = of(served)
    fulls = []
    for _ in range(5):
        asyncio.run(log.verify())
        assert log.last is not None
        fulls.append(log.last.full)
        assert (log.last.size, log.last.problem, log.progress) == (len(served.entries()), None, None)
    assert fulls == [True, False, False, True, False]


def test_only_what_was_added_is_read_in_between(served: Host) -> None:
    """An edit of what was verified before shows when everything is read again; an edit of the tree's end at once."""
    log = of(served)
    asyncio.run(log.verify())
    tamper(
        served.layout.log,
        "UPDATE leaves SET entry = CAST(replace(entry, 'agent', 'agant') AS BLOB) WHERE seq = 1",
    )
    asyncio.run(log.verify())
    log._count = verification.FULL_EVERY
    with pytest.raises(RollbackError):
        asyncio.run(log.verify())
    assert log.last is not None
    assert log.last.problem
    with pytest.raises(RollbackError):
        asyncio.run(of(served).verify())


def test_it_goes_on_until_something_does_not_hold(served: Host) -> None:
    log = of(served)

    async def run() -> RollbackError:
        task = asyncio.create_task(log.run())
        while log._count < 3:  # noqa: ASYNC110 - it is the interval that is tested
            await asyncio.sleep(0.01)
        tamper(served.layout.log, "DELETE FROM nodes WHERE level = 1 AND idx = 0")
        return await asyncio.wait_for(task, 60)

    assert "nodes" in str(asyncio.run(run()))


def test_a_log_that_cannot_be_read_is_tried_again(served: Host) -> None:
    log, away = of(served), served.top / "away"
    served.layout.log.rename(away)
    with pytest.raises(StoreError):
        asyncio.run(log.verify())
    assert log.last is not None
    assert log.last.problem

    async def run() -> None:
        task = asyncio.create_task(log.run())
        await asyncio.sleep(0.05)
        away.rename(served.layout.log)
        while log.last is None or log.last.problem:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_progress_is_told(served: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attestd.audit.verify._SEGMENT", 1)
    log = of(served)
    seen = []
    monkeypatch.setattr(log, "_note", lambda done, total: seen.append((done, total)))
    asyncio.run(log.verify())
    size = len(served.entries())
    assert seen[-1] == (size, size)
    assert len(seen) > 1


def test_a_running_agent_finds_what_was_edited_meanwhile(served: Host) -> None:
    """Not at its next start: within the interval."""
    host = served.start(env={"ATTESTD_VERIFY_INTERVAL_S": "1"})
    wait_for("the log is verified", lambda: host.status()["log"]["verified"].get("size"))
    tamper(host.layout.log, "DELETE FROM charges")
    assert host.wait_ended() == 1
    assert "the audit log does not verify" in host.agent_log
    denied(host.exec("/bin/true"), "agent_unavailable", status=69)
