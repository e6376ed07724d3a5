"""What the enroller remembers: records that wait for an operator, whose each key is, and what operators decided."""

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, delete, insert, or_, select, text, update

from attestd.controller.enroller.records import (
    Decided,
    Decision,
    Kept,
    KeptState,
    format_kept,
    parse_kept,
    read_decided,
    read_kept,
    read_names,
)
from attestd.controller.store.engine import Store
from attestd.controller.store.schema import enrolment_decisions, enrolment_keys, enrolments
from attestd.controller.verifier.rows import Said, last_said
from attestd.errors import UsageError, VerificationError
from attestd.governance.admission import ActivatedEnrolment
from attestd.governance.known_hosts import Standing
from attestd.governance.succession import LATE
from attestd.strict import format_time

__all__ = ["Admission", "Office", "no_record"]

# Any number, the same for all: whoever decides about a host holds this lock.
_LOCK: Final = 0x656E726F6C6C
# In one answer; operators made each of them.
MAX_DECISIONS: Final = 1000


@dataclass(frozen=True)
class Admission:
    """Whether a record is to be signed.

    Attributes:
        waits: What an operator has to decide first; empty: it is to be signed.
        decided: The decision that it was, where the host was expected.
    """

    waits: tuple[str, ...]
    decided: Decided | None


