# ruff: noqa: S608 - names and values from the tables below
"""A log's file made by someone else: a value of another type in any column of any table, behind the schema's back."""

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from attestd.audit.prove import newest_entries, prove_consistency
from attestd.audit.store import LogStore
from attestd.audit.verify import verify_log
from attestd.errors import MalformedError, StoreError, UsageError, VerificationError
from tests.audit import harness

COLUMNS = {
    "log": ("id", "origin", "host_id", "log_id", "created"),
    "leaves": ("seq", "entry"),
    "nodes": ("level", "idx", "hash"),
    "checkpoints": ("size", "first", "mode", "counter", "note"),
    "charges": ("artifact", "n", "seq"),
    "spooled": ("source", "id", "seq"),
}
VALUES = {
    "null": "NULL",
    "integer": "9223372036854775807",
    "negative": "-1",
    "real": "0.5",
    "text": "'x'",
    "bytes": "x'ff00'",
    "not utf-8": "CAST(x'ff' AS TEXT)",
    "long": "hex(zeroblob(40000))",
}
VERIFIED = ("leaves", "nodes", "checkpoints", "charges")
DOCUMENTED = (MalformedError, VerificationError, StoreError, UsageError)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A sound log."""
    log = harness.Log(tmp_path_factory.mktemp("log") / "log.db")
    spooled = harness.record()
    log.seal([harness.record(), harness.allow()], [spooled, harness.allow(1)])
    log.close()
    return log


def forge(path: Path, table: str, column: str, value: str) -> bool:
    """Sets one column of all rows (of one, where the rows would become the same); whether that changed them."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.text_factory = bytes
        before = db.execute(f"SELECT *, typeof({column}) FROM {table}").fetchall()
        db.text_factory = str
        rows = db.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
        schema = dict(rows)
        db.execute("PRAGMA writable_schema = ON")
        db.execute("PRAGMA ignore_check_constraints = ON")
        for name in schema:
            if name.startswith(f"{table}_no_"):
                db.execute(f"DROP TRIGGER {name}")
        loose = schema[table].replace("STRICT", "").replace(", WITHOUT", "WITHOUT").replace("NOT NULL", "")
        db.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (loose, table))
        db.execute("PRAGMA writable_schema = RESET")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        # Some columns take integers only, whatever the schema says.
        with contextlib.suppress(sqlite3.IntegrityError):
            db.execute(f"UPDATE OR REPLACE {table} SET {column} = {value}")
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (schema[table], table))
        db.execute("PRAGMA writable_schema = RESET")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for name, sql in rows:
            if name.startswith(f"{table}_no_"):
                db.execute(sql)
        db.text_factory = bytes
        return bool(before != db.execute(f"SELECT *, typeof({column}) FROM {table}").fetchall())


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(("table", "column"), [(t, c) for t, columns in COLUMNS.items() for c in columns])
def test_every_column(good: Any, tmp_path: Path, table: str, column: str, value: str) -> None:
    path = tmp_path / "log.db"
    shutil.copy(good.path, path)
    changed = forge(path, table, column, VALUES[value])
    if changed and table in VERIFIED:
        with pytest.raises(DOCUMENTED):
            _verify(path, good)
    for read in (_verify, _read_all, _tail, _prove):
        with contextlib.suppress(*DOCUMENTED):
            read(path, good)


def _verify(path: Path, good: Any) -> None:
    verify_log(str(path), good.keys)


def _read_all(path: Path, _: Any) -> None:
    with contextlib.closing(LogStore.open(str(path), readonly=True)) as store:
        store.tail()
        for seq in range(4):
            store.entry(seq)
            store.receipt(seq)


def _tail(path: Path, _: Any) -> None:
    with contextlib.closing(LogStore.open(str(path), readonly=True)) as store:
        list(newest_entries(store, count=10, follow=False))


def _prove(path: Path, _: Any) -> None:
    with contextlib.closing(LogStore.open(str(path), readonly=True)) as store:
        prove_consistency(store, old_size=2, new_size=4)


def test_forgery_takes_effect(good: Any, tmp_path: Path) -> None:
    """The forger's way past the schema works: the next test of a column is not one of an untouched log."""
    path = tmp_path / "log.db"
    shutil.copy(good.path, path)
    forge(path, "leaves", "entry", "7")
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT typeof(entry) FROM leaves").fetchone() == ("integer",)
    with contextlib.closing(LogStore.open(str(path), readonly=True)) as store:
        assert store.size == 4
