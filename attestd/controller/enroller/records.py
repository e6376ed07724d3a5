"""What is remembered of hosts, as rows: records that wait or were signed, and what operators decided; read by host."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, select

from attestd.controller.store.schema import enrolment_decisions, enrolments
from attestd.governance.host import MAX_HOST_RECORD_BYTES, HostRecord
from attestd.journal import event
from attestd.strict import parse_canonical

__all__ = [
    "Decided",
    "Decision",
    "Kept",
    "KeptState",
    "decided_event",
    "format_kept",
    "parse_kept",
    "read_decided",
    "read_kept",
    "read_names",
]


class KeptState(StrEnum):
    """What a kept record is."""

    WAITING = "waiting"
    ADMITTED = "admitted"


class Decision(StrEnum):
    """What an operator decided.

    Attributes:
        APPROVED: One record may be signed.
        REFUSED: It may not.
        EXPECTED: The next record of a host may be signed, if it has these labels.
        REVOKED: Nothing of this host is signed any more.
    """

    APPROVED = "approved"
    REFUSED = "refused"
    EXPECTED = "expected"
    REVOKED = "revoked"


@dataclass(frozen=True)
class Kept:
    """A record that waits, or was signed.

    Attributes:
        host: Whose.
        state: Which of the two.
        digest: SHA-256 of `data`.
        data: The record's bytes: exactly what is signed.
        reasons: What there is to decide, or was.
        at: Since when.
    """

    host: str
    state: KeptState
    digest: str
    data: bytes
    reasons: tuple[str, ...]
    at: datetime

    @property
    def record(self) -> HostRecord:
        """Parsed."""
        return parse_canonical(self.data, HostRecord, max_bytes=MAX_HOST_RECORD_BYTES, what="host record")


@dataclass(frozen=True)
class Decided:
    """An operator's decision.

    Attributes:
        number: Its place in the table.
        confirmed: What they were warned of.
    """

    host: str
    digest: str
    decision: Decision
    operator: str
    words: str
    at: datetime
    number: int = 0
    confirmed: tuple[str, ...] = ()


def decided_event(host: str, decision: Decision, digest: str, *, operator: str | None) -> str:
    """For the journal: an operator decided something about a host, and which record it is about."""
    return event("enrolment.decided", host=host, decision=decision, digest=digest, operator=operator)


def read_kept(connection: Connection, hosts: Collection[str]) -> list[Kept]:
    """The records of some hosts that wait or were signed, those that wait first."""
    query = select(enrolments).where(enrolments.c.host.in_(hosts))
    rows = connection.execute(query.order_by(enrolments.c.state.desc(), enrolments.c.at)).all()
    return [parse_kept(row) for row in rows]


def read_decided(
    connection: Connection, hosts: Collection[str], *, limit: int | None = None
) -> list[Decided]:
    """What operators decided about some hosts, in its order; of more than the limit the newest."""
    query = select(enrolment_decisions).where(enrolment_decisions.c.host.in_(hosts))
    rows = connection.execute(query.order_by(enrolment_decisions.c.number.desc()).limit(limit)).all()
    return [
        Decided(
            row.host,
            row.digest,
            Decision(row.decision),
            row.operator,
            row.words,
            _time(row.at),
            row.number,
            _words(row.confirmed),
        )
        for row in reversed(rows)
    ]


def read_names(
    connection: Connection, *, after: str, limit: int, states: Collection[KeptState], decided: bool
) -> list[str]:
    """The next hosts of which there is something, in the order of their host-ids.

    Args:
        connection: Of the store.
        after: The host-id before them.
        limit: How many at most.
        states: With a record that is one of these.
        decided: Those as well about whom something was decided.
    """
    queries = [select(enrolments.c.host).where(enrolments.c.host > after, enrolments.c.state.in_(states))]
    if decided:
        queries.append(select(enrolment_decisions.c.host).where(enrolment_decisions.c.host > after))
    found = [
        connection.execute(query.distinct().order_by(query.selected_columns[0]).limit(limit)).scalars()
        for query in queries
    ]
    return sorted({host for hosts in found for host in hosts})[:limit]


def format_kept(kept: Kept, state: KeptState) -> dict[str, Any]:
    """The row of a record."""
    return {
        "host": kept.host,
        "state": state,
        "digest": kept.digest,
        "record": kept.data,
        "reasons": json.dumps(list(kept.reasons)),
        "at": int(kept.at.timestamp()),
    }


def parse_kept(row: Any) -> Kept:
    """The record of a row."""
    return Kept(
        row.host, KeptState(row.state), row.digest, bytes(row.record), _words(row.reasons), _time(row.at)
    )


def _words(data: str) -> tuple[str, ...]:
    return tuple(map(str, json.loads(data)))


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
