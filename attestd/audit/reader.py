"""The log as stored: what everyone reads."""

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final, Self

from attestd.audit.files import open_log, open_log_readonly
from attestd.audit.rows import Carried, Connection, Spooled, StoredCheckpoint, Tail
from attestd.errors import MalformedError, RollbackError, StoreError, UsageError
from attestd.lineage.entry import Entry, parse_entry
from attestd.plain import counted
from attestd.tlog.checkpoint import BatchMode
from attestd.tlog.proof import TlogProof, format_proof
from attestd.tlog.tree import Frontier, inclusion_proof

__all__ = ["LogReader", "parse_stored"]

# The runner delivers a page of its spool again until it is acknowledged: 64 entries.
SPOOL_MARKS: Final = 1024
_CHECKPOINT: Final = (
    "SELECT size, first, mode, counter, note, (SELECT coalesce(group_concat(line, ''), '') FROM"
    " (SELECT line FROM cosignatures WHERE cosignatures.size = checkpoints.size ORDER BY name, key)) FROM checkpoints"
)
_CHUNK: Final = 1024  # of entries in memory: 64 MiB if each were as large as it may be


class LogReader:
    """One log's file. Not for use by two threads at once; readers open their own.

    Attributes:
        origin: The checkpoint origin, also the name of the keys that sign.
        host_id: 64 hex digits.
        log_id: The log's incarnation.
        created: RFC 3339 UTC.
    """

    def __init__(self, connection: Connection) -> None:
        """Takes a connection from `attestd.audit.schema`, and owns it from now on."""
        self._connection = connection
        row = self._row("SELECT origin, host_id, log_id, created FROM log")
        if row is None:
            raise RollbackError("the audit log does not say whose it is: its row in table log is gone")
        self.origin, self.host_id, self.log_id, self.created = (str(value) for value in row)

    @classmethod
    def open(cls, path: str, *, readonly: bool = False) -> Self:
        """Opens a log.

        Raises:
            StoreError: Not there, not readable, not an attestd log, or of another schema version.
            RollbackError: The schema was edited.
        """
        return cls(open_log_readonly(path) if readonly else open_log(path))

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def tail(self) -> Tail:
        """Where the log ends.

        Raises:
            RollbackError: Leaves that no checkpoint covers, or fewer leaves than the last one covers: one
                transaction writes both, so this is tampering, never a crash.
            StoreError: The log cannot be read.
        """
        # One statement sees one state of the log, also while another process appends.
        leaves, size = self._row(
            "SELECT (SELECT coalesce(max(seq) + 1, 0) FROM leaves),"
            " (SELECT coalesce(max(size), 0) FROM checkpoints)"
        )
        if leaves != size:
            raise RollbackError(
                f"the audit log has {counted(leaves, 'leaf')}, its last checkpoint covers {size}: rows were deleted or added"
            )
        time = parse_stored(size - 1, self.entry(size - 1)).time if size else ""
        return Tail(Frontier.load(size, self.node), time)

    def uses(self, artifact_id: str) -> int:
        """How often an artifact was charged.

        Raises:
            StoreError: The log cannot be read.
        """
        (used,) = self._row(
            "SELECT coalesce((SELECT max(n) FROM charges WHERE artifact = ?1),"
            " (SELECT n FROM carried_uses WHERE artifact = ?1), 0)",
            artifact_id,
        )
        return int(used)

    def is_sealed(self, item: Spooled) -> bool:
        """Whether something spooled is in this log, or was in the one that it continues.

        Raises:
            StoreError: The log cannot be read.
        """
        (found,) = self._row(
            "SELECT EXISTS (SELECT 1 FROM spooled WHERE source = ?1 AND id = ?2)"
            " OR EXISTS (SELECT 1 FROM carried_spool WHERE source = ?1 AND id = ?2)",
            item.source,
            item.id,
        )
        return bool(found)

    def carried(self) -> Carried:
        """What this log takes over from the one that it continues.

        Raises:
            StoreError: The log cannot be read.
        """
        return Carried(
            self._rows("SELECT artifact, n FROM carried_uses ORDER BY artifact"),
            self._rows("SELECT source, id FROM carried_spool ORDER BY source, id"),
        )

    def to_carry(self) -> Carried:
        """What a log that continues this one has to take over: all uses, and the newest marks of each spool.

        Raises:
            StoreError: The log cannot be read.
        """
        uses = self._rows(
            "SELECT artifact, max(n) FROM (SELECT artifact, n FROM carried_uses"
            " UNION ALL SELECT artifact, n FROM charges) GROUP BY artifact ORDER BY artifact"
        )
        spool = self._rows(
            "SELECT source, id FROM (SELECT source, id, row_number() OVER (PARTITION BY source ORDER BY id DESC) AS age"
            " FROM (SELECT source, id FROM carried_spool UNION SELECT source, id FROM spooled))"
            " WHERE age <= ? ORDER BY source, id",
            SPOOL_MARKS,
        )
        return Carried(uses, spool)

    @property
    def size(self) -> int:
        """The number of leaves that checkpoints cover."""
        checkpoint = self.last_checkpoint()
        return checkpoint.size if checkpoint else 0

    def node(self, level: int, index: int) -> bytes:
        """The root of a complete subtree: a `tlog.tree.NodeSource`.

        Raises:
            RollbackError: It is not stored.
            StoreError: The log cannot be read.
        """
        row = self._row("SELECT hash FROM nodes WHERE level = ? AND idx = ?", level, index)
        if row is None:
            raise RollbackError(
                f"the audit log's tree has no node {index} at level {level}: rows were deleted"
            )
        return _blob(row[0])

    def nodes(self, level: int, start: int, stop: int) -> list[bytes]:
        """The stored nodes of one level with start <= index < stop, in order.

        Raises:
            RollbackError: One of them is missing.
            StoreError: The log cannot be read.
        """
        query = "SELECT hash FROM nodes WHERE level = ? AND idx >= ? AND idx < ? ORDER BY idx"
        hashes = _blobs(self._rows(query, level, start, stop))
        if len(hashes) != stop - start:
            raise RollbackError(
                f"the audit log's tree lacks nodes from {start} to {stop} at level {level}: rows were deleted"
            )
        return hashes

    def has_nodes(self, level: int, start: int, hashes: Sequence[bytes]) -> bool:
        """Whether the stored nodes of one level, from index `start` on, are these: compared where they are stored.

        Raises:
            StoreError: The log cannot be read.
        """
        (same,) = self._row(
            "SELECT count(*) FROM nodes WHERE level = ?1 AND idx >= ?2 AND idx < ?3"
            " AND hash = substr(?4, (idx - ?2) * 32 + 1, 32)",
            level,
            start,
            start + len(hashes),
            b"".join(hashes),
        )
        return bool(same == len(hashes))

    def entry(self, seq: int) -> bytes:
        """The exact bytes of one entry.

        Raises:
            UsageError: There is no such entry.
            StoreError: The log cannot be read.
        """
        row = self._row("SELECT entry FROM leaves WHERE seq = ?", seq)
        if row is None:
            raise UsageError(f"the audit log has no entry {seq}, it has {counted(self.size, 'entry')}")
        return _blob(row[0])

    def entry_chunk(self, start: int, stop: int) -> list[bytes]:
        """The first entries, at least one, of the leaves [start, stop): as many as memory can take.

        Raises:
            RollbackError: One of them is missing.
            StoreError: The log cannot be read.
        """
        stop = min(stop, start + _CHUNK)
        query = "SELECT entry FROM leaves WHERE seq >= ? AND seq < ? ORDER BY seq"
        entries = _blobs(self._rows(query, start, stop))
        if len(entries) != stop - start:
            raise RollbackError(f"the audit log lacks entries from {start} to {stop}: rows were deleted")
        return entries

    def entries(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """(seq, entry) of the leaves [start, stop), in order, however many there are: memory stays bounded.

        Raises:
            RollbackError: One of them is missing.
            StoreError: The log cannot be read.
        """
        while start < stop:
            chunk = self.entry_chunk(start, stop)
            yield from enumerate(chunk, start)
            start += len(chunk)

    def find(self, leaf_hash: bytes) -> int | None:
        """The seq of the entry with this leaf hash, None if there is none. Reads all leaf hashes: 0.2 s a million.

        Raises:
            StoreError: The log cannot be read.
        """
        row = self._row("SELECT idx FROM nodes WHERE level = 0 AND hash = ?", leaf_hash)
        return None if row is None else int(row[0])

    def last_checkpoint(self) -> StoredCheckpoint | None:
        """The newest checkpoint, None in a log that has none yet.

        Raises:
            StoreError: The log cannot be read.
        """
        return self._checkpoint("ORDER BY size DESC LIMIT 1")

    def checkpoint_covering(self, seq: int) -> StoredCheckpoint | None:
        """The first checkpoint that covers an entry: the one of its batch.

        Raises:
            StoreError: The log cannot be read.
        """
        return self._checkpoint("WHERE size > ? ORDER BY size LIMIT 1", seq)

    def checkpoints(self, start: int = 0, stop: int | None = None) -> Iterator[StoredCheckpoint]:
        """The checkpoints with start < size <= stop, oldest first.

        Raises:
            StoreError: The log cannot be read.
        """
        last = self.size if stop is None else stop
        while checkpoint := self._checkpoint(
            "WHERE size > ? AND size <= ? ORDER BY size LIMIT 1", start, last
        ):
            yield checkpoint
            start = checkpoint.size

    def charges(self, start: int, stop: int) -> list[tuple[int, str, int]]:
        """(seq, artifact id, number of the use) charged to the leaves [start, stop), in order.

        Raises:
            RollbackError: Something else than a text stands for an artifact.
            StoreError: The log cannot be read.
        """
        query = "SELECT seq, artifact, n FROM charges WHERE seq >= ? AND seq < ? ORDER BY seq"
        rows = self._rows(query, start, stop)
        if any(type(artifact) is not str for _, artifact, _ in rows):
            raise RollbackError(
                "the audit log has charges to artifacts that are no text: its file was edited"
            )
        return rows

    def find_stray(self) -> str | None:
        """Names a table with rows that the leaves do not explain, None if there is none: counts, not contents.

        Raises:
            StoreError: The log cannot be read.
        """
        # One statement sees one state of the log, also while it grows. A tree of n leaves has n >> l nodes at level l.
        query = """
            WITH log_size AS (SELECT coalesce(max(size), 0) AS n FROM checkpoints),
                 levels(level, width) AS (
                     SELECT 0, n FROM log_size UNION ALL SELECT level + 1, width >> 1 FROM levels WHERE width > 0)
            SELECT CASE
                WHEN (SELECT count(*) FROM nodes) <> (SELECT sum(width) FROM levels) THEN 'nodes'
                WHEN EXISTS (SELECT 1 FROM charges AS c LEFT JOIN carried_uses AS u USING (artifact) GROUP BY artifact
                    HAVING max(c.n) - coalesce(u.n, 0) <> count(*) OR min(c.n) <= coalesce(u.n, 0)) THEN 'charges'
                WHEN EXISTS (SELECT 1 FROM charges, log_size WHERE seq < 0 OR seq >= log_size.n) THEN 'charges'
                WHEN EXISTS (SELECT 1 FROM spooled, log_size WHERE seq < 0 OR seq >= log_size.n) THEN 'spooled'
                WHEN EXISTS (SELECT 1 FROM cosignatures LEFT JOIN checkpoints USING (size) WHERE first IS NULL)
                    THEN 'cosignatures'
            END"""
        (table,) = self._row(query)
        return None if table is None else str(table)

    def receipt(self, seq: int) -> bytes:
        """The receipt of one entry: a tlog-proof with the checkpoint of its batch.

        Raises:
            UsageError: There is no such entry.
            StoreError: The log cannot be read.
        """
        entry, checkpoint = self.entry(seq), self.checkpoint_covering(seq)
        if checkpoint is None:
            raise RollbackError(f"no checkpoint covers entry {seq}")
        proof = inclusion_proof(seq, checkpoint.size, self.node)
        return format_proof(TlogProof(extra=entry, index=seq, proof=tuple(proof), checkpoint=checkpoint.note))

    def _checkpoint(self, clause: str, *parameters: Any) -> StoredCheckpoint | None:
        row = self._row(f"{_CHECKPOINT} {clause}", *parameters)
        if row is None:
            return None
        size, first, mode, counter, note, cosigned = row
        try:
            signed = _blob(note) + cosigned.encode()
            return StoredCheckpoint(int(size), int(first), BatchMode(mode), int(counter, 16), signed)
        except (AttributeError, TypeError, ValueError) as error:
            raise RollbackError(f"the checkpoint of size {size} was edited: {error}") from error

    def _row(self, sql: str, *parameters: Any) -> Any:
        try:
            return self._connection.execute(sql, parameters).fetchone()
        except sqlite3.Error as error:
            raise StoreError(f"cannot read the audit log: {error}") from error

    def _rows(self, sql: str, *parameters: Any) -> list[Any]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"cannot read the audit log: {error}") from error


def parse_stored(seq: int, data: bytes) -> Entry:
    """Parses an entry that the log holds.

    Raises:
        RollbackError: It is not one: the sealer formats what it stores.
    """
    try:
        return parse_entry(data)
    except MalformedError as error:
        raise RollbackError(f"entry {seq} is not an entry: {error}") from error


def _blob(value: Any) -> bytes:
    return _blobs([(value,)])[0]


def _blobs(rows: Sequence[tuple[Any]]) -> list[bytes]:
    """SQLite checks types when it writes; who edits the file's pages is not asked."""
    values = list(chain.from_iterable(rows))
    wrong = set(map(type, values)) - {bytes}
    if wrong:
        found = ", ".join(sorted(kind.__name__ for kind in wrong))
        raise RollbackError(f"the audit log has {found} where bytes belong: its file was edited")
    return values
