"""An operator's place at an enroller: which hosts there are, and what is decided about them, here or over HTTP."""

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from attestd.controller.enroller.office import Decided, Kept, KeptState, Office
from attestd.controller.enroller.office import Decision as Decided_
from attestd.controller.verifier.rows import Said
from attestd.errors import UsageError
from attestd.governance.desk import Attested, Decision, HostAnswer, HostList, HostRow, Verdict, Waiting
from attestd.governance.host import VerifiedHost
from attestd.governance.succession import warn_of_succession
from attestd.governance.trust import Trust
from attestd.strict import decode_base64, format_time
from attestd.tcg.public import parse_public

__all__ = ["Desk"]

SOON: Final = timedelta(days=30)
_SHORT: Final = 16


class Desk:
    """One operator's. Who that is, is recorded with each decision."""

    def __init__(
        self, office: Office, trust: Callable[[], Trust], *, operator: str, now: Callable[[], datetime]
    ) -> None:
        """Takes what is remembered, what governance says, who decides, and the time."""
        self._office, self._trust, self._operator, self._now = office, trust, operator, now

    def hosts(self) -> HostList:
        """Those that wait, those that are signed and not published, then as governance has them.

        Raises:
            StoreError: The database fails, or there is no governance.
        """
        trust, decided = self._trust(), self._office.decisions()
        rows = _rows(trust, self._office.kept(), decided, self._now())
        return HostList(
            hosts=tuple(_with_attested(rows, self._office.attested())),
            decisions=tuple(map(_decision, decided)),
        )

    def host(self, host: str) -> HostAnswer | None:
        """All about one host; None: it is not known here.

        Raises:
            StoreError: As `hosts`.
        """
        trust, decided = self._trust(), self._office.decisions(host)
        kept = self._office.kept(host)
        present = trust.hosts.get(host)
        known = {} if present is None else {host: present}
        found = _rows(trust, kept, decided, self._now(), hosts=known)
        rows = tuple(_with_attested(found, self._office.attested([host])))
        if not rows and not decided:
            return None
        waits = next((item for item in kept if item.state is KeptState.WAITING), None)
        waiting = None
        if waits is not None:
            waiting = Waiting(
                digest=waits.digest,
                record=b64encode(waits.data).decode(),
                reasons=waits.reasons,
                at=format_time(waits.at),
                before=None if present is None else present.ak_name.hex(),
                labels_before={} if present is None else dict(present.labels),
                warnings=self._warnings(waits, present),
            )
        return HostAnswer(host=host, rows=rows, waiting=waiting, decisions=tuple(map(_decision, decided)))

    def approve(self, host: str, digest: str, *, confirmed: bool) -> Verdict:
        """Has this record signed when the host asks again.

        Args:
            host: Whose.
            digest: Its SHA-256.
            confirmed: The operator has seen its warnings.

        Raises:
            UsageError: It does not wait any more, or it has warnings that nobody has seen.
            StoreError: The database fails.
        """
        waits = next((item for item in self._office.kept(host) if _waits_as(item, digest)), None)
        warnings = () if waits is None else self._warnings(waits, self._trust().hosts.get(host))
        if warnings and not confirmed:
            raise UsageError(f"{'; '.join(warnings)}: say that this is meant (confirmed)")
        return self._decide(host, digest, Decided_.APPROVED, warnings)

    def refuse(self, host: str, digest: str) -> Verdict:
        """Refuses this record for ever.

        Raises:
            UsageError, StoreError: As `approve`.
        """
        return self._decide(host, digest, Decided_.REFUSED)

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

    def _warnings(self, waits: Kept, present: VerifiedHost | None) -> tuple[str, ...]:
        said = self._office.attested([waits.host]).get(waits.host)
        seen = None if said is None else said.at
        return warn_of_succession(waits.data, present=present, seen=seen, now=self._now())

    def _decide(self, host: str, digest: str, decision: Decided_, warnings: Sequence[str] = ()) -> Verdict:
        self._office.decide(
            host, digest, decision, operator=self._operator, now=self._now(), confirmed=warnings
        )
        return self._verdict(host, decision, digest=digest)

    def _verdict(self, host: str, decision: Decided_, *, digest: str = "", fresh: bool = True) -> Verdict:
        governance = host in self._trust().revocations.hosts
        return Verdict(host=host, decision=decision, digest=digest, fresh=fresh, governance=governance)


def _waits_as(kept: Kept, digest: str) -> bool:
    return kept.state is KeptState.WAITING and kept.digest == digest


def _rows(
    trust: Trust,
    kept: list[Kept],
    decided: list[Decided],
    now: datetime,
    *,
    hosts: Mapping[str, Any] | None = None,
) -> list[HostRow]:
    hosts = trust.hosts if hosts is None else hosts
    revoked = {item.host for item in decided if item.decision is Decided_.REVOKED}
    gone = revoked | trust.revocations.hosts
    rows = []
    for item in kept:
        waits = item.state is KeptState.WAITING
        present = hosts.get(item.host)
        record = item.record
        if not waits and present is not None and _ak_name(record.ak.public) == present.ak_name:
            continue  # Governance has it, and says the rest.
        words = item.reasons if waits else (f"since {format_time(item.at)}, record {item.digest[:_SHORT]}",)
        state = "waiting" if waits else "not published"
        facts = record.tier, record.labels, record.not_after
        rows.append(_row(item.host, "revoked" if item.host in gone else state, facts, words, item.digest))
    for host, found in sorted(hosts.items()):
        state = "revoked" if host in gone else "ended" if found.not_after <= now else "enrolled"
        soon = state == "enrolled" and found.not_after - now < SOON
        facts = found.tier, found.labels, format_time(found.not_after)
        rows.append(_row(host, state, facts, ("its record ends soon",) if soon else ()))
    listed = {row.host for row in rows}
    rows += [_row(host, "revoked", ("", {}, ""), ()) for host in sorted(revoked - listed)]
    return rows


def _with_attested(rows: Sequence[HostRow], said: Mapping[str, Said]) -> Iterator[HostRow]:
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
    state: str,
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
