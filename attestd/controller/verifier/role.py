"""Challenges, evidence and results over HTTP: two requests, between which nothing is kept."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Literal

import msgspec

import attestd
from attestd.appraisal.claims import draft_result
from attestd.appraisal.evidence import (
    MAX_EVIDENCE_BYTES,
    EvidenceChallenge,
    PlatformName,
    UntrustedEvidence,
    require_own_logs,
)
from attestd.appraisal.host_state import HostState
from attestd.appraisal.result import format_result
from attestd.appraisal.vector import status_of
from attestd.appraisal.verifier import AuthenticEvidence, VerifiedEvidence, ask_evidence
from attestd.controller.background import in_background
from attestd.controller.batch import Batches
from attestd.controller.http.metrics import Gauge
from attestd.controller.http.operation import Answer, Body, Call, Operation, Response
from attestd.controller.http.problem import MEDIA_TYPE, Problem
from attestd.controller.verifier.example import ASK_EXAMPLE, EVIDENCE_EXAMPLE
from attestd.controller.verifier.keys import VerifierKeys
from attestd.controller.verifier.reading import Reading
from attestd.controller.verifier.recent import RecentRows
from attestd.controller.verifier.rows import Change, Row, Rows, Said
from attestd.errors import (
    AttestdError,
    EvidenceIncompleteError,
    MalformedError,
    StoreError,
    VerificationError,
)
from attestd.governance.host import VerifiedHost
from attestd.governance.host_records import record_name
from attestd.governance.platform import PlatformPolicy
from attestd.governance.trust import Trust
from attestd.journal import event
from attestd.prometheus import Labels
from attestd.strict import HostId, Strict, encode_own_form

__all__ = ["VerifierRole", "verifier_running"]

CHALLENGE_LIFETIME: Final = timedelta(minutes=1)
RESULT: Final = "application/eat+jwt"
# Larger bodies are parsed in a thread: this takes half a millisecond.
QUICK_BODY: Final = 64 * 1024
# How often evidence is appraised again, where another of the same host came between.
TRIES: Final = 3
FORGET_S: Final = 60.0
_MAX_ASK_BYTES: Final = 1024


class ChallengeQuery(Strict, frozen=True):
    """Asks for a challenge.

    Attributes:
        host: The host-id.
        platform: The platform policy that it is going to attest under.
    """

    host: HostId
    platform: PlatformName


class ChallengeRequest(ChallengeQuery, frozen=True):
    """The same, in a body."""

    v: Literal[1]


class VerifierRole:
    """The role."""

    def __init__(
        self,
        *,
        name: str,
        trust: Callable[[], Trust],
        reading: Reading,
        rows: Rows,
        keys: VerifierKeys,
        lifetime: timedelta,
        log: logging.Logger,
        now: Callable[[], datetime],
    ) -> None:
        """Takes its parts; use `verifier_running`.

        Args:
            name: Its name in `mesh.json`.
            trust: Gives what governance says now.
            reading: Appraises.
            rows: What is remembered.
            keys: Its keys.
            lifetime: For how long a result holds.
            log: The journal.
            now: The time.
        """
        self._name, self._trust, self._reading, self._keys = name, trust, reading, keys
        self._rows, self._lifetime, self._log, self._now = rows, lifetime, log, now
        self._reads = Batches[str, Row | None](rows.read, name="verifier-read")
        self._recent = RecentRows(self._reads)
        self._writes = Batches[Change, bool](rows.replace, name="verifier-write")
        self._counted = dict.fromkeys(
            ("challenged", "affirmed", "contraindicated", "incomplete", "refused"), 0
        )

    def operations(self) -> list[Operation]:
        """What it offers."""
        asked = {
            200: Response("What to quote over, and which logs to send.", schema=EvidenceChallenge),
            403: Response("The host is revoked, or its record does not hold now.", MEDIA_TYPE),
            404: Response("No such host, or no such platform policy.", MEDIA_TYPE),
        }
        return [
            Operation(
                name="askChallenge",
                method="POST",
                path="/v1/challenge",
                summary="Ask what a quote is to be over",
                handler=self.post_challenge,
                body=Body(_MAX_ASK_BYTES, ASK_EXAMPLE, ChallengeRequest),
                responses=asked,
            ),
            Operation(
                name="getChallenge",
                method="GET",
                path="/v1/challenge",
                summary="The same, without a body",
                handler=self.get_challenge,
                query=ChallengeQuery,
                responses=asked,
            ),
            Operation(
                name="appraiseEvidence",
                method="POST",
                path="/v1/evidence",
                summary="Show evidence; get a signed attestation result",
                handler=self.post_evidence,
                body=Body(MAX_EVIDENCE_BYTES, EVIDENCE_EXAMPLE, UntrustedEvidence, parsed=False),
                responses={
                    200: Response("The result: an EAT (RFC 9711) as a JWT.", RESULT),
                    403: Response("Refused: what does not verify, and why.", MEDIA_TYPE),
                    404: Response("No such host, or no such platform policy.", MEDIA_TYPE),
                    409: Response(
                        "It goes on from what is not kept here, or from what is not kept any more: ask for a challenge, and"
                        " send the logs whole.",
                        MEDIA_TYPE,
                    ),
                },
            ),
        ]

    def trouble(self) -> str | None:
        """Why its results count for nobody, for `/healthz`."""
        try:
            node = self._trust().mesh.verifiers.get(self._name)
        except StoreError as error:
            return str(error)
        key = self._keys.public
        if node is None or node.key.key_id != key.key_id:
            return f"mesh.json names no verifier {self._name!r} with the key {key.key_id}: its results count for nobody"
        return None

    def gauges(self) -> list[Gauge]:
        """For `/metrics`."""
        values: Mapping[Labels, float] = {
            (("outcome", outcome),): float(count) for outcome, count in self._counted.items()
        }
        return [
            ("attestd_verifier_requests", "What challenges and evidence came to.", values),
            (
                "attestd_verifier_waiting",
                "Requests that wait: for the database, for a thread that reads logs.",
                {
                    (("for", "database"),): float(self._reads.waiting + self._writes.waiting),
                    (("for", "logs"),): float(self._reading.waiting),
                },
            ),
        ]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers as long as the context lasts."""
        async with self._reads.running(), self._writes.running(), in_background(self._forget()):
            yield

    async def post_challenge(self, call: Call) -> Answer:
        """`POST /v1/challenge`."""
        return await self._challenge(call.value)

    async def get_challenge(self, call: Call) -> Answer:
        """`GET /v1/challenge`."""
        return await self._challenge(call.query)

    async def post_evidence(self, call: Call) -> Answer:
        """`POST /v1/evidence`.

        1. It parses; else 400, 422.
        2. Governance has the host and the platform policy; else 404.
        3. It is the host's, and was asked for; else 403.
        4. It goes on from what is kept of the host, and is appraised; else 403, 409. What was read for the challenge
           counts as kept; where something else was kept meanwhile, again with that.
        5. What is to be kept of the host is stored, durably, if nothing else was meanwhile; else again from 4.
        6. The result is signed.
        """
        evidence = await self._parse(call.value)  # 1
        trust, now = self._trust(), self._now()
        try:
            authentic = self._reading.verifier.authenticate(evidence, trust=trust, now=now)  # 3
        except (MalformedError, VerificationError) as error:
            _require_known(trust, evidence.host, evidence.platform)  # 2
            self._counted["refused"] += 1
            raise Problem(403, str(error)) from error
        found = await self._appraise(authentic, trust, call.correlation_id)  # 4, 5
        claims = draft_result(
            found,
            verifier=self._name,
            build=f"attestd {attestd.__version__}",
            governance=trust.version,
            now=now,
            lifetime=self._lifetime,
        )
        self._counted["contraindicated" if found.count else "affirmed"] += 1
        sign = partial(format_result, claims, public=self._keys.public, sign=self._keys.sign)
        token = sign() if self._keys.is_here else await asyncio.to_thread(sign)  # 6
        return Answer(token.encode("ascii"), RESULT)

    async def _challenge(self, asked: ChallengeQuery) -> Answer:
        trust, now = self._trust(), self._now()
        host, policy = _require_known(trust, asked.host, asked.platform)
        if host.host in trust.revocations.hosts:
            raise Problem(403, f"host {host.host} is revoked")
        if not host.not_before <= now < host.not_after:
            raise Problem(403, f"the record of host {host.host} does not hold now: enrol it again")
        row = await self._recent.read(host.host)
        state = _state(row, host)
        if state is not None and row is not None and not row.has_logs:
            state = msgspec.structs.replace(state, eventlog=None)
        challenge = ask_evidence(
            state,
            host=host.host,
            policy=policy,
            key=self._keys.secret,
            expires=now + CHALLENGE_LIFETIME,
            random=os.urandom,
        )
        self._counted["challenged"] += 1
        return Answer(encode_own_form(challenge))

    async def _parse(self, body: bytes) -> UntrustedEvidence:
        return _parse(body) if len(body) <= QUICK_BODY else await asyncio.to_thread(_parse, body)

    async def _appraise(self, authentic: AuthenticEvidence, trust: Trust, id_: str) -> VerifiedEvidence:
        host = authentic.host.host
        row = await self._recent.take(host)
        for _ in range(TRIES):
            state = _state(row, authentic.host)
            try:
                found = await self._reading.appraise(authentic, trust=trust, state=state)
            except (MalformedError, VerificationError) as error:
                now = await self._reads.submit(host)
                if now == row:
                    raise self._refused(error, host, id_) from error
                row = now
                continue
            change = _change(authentic, found, row)
            if await self._writes.submit(change):
                if row is None or row.status != change.said.status:
                    self._tell(change.said, found)
                return found
            row = await self._reads.submit(host)
        raise Problem(409, f"host {host} attests more than once at a time: ask for a challenge again")

    def _refused(self, error: AttestdError, host: str, id_: str) -> Problem:
        if isinstance(error, EvidenceIncompleteError):
            self._counted["incomplete"] += 1
            return Problem(409, str(error))
        self._counted["refused"] += 1
        # By the host's own key: a copy of its TPM, a list that is not its TPM's, or an older quote that came late.
        self._log.warning(event("evidence.refused", host=host, error=error, id=id_))
        return Problem(403, str(error))

    def _tell(self, said: Said, found: VerifiedEvidence) -> None:
        first = found.findings[0] if found.findings else None
        level = logging.WARNING if found.count else logging.INFO
        self._log.log(
            level,
            event(
                "attestation.changed", host=said.host, platform=said.platform, status=said.status,
                findings=found.count, first=first,
            ),
        )  # fmt: skip

    async def _forget(self) -> None:
        """Lets go of the logs of hosts that governance has no more."""
        digest = ""
        while True:
            with contextlib.suppress(StoreError):  # No governance, or no database: later.
                trust = self._trust()
                if trust.digest != digest:
                    await asyncio.to_thread(self._rows.forget_logs, trust.hosts.keys())
                    digest = trust.digest
            await asyncio.sleep(FORGET_S)


