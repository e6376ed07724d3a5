"""Cosignatures in the log's file: under their checkpoint in every receipt, export and backup from then on."""

import contextlib
import sqlite3
from collections.abc import Sequence

from attestd.audit.rows import StoredCheckpoint
from attestd.audit.store import LogStore
from attestd.errors import StoreError, UsageError
from attestd.tlog.note import NoteSignature, format_note, format_signature_line, parse_note
from attestd.tlog.vkey import VerifierKey

__all__ = ["CosignedLog"]


class CosignedLog(LogStore):
    """A log's file, as whoever asks witnesses uses it."""

    def add_cosignatures(self, size: int, lines: Sequence[NoteSignature]) -> Sequence[NoteSignature]:
        """Keeps cosignatures of the checkpoint of that size, durable on return; those that it has are left alone.

        They verify: the caller has looked. What has no room in the note any more is left out.

        Returns:
            Those that the checkpoint has now, as the log has them.

        Raises:
            UsageError: There is no such checkpoint.
            StoreError: They cannot be written.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            stored = self.checkpoint(size)
            added = _fitting(stored, lines)
            for line in added:
                self._connection.execute(
                    "INSERT INTO cosignatures (size, name, key, line) VALUES (?, ?, ?, ?)",
                    (size, line.name, line.key_id.hex(), format_signature_line(line)),
                )
            self._connection.execute("COMMIT")
        except (sqlite3.Error, StoreError, UsageError) as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            if isinstance(error, UsageError):
                raise
            raise StoreError(f"cannot keep cosignatures in the audit log: {error}") from error
        has = {(line.name, line.key_id): line for line in (*parse_note(stored.note).signatures, *added)}
        asked = dict.fromkeys((line.name, line.key_id) for line in lines)
        return tuple(has[key] for key in asked if key in has)

    def checkpoint(self, size: int) -> StoredCheckpoint:
        """The checkpoint of exactly that size.

        Raises:
            UsageError: There is none.
            StoreError: The log cannot be read.
        """
        found = self._checkpoint("WHERE size = ?", size)
        if found is None:
            raise UsageError(f"the audit log has no checkpoint of size {size}")
        return found

    def last_cosigned(self, keys: Sequence[VerifierKey]) -> int:
        """The size of the last checkpoint that one of these keys cosigned; 0: none.

        Raises:
            StoreError: The log cannot be read.
        """
        sizes = [
            self._row(
                "SELECT coalesce((SELECT size FROM cosignatures WHERE name = ? AND key = ? ORDER BY size DESC LIMIT 1), 0)",
                key.name,
                key.key_id.hex(),
            )[0]
            for key in keys
        ]
        return max(sizes, default=0)


def _fitting(stored: StoredCheckpoint, lines: Sequence[NoteSignature]) -> Sequence[NoteSignature]:
    """Those that are new, as many as the note has room for: a note that could not be read would be no log any more."""
    note = parse_note(stored.note)
    kept = list(note.signatures)
    known = {(line.name, line.key_id) for line in kept}
    added = []
    for line in lines:
        if (line.name, line.key_id) in known:
            continue
        try:
            format_note(note.text, [*kept, line])
        except UsageError:
            break
        kept.append(line)
        known.add((line.name, line.key_id))
        added.append(line)
    return added
