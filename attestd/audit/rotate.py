"""Rotation: a log is closed, and a new incarnation continues it. See docs/adr/0013-rotation.md.

The new log is made beside the old one and takes its place in one step, once its first leaf is sealed:

    log.db.next   made, takes over the uses; the first leaf is sealed in it (the TPM's counter goes on)
    log-<id>.db   a second name for the old log
    log.db        the new log is renamed to it: from here on it is the log

Cut off before the first leaf is committed, nothing has happened. After that, `finish_rotation` goes on: whoever takes
the installation's lock calls it, so that nothing is appended to a log that was closed.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from attestd.audit.files import create, settle
from attestd.audit.reader import parse_stored
from attestd.audit.store import LogStore
from attestd.durable import sync_directory
from attestd.errors import RollbackError, StoreError
from attestd.tlog.checkpoint import origin
from attestd.tlog.tree import Frontier

__all__ = ["draft_next", "finish_rotation", "previous_of", "shard_path"]

_NEXT: Final = ".next"


def draft_next(old: LogStore, log: Path, *, log_id: str, created: str) -> Path:
    """Makes the log that continues another, without a leaf as yet.

    Args:
        old: The log that is closed: it has a checkpoint.
        log: Its file.
        log_id: The new incarnation.
        created: RFC 3339 UTC.

    Returns:
        Where it is.

    Raises:
        StoreError: It cannot be written.
    """
    path = _next(log)
    _discard(path)
    create(str(path), origin=origin(old.host_id, log_id), host_id=old.host_id, log_id=log_id, created=created)
    store = LogStore.open(str(path))
    try:
        store.carry(old.to_carry())
    finally:
        store.close()
    return path


def previous_of(old: LogStore) -> Mapping[str, Any]:
    """What the first leaf of a new log says about the one it continues: its last checkpoint, and what is carried over.

    Raises:
        StoreError: It cannot be read, or has no checkpoint.
    """
    last = old.last_checkpoint()
    if last is None:
        raise StoreError("the audit log has no checkpoint: there is nothing to close")
    return {
        "origin": old.origin,
        "size": last.size,
        "root": Frontier.load(last.size, old.node).root().hex(),
        "counter": f"{last.counter:016x}",
        "carried": old.to_carry().digest(),
    }


def finish_rotation(log: Path) -> Path | None:
    """Puts the new log in the place of the old one, if it has its first leaf; otherwise removes it.

    Args:
        log: The old log's file; nobody has it open to append.

    Returns:
        Where the old one is now; None: there was nothing to finish.

    Raises:
        RollbackError: The new log does not continue the old one.
        UsageError: Another process reads one of them.
        StoreError: Files cannot be read or written.
    """
    path = _next(log)
    if not path.exists():
        return None
    new = LogStore.open(str(path))
    try:
        started = new.size > 0
        says = parse_stored(0, new.entry(0)).body.get("previous") if started else None
    finally:
        new.close()
    if not started:
        _discard(path)
        return None
    old = LogStore.open(str(log), readonly=True)
    try:
        shard, expected = shard_path(log, old.log_id), previous_of(old)
    finally:
        old.close()
    if says != expected:
        raise RollbackError(f"{path} does not continue {log}: keep both as evidence; see docs/operations.md")
    settle(str(path))
    settle(str(log))
    try:
        with suppress(FileExistsError):  # This was done before it was cut off.
            os.link(log, shard)
        if not os.path.samefile(log, shard):
            raise RollbackError(f"{shard} is another log than {log}: keep both as evidence")
        os.rename(path, log)
        os.chmod(shard, 0o400)
        sync_directory(log.parent)
    except OSError as error:
        raise StoreError(f"{error.filename}: {error.strerror}") from error
    return shard


def shard_path(log: Path, log_id: str) -> Path:
    """Where a log is kept once it was closed: beside the one that continues it."""
    return log.with_name(f"log-{log_id}.db")


def _next(log: Path) -> Path:
    return log.with_name(log.name + _NEXT)


def _discard(path: Path) -> None:
    for name in (path, f"{path}-wal", f"{path}-shm", f"{path}.new"):
        with suppress(FileNotFoundError):
            os.unlink(name)
