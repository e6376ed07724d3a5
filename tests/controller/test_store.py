"""The store, the same on SQLite and PostgreSQL."""

import contextlib
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, select, text

from attestd.controller.store.engine import FRESH_S, Store, migrate
from attestd.controller.store.schema import METADATA, witness_anchors
from attestd.errors import StoreError, UsageError
from tests.controller.running import PostgreSQL


def test_migrations_give_the_schema(url: str) -> None:
    assert migrate(url)
    assert not migrate(url)
    store = Store.open(url)
    with store.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    store.close()


def test_a_transaction_is_whole_or_not_at_all(url: str) -> None:
    migrate(url)
    store = Store.open(url)
    with store.write() as connection:
        connection.execute(insert(witness_anchors), [{"anchor": "a", "generation": 1}])
    with contextlib.suppress(ZeroDivisionError), store.write() as connection:
        connection.execute(insert(witness_anchors), [{"anchor": "b", "generation": 1}])
        raise ZeroDivisionError
    with (
        pytest.raises(StoreError, match="constraint"),
        store.write() as connection,
    ):
        connection.execute(insert(witness_anchors), [{"anchor": "c", "generation": -1}])
    with store.read() as connection:
        assert connection.execute(select(witness_anchors)).all() == [("a", 1)]
    store.close()


def test_who_reads_waits_for_nobody_who_writes(url: str) -> None:
    migrate(url)
    store = Store.open(url)
    with store.write() as connection:
        connection.execute(insert(witness_anchors), [{"anchor": "a", "generation": 1}])
        with store.read() as other:  # else it would wait for itself, until that is refused
            assert other.execute(select(witness_anchors)).all() == []
    store.close()


def test_a_connection_that_was_cut_while_idle_is_replaced(pg: PostgreSQL) -> None:
    url = pg.database()
    migrate(url)
    store, other = Store.open(url), Store.open(url)
    with store.read() as connection:
        [process] = connection.execute(text("SELECT pg_backend_pid()")).scalars()
    with other.read() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:process)"), {"process": process})
    time.sleep(FRESH_S)
    with store.read() as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != process
    store.close()
    other.close()


def test_a_database_of_another_schema_is_refused(url: str, tmp_path: Path) -> None:
    if url.startswith("sqlite"):
        with pytest.raises(StoreError, match="no database: attestd controller init"):
            Store.open(url)
        (tmp_path / "test.db").touch()
    with pytest.raises(StoreError, match="schema none, expected"):
        Store.open(url)
    migrate(url)
    store = Store.open(url)
    with store.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    store.close()
    with pytest.raises(StoreError, match="schema 9999, expected"):
        Store.open(url)
    with pytest.raises(StoreError, match="newer version"):
        migrate(url)


@pytest.mark.parametrize(
    "wrong", ["", "x", "mysql://h/d", "sqlite://", "sqlite+aiosqlite:///x", "postgresql+psycopg://"]
)
def test_what_is_no_database(wrong: str) -> None:
    with pytest.raises(UsageError, match="expected sqlite:///PATH"):
        migrate(wrong)


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as found:
        Store.open(f"postgresql://someone:secret@/none?host={tmp_path}")
    assert "secret" not in str(found.value)
    assert "someone" in str(found.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database" * 100)
    for use in (migrate, Store.open):
        with pytest.raises(StoreError, match="not a database"):
            use(f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(StoreError, match="No such file"):
        migrate(f"sqlite:///{tmp_path}/none/x.db")


def test_what_is_committed_is_durable(url: str, pg: PostgreSQL) -> None:
    """Whatever the server's default is: what was answered must not be lost."""
    if not url.startswith("sqlite"):
        pg.sql("ALTER ROLE attestd SET synchronous_commit = off")
    migrate(url)
    store = Store.open(url)
    try:
        with store.read() as connection:
            if store.is_sqlite:
                assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
                assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
            else:
                assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    finally:
        store.close()
        pg.sql("ALTER ROLE attestd RESET synchronous_commit")


_CONTEXT = multiprocessing.get_context("spawn")


def _migrate(url: str, done: "multiprocessing.queues.Queue[bool]") -> None:
    done.put(migrate(url))


def test_several_make_the_schema_at_the_same_time(url: str) -> None:
    done = _CONTEXT.Queue()
    processes = [_CONTEXT.Process(target=_migrate, args=(url, done)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(done.get(timeout=60) for _ in range(3)) == [False, False, True]


def _count(url: str, path: str) -> None:
    """Counts in the database, and says each number once it is committed."""
    store = Store.open(url)
    with open(path, "ab", buffering=0) as said:
        for number in range(1_000_000):
            with store.write() as connection:
                connection.execute(insert(witness_anchors), [{"anchor": f"n{number}", "generation": number}])
            said.write(b"%d\n" % number)


def test_killed_at_any_moment_nothing_is_lost(url: str, tmp_path: Path) -> None:
    migrate(url)
    said = tmp_path / "said"
    process = _CONTEXT.Process(target=_count, args=(url, str(said)))
    process.start()
    assert process.pid is not None
    deadline = time.monotonic() + 60
    while not said.exists() or said.stat().st_size < 60:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    numbers = [int(line) for line in said.read_bytes().split()]
    store = Store.open(url)
    with store.read() as connection:
        kept = {number for _, number in connection.execute(select(witness_anchors))}
    store.close()
    assert set(numbers) <= kept
    assert kept <= {*numbers, len(numbers)}