class Office:
    """The enroller's part of the store. Any number of processes have one each."""

    def __init__(self, store: Store) -> None:
        """Takes the store."""
        self._store = store

    def attested(self, hosts: Sequence[str]) -> Mapping[str, Said]:
        """What a verifier on the same store said last, by host."""
        return last_said(self._store, hosts)

    def knows(self, digest: str) -> bool:
        """Whether a record was seen here before: it began about now when it was."""
        with self._store.read() as connection:
            kept = connection.execute(select(enrolments.c.host).where(enrolments.c.digest == digest)).first()
        return kept is not None

    def admit(
        self,
        activated: ActivatedEnrolment,
        *,
        standing: Standing,
        reasons: Sequence[str],
        ended: Sequence[str],
        warned: bool,
        late: bool,
        now: datetime,
    ) -> Admission:
        """Decides whether a record is signed now; remembers it either way.

        1. No operator revoked the host, or refused this record.
        2. No key of it stood in another host's record that was signed here: governance may not have it yet.
        3. It has other keys than the record that was signed here before: an operator's decision, as after a TPM's clear.
        4. An operator approved this record, warned of the keys that end with it now, within `LATE` where it ends them late; or
           expected the host with these labels, where there is nothing to be warned of: signed, whatever there was to decide.

        The host that was expected has come once its next keys, or a record that was approved, are signed with these labels:
        also where nobody had to expect it.

        Args:
            activated: Verified.
            standing: What governance knows of the host.
            reasons: What there is to decide, by governance.
            ended: Which keys end with it (`succession.ended_keys`): who approved it was told so, or it waits again.
            warned: Whoever approves the record is warned (`succession.warn_of_succession`): that it is expected is not enough.
            late: It ends other keys late (`succession.ends_late`): what was approved long ago is looked at again.
            now: The time.

        Returns:
            Whether it is to be signed.

        Raises:
            VerificationError: It is refused.
            StoreError: The database fails.
        """
        host, digest = activated.enrolment.ek.host, hashlib.sha256(activated.record).hexdigest()
        names, taken = _names(activated), None
        with self._deciding() as connection:
            decided = read_decided(connection, [host])
            _require_not_refused(decided, digest)  # 1
            _require_own_keys(connection, names, host)  # 2
            found = (*reasons, *_other_keys(connection, activated, standing))  # 3
            approvals = _approvals(decided, digest)
            covering = [item for item in approvals if {*ended} <= {*item.confirmed}]
            approved = any(not late or now - item.at < LATE for item in covering)
            if approvals and not approved:
                why = "too long ago for what it ends" if covering else "and nobody was told what it ends now"
                found = (*found, f"approved at {format_time(approvals[-1].at)}, {why}: look at it again")
            expected = _expected(decided, activated)
            if found and not approved and expected and not warned and activated.userspace == "none":
                words = f"expected, decision {expected[0].number}"
                taken = Decided(host, digest, Decision.APPROVED, expected[0].operator, words, now)
                _record(connection, taken)
                approved = True  # 4
            waits = () if approved else found
            _keep(connection, activated, digest, waits, now)
            if not waits and (_remember_keys(connection, names, host) or approved):
                _spend(connection, expected, digest)
        return Admission(waits, taken)

    def kept(self, hosts: Collection[str]) -> list[Kept]:
        """The records of some hosts that wait or were signed, those that wait first."""
        with self._store.read() as connection:
            return read_kept(connection, hosts)

    def decisions(self, hosts: Collection[str]) -> list[Decided]:
        """What operators decided about some hosts, in its order; of very many the newest."""
        with self._store.read() as connection:
            return read_decided(connection, hosts, limit=MAX_DECISIONS)

    def revoked(self, hosts: Collection[str]) -> set[str]:
        """Those of some hosts that operators revoked."""
        found = enrolment_decisions.c.host
        revoked = found.in_(hosts), enrolment_decisions.c.decision == Decision.REVOKED
        with self._store.read() as connection:
            return set(connection.execute(select(found).where(*revoked)).scalars())

    def names(
        self, *, after: str, limit: int, states: Collection[KeptState] = tuple(KeptState), decided: bool
    ) -> list[str]:
        """The next hosts that are known here, as `records.read_names`."""
        with self._store.read() as connection:
            return read_names(connection, after=after, limit=limit, states=states, decided=decided)

    def decide(
        self, kept: Kept, decision: Decision, *, operator: str, now: datetime, confirmed: Sequence[str] = ()
    ) -> None:
        """Records an operator's decision about a record that waits.

        Args:
            kept: The record, and for what it waits.
            decision: Approved or refused.
            operator: Who decided.
            now: The time.
            confirmed: What they were warned of.

        Raises:
            UsageError: It does not wait any more: the host came with another one, there is something else to decide about
                it, or somebody else decided.
        """
        with self._deciding() as connection:
            waiting = enrolments.c.host == kept.host, enrolments.c.state == KeptState.WAITING
            row = connection.execute(select(enrolments).where(*waiting)).first()
            if row is None or parse_kept(row) != kept:
                raise UsageError(no_record(kept.host, kept.digest))
            connection.execute(delete(enrolments).where(*waiting))
            if decision is Decision.APPROVED:
                # It stays known, though it may be hours until the host asks for its signature.
                connection.execute(
                    delete(enrolments).where(
                        enrolments.c.host == kept.host, enrolments.c.state == KeptState.ADMITTED
                    )
                )
                connection.execute(insert(enrolments), [format_kept(kept, KeptState.ADMITTED)])
            words = "; ".join([*kept.reasons, *confirmed])
            decided = Decided(
                kept.host, kept.digest, decision, operator, words, now, confirmed=tuple(confirmed)
            )
            _record(connection, decided)

    def expect(self, host: str, labels: Mapping[str, str], *, operator: str, now: datetime) -> None:
        """Records that a host's next record may be signed, if it has these labels.

        Raises:
            UsageError: The host is revoked.
        """
        with self._deciding() as connection:
            if any(item.decision is Decision.REVOKED for item in read_decided(connection, [host])):
                raise UsageError(f"host {host} is revoked: what was revoked is not enrolled again")
            _record(connection, Decided(host, "", Decision.EXPECTED, operator, _labels(labels), now))

    def revoke(self, host: str, *, reason: str, operator: str, now: datetime) -> bool:
        """Records that nothing of a host is signed any more; what waits is gone.

        Returns:
            Whether it was not revoked before.
        """
        with self._deciding() as connection:
            if any(item.decision is Decision.REVOKED for item in read_decided(connection, [host])):
                return False
            connection.execute(
                delete(enrolments).where(enrolments.c.host == host, enrolments.c.state == KeptState.WAITING)
            )
            _record(connection, Decided(host, "", Decision.REVOKED, operator, reason, now))
        return True

    @contextlib.contextmanager
    def _deciding(self) -> Iterator[Connection]:
        """A transaction; of all processes one is in here at a time."""
        with self._store.write() as connection:
            if not self._store.is_sqlite:  # whose transactions are one at a time
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            yield connection


def no_record(host: str, digest: str = "") -> str:
    """That there is nothing to decide, in words."""
    return f"no record {digest + ' ' if digest else ''}of host {host} waits any more: look again, attestd controller hosts"


