"""Rotation: uses go on being counted, receipts go on verifying, and at no moment is there no log, or are there two."""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from attestd.agent import rotate as agent_rotate
from attestd.agent.exclusive import exclusive
from attestd.agent.rotate import Rotated, rotate
from attestd.audit import rotate as audit_rotate
from attestd.audit.shards import predecessors, verify_shards
from attestd.audit.store import LogStore
from attestd.errors import RollbackError, StoreError, UsageError
from attestd.lineage.entry import EntryType
from tests.agent.test_exec import denied
from tests.agent.test_verification import tamper
from tests.audit.test_schema import make_v1
from tests.cli.conftest import Cli, cli_of
from tests.host import Host


@pytest.fixture
def once() -> Iterator[tuple[Host, bytes]]:
    """A host that used an artifact for two once, stopped."""
    with Host.create() as host:
        host.start()
        artifact = host.issue("/bin/true", max_uses=2)
        assert host.exec("/bin/true", authorization=artifact).status == 0
        host.wait_settled()
        assert host.stop() == 0
        yield host, artifact


@pytest.fixture
def cli(once: tuple[Host, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return cli_of(once[0], tmp_path, monkeypatch)


def close(host: Host, name: str = "export") -> Rotated:
    return rotate(host.layout, host.configuration, host.top / name)


def test_uses_that_were_charged_in_the_old_log_still_count(once: tuple[Host, bytes]) -> None:
    """By the agent, whatever the runner remembers."""
    host, artifact = once
    close(host)
    host.start()
    assert host.exec("/bin/true", authorization=artifact).status == 0
    denied(host.exec("/bin/true", authorization=artifact), "uses_exhausted")
    host.wait_settled()
    assert host.stop() == 0
    close(host, "again")
    host.start()
    denied(host.exec("/bin/true", authorization=artifact), "uses_exhausted")
    host.verify_log()


def test_everything_goes_on_verifying(once: tuple[Host, bytes], cli: Cli) -> None:
    host, artifact = once
    allow = host.entries(EntryType.DECISION_ALLOW)[0]
    receipt, size = host.receipt(allow.seq), len(host.entries())
    done = cli.ok("audit", "rotate", "export", "--json").json
    shard = Path(done["kept"])
    assert (done["entries"], stat.S_IMODE(shard.stat().st_mode)) == (size, 0o400)
    assert os.listdir(host.layout.agent).count("log.db") == 1
    assert not [name for name in os.listdir(host.layout.agent) if name.endswith((".next", "-wal"))]
    first = host.entries()[0]
    assert first.type is EntryType.LOG_START
    assert first.body["previous"]["origin"] == done["closed"]
    assert first.body["previous"]["size"] == size
    assert host.verify_receipt(receipt).leaf == allow.id
    for log in ("export", shard):
        assert cli.ok("verify", "log", log, "--trust", host.layout.trust, "--json").json["size"] == size
    found = cli.ok("audit", "verify", "--json").json
    assert found["closed"] == [{"origin": done["closed"], "size": size, "verified": True}]
    assert "closed log" in cli.ok("audit", "show", allow.id, "--json").json["source"]
    assert "closed log" in cli.ok("why", allow.id).stderr
    missing = cli("audit", "show", str(allow.seq + 1))
    assert (missing.status, "logs that were closed" in missing.stderr) == (64, True)
    host.start()
    assert "closed log" in cli.ok("audit", "show", allow.id, "--json").json["source"], "also beside an agent"
    assert host.exec("/bin/true", authorization=artifact).status == 0
    host.wait_settled()
    shard.rename(host.top / "archived")
    kept = cli.ok("audit", "verify")
    assert "not kept here" in kept.stdout


def test_the_agent_must_be_stopped_and_the_export_new(once: tuple[Host, bytes]) -> None:
    host, _ = once
    (host.top / "export").mkdir()
    with pytest.raises(UsageError, match="exists"):
        close(host)
    host.start()
    with pytest.raises(UsageError, match="running"):
        close(host, "other")


def test_what_a_crash_left_is_settled_first(once: tuple[Host, bytes]) -> None:
    host, _ = once
    host.start("--crash", "committed:2", wait=True)
    with contextlib.suppress(AssertionError):
        host.run("/bin/true")
    host.wait_ended()
    with pytest.raises(UsageError, match="stop it in order"):
        close(host)
    host.start()
    host.wait_settled()
    host.stop()
    close(host)
    host.start()
    host.require_sound()


@pytest.mark.parametrize("step", ["draft_next", "seal", "link", "rename", "chmod"])
def test_cut_off_anywhere_it_is_finished_or_has_not_happened(
    once: tuple[Host, bytes], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, artifact = once

    class Cut(BaseException):
        pass

    def cut(*_: object, **__: object) -> None:
        raise Cut

    with monkeypatch.context() as patch:
        if step == "seal":
            patch.setattr(agent_rotate.Sealer, "seal", cut)
        elif step == "draft_next":
            patch.setattr(LogStore, "carry", cut)
        else:
            patch.setattr(audit_rotate, "os", SimpleNamespace(**{**vars(os), step: cut}))
        with pytest.raises(Cut):
            close(host)
    host.start()
    assert host.exec("/bin/true", authorization=artifact).status == 0
    denied(host.exec("/bin/true", authorization=artifact), "uses_exhausted")
    host.wait_settled()
    rotated = len(list(predecessors(host.layout.log)))
    assert rotated == (0 if step in ("draft_next", "seal") else 1)
    assert not [name for name in os.listdir(host.layout.agent) if ".next" in name]
    for before, verified in verify_shards(host.layout.log, trust=host.trust):
        assert verified is not None, before
    host.verify_log()


def test_a_new_log_that_does_not_continue_the_old_one_is_not_taken(once: tuple[Host, bytes]) -> None:
    host, _ = once
    shutil.copy(host.layout.log, f"{host.layout.log}.next")
    with pytest.raises(RollbackError, match="does not continue"), exclusive(host.layout):
        pass
    assert "does not continue" in host.start(wait=False).agent_log or host.wait_ended() == 1


@pytest.mark.parametrize("table", ["carried_uses", "charges"])
def test_uses_that_were_edited_are_found(once: tuple[Host, bytes], table: str) -> None:
    """In the new log, by its first leaf; in the closed one, by its own leaves."""
    host, _ = once
    done = close(host)
    if table == "charges":
        os.chmod(done.shard, 0o600)
        tamper(done.shard, "DELETE FROM charges")
        with pytest.raises(RollbackError):
            verify_shards(host.layout.log, trust=host.trust)
    else:
        tamper(host.layout.log, "UPDATE carried_uses SET n = 0 + 5")
        with pytest.raises(RollbackError, match="took over"):
            host.verify_log()


def test_another_log_in_the_place_of_the_closed_one_is_found(once: tuple[Host, bytes]) -> None:
    """A shorter copy of it verifies by itself, but it is not what is continued."""
    host, _ = once
    shorter = host.top / "shorter"
    shutil.copy(host.layout.log, shorter)
    host.start()
    host.stop()
    done = close(host)
    os.chmod(done.shard, 0o600)
    shutil.copy(shorter, done.shard)
    with pytest.raises(RollbackError, match="is not the log that is continued"):
        verify_shards(host.layout.log, trust=host.trust)


def test_what_was_spooled_is_carried(once: tuple[Host, bytes]) -> None:
    """Delivered again after a rotation, it is not sealed again."""
    host, _ = once
    with contextlib.closing(LogStore.open(str(host.layout.log), readonly=True)) as store:
        sealed = list(store.to_carry().spool)
    assert sealed
    close(host)
    with contextlib.closing(LogStore.open(str(host.layout.log))) as store:
        assert list(store.carried().spool) == sealed
        with pytest.raises(StoreError):
            store.carry(store.carried())


def test_an_agent_brings_an_older_log_to_its_schema(once: tuple[Host, bytes]) -> None:
    """Upgrade: as docs/operations.md tells it."""
    host, artifact = once
    make_v1(str(host.layout.log))
    host.start()
    assert host.exec("/bin/true", authorization=artifact).status == 0
    host.wait_settled()
    host.require_sound()
    assert host.layout.log.with_name("log.db.v1").exists()


def test_init_brings_an_older_log_to_its_schema(once: tuple[Host, bytes], cli: Cli) -> None:
    host, _ = once
    make_v1(str(host.layout.log))
    assert cli.ok("init", "--json").json["fresh"] is False
    host.verify_log()
