"""An operator's place at an enroller: which hosts there are, and what is decided about them, here or over HTTP."""

import contextlib
from base64 import b64encode
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from attestd.controller.enroller.office import Office, no_record
from attestd.controller.enroller.records import Decided, Kept, KeptState
from attestd.controller.enroller.records import Decision as Decided_
from attestd.controller.verifier.rows import Said
from attestd.errors import StoreError, UsageError
from attestd.governance.desk import (
    Attested,
    Decision,
    HostAnswer,
    HostList,
    HostQuery,
    HostRow,
    HostState,
    Verdict,
    Waiting,
)
from attestd.governance.host import VerifiedHost
from attestd.governance.succession import warn_of_succession
from attestd.governance.trust import Trust
from attestd.strict import decode_base64, format_time
from attestd.tcg.public import parse_public

__all__ = ["Desk", "HostNames"]

SOON: Final = timedelta(days=30)
_SHORT: Final = 16
_KEPT: Final = {HostState.WAITING: KeptState.WAITING, HostState.NOT_PUBLISHED: KeptState.ADMITTED}


class HostNames:
    """The hosts that governance has, in the order of their host-ids: sorted once for each version of it."""

    def __init__(self) -> None:
        """Knows none yet."""
        self._sorted: tuple[str, Sequence[str]] = "", ()

    def after(self, trust: Trust, host: str, limit: int) -> Sequence[str]:
        """The next ones."""
        digest, names = self._sorted
        if digest != trust.digest:
            names = sorted(trust.hosts)
            self._sorted = trust.digest, names
        start = bisect_right(names, host)
        return names[start : start + limit]


class Desk:
    """One operator's. Who that is, is recorded with each decision."""

    def __init__(
        self,
        office: Office,
        trust: Callable[[], Trust],
        names: HostNames,
        *,
        operator: str,
        now: Callable[[], datetime],
        decided: Callable[[str, Decided_, str], None] = lambda *_: None,
    ) -> None:
        """Takes its parts.

        Args:
            office: What is remembered.
            trust: Gives what governance says.
            names: Its hosts.
            operator: Who decides.
            now: The time.
            decided: Told each decision, of which host, about which record, as soon as it is recorded.
        """
        self._office, self._trust, self._names = office, trust, names
        self._operator, self._now, self._decided = operator, now, decided

    def hosts(self, query: HostQuery) -> HostList:
        """A page of those that wait, that are signed and not published, and as governance has them.

        Raises:
            StoreError: The database fails, or there is no governance.
        """
        trust = self._trust()
        found = self._after(trust, query)
        hosts = found[: query.limit]
        rows = [row for row in self._rows(trust, hosts) if query.state is None or row.state is query.state]
        about = hosts if query.state is None else sorted({row.host for row in rows})
        return HostList(
            hosts=tuple(rows),
            decisions=tuple(map(_decision, self._office.decisions(about))),
            next=hosts[-1] if len(found) > query.limit else None,
        )

    def host(self, host: str) -> HostAnswer | None:
        """All about one host; None: it is not known here.

        Raises:
            StoreError: As `hosts`; or something waits, and its record before cannot be read now.
        """
        trust, decided = self._trust(), self._office.decisions([host])
        rows, waits = tuple(self._rows(trust, [host])), self._waits(host)
        if not rows and not decided:
            return None
        waiting = None if waits is None else self._waiting(waits, trust)
        return HostAnswer(host=host, rows=rows, waiting=waiting, decisions=tuple(map(_decision, decided)))

    def _after(self, trust: Trust, query: HostQuery) -> list[str]:
        """The hosts of a page, and one more if there are more."""
        after, most, names = query.after, query.limit + 1, self._office.names
        if query.state in _KEPT:
            return names(after=after, limit=most, states=[_KEPT[query.state]], decided=False)
        found = self._names.after(trust, after, most)
        if query.state not in (HostState.ENROLLED, HostState.ENDED, HostState.UNUSABLE):
            found = sorted({*found, *names(after=after, limit=most, decided=True)})
        return list(found[:most])

    def _rows(self, trust: Trust, hosts: Sequence[str]) -> Iterator[HostRow]:
        kept, here, now = self._office.kept(hosts), self._office.revoked(hosts), self._now()
        said = self._office.attested(hosts)
        by_host: dict[str, list[Kept]] = {}
        for item in kept:
            by_host.setdefault(item.host, []).append(item)
        for host in hosts:
            gone = host in here or host in trust.revocations.hosts
            present, unusable = trust.hosts.get(host), None
            if present is None and host in trust.hosts:
                unusable = f"its record is not usable{trust.why_none(host)}"
            rows = _rows_of(
                host,
                present,
                by_host.get(host, ()),
                unusable=unusable,
                here=host in here,
                gone=gone,
                now=now,
            )
            yield from _with_attested(rows, said)

    def approve(self, host: str, shown: str) -> Verdict:
        """Has the record that waits signed when the host asks again.

        Args:
            host: Whose.
            shown: What the operator has seen of it (`Waiting.shown`).

        Raises:
            UsageError: Nothing waits any more, or there is something else to be seen now: another record, another warning.
            StoreError: The database fails; or the record before cannot be read now.
        """
        waits = self._waits(host)
        if waits is None:
            raise UsageError(no_record(host))
        waiting = self._waiting(waits, self._trust())
        if waiting.shown != shown:
            words = "; ".join((*waiting.reasons, *waiting.warnings))
            raise UsageError(
                f"what waits of host {host} is not what was shown: it is record {waiting.digest} now: {words}: look again"
            )
        return self._decide(waits, Decided_.APPROVED, waiting.warnings)

    def refuse(self, host: str, digest: str) -> Verdict:
        """Refuses the record of this SHA-256 for ever.

        Raises:
            UsageError: It does not wait any more.
            StoreError: The database fails.
        """
        waits = self._waits(host)
        if waits is None or waits.digest != digest:
            raise UsageError(no_record(host, digest))
        return self._decide(waits, Decided_.REFUSED)

    def expect(self, host: str, labels: Mapping[str, str]) -> Verdict:
        """Has the host's next record signed without waiting, once, if it has these labels.

        Raises:
            UsageError: The host is revoked.
            StoreError: The database fails.
        """
        self._office.expect(host, labels, operator=self._operator, now=self._now())
        return self._verdict(host, Decided_.EXPECTED)

    def revoke(self, host: str, reason: str) -> Verdict:
        """Never signs a record of this host again.

        Raises:
            StoreError: The database fails.
        """
        fresh = self._office.revoke(host, reason=reason, operator=self._operator, now=self._now())
        return self._verdict(host, Decided_.REVOKED, fresh=fresh)

    def _waits(self, host: str) -> Kept | None:
        return next((item for item in self._office.kept([host]) if item.state is KeptState.WAITING), None)

    def _waiting(self, waits: Kept, trust: Trust) -> Waiting:
        """All that somebody sees of it before they decide."""
        present = trust.known_records(waits.host).present
        said = self._office.attested([waits.host]).get(waits.host)
        seen = None if said is None else said.at
        return Waiting(
            digest=waits.digest,
            record=b64encode(waits.data).decode(),
            reasons=waits.reasons,
            at=format_time(waits.at),
            before=None if present is None else present.ak_name.hex(),
            labels_before={} if present is None else dict(present.labels),
            warnings=warn_of_succession(waits.data, present=present, seen=seen, now=self._now()),
        )

    def _decide(self, waits: Kept, decision: Decided_, warnings: Sequence[str] = ()) -> Verdict:
        self._office.decide(waits, decision, operator=self._operator, now=self._now(), confirmed=warnings)
        return self._verdict(waits.host, decision, digest=waits.digest)

    def _verdict(self, host: str, decision: Decided_, *, digest: str = "", fresh: bool = True) -> Verdict:
        self._decided(host, decision, digest)
        governance = False
        with contextlib.suppress(StoreError):  # It is decided, whether there is governance now or not.
            governance = host in self._trust().revocations.hosts
        return Verdict(host=host, decision=decision, digest=digest, fresh=fresh, governance=governance)


