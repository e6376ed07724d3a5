"""Keeps evidence fresh: the agent quotes itself, verifies it as anyone would, and appraises it."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from attestd.agent.ima_watch import ImaWatch
from attestd.agent.log_appraisal import LogAppraiser
from attestd.agent.tpm_port import RawEvidence, TpmPort
from attestd.appraisal.quote import Appraisal, appraise_evidence
from attestd.codes import Code, Denial, Denied
from attestd.errors import MalformedError, TpmError, UsageError, VerificationError
from attestd.governance.platform import PlatformPolicy
from attestd.governance.trust import Trust
from attestd.tcg.attest import ClockInfo, QuoteInfo, UntrustedAttest, parse_attest
from attestd.tcg.ima.replay import IMA_PCR
from attestd.tcg.pcr import PcrSelection, composite

__all__ = ["EvidenceKeeper"]

_ATTEMPTS: Final = 4
# Evidence is renewed when half of what an artifact allows has passed, so that a decision seldom waits for it.
_HALF: Final = 2


class EvidenceKeeper:
    """The latest appraisal for each platform policy. Used from the agent's loop only."""

    def __init__(self, port: TpmPort, logs: LogAppraiser, *, now: Callable[[], datetime]) -> None:
        """Takes the TPM, the logs and trusted time; holds no evidence yet."""
        self._port, self._logs, self._now = port, logs, now
        self._latest: dict[str, Appraisal | Denial] = {}
        self._clock: ClockInfo | None = None
        self._lock = asyncio.Lock()

    def latest(self) -> dict[str, Appraisal | Denial]:
        """By platform policy name: the appraisal, or the denial that taking evidence came to."""
        return {name: self._logs.current(found) for name, found in self._latest.items()}

    async def ensure(self, policy: PlatformPolicy, *, trust: Trust, max_age_s: int) -> None:
        """Takes evidence if there is none, or it is too old, or it was appraised under another policy version.

        And looks at what IMA measured since, whatever age the evidence has: a list that is no longer that of the quote
        needs another one.
        """
        await self._logs.look(policy)
        if self.is_fresh(policy, trust, max_age_s):
            return
        async with self._lock:
            if not self.is_fresh(policy, trust, max_age_s):
                self._latest[policy.name] = await self._take(policy, trust)
        await self._logs.look(policy)

    async def look(self, policy: PlatformPolicy) -> None:
        """Looks at what IMA measured since the last look: `latest` has it."""
        await self._logs.look(policy)

    def sealed(self, quote: UntrustedAttest) -> None:
        """A checkpoint's quote is evidence as well: it renews what it confirms and drops what it contradicts.

        It confirms the PCRs of the approvals, and no others: where rules look at more, it renews nothing.
        """
        if not isinstance(quote.body, QuoteInfo):
            return
        for name, found in list(self._latest.items()):
            if not isinstance(found, Appraisal) or quote.body.selections != (found.policy.selection,):
                continue
            if (
                quote.body.pcr_digest != found.pcr_digest
                or found.clock.reset_count != quote.clock.reset_count
            ):
                del self._latest[name]
            elif found.policy.quoted == found.policy.selection:
                self._latest[name] = replace(found, clock=quote.clock, at=self._now())

    def contradicted(self, name: str) -> None:
        """Another quote, which verified, showed another state: the next to ask has evidence taken anew."""
        self._latest.pop(name, None)

    def is_fresh(self, policy: PlatformPolicy, trust: Trust, max_age_s: int) -> bool:
        """Whether there is evidence that will do: appraised under this policy version, and not too old."""
        found = self._latest.get(policy.name)
        if not isinstance(found, Appraisal) or found.policy.digest != policy.digest:
            return False
        if not self._logs.is_quoted(policy):
            return False
        now = self._now()
        still = policy.approval_for(found.pcr_digest, epoch=trust.revocations.epoch, at=now)
        age = now - found.at
        return still is found.approval and timedelta(0) <= age <= timedelta(seconds=max_age_s) / _HALF

    async def _take(self, policy: PlatformPolicy, trust: Trust) -> Appraisal | Denial:
        try:
            watch = await self._logs.watch(policy, trust)
            for _ in range(_ATTEMPTS):
                raw = await asyncio.wrap_future(self._port.evidence(policy.quoted))
                # Quote first, read the logs after: they may have grown since, and hold all that was quoted.
                values = await _quoted_values(raw, policy.quoted, watch)
                if values is not None:
                    return self._appraise(raw, values, policy, trust)
        except Denied as denied:
            return denied.denial
        except TpmError as error:
            return Denial(Code.TPM_UNAVAILABLE, f"no evidence could be taken: {error}", "see attestd doctor")
        except (MalformedError, VerificationError, UsageError) as error:
            return Denial(
                Code.EVIDENCE_INVALID, f"the TPM's quote does not verify: {error}", "see attestd doctor"
            )
        return Denial(
            Code.EVIDENCE_INVALID,
            f"PCRs {policy.quoted} changed during each of {_ATTEMPTS} quotes",
            "find out what extends them; PCRs that change at run time do not belong into an approval",
        )

    def _appraise(
        self, raw: RawEvidence, values: Mapping[int, bytes], policy: PlatformPolicy, trust: Trust
    ) -> Appraisal | Denial:
        host = trust.hosts.get(self._port.host)
        if host is None:
            return Denial(
                Code.GOVERNANCE_MISMATCH,
                f"there is no host record for {self._port.host}",
                "see attestd doctor",
            )
        found = appraise_evidence(
            host=host,
            challenge=raw.challenge,
            attest=raw.attest,
            signature=raw.signature,
            values=values,
            policy=policy,
            epoch=trust.revocations.epoch,
            at=self._now(),
        )
        if self._clock is not None and found.clock.order < self._clock.order:
            return Denial(
                Code.EVIDENCE_STALE,
                f"the TPM's clock went back from {self._clock.order} to {found.clock.order}",
                "the TPM's state was restored from a copy: keep it as evidence and enrol the host again",
            )
        self._clock = found.clock
        approved = found.approval is not None
        self._logs.note(policy, values, approved=approved, now=found.at)
        changes = () if approved else self._logs.explain(policy, values)
        return replace(found, findings=changes or found.findings, boot=self._logs.boot(policy, values))


async def _quoted_values(
    raw: RawEvidence, selection: PcrSelection, watch: ImaWatch | None
) -> Mapping[int, bytes] | None:
    """The values that were quoted; None: a PCR changed between quote and read, so take both again.

    IMA extends its PCR at any moment: its value is also looked for in the list.
    """
    quoted = _composite_of(raw)

    def matches(value: bytes) -> bool:
        return composite(selection, {**raw.values, IMA_PCR: value}) == quoted

    if watch is None:
        return raw.values if composite(selection, raw.values) == quoted else None
    value = await watch.prove(raw.values[IMA_PCR], matches)
    return None if value is None else {**raw.values, IMA_PCR: value}


def _composite_of(raw: RawEvidence) -> bytes:
    body = parse_attest(raw.attest).body
    if not isinstance(body, QuoteInfo):
        raise VerificationError("the TPM did not answer with a quote")
    return body.pcr_digest
