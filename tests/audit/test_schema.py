# ruff: noqa: S608 - the statements are made of what stands in this file
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from attestd.audit import files, schema
from attestd.errors import RollbackError, StoreError
from tests.audit.harness import Log

TABLES = (
    "log",
    "leaves",
    "nodes",
    "checkpoints",
    "charges",
    "spooled",
    "carried_uses",
    "carried_spool",
    "cosignatures",
)


def _create(path: Path) -> None:
    files.create(str(path), origin="o", host_id="h", log_id="l", created="2026-01-31T12:00:00Z")


def _raw(log: Log, statement: str) -> None:
    connection = sqlite3.connect(log.path, isolation_level=None)
    try:
        connection.execute(statement)
    finally:
        connection.close()


def test_create_makes_a_private_file_and_leaves_nothing_beside_it(tmp_path: Path):
    _create(tmp_path / "log.db")
    assert os.listdir(tmp_path) == ["log.db"]
    assert stat.S_IMODE((tmp_path / "log.db").stat().st_mode) == 0o600


def test_create_never_touches_an_existing_log(tmp_path: Path):
    path = tmp_path / "log.db"
    path.write_bytes(b"someone's evidence")
    with pytest.raises(StoreError, match="cannot create"):
        _create(path)
    assert path.read_bytes() == b"someone's evidence"


def test_create_succeeds_after_a_crash_in_create(tmp_path: Path):
    (tmp_path / "log.db.new").write_bytes(b"half a database")
    _create(tmp_path / "log.db")
    files.open_log(str(tmp_path / "log.db")).close()


def test_create_says_that_the_directory_is_missing(tmp_path: Path):
    with pytest.raises(StoreError, match="No such file"):
        _create(tmp_path / "no" / "log.db")


def test_the_connection_is_durable_and_trusts_no_schema(tmp_path: Path):
    path = str(tmp_path / "odd ?name#%41.db")
    _create(Path(path))
    connection = files.open_log(path)
    found = {
        name: connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "trusted_schema", "recursive_triggers")
    }
    connection.close()
    assert found == {"journal_mode": "wal", "synchronous": 2, "trusted_schema": 0, "recursive_triggers": 1}


def test_every_table_is_strict(log: Log):
    rows = log.open()._connection.execute("SELECT name, strict FROM pragma_table_list WHERE schema = 'main'")
    assert {name for name, strict in rows if strict} == set(TABLES)


CARRIED = {
    "spooled": "INSERT INTO spooled VALUES ('runner', 1, 0)",
    "carried_uses": "INSERT INTO carried_uses VALUES ('a', 1)",
    "carried_spool": "INSERT INTO carried_spool VALUES ('runner', 1)",
    "cosignatures": "INSERT INTO cosignatures VALUES (1, 'w', '00000000', '')",
}


@pytest.mark.parametrize("table", TABLES)
def test_update_and_delete_are_aborted(started: Log, table: str):
    if table in CARRIED:
        _raw(started, CARRIED[table])
    columns = {"log": "origin", "leaves": "entry", "nodes": "hash", "checkpoints": "note"}
    column = {**columns, "carried_uses": "n", "carried_spool": "id", "cosignatures": "line"}.get(table, "seq")
    for statement in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"):
        with pytest.raises(sqlite3.IntegrityError, match=f"{table} is append-only"):
            _raw(started, statement)


