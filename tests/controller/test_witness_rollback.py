"""A witness whose database was taken from an earlier time: noticed at start, while it runs, and by what a log shows."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from attestd.controller.store.engine import Store, migrate
from attestd.controller.store.schema import witness_anchors
from attestd.controller.witness.anchor import claim_anchor, create_anchor, mark_rolled_back
from attestd.errors import MalformedError, RollbackError, StoreError, UsageError
from attestd.tlog.witness import parse_cosignatures
from tests.controller.logs import Log
from tests.controller.running import Controller, PostgreSQL
from tests.controller.test_witness import PATH, start


@pytest.fixture
def log() -> Log:
    made = Log()
    made.grow(30)
    return made


@pytest.fixture
def witness(tmp_path: Path, log: Log) -> Iterator[Controller]:
    with start(tmp_path / "state", "", f"{log.vkey}\n", witness_mldsa=False) as controller:
        yield controller.init().start()


def copy(controller: Controller, to: Path) -> None:
    """What a backup holds: the database."""
    with (
        sqlite3.connect(controller.state / "controller" / "controller.db") as source,
        sqlite3.connect(to) as target,
    ):
        source.backup(target)


def restore(controller: Controller, backup: Path) -> None:
    for path in (controller.state / "controller").glob("controller.db*"):
        path.unlink()
    shutil.copy(backup, controller.state / "controller" / "controller.db")


def ended(controller: Controller) -> str:
    """Starts it; it must end by itself."""
    return controller.attestd("serve", status=1).stderr


def test_a_restored_database_is_refused_at_start(witness: Controller, log: Log, tmp_path: Path) -> None:
    assert witness.post(PATH, log.request(0, 5)).status == 200
    copy(witness, tmp_path / "old.db")
    assert witness.post(PATH, log.request(5, 10)).status == 200
    witness.kill()
    copy(witness, tmp_path / "new.db")
    restore(witness, tmp_path / "old.db")
    for _ in range(2):
        said = ended(witness)
        assert "older than what was cosigned" in said
        assert "restore the newer one" in said
    # With the newer one all is as it was.
    restore(witness, tmp_path / "new.db")
    witness.start()
    assert witness.post(PATH, log.request(0, 30)).body == b"10\n"
    assert witness.post(PATH, log.request(10, 30)).status == 200


def test_the_attack_succeeds_without_anchors(witness: Controller, log: Log, tmp_path: Path) -> None:
    """What the anchors are for: the log is shown with two histories, both cosigned."""
    witness.post(PATH, log.request(0, 5))
    copy(witness, tmp_path / "old.db")
    assert witness.post(PATH, log.request(5, 10)).status == 200
    witness.kill()
    restore(witness, tmp_path / "old.db")
    shutil.rmtree(witness.state / "controller" / "witness-anchors")
    assert "no anchor" in witness.attestd("init", status=64).stderr
    witness.init("--join").start()
    assert witness.post(PATH, log.fork(5).request(5, 10)).status == 200


def test_a_lost_directory_of_anchors_is_no_new_start(witness: Controller) -> None:
    witness.kill()
    shutil.rmtree(witness.state / "controller" / "witness-anchors")
    assert "attestd controller init" in witness.attestd("serve", status=69).stderr
    (witness.state / "controller" / "witness-anchors").mkdir()
    assert "no anchor" in witness.attestd("serve", status=64).stderr


def test_a_new_database_under_old_anchors_is_refused(witness: Controller, log: Log, tmp_path: Path) -> None:
    witness.post(PATH, log.request(0, 5))
    witness.kill()
    for path in (witness.state / "controller").glob("controller.db*"):
        path.unlink()
    witness.init()
    assert "the database has no such anchor" in ended(witness)


def test_a_database_that_is_restored_while_it_runs(witness: Controller, log: Log, tmp_path: Path) -> None:
    witness.post(PATH, log.request(0, 5))
    copy(witness, tmp_path / "old.db")
    witness.post(PATH, log.request(5, 10))
    witness.post(PATH, log.request(10, 12))
    with (
        sqlite3.connect(tmp_path / "old.db") as source,
        sqlite3.connect(witness.state / "controller" / "controller.db") as target,
    ):
        source.backup(target)
    witness.post(PATH, log.fork(5).request(5, 10)).problem(503)
    witness.wait_said("critical witness.rolled_back error=.*older than what was cosigned")
    # From then on nobody is answered, and no restart forgets it.
    witness.post(PATH, log.request(0, 10)).problem(503)
    assert witness.get("/healthz").status == 503
    assert "\nattestd_witness_rolled_back 1\n" in witness.get("/metrics").body.decode()
    witness.kill()
    assert "rolled-back.txt" in ended(witness)


def test_on_postgresql_too(tmp_path: Path, log: Log, pg: PostgreSQL) -> None:
    url = pg.database()
    name = url.partition("@/")[2].partition("?")[0]
    with start(tmp_path / "state", url, f"{log.vkey}\n", witness_mldsa=False) as controller:
        controller.init().start()
        controller.post(PATH, log.request(0, 5))
        old = pg.sql("SELECT anchor, generation FROM witness_anchors", database=name).split("|")
        controller.post(PATH, log.request(5, 10))
        pg.sql(  # nothing in it is anybody's but this test's
            f"UPDATE witness_anchors SET generation = {old[1]} WHERE anchor = '{old[0]}';"  # noqa: S608 - ours
            f"UPDATE witness_logs SET size = 5, root = '\\x{log.root(5).hex()}'",
            database=name,
        )
        controller.post(PATH, log.fork(5).request(5, 10)).problem(503)
        controller.wait_said("witness.rolled_back")


def test_a_log_shows_that_the_database_is_old(witness: Controller, log: Log, tmp_path: Path) -> None:
    """Anchors and database restored together, as with a machine's snapshot: what was cosigned since is the proof."""
    witness.post(PATH, log.request(0, 5))
    witness.kill()
    shutil.copytree(witness.state / "controller", tmp_path / "snapshot")
    witness.start()
    lines = parse_cosignatures(witness.post(PATH, log.request(5, 10)).body)
    witness.kill()
    shutil.rmtree(witness.state / "controller")
    shutil.copytree(tmp_path / "snapshot", witness.state / "controller")
    witness.start()
    assert witness.post(PATH, log.request(10, 20)).body == b"5\n", "the log is told less than it had"
    witness.post(PATH, log.request(5, 10, *lines)).problem(503)
    witness.wait_said("witness.rolled_back error=.*has this witness's cosignature")
    witness.post(PATH, log.request(5, 6)).problem(503)
    witness.kill()
    assert "rolled-back.txt" in ended(witness)


