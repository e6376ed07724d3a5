"""The values that go into the log's tables and come out of them."""

import hashlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from attestd.tlog.checkpoint import BatchMode, Checkpoint
from attestd.tlog.tree import Frontier, Node

__all__ = ["Carried", "Connection", "SealedBatch", "Spooled", "StoredCheckpoint", "Tail"]


class Connection(Protocol):
    """The part of `sqlite3.Connection` that is used here, so that tests can make every write fail."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> sqlite3.Cursor:
        """Runs one statement."""

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        """Runs one statement for each row."""

    def close(self) -> None:
        """Closes the connection."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """Names one thing that another process spooled for the log: (source, id) is sealed at most once."""

    source: str
    id: int


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """What one transaction commits.

    Attributes:
        checkpoint: Of the log with this batch; its batch line names the first leaf, mode and counter.
        note: The signed checkpoint.
        entries: The new leaves.
        nodes: The tree nodes that they complete, leaf hashes included.
        charges: (artifact id, number of the use, seq).
        spooled: (what was spooled, seq).
    """

    checkpoint: Checkpoint
    note: bytes
    entries: Sequence[bytes]
    nodes: Sequence[Node]
    charges: Sequence[tuple[str, int, int]] = ()
    spooled: Sequence[tuple[Spooled, int]] = ()


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A row of the checkpoints: the batch is the leaves [first, size); `note` has what witnesses cosigned so far."""

    size: int
    first: int
    mode: BatchMode
    counter: int
    note: bytes


@dataclass(frozen=True, slots=True)
class Carried:
    """What one log takes over from another: its first leaf has the digest, so that it is as sealed as the leaves.

    Attributes:
        uses: (artifact id, how often it was used), by artifact id.
        spool: (source, id) of what was spooled and is sealed, sorted.
    """

    uses: Sequence[tuple[str, int]] = ()
    spool: Sequence[tuple[str, int]] = ()

    def digest(self) -> str:
        """SHA-256 over one line each, `use <artifact> <n>` and `spooled <source> <id>`; hex."""
        hashed = hashlib.sha256()
        for artifact, n in self.uses:
            hashed.update(f"use {artifact} {n}\n".encode())
        for source, number in self.spool:
            hashed.update(f"spooled {source} {number}\n".encode())
        return hashed.hexdigest()


@dataclass(frozen=True, slots=True)
class Tail:
    """What the next batch continues.

    Attributes:
        frontier: The tree.
        time: Of the last entry, or "" if there is none.
    """

    frontier: Frontier
    time: str
