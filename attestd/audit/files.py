"""The log's SQLite file: made, brought to the present schema, opened, copied, moved."""

import contextlib
import errno
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

from attestd.audit.schema import APPLICATION_ID, MIGRATION_TABLES, SCHEMA_VERSION, apply_schema, objects_of
from attestd.durable import sync_directory
from attestd.errors import RollbackError, StoreError, UsageError

__all__ = ["copy_log", "create", "migrate", "open_log", "open_log_readonly", "settle"]

BUSY_TIMEOUT_S: Final = 5.0


def create(path: str, *, origin: str, host_id: str, log_id: str, created: str) -> None:
    """Creates an empty log; the file appears whole or not at all, and an existing one is never touched.

    Args:
        path: Where; its directory exists.
        origin: The checkpoint origin, `attestd/<host-id>/<log-id>`.
        host_id: 64 hex digits.
        log_id: This incarnation of the host's log.
        created: RFC 3339 UTC.

    Raises:
        StoreError: The file exists, or cannot be written.
    """
    draft = f"{path}.new"
    with _translated(f"cannot create the audit log {path}"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)  # left by a crash of an earlier `create`
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(draft)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            apply_schema(connection)
            connection.execute(
                "INSERT INTO log (id, origin, host_id, log_id, created) VALUES (1, ?, ?, ?, ?)",
                (origin, host_id, log_id, created),
            )
            connection.commit()
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        os.link(draft, path)  # unlike rename: fails if a log is there
        os.unlink(draft)
        sync_directory(os.path.dirname(path) or ".")


def migrate(path: str) -> int | None:
    """Brings a log of an earlier attestd to this one's schema; a copy of it as it was stays beside it.

    Only tables and indices change: every row, and with it every signature, stays as it is. Cut off at any moment, the log is of
    the one version or of the other. Nobody else has it open: the caller holds the installation's lock.

    Args:
        path: The log.

    Returns:
        Which version it was of; None: it is of this one already.

    Raises:
        StoreError: It is of a newer attestd, is no log, or the disk is full.
        RollbackError: Its schema was edited.
    """
    _require_readable(path)
    with _translated(f"cannot migrate the audit log {path}"):
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA trusted_schema = OFF")
            version = _version(connection, path)
            if version == SCHEMA_VERSION:
                return None
            _require_objects(connection, path, version)
            _keep_copy(connection, f"{path}.v{version}")
            apply_schema(connection)
            _require_objects(connection, path, SCHEMA_VERSION)
        finally:
            connection.close()
    return version


def _keep_copy(connection: sqlite3.Connection, target: str) -> None:
    draft = f"{target}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)  # left by a crash
    copy_log(connection, draft)
    os.rename(draft, target)
    sync_directory(os.path.dirname(target) or ".")


def open_log(path: str) -> sqlite3.Connection:
    """Opens a log to read and append.

    The connection may move between threads but must not be used by two at once.

    Raises:
        StoreError: Not there, not readable, not an attestd log, or of another schema version.
        RollbackError: The schema was edited, for example an append-only trigger dropped.
    """
    return _open(path, "rw")


def open_log_readonly(path: str) -> sqlite3.Connection:
    """Opens a log to read; a running agent may append meanwhile.

    Raises:
        StoreError: Not there, not readable, not an attestd log, or of another schema version.
        RollbackError: The schema was edited, for example an append-only trigger dropped.
    """
    return _open(path, "ro")


def _open(path: str, mode: str) -> sqlite3.Connection:
    _require_readable(path)
    immutable = mode == "ro" and _is_out_of_reach(path)
    with _translated(f"cannot open the audit log {path}"):
        connection = sqlite3.connect(
            f"file:{quote(os.path.abspath(path))}?mode={mode}{'&immutable=1' if immutable else ''}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA recursive_triggers = ON")
            _check_schema(connection, path)
            if not immutable:  # that has no journal, whatever its header says
                _check_journal(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _require_readable(path: str) -> None:
    """SQLite does not say why it cannot open a file.

    Without opening it: closing a file takes away the locks that SQLite holds on it in this process.
    """
    what = f"cannot open the audit log {path}"
    try:
        os.stat(path)
    except OSError as error:
        raise StoreError(f"{what}: {error.strerror}") from error
    if not os.access(path, os.R_OK, effective_ids=True):
        raise StoreError(f"{what}: {os.strerror(errno.EACCES)}")


def _is_out_of_reach(path: str) -> bool:
    """An auditor's copy where nothing can be written: SQLite reads it only if told that nobody writes.

    Not where entries wait in a write-ahead log: they would not be seen, and the log seem rolled back.
    """
    waiting = os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal") > 0
    directory = os.path.dirname(os.path.abspath(path))
    return not waiting and not os.access(directory, os.W_OK, effective_ids=True)


def _check_journal(connection: sqlite3.Connection, path: str) -> None:
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        raise RollbackError(f"{path}: the journal mode was changed from WAL: restore it from a backup")


def _check_schema(connection: sqlite3.Connection, path: str) -> None:
    version = _version(connection, path)
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version}, this attestd reads version {SCHEMA_VERSION}: attestd serve, or init,"
            " brings it there"
        )
    _require_objects(connection, path, version)


def _version(connection: sqlite3.Connection, path: str) -> int:
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    if application_id != APPLICATION_ID:
        raise StoreError(f"{path} is not an attestd audit log (application id {application_id:#x})")
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version not in range(1, SCHEMA_VERSION + 1):
        raise StoreError(
            f"{path} has schema version {version}, this attestd reads version {SCHEMA_VERSION}: it was written by"
            " another, newer attestd"
        )
    return version


def _require_objects(connection: sqlite3.Connection, path: str, version: int) -> None:
    # A trigger of someone else's would run in our transactions, an index of theirs could answer our queries; one of ours
    # may be missing. Each row counts, whatever it calls itself: who edits the file can name a trigger "sqlite_...".
    found = Counter(connection.execute("SELECT name, sql FROM sqlite_schema").fetchall())
    expected = Counter({**objects_of(version), **MIGRATION_TABLES}.items())
    if found != expected:
        differing = sorted({str(name) for name, _ in (found - expected) + (expected - found)})
        raise RollbackError(
            f"{path}: the schema was edited ({', '.join(differing)}): restore it from a backup"
        )


def copy_log(connection: sqlite3.Connection, target: str) -> None:
    """Copies a log as it is at one moment, while it may be appended to (https://www.sqlite.org/backup.html).

    Args:
        connection: Of the log.
        target: A file that does not exist; only this user may read it.

    Raises:
        StoreError: It cannot be read or written.
    """
    with _translated(f"cannot copy the audit log to {target}"):
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        copy = sqlite3.connect(target)
        try:
            connection.backup(copy)
        finally:
            copy.close()


def settle(path: str) -> None:
    """Moves what is in a log's write-ahead log into its file, which can then be moved by itself.

    Raises:
        UsageError: Another process reads the log.
        StoreError, RollbackError: As `open_log`.
    """
    connection = open_log(path)
    try:
        with _translated(f"cannot settle the audit log {path}"):
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.close()
    waiting = f"{path}-wal"
    if busy or (os.path.exists(waiting) and os.path.getsize(waiting) > 0):
        raise UsageError(f"another process reads {path}: end it first (attestd audit tail -f?)")
    for left in (waiting, f"{path}-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(left)


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (
        sqlite3.Error,
        OSError,
        UnicodeDecodeError,
    ) as error:  # the last: words of SQLite that quote the file
        raise StoreError(f"{what}: {error}") from error