# -- the anchors themselves


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    migrate(url)
    opened = Store.open(url)
    yield opened
    opened.close()


def test_anchors(tmp_path: Path, store: Store) -> None:
    anchors = tmp_path / "anchors"
    create_anchor(anchors, store)
    create_anchor(anchors, store)
    assert len(list(anchors.glob("*.json"))) == 1
    first = claim_anchor(anchors, store)
    second = claim_anchor(anchors, store)  # another process of this place has one of its own
    assert first.name != second.name
    for expected in (1, 2, 3):
        with store.write() as connection:
            found = first.advance(connection)
        first.committed(found)
        assert found == first.generation == expected
    first.close()
    again = claim_anchor(anchors, store)
    assert (again.name, again.generation) == (first.name, 3)
    again.close()
    second.close()


def test_a_crash_between_commit_and_anchor(tmp_path: Path, store: Store) -> None:
    """The database is ahead by one, of which nobody saw anything."""
    anchors = tmp_path / "anchors"
    create_anchor(anchors, store)
    anchor = claim_anchor(anchors, store)
    with store.write() as connection:
        anchor.advance(connection)
    anchor.close()
    again = claim_anchor(anchors, store)
    assert again.generation == 1
    with store.write() as connection:
        assert again.advance(connection) == 2
    again.close()


def test_a_commit_of_which_the_answer_was_lost(tmp_path: Path, store: Store) -> None:
    """As with a connection that ends in the middle of COMMIT: the next transaction goes on from what is there."""
    anchors = tmp_path / "anchors"
    create_anchor(anchors, store)
    anchor = claim_anchor(anchors, store)
    with store.write() as connection:
        anchor.advance(connection)
    with store.write() as connection:
        assert anchor.advance(connection) == 2
    anchor.close()


@pytest.mark.parametrize("which", ["behind", "gone"])
def test_any_anchor_that_is_ahead_is_seen(tmp_path: Path, store: Store, which: str) -> None:
    anchors = tmp_path / "anchors"
    create_anchor(anchors, store)
    first, second = claim_anchor(anchors, store), claim_anchor(anchors, store)
    with store.write() as connection:
        generation = second.advance(connection)
    second.committed(generation)
    with store.write() as connection:
        mine = witness_anchors.c.anchor == second.name
        behind = update(witness_anchors).where(mine).values(generation=0)
        connection.execute(behind if which == "behind" else delete(witness_anchors).where(mine))
    for anchor in (first, second):
        anchor.close()
    with pytest.raises(RollbackError, match="stands at 0" if which == "behind" else "no such anchor"):
        claim_anchor(anchors, store)


def test_what_is_no_anchor(tmp_path: Path, store: Store) -> None:
    anchors = tmp_path / "anchors"
    with pytest.raises(StoreError, match="attestd controller init"):
        claim_anchor(anchors, store)
    anchors.mkdir()
    with pytest.raises(UsageError, match="no anchor"):
        claim_anchor(anchors, store)
    create_anchor(anchors, store)
    [path] = anchors.glob("*.json")
    data = path.read_bytes()
    for wrong in (b"", b"{}", data + b" ", data.replace(b":0", b":-1"), b"x" * 300):
        path.write_bytes(wrong)
        with pytest.raises(MalformedError):
            claim_anchor(anchors, store)
    path.write_bytes(data)
    path.rename(anchors / f"{'0' * 32}.json")
    with pytest.raises(MalformedError, match="under its own name"):
        claim_anchor(anchors, store)
    mark_rolled_back(anchors, "words")
    with pytest.raises(RollbackError, match=r"rolled-back\.txt"):
        claim_anchor(anchors, store)
