"""The latest checkpoint of each log, in the database: many requests are decided and stored in one transaction.

Of one log two processes cannot store at the same time: on PostgreSQL the row is locked from when it is read, on SQLite
the database is. A log that is seen for the first time has no row: whoever inserts it second is told so by the database.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from attestd.controller.store.engine import Store, one_of
from attestd.controller.store.schema import witness_logs
from attestd.controller.witness.anchor import Anchor
from attestd.errors import RollbackError, UsageError
from attestd.tlog.checkpoint import TreeHead
from attestd.tlog.cosignature import Cosigner
from attestd.tlog.note import NoteSignature, UntrustedNote, format_note
from attestd.tlog.witness import NOTHING_SEEN, AddCheckpoint, Latest, Refusal, RefusalStatus, evaluate_growth

__all__ = ["Conflict", "Cosigned", "Outcome", "State", "Submission"]

# Each rotation of a host's log begins another; a host that was broken into could begin any number.
MAX_LOGS_OF_A_HOST: Final = 1024
_logs: Final = witness_logs.c
_REPLACE: Final = (
    update(witness_logs)
    .where(_logs.origin == bindparam("key"))
    .values(size=bindparam("size"), root=bindparam("root"), note=bindparam("note"))
)


@dataclass(frozen=True)
class Submission:
    """A request whose log's signatures have verified.

    Attributes:
        request: Old size and proof.
        note: The checkpoint.
        head: What it says.
        lines: The log's own lines.
        host: Whose log; empty: not a host's.
        seen_before: Whether this witness's own cosignature stands on it already, and verifies.
    """

    request: AddCheckpoint
    note: UntrustedNote
    head: TreeHead
    lines: tuple[NoteSignature, ...]
    host: str
    seen_before: bool


@dataclass(frozen=True)
class Cosigned:
    """What is answered.

    Attributes:
        lines: This witness's signature lines.
    """

    lines: tuple[NoteSignature, ...]


@dataclass(frozen=True)
class Conflict:
    """The old size is another.

    Attributes:
        size: That of the latest.
    """

    size: int


Outcome = Cosigned | Conflict | Refusal


class State:
    """What this witness has cosigned. Of one thread."""

    def __init__(
        self, store: Store, anchor: Anchor, cosigners: Sequence[Cosigner], *, now: Callable[[], int]
    ) -> None:
        """Takes where it is, and by what it signs.

        Args:
            store: The database.
            anchor: This process's.
            cosigners: The keys.
            now: Seconds since the epoch.
        """
        self._store, self._anchor, self._cosigners, self._now = store, anchor, cosigners, now
        # Made once: to make a statement takes SQLAlchemy as long as to run it.
        self._latest_of = (
            select(_logs.origin, _logs.size, _logs.root)
            .where(one_of(_logs.origin, "origins", store))
            .order_by(_logs.origin)  # All lock in the same order, so none waits for one that waits for it.
            .with_for_update()
        )

    def decide(self, submissions: Sequence[Submission]) -> list[Outcome]:
        """Decides about requests in order, and stores what is cosigned; durable when it returns.

        Raises:
            RollbackError: The database is older than what was cosigned.
            StoreError: The database fails; nothing was cosigned that anybody has seen.
        """
        outcomes: list[Outcome] = []
        generation = None
        with self._store.write() as connection:
            before = self._latest(connection, {submission.head.origin for submission in submissions})
            latest = dict(before)
            changed: dict[str, dict[str, Any]] = {}
            for submission in submissions:
                outcome, row = self._decide(connection, submission, latest)
                outcomes.append(outcome)
                if row is not None:
                    changed[submission.head.origin] = row
            if changed:
                generation = self._anchor.advance(connection)
                raced = _write(connection, changed.values(), known=before)
                for number, submission in enumerate(submissions):
                    if submission.head.origin in raced and isinstance(outcomes[number], Cosigned):
                        outcomes[number] = raced[submission.head.origin]
        if generation is not None:
            self._anchor.committed(generation)
        return outcomes

    def _decide(
        self, connection: Connection, submission: Submission, latest: dict[str, Latest]
    ) -> tuple[Outcome, dict[str, Any] | None]:
        head = submission.head
        found = latest.get(head.origin, NOTHING_SEEN)
        if submission.seen_before and Latest(head.size, head.root) != found and head.size >= found.size:
            raise RollbackError(
                f"a checkpoint of {head.origin} of size {head.size} has this witness's cosignature, but the database"
                f" stands at {found.size}: restore the newer one, or give this witness up:"
                " see docs/operations-controller.md"
            )
        refusal = evaluate_growth(submission.request, head, found)
        if refusal is not None:
            return Conflict(found.size) if refusal.status is RefusalStatus.CONFLICT else refusal, None
        if (
            head.origin not in latest
            and submission.host
            and _count(connection, submission.host) >= MAX_LOGS_OF_A_HOST
        ):
            return Refusal(
                RefusalStatus.FORBIDDEN, f"host {submission.host} has {MAX_LOGS_OF_A_HOST} logs here"
            ), None
        try:
            lines = tuple(
                cosigner.cosign(submission.note.text, time=self._now()) for cosigner in self._cosigners
            )
            note = format_note(submission.note.text, (*submission.lines, *lines))
        except UsageError as error:  # This one alone: others wait for the same transaction.
            return Refusal(RefusalStatus.BAD_REQUEST, f"no room for cosignatures: {error}"), None
        latest[head.origin] = Latest(head.size, head.root)
        return Cosigned(lines), {
            "origin": head.origin,
            "origin_sha256": hashlib.sha256(head.origin.encode()).hexdigest(),
            "host": submission.host,
            "size": head.size,
            "root": head.root,
            "note": note,
        }

    def _latest(self, connection: Connection, origins: Iterable[str]) -> dict[str, Latest]:
        found = connection.execute(self._latest_of, {"origins": sorted(origins)})
        return {origin: Latest(size, bytes(root)) for origin, size, root in found}


def _write(
    connection: Connection, rows: Iterable[dict[str, Any]], *, known: dict[str, Latest]
) -> dict[str, Conflict]:
    """Stores rows; returns conflicts of logs that another process has inserted meanwhile."""
    ordered = sorted(rows, key=lambda row: str(row["origin"]))
    old = [
        {"key": row["origin"], "size": row["size"], "root": row["root"], "note": row["note"]}
        for row in ordered
        if row["origin"] in known
    ]
    if old:
        connection.execute(_REPLACE, old)
    raced: dict[str, Conflict] = {}
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert
    for row in ordered:
        if row["origin"] in known:
            continue
        statement = insert(witness_logs).values(row).on_conflict_do_nothing().returning(_logs.origin)
        if connection.execute(statement).first() is None:
            size = connection.execute(select(_logs.size).where(_logs.origin == row["origin"])).scalar_one()
            raced[str(row["origin"])] = Conflict(size)
    return raced


def _count(connection: Connection, host: str) -> int:
    statement = select(func.count()).select_from(witness_logs).where(_logs.host == host)
    return int(connection.execute(statement).scalar_one())