def _rows_of(
    host: str,
    present: VerifiedHost | None,
    kept: Sequence[Kept],
    *,
    unusable: str | None,
    here: bool,
    gone: bool,
    now: datetime,
) -> Iterator[HostRow]:
    """The rows of a host, which is revoked here, or anywhere (gone); `unusable`: why the record that it has is not."""
    facts: tuple[str, Mapping[str, str], str]
    for item in kept:
        waits, record = item.state is KeptState.WAITING, item.record
        if not waits and present is not None and _ak_name(record.ak.public) == present.ak_name:
            continue  # Governance has it, and says the rest.
        words = item.reasons if waits else (f"since {format_time(item.at)}, record {item.digest[:_SHORT]}",)
        state = HostState.WAITING if waits else HostState.NOT_PUBLISHED
        facts = record.tier, record.labels, record.not_after
        yield _row(host, HostState.REVOKED if gone else state, facts, words, item.digest)
        here = False
    if present is not None:
        held = HostState.ENDED if present.not_after <= now else HostState.ENROLLED
        soon = not gone and held is HostState.ENROLLED and present.not_after - now < SOON
        facts = present.tier, present.labels, format_time(present.not_after)
        yield _row(
            host, HostState.REVOKED if gone else held, facts, ("its record ends soon",) if soon else ()
        )
    elif unusable is not None:
        yield _row(host, HostState.REVOKED if gone else HostState.UNUSABLE, ("", {}, ""), (unusable,))
    elif here:
        yield _row(host, HostState.REVOKED, ("", {}, ""), ())


def _with_attested(rows: Iterable[HostRow], said: Mapping[str, Said]) -> Iterator[HostRow]:
    for row in rows:
        found = said.get(row.host)
        yield row if found is None else msgspec.structs.replace(row, attested=_attested(found))


def _attested(said: Said) -> Attested:
    return Attested(
        at=format_time(said.at),
        platform=said.platform,
        status=said.status,
        findings=said.findings,
        reset_count=said.reset_count,
        restart_count=said.restart_count,
        agent=said.agent,
    )


def _row(
    host: str,
    state: HostState,
    facts: tuple[str, Mapping[str, str], str],
    words: tuple[str, ...],
    digest: str | None = None,
) -> HostRow:
    tier, labels, until = facts
    return HostRow(
        host=host,
        state=state,
        tier=tier,
        labels=dict(labels),
        until=until,
        words=words,
        digest=digest,
        attested=None,
    )


def _decision(item: Decided) -> Decision:
    return Decision(
        host=item.host,
        digest=item.digest,
        decision=item.decision,
        operator=item.operator,
        words=item.words,
        at=format_time(item.at),
    )


def _ak_name(public: str) -> bytes:
    return parse_public(decode_base64(public, what="host record")).name
