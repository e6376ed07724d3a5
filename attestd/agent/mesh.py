"""The remote verifiers of this host: their results are asked for before they are needed, kept while they hold, and told."""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final

from attestd.agent.attesting import Attestation
from attestd.agent.controllers import Backoff, Controller
from attestd.appraisal.quote import Appraisal
from attestd.appraisal.result import RESULT_ENTRY, AttestationResult
from attestd.codes import Denial
from attestd.errors import AttestdError
from attestd.gate.vouching import QuotedState, Vouched, vouched_for
from attestd.governance.mesh import MeshVerifier
from attestd.governance.platform import PlatformPolicy
from attestd.governance.trust import Trust
from attestd.journal import event
from attestd.strict import format_time

__all__ = ["Verifiers", "result_body"]

# Of what is left of a result's life when it is renewed: so that one that is away for as long again is not missed.
_HALF: Final = 0.5
_JITTER: Final = 0.8
# Entries of one verifier under one policy in a span: one that changes its mind all the time does not fill the log.
_MAX_TOLD: Final = 8
_TOLD_SPAN_S: Final = 600.0


@dataclass
class _Held:
    """A result, and when (monotonic) to ask for the next."""

    result: AttestationResult
    renew_at: float


@dataclass
class _Verifier:
    """One verifier of `mesh.json`, as this host knows it.

    Attributes:
        held: By platform policy: its last result, until it is over or the state changes.
        running: By platform policy: an attestation that is under way, and when (monotonic) it began.
        asked_by: By platform policy: the governance version by which it was asked last.
        problem: Why it gave no result when it was asked last; None: it did.
    """

    name: str
    node: MeshVerifier
    held: dict[str, _Held] = field(default_factory=dict)
    running: dict[str, tuple[asyncio.Task[None], float]] = field(default_factory=dict)
    asked_by: dict[str, int] = field(default_factory=dict)
    backoff: Backoff = field(default_factory=Backoff)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    controller: Controller | None = None
    problem: str | None = None
    answered: datetime | None = None

    def is_due(self, policy: PlatformPolicy, trust: Trust) -> bool:
        """Whether it is to be asked, though nobody waits for it."""
        if policy.name in self.running or not self.backoff.is_due():
            return False
        held = self.held.get(policy.name)
        return (
            held is None
            or time.monotonic() >= held.renew_at
            or self.asked_by.get(policy.name) != trust.version
        )

    def close(self) -> None:
        """Ends what is under way."""
        if self.controller is not None:
            self.controller.close()
        for task, _ in self.running.values():
            task.cancel()


