"""Notices that the database was restored from an earlier copy: how far it had come is also written beside it.

Each process has an anchor of its own: a small file here, and a row in the database, which counts that process's commits.
The row is counted up in the transaction that stores checkpoints, the file after the commit and before anybody sees a
cosignature. So the row is never behind the file, but in a database that was taken from an earlier time: whatever was
cosigned since, it does not know, and a log could show it another history.
"""

import os
import re
import secrets
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from sqlalchemy import Connection, insert, select, update

from attestd.controller.store.engine import Store
from attestd.controller.store.schema import witness_anchors
from attestd.durable import make_directory, try_lock, write_atomic
from attestd.errors import MalformedError, RollbackError, StoreError, UsageError
from attestd.strict import Strict, canonical, parse_canonical

__all__ = [
    "MARKER",
    "Anchor",
    "claim_anchor",
    "create_anchor",
    "has_anchors",
    "has_history",
    "mark_rolled_back",
]

MARKER: Final = "rolled-back.txt"
_MAX_BYTES: Final = 256
_NAME: Final = re.compile(r"[0-9a-f]{32}\.json\Z")


class _File(Strict, frozen=True):
    v: Literal[1]
    anchor: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    generation: Annotated[int, msgspec.Meta(ge=0)]


class Anchor:
    """The anchor of this process. One thread uses it.

    Attributes:
        name: Its name.
        generation: How far the database had come when it was seen last.
    """

    def __init__(self, directory: Path, name: str, generation: int, lock: int) -> None:
        """Takes a locked anchor; use `claim_anchor`."""
        self._path, self._lock = directory / f"{name}.json", lock
        self.name, self.generation = name, generation

    def advance(self, connection: Connection) -> int:
        """Counts this transaction.

        Returns:
            What `committed` is to be told.

        Raises:
            RollbackError: The database is behind.
        """
        statement = (
            update(witness_anchors)
            .where(witness_anchors.c.anchor == self.name, witness_anchors.c.generation >= self.generation)
            .values(generation=witness_anchors.c.generation + 1)
            .returning(witness_anchors.c.generation)
        )
        generation = connection.execute(statement).scalar_one_or_none()
        if generation is None:
            raise _rolled_back(self.name, self.generation, _row(connection, self.name))
        return int(generation)

    def committed(self, generation: int) -> None:
        """Writes how far the database has come. Until this returns nobody may see what was committed.

        Raises:
            StoreError: It cannot be written.
        """
        _write(self._path, self.name, generation)
        self.generation = generation

    def close(self) -> None:
        """Lets another process have it."""
        os.close(self._lock)


def create_anchor(directory: Path, store: Store) -> None:
    """Makes the first anchor here, unless there is one.

    Raises:
        StoreError: It cannot be written.
    """
    make_directory(directory, 0o700)
    if not _names(directory):
        _create(directory, store)


def has_anchors(directory: Path) -> bool:
    """Whether a witness has run here.

    Raises:
        StoreError: The directory cannot be read.
    """
    return directory.is_dir() and bool(_names(directory))


def has_history(store: Store) -> bool:
    """Whether some witness has written to this database before.

    Raises:
        StoreError: The database fails.
    """
    with store.read() as connection:
        return connection.execute(select(witness_anchors.c.anchor).limit(1)).first() is not None


def claim_anchor(directory: Path, store: Store) -> Anchor:
    """Takes an anchor that no other process has, after a look at all of them.

    Raises:
        RollbackError: The database is behind one of them, or was found to be, by whom is written in `rolled-back.txt`.
        UsageError: There is none: this is no place where a witness of this database has run.
        StoreError, MalformedError: They cannot be read.
    """
    if os.path.lexists(directory / MARKER):
        raise RollbackError(
            f"{directory / MARKER} says that the database is older than what was cosigned: restore the newer one, then"
            " remove that file; or give this witness up: see docs/operations-controller.md"
        )
    names = _names(directory)
    if not names:
        raise UsageError(
            f"{directory}: no anchor: attestd controller init --join makes one, if you are sure that this"
            " database is the newest there is"
        )
    # Files first: what another process writes meanwhile is in the database before.
    files = {name: _read(directory / f"{name}.json") for name in names}
    with store.read() as connection:
        rows = {name: _row(connection, name) for name in names}
    for name in names:
        if rows[name] is None or rows[name] < files[name]:  # type: ignore[operator]  # None is out
            raise _rolled_back(name, files[name], rows[name])
    for name in names:
        lock = try_lock(directory / f"{name}.lock")
        if lock is not None:
            return Anchor(directory, name, rows[name] or 0, lock)
    return _claim_new(directory, store)


def mark_rolled_back(directory: Path, words: str) -> None:
    """Remembers that the database is too old, so that no start forgets it.

    Raises:
        StoreError: It cannot be written.
    """
    write_atomic(directory / MARKER, f"{words}\n".encode(), mode=0o600)


def _claim_new(directory: Path, store: Store) -> Anchor:
    name = _create(directory, store)
    lock = try_lock(directory / f"{name}.lock")
    if lock is None:
        raise StoreError(f"{directory}: anchor {name} was taken by another process: start again")
    return Anchor(directory, name, 0, lock)


def _create(directory: Path, store: Store) -> str:
    name = secrets.token_hex(16)
    with store.write() as connection:
        connection.execute(insert(witness_anchors).values(anchor=name, generation=0))
    _write(directory / f"{name}.json", name, 0)
    return name


def _names(directory: Path) -> list[str]:
    try:
        return sorted(name.removesuffix(".json") for name in os.listdir(directory) if _NAME.match(name))
    except OSError as error:
        raise StoreError(f"{directory}: {error.strerror}: attestd controller init makes it") from error


def _read(path: Path) -> int:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    found = parse_canonical(data, _File, max_bytes=_MAX_BYTES, what=str(path))
    if f"{found.anchor}.json" != path.name:
        raise MalformedError(f"{path}: of anchor {found.anchor}: put it back under its own name")
    return found.generation


def _write(path: Path, name: str, generation: int) -> None:
    write_atomic(path, canonical(_File(v=1, anchor=name, generation=generation)), mode=0o600)


def _row(connection: Connection, name: str) -> int | None:
    statement = select(witness_anchors.c.generation).where(witness_anchors.c.anchor == name)
    return connection.execute(statement).scalar_one_or_none()


def _rolled_back(name: str, anchored: int, found: int | None) -> RollbackError:
    stands = "has no such anchor" if found is None else f"stands at {found}"
    return RollbackError(
        f"the database is older than what was cosigned: anchor {name} is at {anchored}, the database {stands}: restore"
        " the newer one, or give this witness up: see docs/operations-controller.md"
    )
