"""What a verifier remembers, in the database: a row a host that is replaced by compare and swap, and boots' logs.

Any number of processes have the same rows. Many hosts are read, and many replaced, in one statement or transaction.
"""

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from attestd.appraisal.host_state import HostState, parse_host_state
from attestd.appraisal.vector import Status
from attestd.appraisal.verifier import MAX_LOGS_BYTES
from attestd.controller.store.engine import Store, one_of
from attestd.controller.store.schema import verifier_hosts, verifier_logs

__all__ = ["Change", "Row", "Rows", "Said", "last_said"]

# Event logs shrink to a third; more effort would cost more than it saves.
_EFFORT: Final = 1
_PAGE: Final = 1000

_hosts: Final = verifier_hosts.c
_logs: Final = verifier_logs.c

# Made once: to make a statement takes SQLAlchemy as long as to run it.
_REPLACE: Final = (
    update(verifier_hosts)
    .where(_hosts.host == bindparam("key"))
    .values({column.name: bindparam(column.name) for column in _hosts if not column.primary_key})
)


@dataclass(frozen=True)
class Row:
    """What is kept of a host.

    Attributes:
        ak: The Name of the attestation key that quoted, hex.
        digest: Names exactly this row's state.
        state: Where its clock and logs had got to: a `HostState`, as it is stored.
        status: What was said of it last.
        has_logs: Whether the logs that the state names are kept.
    """

    ak: str
    digest: str
    state: bytes
    status: Status
    has_logs: bool

    @cached_property
    def kept(self) -> HostState:
        """The state; challenge and evidence read it.

        Raises:
            MalformedError: It is none.
        """
        return parse_host_state(self.state)


@dataclass(frozen=True)
class Said:
    """What was said of a host last: for people.

    Attributes:
        at: When.
        platform: Under which platform policy.
        status: What the result said.
        findings: How many.
        agent: The agent's version, as it says itself.
    """

    host: str
    at: datetime
    platform: str
    status: Status
    findings: int
    reset_count: int
    restart_count: int
    agent: str


@dataclass(frozen=True)
class Change:
    """A row that is to be replaced.

    Attributes:
        ak: The Name of the attestation key that quoted, hex.
        before: The row that the evidence was appraised against; None: there was none.
        state: What is to be kept.
        logs: The boot's logs, to be kept under `state.eventlog`; None: there are none, or they are kept.
        said: What is going to be said.
    """

    ak: str
    before: Row | None
    state: HostState
    logs: bytes | None
    said: Said