class Verifiers:
    """Attests to all verifiers of `mesh.json`. Used from the agent's loop only."""

    def __init__(
        self,
        attestation: Attestation,
        *,
        ca: str,
        wait_s: float,
        appraisals: Callable[[], Mapping[str, Appraisal | Denial]],
        contradicted: Callable[[str], None],
        heard: Callable[[datetime], None],
        seal: Callable[[dict[str, Any]], Awaitable[object]],
        log: logging.Logger,
    ) -> None:
        """Asks nobody yet.

        Args:
            attestation: This host.
            ca: Who may vouch for controllers; empty: the system's authorities.
            wait_s: How long a decision waits.
            appraisals: The latest of each platform policy.
            contradicted: Is told of a platform policy whose latest appraisal is of another state than was quoted now.
            heard: Is told the time that a verifier said.
            seal: Seals the body of an `attestation`.
            log: For people.
        """
        self._attestation, self._ca, self._wait_s = attestation, ca, wait_s
        self._appraisals, self._contradicted = appraisals, contradicted
        self._heard, self._seal, self._log = heard, seal, log
        self._verifiers: dict[str, _Verifier] = {}
        self._used: set[str] = set()
        self._told: dict[tuple[str, str], tuple[object, ...] | None] = {}
        self._told_at: dict[tuple[str, str], deque[float]] = {}

    def results(self) -> list[AttestationResult]:
        """All that are kept; whether each holds, the decision looks itself."""
        return [held.result for verifier in self._verifiers.values() for held in verifier.held.values()]

    def vouched(self, policy: PlatformPolicy, trust: Trust) -> Vouched:
        """What verifiers say of this host now, in the state that the latest evidence shows."""
        found = self._appraisals().get(policy.name)
        if not isinstance(found, Appraisal):
            return Vouched((), ())
        return vouched_for(
            self.results(),
            host=self._attestation.port.host,
            mesh=trust.mesh,
            platform=policy,
            state=QuotedState(found.clock, found.pcr_digest),
            now=self._attestation.now(),
        )

    def is_enough(self, policy: PlatformPolicy, trust: Trust, quorum: int) -> bool:
        """Whether nothing is gained by asking: enough affirm, or all of them answered."""
        if not quorum:
            return True
        vouched = self.vouched(policy, trust)
        answered = len(vouched.affirming) + len(vouched.against)
        return len(vouched.affirming) >= quorum or answered >= len(trust.mesh.verifiers)

    async def ensure(self, policy: PlatformPolicy, trust: Trust, quorum: int) -> None:
        """Asks those whose results do not hold, and waits until enough do, all answered, or it took too long."""
        self._used.add(policy.name)
        found = self._appraisals().get(policy.name)
        if not isinstance(found, Appraisal) or found.approval is None:
            return  # It is denied for that, and `keep` tells the verifiers.
        self._follow(trust)
        vouched = self.vouched(policy, trust)
        holding = {result.verifier for result in (*vouched.affirming, *vouched.against)}
        pending = {
            task
            for verifier in self._verifiers.values()
            if verifier.name not in holding
            and (task := self._asking(verifier, policy, trust, urgent=True)) is not None
        }
        late = time.monotonic() + self._wait_s
        while pending and not self.is_enough(policy, trust, quorum):
            done, pending = await asyncio.wait(
                pending, timeout=max(0.0, late - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break

    async def keep(self, trust: Trust) -> None:
        """Asks whoever is due, and waits for none; forgets what no longer holds. To be called every second or so."""
        self._follow(trust)
        if not self._verifiers:
            return
        latest = self._appraisals()
        for policy in self._policies(trust, latest):
            found = latest.get(policy.name)
            for verifier in self._verifiers.values():
                if isinstance(found, Appraisal):
                    self._forget(verifier, policy, found)
                if verifier.is_due(policy, trust):
                    self._asking(verifier, policy, trust)
        await self._tell()

    @property
    def up(self) -> dict[str, bool]:
        """By name: whether a verifier gave a result when it was asked last."""
        return {verifier.name: verifier.problem is None for verifier in self._verifiers.values()}

    def describe(self) -> list[dict[str, Any]]:
        """For `attestd status`."""
        return [
            {
                "name": verifier.name,
                "url": verifier.node.url,
                "answered": verifier.answered and format_time(verifier.answered),
                "problem": verifier.problem,
                "again_s": round(verifier.backoff.wait_s) if verifier.problem else None,
                "results": {
                    name: {
                        "status": str(held.result.claims.submods.platform.status),
                        "expires": format_time(held.result.expires),
                        "findings": list(held.result.claims.attestd.findings.first),
                        "count": held.result.claims.attestd.findings.count,
                    }
                    for name, held in verifier.held.items()
                },
            }
            for verifier in self._verifiers.values()
        ]

    def stop(self) -> None:
        """Asks nobody any more."""
        for verifier in self._verifiers.values():
            verifier.close()
        self._attestation.threads.stop()

    def _follow(self, trust: Trust) -> None:
        """Goes by `mesh.json` as it is now: verifiers come, go, and move; the results of a key stay valid."""
        nodes = trust.mesh.verifiers
        for name, verifier in list(self._verifiers.items()):
            if nodes.get(name) != verifier.node:
                verifier.close()
                del self._verifiers[name]
                moved = nodes.get(name)
                if moved is not None and moved.key == verifier.node.key:
                    self._verifiers[name] = _Verifier(name, moved, held=verifier.held)
        for name in nodes.keys() - self._verifiers.keys():
            self._verifiers[name] = _Verifier(name, nodes[name])

    def _policies(self, trust: Trust, latest: Mapping[str, Appraisal | Denial]) -> Collection[PlatformPolicy]:
        """The policies that this host is of: in whose approved state it was, or that somebody wanted; else all there are."""
        self._used |= {
            name
            for name, found in latest.items()
            if isinstance(found, Appraisal) and found.approval is not None
        }
        used = [policy for name, policy in trust.platforms.items() if name in self._used]
        looked = all(name in latest for name in trust.platforms)
        return used or (trust.platforms.values() if looked else ())

    def _holds(self, result: AttestationResult, policy: PlatformPolicy, found: Appraisal) -> bool:
        return result.holds(
            now=self._attestation.now(),
            clock=found.clock,
            pcr_digest=found.pcr_digest,
            platform_digest=policy.digest,
        )

    def _forget(self, verifier: _Verifier, policy: PlatformPolicy, found: Appraisal) -> None:
        held = verifier.held.get(policy.name)
        if held is not None and not self._holds(held.result, policy, found):
            del verifier.held[policy.name]
            self._log.info(event("attestation.over", verifier=verifier.name, platform=policy.name))

    def _asking(
        self, verifier: _Verifier, policy: PlatformPolicy, trust: Trust, *, urgent: bool = False
    ) -> asyncio.Task[None] | None:
        """The attestation that is under way, or that begins now.

        None: it is too soon to ask again, or it is under way for longer than anybody waits: no request waits for it then.
        """
        if policy.name in verifier.running:
            task, began = verifier.running[policy.name]
            return task if time.monotonic() - began < self._wait_s else None
        if not verifier.backoff.is_due(urgent=urgent):
            return None
        verifier.backoff.asked()
        task = asyncio.create_task(self._ask(verifier, policy, trust))
        verifier.running[policy.name] = task, time.monotonic()
        task.add_done_callback(lambda _: verifier.running.pop(policy.name, None))
        return task

    async def _ask(self, verifier: _Verifier, policy: PlatformPolicy, trust: Trust) -> None:
        try:
            async with verifier.lock:  # A connection serves one request at a time.
                result = await self._attested(verifier, policy, trust)
        except AttestdError as error:
            self._failed(verifier, str(error))
        except Exception as error:  # noqa: BLE001 - what a verifier can provoke must not end the attesting to it
            self._log.exception(event("job.failed"))
            self._failed(verifier, f"an unforeseen error: {type(error).__name__}")
        else:
            self._answered(verifier, policy, result)
            verifier.asked_by[policy.name] = trust.version
            await self._tell()

    async def _attested(self, verifier: _Verifier, policy: PlatformPolicy, trust: Trust) -> AttestationResult:
        if verifier.controller is None:
            # In a thread: the first loads what speaks HTTP.
            make = partial(Controller, verifier.node.url, ca=self._ca)
            verifier.controller = await self._attestation.threads.run(make)
        return await self._attestation.attest(
            verifier.controller, name=verifier.name, policy=policy, trust=trust
        )

    def _failed(self, verifier: _Verifier, problem: str) -> None:
        verifier.backoff.failed()
        if verifier.problem is None:  # Once, not each time that it is asked in vain.
            self._log.warning(event("verifier.lost", verifier=verifier.name, error=problem))
        verifier.problem = problem

    def _answered(self, verifier: _Verifier, policy: PlatformPolicy, result: AttestationResult) -> None:
        verifier.backoff.answered()
        if verifier.problem is not None:
            self._log.info(event("verifier.back", verifier=verifier.name))
        verifier.problem, verifier.answered = None, result.issued
        left = (result.expires - self._attestation.now()).total_seconds()
        # Spreads hosts, hides nothing: no secret depends on it.
        wait_s = left * _HALF * random.uniform(_JITTER, 1)  # noqa: S311
        verifier.held[policy.name] = _Held(result, time.monotonic() + wait_s)
        self._heard(result.issued)
        found = self._appraisals().get(policy.name)
        if isinstance(found, Appraisal) and not self._holds(result, policy, found):
            self._contradicted(policy.name)

    async def _tell(self) -> None:
        """Seals each result that says something else than that verifier's last one; what cannot be sealed, later."""
        for verifier, platform, result in list(self._untold()):
            key, before = (verifier, platform), self._told.get((verifier, platform))
            times = self._told_at.setdefault(key, deque(maxlen=_MAX_TOLD))
            if len(times) == _MAX_TOLD and time.monotonic() - times[0] < _TOLD_SPAN_S:
                continue
            times.append(time.monotonic())
            self._told[key] = _said(result)
            findings = result.claims.attestd.findings.count
            level = logging.INFO if result.is_affirming else logging.WARNING
            status = result.claims.submods.platform.status
            self._log.log(
                level,
                event("attestation", verifier=verifier, platform=platform, status=status, findings=findings),
            )
            try:
                await self._seal(result_body(result))
            except AttestdError as error:
                self._told[key] = before
                times.pop()
                self._log.warning(event("attestation.unsealed", verifier=verifier, error=error))

    def _untold(self) -> Iterator[tuple[str, str, AttestationResult]]:
        for verifier in self._verifiers.values():
            for platform, held in verifier.held.items():
                if self._told.get((verifier.name, platform)) != _said(held.result):
                    yield verifier.name, platform, held.result


def _said(result: AttestationResult) -> tuple[object, ...]:
    """What a result says, but for when: the log is told when this changes."""
    found = result.claims.attestd
    return (
        result.key_id,
        result.claims.submods.platform.status,
        found.findings.count,
        found.findings.first,
        found.tier,
        found.state.pcr_digest,
    )


def result_body(result: AttestationResult) -> dict[str, Any]:
    """What the log is told of a result."""
    return {
        "what": RESULT_ENTRY,
        "mesh": result.mesh.named,
        "verifier": result.verifier,
        "platform": result.claims.attestd.platform.name,
        "status": str(result.claims.submods.platform.status),
        "findings": result.claims.attestd.findings.count,
        "token": result.token,
    }
