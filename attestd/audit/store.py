"""The log as stored: what the sealer commits, and what everyone reads."""

import contextlib
import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

from attestd.audit.reader import LogReader
from attestd.audit.rows import Carried, SealedBatch, Spooled, StoredCheckpoint, Tail
from attestd.errors import StoreError
from attestd.plain import counted

__all__ = ["LogStore", "SealedBatch", "Spooled", "StoredCheckpoint", "Tail"]

_ROWS: Final = 1024


class LogStore(LogReader):
    """A log that can be appended to, if it was opened for that."""

    def commit(self, batch: SealedBatch) -> None:
        """Appends one batch: leaves, nodes, charges and checkpoint in one transaction, durable on return.

        Raises:
            StoreError: It failed, **or may have**: whether the batch is in the log only `tail` can tell. Also if
                the log does not end where the batch begins: another process has appended.
        """
        checkpoint, first = batch.checkpoint, batch.checkpoint.batch.first
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._require_end(first, checkpoint.size - len(batch.entries))
            self._insert("leaves", ("seq", "entry"), list(enumerate(batch.entries, first)))
            self._insert("nodes", ("level", "idx", "hash"), batch.nodes)
            self._insert("charges", ("artifact", "n", "seq"), batch.charges)
            spooled = [(item.source, item.id, seq) for item, seq in batch.spooled]
            self._insert("spooled", ("source", "id", "seq"), spooled)
            self._connection.execute(
                "INSERT INTO checkpoints (size, first, mode, counter, note) VALUES (?, ?, ?, ?, ?)",
                (
                    checkpoint.size,
                    first,
                    checkpoint.batch.mode,
                    f"{checkpoint.batch.counter:016x}",
                    batch.note,
                ),
            )
            self._connection.execute("COMMIT")
        except (sqlite3.Error, StoreError) as error:
            with contextlib.suppress(
                sqlite3.Error
            ):  # after a COMMIT that failed there may be nothing to roll back
                self._connection.execute("ROLLBACK")
            raise StoreError(f"cannot append to the audit log: {error}") from error

    def _insert(self, table: str, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> None:
        """Many rows a statement: a thread gives the GIL away at each one, and waits to get it back from who computes."""
        row = f"({', '.join('?' * len(columns))})"
        start, count = 0, _ROWS
        while start < len(rows):
            while count > len(rows) - start:
                count //= 2  # so that there are few different statements, which SQLite keeps
            values = ", ".join([row] * count)
            self._connection.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) VALUES {values}",  # noqa: S608 - names of ours
                list(chain.from_iterable(rows[start : start + count])),
            )
            start += count

    def carry(self, carried: Carried) -> None:
        """Takes that over, into a log that has no leaf yet.

        Raises:
            StoreError: It has one, or cannot be written.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._require_end(0)
            self._connection.executemany("INSERT INTO carried_uses VALUES (?, ?)", carried.uses)
            self._connection.executemany("INSERT INTO carried_spool VALUES (?, ?)", carried.spool)
            self._connection.execute("COMMIT")
        except (sqlite3.Error, StoreError) as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise StoreError(f"cannot start the audit log: {error}") from error

    def _require_end(self, *sizes: int) -> None:
        (found,) = self._row("SELECT coalesce(max(seq) + 1, 0) FROM leaves")
        if {found} != set(sizes):
            raise StoreError(f"the log has {counted(found, 'leaf')}, the batch was made for one of {sizes}")