class Rows:
    """The verifier's part of the store."""

    def __init__(self, store: Store, *, max_log_bytes: int) -> None:
        """Takes the store, and how many bytes of logs are kept in it: hosts send others whole each time."""
        self._store, self._max_log_bytes = store, max_log_bytes
        dialect = sqlite if store.is_sqlite else postgresql
        self._insert = dialect.insert
        named = one_of(_hosts.host, "hosts", store)
        self._read = (
            select(
                _hosts.host, _hosts.ak, _hosts.digest, _hosts.state, _hosts.status, _logs.digest.is_not(None)
            )
            .join_from(verifier_hosts, verifier_logs, _logs.digest == _hosts.eventlog, isouter=True)
            .where(named)
        )
        # All lock in the same order, so none waits for one that waits for it.
        self._lock = (
            select(_hosts.host, _hosts.digest, _hosts.eventlog)
            .where(named)
            .order_by(_hosts.host)
            .with_for_update()
        )

    def read(self, hosts: Sequence[str]) -> list[Row | None]:
        """The rows of some hosts.

        Raises:
            StoreError: The database fails.
        """
        with self._store.read() as connection:
            found = {
                host: Row(ak, digest, bytes(state), Status(status), bool(has_logs))
                for host, ak, digest, state, status, has_logs in connection.execute(self._read, _named(hosts))
            }
        return [found.get(host) for host in hosts]

    def replace(self, changes: Sequence[Change]) -> list[bool]:
        """Replaces rows, each only if it is still the one that was read; durable when it returns.

        Returns:
            Of each, whether it was replaced.

        Raises:
            StoreError: The database fails; nothing was replaced.
        """
        with self._store.write() as connection:
            found = self._locked(connection, {change.said.host for change in changes})
            present = {host: digest for host, (digest, _) in found.items()}
            last: dict[str, dict[str, Any]] = {}
            done: list[bool] = []
            for change in changes:
                host = change.said.host
                is_same = present.get(host) == (change.before.digest if change.before else None)
                done.append(is_same)
                if is_same:
                    row = last[host] = _row(change)
                    present[host] = row["digest"]
            raced = self._write(connection, last, found)
            self._keep(
                connection,
                {
                    change.state.eventlog: change.logs
                    for change, good in zip(changes, done, strict=True)
                    if good and change.state.eventlog is not None and change.logs is not None
                },
            )
            left = {eventlog for host, (_, eventlog) in found.items() if host in last and eventlog}
            _forget(connection, left - {row["eventlog"] for row in last.values()})
        return [good and change.said.host not in raced for good, change in zip(done, changes, strict=True)]

    def log(self, digest: str) -> bytes | None:
        """The logs that are kept under a digest; None: there are none.

        Raises:
            StoreError: The database fails.
        """
        with self._store.read() as connection:
            data = connection.execute(select(_logs.data).where(_logs.digest == digest)).scalar_one_or_none()
        return None if data is None else zlib.decompressobj().decompress(bytes(data), MAX_LOGS_BYTES)

    def forget_logs(self, known: Iterable[str]) -> None:
        """Lets go of the logs of all other hosts; where their clocks had got to stays known.

        Raises:
            StoreError: The database fails.
        """
        kept = set(known)
        with self._store.read() as connection:
            named = connection.execute(select(_hosts.host).where(_hosts.eventlog.is_not(None))).scalars()
            gone = sorted(set(named) - kept)
        for start in range(0, len(gone), _PAGE):
            some = gone[start : start + _PAGE]
            with self._store.write() as connection:
                statement = select(_hosts.eventlog).where(_hosts.host.in_(some)).distinct()
                names = set(connection.execute(statement).scalars())
                connection.execute(update(verifier_hosts).where(_hosts.host.in_(some)).values(eventlog=None))
                _forget(connection, names)

    def _locked(self, connection: Connection, hosts: Iterable[str]) -> dict[str, tuple[str, str | None]]:
        found = connection.execute(self._lock, _named(hosts))
        return {host: (digest, eventlog) for host, digest, eventlog in found}

    def _write(
        self, connection: Connection, rows: Mapping[str, dict[str, Any]], known: Mapping[str, object]
    ) -> set[str]:
        """Stores rows; returns the hosts whose first row another process has inserted meanwhile."""
        old = [{"key": host, **rows[host]} for host in sorted(rows) if host in known]
        if old:
            connection.execute(_REPLACE, old)
        raced = set()
        for host in sorted(rows):
            if host not in known:
                statement = self._insert(verifier_hosts).values(rows[host]).on_conflict_do_nothing()
                if connection.execute(statement.returning(_hosts.host)).first() is None:
                    raced.add(host)
        return raced

    def _keep(self, connection: Connection, logs: Mapping[str, bytes]) -> None:
        if not logs:
            return
        left = self._max_log_bytes - _log_bytes(connection)
        for name, data in sorted(logs.items()):
            packed = zlib.compress(data, _EFFORT)
            left -= len(packed)
            if left < 0:
                return  # Hosts send theirs whole: it costs them more, and nobody else.
            row = {"digest": name, "data": packed, "size": len(packed)}
            connection.execute(self._insert(verifier_logs).values(row).on_conflict_do_nothing())


def last_said(
    store: Store, hosts: Sequence[str] | None = None, *, limit: int | None = None
) -> dict[str, Said]:
    """What was said last, by host: of some hosts, or of all; of as many as the limit says.

    Raises:
        StoreError: The database fails.
    """
    columns = [column for column in verifier_hosts.c if column.name in Said.__dataclass_fields__]
    statement = select(*columns).limit(limit)
    if hosts is not None:
        statement = statement.where(_hosts.host.in_(hosts))
    with store.read() as connection:
        rows = connection.execute(statement).mappings().all()
    return {row["host"]: _said(row) for row in rows}


def _named(hosts: Iterable[str]) -> dict[str, list[str]]:
    return {"hosts": sorted(set(hosts))}


def _forget(connection: Connection, names: Iterable[str]) -> None:
    """Deletes logs that no row names any more.

    Another process may begin to name one at the same moment: then it is sent whole once more.
    """
    if names := sorted(names):
        named = select(_hosts.host).where(_hosts.eventlog == _logs.digest).exists()
        connection.execute(delete(verifier_logs).where(_logs.digest.in_(names), ~named))


def _log_bytes(connection: Connection) -> int:
    return int(connection.execute(select(func.coalesce(func.sum(_logs.size), 0))).scalar_one())


def _row(change: Change) -> dict[str, Any]:
    state, said = change.state.to_bytes(), change.said
    return {
        "host": said.host,
        "ak": change.ak,
        "state": state,
        "digest": hashlib.sha256(state).hexdigest(),
        "eventlog": change.state.eventlog,
        "at": int(said.at.timestamp()),
        "platform": said.platform,
        "status": said.status,
        "findings": said.findings,
        "reset_count": said.reset_count,
        "restart_count": said.restart_count,
        "agent": said.agent,
    }


def _said(row: Mapping[Any, Any]) -> Said:
    values: dict[str, Any] = {
        **row,
        "at": datetime.fromtimestamp(row["at"], UTC),
        "status": Status(row["status"]),
    }
    return Said(**values)
