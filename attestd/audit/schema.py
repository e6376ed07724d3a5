"""The schema of the log, and how it came to be.

Append-only is in it: a trigger aborts each UPDATE and DELETE, and each INSERT that would replace a row.
"""

import sqlite3
from typing import Final

__all__ = ["APPLICATION_ID", "MIGRATION_TABLES", "SCHEMA_VERSION", "apply_schema", "objects_of"]

APPLICATION_ID: Final = 0x61747464  # "attd", see file(1)
_TABLES: Final = {
    "log": """CREATE TABLE log (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        origin TEXT NOT NULL,
        host_id TEXT NOT NULL,
        log_id TEXT NOT NULL,
        created TEXT NOT NULL
    ) STRICT""",
    "leaves": """CREATE TABLE leaves (
        seq INTEGER PRIMARY KEY,
        entry BLOB NOT NULL CHECK (length(entry) BETWEEN 2 AND 65535)
    ) STRICT""",
    # Roots of complete subtrees; level 0 is the leaf hashes. No index on them: it would cost a third of the speed of
    # appending, and finding a decision by its id takes 0.2 s in a million without.
    "nodes": """CREATE TABLE nodes (
        level INTEGER NOT NULL,
        idx INTEGER NOT NULL,
        hash BLOB NOT NULL CHECK (length(hash) = 32),
        PRIMARY KEY (level, idx)
    ) STRICT, WITHOUT ROWID""",
    # One batch each: the leaves [first, size). The counter is 16 hex digits: SQLite has no unsigned 64-bit integer.
    "checkpoints": """CREATE TABLE checkpoints (
        size INTEGER PRIMARY KEY,
        first INTEGER NOT NULL CHECK (first < size),
        mode TEXT NOT NULL CHECK (mode IN ('release', 'record')),
        counter TEXT NOT NULL CHECK (length(counter) = 16),
        note BLOB NOT NULL
    ) STRICT""",
    # Use n of an artifact went to the decision.allow at seq.
    "charges": """CREATE TABLE charges (
        artifact TEXT NOT NULL,
        n INTEGER NOT NULL CHECK (n >= 1),
        seq INTEGER NOT NULL,
        PRIMARY KEY (artifact, n)
    ) STRICT, WITHOUT ROWID""",
    # What the runner spooled is sealed once, however often it is delivered.
    "spooled": """CREATE TABLE spooled (
        source TEXT NOT NULL,
        id INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (source, id)
    ) STRICT, WITHOUT ROWID""",
}
_TABLES_V2: Final = {
    # Of the log that this one continues: how often artifacts were used, and what of the runner's spool was sealed.
    "carried_uses": """CREATE TABLE carried_uses (
        artifact TEXT PRIMARY KEY,
        n INTEGER NOT NULL CHECK (n >= 1)
    ) STRICT, WITHOUT ROWID""",
    "carried_spool": """CREATE TABLE carried_spool (
        source TEXT NOT NULL,
        id INTEGER NOT NULL,
        PRIMARY KEY (source, id)
    ) STRICT, WITHOUT ROWID""",
}
_TABLES_V4: Final = {
    # What witnesses signed under a checkpoint, a line each, as it stands in the note. It may come at any time, or never.
    "cosignatures": """CREATE TABLE cosignatures (
        size INTEGER NOT NULL,
        name TEXT NOT NULL,
        key TEXT NOT NULL CHECK (length(key) = 8),
        line TEXT NOT NULL,
        PRIMARY KEY (size, name, key)
    ) STRICT, WITHOUT ROWID""",
}
_INDEXES: Final = {
    "charge_by_seq": "CREATE UNIQUE INDEX charge_by_seq ON charges (seq)",
}
_INDEXES_V3: Final = {
    # A use of a delegated artifact is also one of each above it.
    "charge_of_seq": "CREATE UNIQUE INDEX charge_of_seq ON charges (seq, artifact)",
}
# By which columns a row would be replaced. Not of nodes, for speed: they follow from the leaves.
_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "log": ("id",),
    "leaves": ("seq",),
    "nodes": (),
    "checkpoints": ("size",),
    "charges": ("artifact", "n"),
    "spooled": ("source", "id"),
}
_KEYS_V2: Final[dict[str, tuple[str, ...]]] = {
    "carried_uses": ("artifact",),
    "carried_spool": ("source", "id"),
}
_KEYS_V4: Final[dict[str, tuple[str, ...]]] = {"cosignatures": ("size", "name", "key")}


def _triggers(keys: dict[str, tuple[str, ...]]) -> dict[str, str]:
    triggers = {}
    for table, key in keys.items():
        for verb in ("UPDATE", "DELETE"):
            name = f"{table}_no_{verb.lower()}"
            triggers[name] = (
                f"CREATE TRIGGER {name} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        if not key:
            continue
        # INSERT OR REPLACE deletes without asking the DELETE trigger (unless recursive_triggers is on).
        same = " AND ".join(f"{column} = NEW.{column}" for column in key)
        name = f"{table}_no_replace"
        triggers[name] = (
            f"CREATE TRIGGER {name} BEFORE INSERT ON {table} "  # noqa: S608 - names from the table above
            f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {same}) "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )
    return triggers


# Where sqlite-utils notes which migrations were applied.
MIGRATION_TABLES: Final = {
    "_sqlite_migrations": """CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
)""",
    "idx__sqlite_migrations_migration_set_name": """CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name")""",
}
# What each version of the schema added. None is ever edited: logs that were made by it are out there.
_ADDED: Final[dict[int, dict[str, str]]] = {
    1: {**_TABLES, **_INDEXES, **_triggers(_KEYS)},
    2: {**_TABLES_V2, **_triggers(_KEYS_V2)},
    3: _INDEXES_V3,
    4: {**_TABLES_V4, **_triggers(_KEYS_V4)},
}
# Which indices of earlier versions a version has no more. Tables and triggers stay.
_DROPPED: Final[dict[int, tuple[str, ...]]] = {3: ("charge_by_seq",)}
SCHEMA_VERSION: Final = max(_ADDED)


def objects_of(version: int) -> dict[str, str]:
    """All that a version consists of: SQL by name."""
    versions = range(1, version + 1)
    dropped = {name for later in versions for name in _DROPPED.get(later, ())}
    added = {name: sql for one in versions for name, sql in _ADDED[one].items()}
    return {name: sql for name, sql in added.items() if name not in dropped}


def apply_schema(connection: sqlite3.Connection) -> None:
    """Brings an empty file, or a log of an earlier version, to this schema."""
    # Imported here, not by everyone who opens a log: it costs 0.1 s and some megabytes.
    from sqlite_utils import Database, Migrations  # noqa: PLC0415

    migrations = Migrations("attestd.audit")

    def add(db: Database, version: int) -> None:
        for name in _DROPPED.get(version, ()):
            db.execute(f"DROP INDEX {name}")
        for statement in _ADDED[version].values():
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {version}")

    @migrations()
    def v1(db: Database) -> None:
        add(db, 1)

    @migrations()
    def v2(db: Database) -> None:
        add(db, 2)

    @migrations()
    def v3(db: Database) -> None:
        add(db, 3)

    @migrations()
    def v4(db: Database) -> None:
        add(db, 4)

    migrations.apply(Database(connection, execute_plugins=False))  # plugins are code from anywhere
