"""The runner's own durable record: what was released once, how often, and what is still to be told to the log.

A receipt is used up by its row here, committed (fsync) before anything runs. Nothing in this file trusts the agent.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from attestd.codes import Code, Denied
from attestd.errors import StoreError
from attestd.gate.release import VerifiedRelease
from attestd.lineage.entry import EntryType
from attestd.strict import canonical

__all__ = ["Claims", "Ran", "Spooled", "Unfinished", "read_ran"]

_APPLICATION_ID: Final = 0x61747264
_SCHEMA: Final = """
CREATE TABLE claims (
    log_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('claimed', 'started', 'ended', 'void', 'forfeited')),
    time TEXT NOT NULL,
    reference TEXT NOT NULL,
    process TEXT,
    PRIMARY KEY (log_id, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX unfinished ON claims (state) WHERE state IN ('claimed', 'started');
CREATE TABLE uses (artifact TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE identity (spool TEXT NOT NULL) STRICT;
INSERT INTO identity VALUES (lower(hex(randomblob(16))));
CREATE TABLE spool (id INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT NOT NULL, body BLOB NOT NULL) STRICT;
PRAGMA user_version = 1;
"""


def _schema(connection: sqlite3.Connection) -> Counter[tuple[str, str | None]]:
    return Counter(connection.execute("SELECT name, sql FROM sqlite_schema").fetchall())


@cache
def _expected_schema() -> Counter[tuple[str, str | None]]:
    """Of a new record: SQLite adds some of its own to what `_SCHEMA` says."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_SCHEMA)
        return _schema(connection)


@dataclass(frozen=True, slots=True)
class Spooled:
    """Something that belongs in the log and is not known to be there."""

    id: int
    type: EntryType
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A claim that was neither ended nor void when the runner stopped.

    Attributes:
        reference: The members that join entries to the decision: request, log_id, seq, leaf, artifact.
        process: What `record_started` was given; None if the claim never came that far.
    """

    log_id: str
    seq: int
    reference: dict[str, Any]
    process: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Ran:
    """A receipt by which a command was started.

    Attributes:
        leaf: The decision's id, hex.
        time: When it was claimed, for people.
    """

    log_id: str
    seq: int
    leaf: str
    time: str


def read_ran(path: Path) -> list[Ran]:
    """Everything that was ever started, by log and seq. For whoever may read the runner's record, also while it runs.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT log_id, seq, json_extract(reference, '$.leaf'), time FROM claims"
                " WHERE state IN ('started', 'ended') ORDER BY log_id, seq"
            )
            return [Ran(*row) for row in rows]
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from error


class Claims:
    """One SQLite file, one writer.

    Attributes:
        spool_id: Random, made with the file: spooled ids are unique together with it.
    """

    def __init__(self, path: Path) -> None:
        """Opens the record, or creates it.

        Raises:
            StoreError: It cannot be opened, or is something else.
        """
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._db.executescript(f"BEGIN; PRAGMA application_id = {_APPLICATION_ID}; {_SCHEMA} COMMIT;")
            elif version != 1 or self._db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
                raise StoreError(f"{path}: not a runner's record of version 1")
            elif _schema(self._db) != _expected_schema():
                # A trigger there would be asked at each claim, by the process that must count uses.
                raise StoreError(f"{path}: its schema was edited: restore it from a backup")
            self.spool_id = str(self._db.execute("SELECT spool FROM identity").fetchone()[0])
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {error}") from error

    def close(self) -> None:
        """Closes the record."""
        self._db.close()

    def claim(self, release: VerifiedRelease, reference: dict[str, Any], *, now: str) -> None:
        """Uses up a receipt, and one use of its artifact and of each above it: all, or none.

        It survives the end of this process when it returns, and a power cut at the latest when `record_started`
        returns, before which nothing runs. (After a power cut the receipt is of another boot in any case.)

        Args:
            release: What may run.
            reference: Members of every entry about it.
            now: When, for people.

        Raises:
            Denied: `identity_mismatch`: the receipt was used or forfeited. `uses_exhausted`: the artifact's uses are.
            StoreError: It could not be recorded; nothing may run.
        """
        with self._transaction(flush=False):
            if self._state(release.log_id, release.seq) is not None:
                raise Denied(
                    Code.IDENTITY_MISMATCH,
                    f"the receipt of leaf {release.seq} was used before, or given up",
                    "every execution needs a decision of its own",
                )
            for artifact, most in (*release.above, (release.artifact_id, release.max_uses)):
                self._use(artifact, most)
            self._db.execute(
                "INSERT INTO claims VALUES (?, ?, 'claimed', ?, ?, NULL)",
                (release.log_id, release.seq, now, canonical(reference).decode()),
            )

    def forfeit(self, log_id: str, seq: int, *, now: str) -> bool:
        """Makes sure that a receipt never runs.

        Returns:
            True if it never can; False if it was claimed before.

        Raises:
            StoreError: It could not be recorded.
        """
        with self._transaction():
            state = self._state(log_id, seq)
            if state is None:
                self._db.execute(
                    "INSERT INTO claims VALUES (?, ?, 'forfeited', ?, '{}', NULL)", (log_id, seq, now)
                )
            return state in (None, "forfeited")

    def record_started(self, log_id: str, seq: int, *, process: dict[str, Any], body: dict[str, Any]) -> None:
        """Records that a claim is about to run: committed before it does, so a claim without it never ran.

        Raises:
            StoreError: It could not be recorded; nothing may run.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE claims SET state = 'started', process = ? WHERE log_id = ? AND seq = ?",
                (canonical(process).decode(), log_id, seq),
            )
            self._spool(EntryType.EXECUTION_START, body)

    def record_end(self, log_id: str, seq: int, *, type_: EntryType, body: dict[str, Any]) -> None:
        """Records how a claim ended: `execution.exit`, or `decision.void` if it never started.

        Raises:
            StoreError: It could not be recorded.
        """
        state = "void" if type_ is EntryType.DECISION_VOID else "ended"
        with self._transaction():
            self._db.execute("UPDATE claims SET state = ? WHERE log_id = ? AND seq = ?", (state, log_id, seq))
            self._spool(type_, body)

    def unfinished(self) -> list[Unfinished]:
        """Claims that were running, or about to, when the last runner stopped.

        Raises:
            StoreError: The record cannot be read.
        """
        with self._transaction():
            rows = self._db.execute(
                "SELECT log_id, seq, reference, process FROM claims WHERE state IN ('claimed', 'started')"
            ).fetchall()
        return [
            Unfinished(log_id, seq, json.loads(reference), None if process is None else json.loads(process))
            for log_id, seq, reference, process in rows
        ]

    def last_claim(self) -> str | None:
        """When a receipt was last claimed, RFC 3339; None if none ever was. Not what was merely forfeited.

        Raises:
            StoreError: The record cannot be read.
        """
        with self._transaction():  # of each log the newest: there are few logs, and may be many claims
            (found,) = self._db.execute(
                "WITH RECURSIVE logs (id) AS (SELECT min(log_id) FROM claims UNION ALL"
                " SELECT (SELECT min(log_id) FROM claims WHERE log_id > id) FROM logs WHERE id IS NOT NULL)"
                " SELECT max((SELECT time FROM claims WHERE log_id = id AND state <> 'forfeited'"
                " ORDER BY seq DESC LIMIT 1)) FROM logs"
            ).fetchone()
        return None if found is None else str(found)

    def spooled(self, limit: int) -> list[Spooled]:
        """The oldest entries that the log is not known to have.

        Raises:
            StoreError: The record cannot be read.
        """
        with self._transaction():
            rows = self._db.execute(
                "SELECT id, type, body FROM spool ORDER BY id LIMIT ?", (limit,)
            ).fetchall()
        return [Spooled(id_, EntryType(type_), json.loads(body)) for id_, type_, body in rows]

    def acknowledge(self, up_to: int) -> None:
        """Forgets entries that are in the log. Ids are never used again: what a power cut brings back the log knows.

        Raises:
            StoreError: It could not be recorded.
        """
        with self._transaction(flush=False):
            self._db.execute("DELETE FROM spool WHERE id <= ?", (up_to,))

    def _state(self, log_id: str, seq: int) -> str | None:
        row = self._db.execute(
            "SELECT state FROM claims WHERE log_id = ? AND seq = ?", (log_id, seq)
        ).fetchone()
        return None if row is None else str(row[0])

    def _use(self, artifact: str, most: int | None) -> None:
        row = self._db.execute("SELECT count FROM uses WHERE artifact = ?", (artifact,)).fetchone()
        used = 0 if row is None else row[0]
        if most is not None and used >= most:
            raise Denied(
                Code.USES_EXHAUSTED,
                f"artifact {artifact}: this would be use {used + 1} of {most}, as the runner counts",
                "ask for a new authorization",
            )
        self._db.execute(
            "INSERT INTO uses VALUES (?, 1) ON CONFLICT (artifact) DO UPDATE SET count = count + 1",
            (artifact,),
        )

    def _spool(self, type_: EntryType, body: dict[str, Any]) -> None:
        self._db.execute("INSERT INTO spool (type, body) VALUES (?, ?)", (type_.value, canonical(body)))

    @contextmanager
    def _transaction(self, *, flush: bool = True) -> Iterator[None]:
        """One transaction; without `flush` it is on disk with the next one that has it (the WAL is written in order)."""
        try:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if flush else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StoreError(f"the runner's record: {error}") from error