def _names(activated: ActivatedEnrolment) -> tuple[str, ...]:
    enrolment = activated.enrolment
    identity = hashlib.sha256(repr(enrolment.ek.public.identity).encode()).hexdigest()
    return f"ek:{identity}", enrolment.keys.ak.name.hex(), enrolment.keys.release_key.name.hex()


def _require_not_refused(decided: Sequence[Decided], digest: str) -> None:
    for item in decided:
        if item.decision is Decision.REVOKED:
            raise VerificationError(
                f"host {item.host} was revoked here: what was revoked is not enrolled again"
            )
        if item.decision is Decision.REFUSED and item.digest == digest:
            raise VerificationError(
                f"an operator refused this record at {format_time(item.at)}: ask them, then begin with another"
            )


def _require_own_keys(connection: Connection, names: Sequence[str], host: str) -> None:
    found = connection.execute(
        select(enrolment_keys.c.host).where(enrolment_keys.c.name.in_(names), enrolment_keys.c.host != host)
    ).scalar()
    if found is not None:
        raise VerificationError(
            f"host {host} shows a key of host {found}, whose record was signed here: a key is of one host"
        )


def _other_keys(connection: Connection, activated: ActivatedEnrolment, standing: Standing) -> tuple[str, ...]:
    """Governance says what is published; between signing and publishing this table alone knows."""
    row = connection.execute(
        select(enrolments).where(
            enrolments.c.host == activated.enrolment.ek.host, enrolments.c.state == KeptState.ADMITTED
        )
    ).first()
    if row is None or standing is not Standing.NEW:
        return ()
    before, request = parse_kept(row), activated.enrolment.request
    record = before.record
    if (record.ak.public, record.release_key.public) == (request.ak.public, request.release_key.public):
        return ()
    return (f"other keys than in the record that was signed here at {format_time(before.at)}",)


def _approvals(decided: Sequence[Decided], digest: str) -> list[Decided]:
    return [item for item in decided if (item.decision, item.digest) == (Decision.APPROVED, digest)]


def _expected(decided: Sequence[Decided], activated: ActivatedEnrolment) -> list[Decided]:
    """What operators expected of this host, with these labels, and what did not come yet."""
    wanted = Decision.EXPECTED, "", _labels(activated.labels)
    return [item for item in decided if (item.decision, item.digest, item.words) == wanted]


def _remember_keys(connection: Connection, names: Sequence[str], host: str) -> bool:
    """Whether one of them is new."""
    known = set(
        connection.execute(select(enrolment_keys.c.name).where(enrolment_keys.c.name.in_(names))).scalars()
    )
    if new := [{"name": name, "host": host} for name in names if name not in known]:
        connection.execute(insert(enrolment_keys), new)
    return bool(new)


def _spend(connection: Connection, expected: Sequence[Decided], digest: str) -> None:
    """The host that was expected came: with its TPM nobody else is."""
    for item in expected:
        connection.execute(
            update(enrolment_decisions)
            .where(enrolment_decisions.c.number == item.number)
            .values(digest=digest)
        )


def _keep(
    connection: Connection,
    activated: ActivatedEnrolment,
    digest: str,
    waits: tuple[str, ...],
    now: datetime,
) -> None:
    host = activated.enrolment.ek.host
    state = KeptState.WAITING if waits else KeptState.ADMITTED
    kept = connection.execute(
        select(enrolments).where(enrolments.c.host == host, enrolments.c.state == state)
    ).first()
    if kept is not None and kept.digest == digest and parse_kept(kept).reasons == waits:
        return
    gone = enrolments.c.state == state
    if not waits:
        gone = or_(gone, enrolments.c.state == KeptState.WAITING)
    connection.execute(delete(enrolments).where(enrolments.c.host == host, gone))
    at = now.replace(microsecond=0)
    connection.execute(
        insert(enrolments), [format_kept(Kept(host, state, digest, activated.record, waits, at), state)]
    )


def _record(connection: Connection, decided: Decided) -> None:
    row = {
        "host": decided.host,
        "digest": decided.digest,
        "decision": decided.decision,
        "operator": decided.operator[:255],
        "words": decided.words,
        "at": int(decided.at.timestamp()),
        "confirmed": json.dumps(decided.confirmed),
    }
    connection.execute(insert(enrolment_decisions), [row])


def _labels(labels: Mapping[str, str]) -> str:
    return json.dumps(dict(labels), sort_keys=True)