@pytest.mark.parametrize("table", [table for table in TABLES if table != "nodes"])
def test_replace_is_aborted(started: Log, table: str):
    if table in CARRIED:
        _raw(started, CARRIED[table])
    with pytest.raises(sqlite3.IntegrityError, match=f"{table} is append-only"):
        _raw(started, f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DROP TRIGGER leaves_no_delete", "leaves_no_delete"),
        ("CREATE TRIGGER mine AFTER INSERT ON leaves BEGIN SELECT 1; END", "mine"),
        ("CREATE VIEW mine AS SELECT 1", "mine"),
        ("CREATE TABLE mine (x)", "mine"),
        ("CREATE INDEX mine ON leaves (entry)", "mine"),
        ("DROP TABLE charges", "charge_of_seq, charges"),
        ("PRAGMA journal_mode = DELETE", "journal mode"),
    ],
)
def test_an_edited_schema_is_refused(log: Log, statement: str, message: str):
    _raw(log, statement)
    for open_ in (files.open_log, files.open_log_readonly):
        with pytest.raises(RollbackError, match=message):
            open_(log.path)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("PRAGMA user_version = 5", "schema version 5, this attestd reads version 4"),
        ("PRAGMA application_id = 1", "not an attestd audit log"),
    ],
)
def test_another_schema_is_refused(log: Log, statement: str, message: str):
    _raw(log, statement)
    with pytest.raises(StoreError, match=message):
        files.open_log(log.path)


def test_what_is_no_database_is_refused(tmp_path: Path):
    (tmp_path / "log.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    for name in ("log.db", "missing.db"):
        with pytest.raises(StoreError, match="cannot open"):
            files.open_log(str(tmp_path / name))


def test_readonly_writes_nothing(log: Log):
    connection = files.open_log_readonly(log.path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("INSERT INTO leaves VALUES (0, x'7b7d')")
    connection.close()


def make_v1(path: str) -> None:
    """Takes a log back to what attestd 0.1 made before it knew rotation."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for table in ("carried_uses", "carried_spool", "cosignatures"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("DROP INDEX charge_of_seq")
        connection.execute(schema._ADDED[1]["charge_by_seq"])
        connection.execute("DELETE FROM _sqlite_migrations WHERE name > 'v1'")
        connection.execute("PRAGMA user_version = 1")
    finally:
        connection.close()


def test_a_log_of_version_1_is_migrated_and_a_copy_kept(started: Log):
    before = started.verify()
    make_v1(started.path)
    for open_ in (files.open_log, files.open_log_readonly):
        with pytest.raises(StoreError, match="schema version 1, this attestd reads version 4: attestd serve"):
            open_(started.path)
    old = Path(started.path).read_bytes()
    assert files.migrate(started.path) == 1
    after = started.verify()
    assert (after.size, after.root, after.types) == (before.size, before.root, before.types)
    copy = f"{started.path}.v1"
    assert stat.S_IMODE(os.stat(copy).st_mode) == 0o600
    with pytest.raises(StoreError, match="schema version 1"):
        files.open_log_readonly(copy)
    assert len(old) <= os.path.getsize(copy) <= os.path.getsize(started.path)
    assert files.migrate(copy) == 1, "the copy is as good as the log was"
    assert files.migrate(started.path) is None


def test_a_newer_log_is_refused_and_left_alone(started: Log):
    _raw(started, "PRAGMA user_version = 5")
    before = Path(started.path).read_bytes()
    with pytest.raises(StoreError, match=r"schema version 5.*newer attestd"):
        files.migrate(started.path)
    assert Path(started.path).read_bytes() == before
    assert not os.path.exists(f"{started.path}.v5")


def test_an_edited_log_is_not_migrated(started: Log):
    make_v1(started.path)
    _raw(started, "DROP TRIGGER leaves_no_delete")
    with pytest.raises(RollbackError, match="leaves_no_delete"):
        files.migrate(started.path)


def test_a_migration_that_is_cut_off_has_not_happened(started: Log, monkeypatch: pytest.MonkeyPatch):
    make_v1(started.path)
    added = {**schema._ADDED, 2: {**schema._ADDED[2], "broken": "CREATE NONSENSE"}}
    with monkeypatch.context() as patch:
        patch.setattr(schema, "_ADDED", added)
        with pytest.raises(StoreError, match="cannot migrate"):
            files.migrate(started.path)
    assert files.migrate(started.path) == 1
    started.verify()
