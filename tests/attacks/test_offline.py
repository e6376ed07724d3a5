"""Somebody with the disk while the host is off: edits, truncates, rolls back, clones. And with another kernel on this TPM.

What is edited byte by byte is in tests/audit; here it is the whole host that boots again on what was left for it.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from attestd.audit import schema
from attestd.errors import RollbackError, StoreError
from attestd.runner.claims import Claims

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
    schema.create(str(path), origin="o", host_id="h", log_id="l", created="2026-01-31T12:00:00Z")
    plant(path, *TRIGGERS[which])
    with monkeypatch.context() as weakened:
        weakened.setattr(schema, "_check_schema", lambda *_: None)
        with closing(schema.open_log(str(path))) as log:
            log.execute("INSERT INTO charges (artifact, n, seq) VALUES ('a', 1, 0)")
            assert log.execute("SELECT count(*) FROM charges").fetchone() == (0,), "the use was not counted"
    for open_ in (schema.open_log, schema.open_log_readonly):
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