@contextlib.asynccontextmanager
async def verifier_running(
    *,
    name: str,
    trust: Callable[[], Trust],
    rows: Rows,
    keys: VerifierKeys,
    lifetime: timedelta,
    log: logging.Logger,
    now: Callable[[], datetime],
) -> AsyncIterator[VerifierRole]:
    """The role, as long as the context lasts; arguments as `VerifierRole` has them."""
    with contextlib.closing(Reading(key=keys.secret, trust=trust, kept_logs=rows.log)) as reading:
        role = VerifierRole(
            name=name, trust=trust, reading=reading, rows=rows, keys=keys, lifetime=lifetime, log=log, now=now
        )
        async with role.running():
            yield role


_BODY: Final = Body(MAX_EVIDENCE_BYTES, EVIDENCE_EXAMPLE, UntrustedEvidence)


def _parse(body: bytes) -> UntrustedEvidence:
    evidence: UntrustedEvidence = _BODY.parse(body)
    try:
        require_own_logs(evidence)
    except MalformedError as error:
        raise Problem(403, str(error)) from error
    return evidence


def _require_known(trust: Trust, host: str, platform: str) -> tuple[VerifiedHost, PlatformPolicy]:
    found, policy = trust.hosts.get(host), trust.platforms.get(platform)
    if found is None:
        # What governance names and cannot be read here is no reason for a host to enrol again.
        is_unread = host in trust.hosts and not trust.is_refused(record_name(host))
        raise Problem(503 if is_unread else 404, f"host {host} is not enrolled{trust.why_none(host)}")
    if policy is None:
        raise Problem(404, f"governance has no usable platform policy {platform!r}")
    return found, policy


def _state(row: Row | None, host: VerifiedHost) -> HostState | None:
    """What is kept of a host; of another attestation key, as before its TPM was cleared, nothing counts."""
    if row is None or row.ak != host.ak_name.hex():
        return None
    return row.kept


def _change(authentic: AuthenticEvidence, found: VerifiedEvidence, row: Row | None) -> Change:
    clock = found.appraisal.clock
    return Change(
        ak=found.host.ak_name.hex(),
        before=row,
        state=found.state,
        logs=found.logs,
        said=Said(
            host=found.host.host,
            at=found.appraisal.at,
            platform=found.appraisal.policy.name,
            status=status_of(found),
            findings=found.count,
            reset_count=clock.reset_count,
            restart_count=clock.restart_count,
            agent=authentic.sent.agent,
        ),
    )
