"""Opens the database, and translates its errors; the schema is made and changed by `migrate` alone."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    Connection,
    Engine,
    any_,
    bindparam,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from attestd.errors import StoreError, UsageError

__all__ = ["Store", "migrate", "one_of"]

POOL: Final = 8
# SQLAlchemy's own `pool_pre_ping` asks each time: as long as a statement takes.
FRESH_S: Final = 1.0
_READING: Final = "attestd_reading"
BUSY_S: Final = 10
# Any number, the same for all: whoever changes the schema holds this lock.
_MIGRATION_LOCK: Final = 0x61747465737464
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
# A query that hangs must not hold what others wait for.
_POSTGRESQL: Final = "-c statement_timeout=15s -c lock_timeout=10s -c idle_in_transaction_session_timeout=30s"


class Store:
    """An open database. Thread-safe.

    Attributes:
        engine: SQLAlchemy's.
        is_sqlite: Whether it is a file of this host, that no other host writes.
    """

    def __init__(self, engine: Engine) -> None:
        """Takes an engine; use `open`."""
        self.engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._reading = engine.execution_options(
            **({_READING: True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"})
        )

    @classmethod
    def open(cls, url: str) -> Self:
        """Opens a database whose schema is this version's.

        Raises:
            UsageError: Not a URL of SQLite or PostgreSQL.
            StoreError: It cannot be reached, or has another schema.
        """
        engine = _engine(url)
        if engine.dialect.name == "sqlite" and not os.path.exists(str(engine.url.database)):
            raise StoreError(f"{engine.url.database}: no database: attestd controller init makes one")
        store = cls(engine)
        try:
            with store.read() as connection:
                found = MigrationContext.configure(connection).get_current_heads()
        except StoreError:
            store.close()
            raise
        expected = tuple(_scripts().get_heads())
        if found != expected:
            store.close()
            raise StoreError(
                f"{_shown(engine.url)}: schema {', '.join(found) or 'none'}, expected {', '.join(expected)}:"
                " attestd controller init brings it there"
            )
        return store

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction; durable when the context ends without an error, else nothing of it happened.

        Raises:
            StoreError: The database fails.
        """
        with _translated(self.engine.url), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection on which each statement sees what is there at its moment.

        Raises:
            StoreError: The database fails.
        """
        with _translated(self.engine.url), self._reading.connect() as connection:
            yield connection

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()


def one_of(column: Column[str], name: str, store: Store) -> ColumnElement[bool]:
    """A condition: a column is one of the strings in the parameter of that name, a list.

    On PostgreSQL the statement is the same for lists of any length, and so is prepared once.
    """
    if store.is_sqlite:
        return column.in_(bindparam(name, expanding=True))
    return column == any_(bindparam(name, type_=ARRAY(column.type)))


def migrate(url: str) -> bool:
    """Makes the schema this version's; several processes may ask at the same time.

    Returns:
        Whether something changed.

    Raises:
        UsageError: Not a URL of SQLite or PostgreSQL.
        StoreError: The database fails, or its schema is of a newer version.
    """
    engine = _engine(url)
    try:
        if engine.dialect.name == "sqlite":
            _make_file(str(engine.url.database))
        with _translated(engine.url), engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            before = MigrationContext.configure(connection).get_current_heads()
            configuration = _configuration()
            configuration.attributes["connection"] = connection
            command.upgrade(configuration, "head")
            return MigrationContext.configure(connection).get_current_heads() != before
    except CommandError as error:
        raise StoreError(f"{_shown(engine.url)}: of a newer version of attestd? {error}") from error
    finally:
        engine.dispose()


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise UsageError("database: expected sqlite:///PATH or postgresql+psycopg://...") from error
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg") or not parsed.database:
        raise UsageError(
            f"database {_shown(parsed)}: expected sqlite:///PATH or postgresql+psycopg://HOST/NAME"
        )
    options: dict[str, Any] = {"pool_size": POOL, "max_overflow": 0}
    if parsed.drivername == "sqlite":
        engine = create_engine(parsed, connect_args={"timeout": BUSY_S}, **options)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    connect = {"connect_timeout": 5, "application_name": "attestd-controller", "options": _POSTGRESQL}
    engine = create_engine(parsed, connect_args=connect, **options)
    event.listen(engine, "connect", _prepare_postgresql)
    _look_at_idle(engine)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # sqlite3 would begin and commit where it likes
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that only becomes a writer later may fail where others have written meanwhile; who reads needs none.
    if not connection.get_execution_options().get(_READING):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _prepare_postgresql(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    found = cursor.execute("SHOW synchronous_commit").fetchone()[0]
    if found in ("off", "local"):  # what is committed would be lost with the server
        cursor.execute("SET synchronous_commit = on")
    connection.commit()
    cursor.close()


def _look_at_idle(engine: Engine) -> None:
    """Asks a connection that was idle whether its server is still there; of one that was in use, the next statement does."""
    dialect = engine.dialect
    failure = dialect.import_dbapi().Error

    def checkout(connection: Any, entry: ConnectionPoolEntry, _: Any) -> None:
        if time.monotonic() - entry.info.get("used", 0.0) < FRESH_S:
            return
        try:
            dialect.do_ping(connection)
        except failure as error:
            raise DisconnectionError from error  # The pool makes another.

    def checkin(_: Any, entry: ConnectionPoolEntry) -> None:
        entry.info["used"] = time.monotonic()

    event.listen(engine, "checkout", checkout)
    event.listen(engine, "checkin", checkin)


def _make_file(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def _configuration() -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return configuration


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_configuration())


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)


@contextlib.contextmanager
def _translated(url: URL) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        # Its words may hold the values of a statement, which are others'.
        cause = getattr(error, "orig", None) or error
        words = str(cause).partition("\n")[0][:200]
        raise StoreError(f"{_shown(url)}: {type(cause).__name__}: {words}") from error
