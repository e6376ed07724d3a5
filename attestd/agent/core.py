"""What all requests of one agent share: trust, evidence, time, log, runner."""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from attestd.agent.boots import Boots
from attestd.agent.clock import TrustedClock
from attestd.agent.cosigning import Cosigning
from attestd.agent.delivery import Delivery
from attestd.agent.denials import DenialMeter
from attestd.agent.epoch import EpochKeeper, Moved
from attestd.agent.evidence import EvidenceKeeper
from attestd.agent.governance import Updated, Updater, update_now
from attestd.agent.health import Health
from attestd.agent.installed import InstalledArtifacts
from attestd.agent.measured_logs import BootReader
from attestd.agent.mesh import Verifiers
from attestd.agent.metrics import Metrics
from attestd.agent.other_records import OtherRecords
from attestd.agent.runner_link import SPOOL_MAX, RunnerLink, Spooled
from attestd.agent.sealing import Receipt, SealService
from attestd.agent.tpm_port import TpmPort
from attestd.agent.verification import LogVerification
from attestd.appraisal.quote import Appraisal
from attestd.audit.recover import void_body
from attestd.audit.seal import Pending
from attestd.audit.store import LogStore
from attestd.audit.store import Spooled as SpoolId
from attestd.authorization.statement import Statement
from attestd.codes import Code, Denial
from attestd.distribution.local import TrustDirectory
from attestd.errors import AttestdError, MalformedError, StoreError, VerificationError
from attestd.gate.model import Context
from attestd.gate.requirements import required_quorums
from attestd.governance.floor import Floor, seen_body
from attestd.governance.platform import PlatformPolicy
from attestd.governance.trust import Trust
from attestd.journal import event
from attestd.lineage.entry import EntryType
from attestd.paths import Layout

__all__ = ["Core"]

# Entries after which the log is told again what was seen: whoever starts reads at most so many to find it.
SEEN_EVERY: Final = 10_000
EVIDENCE_MAX_AGE_S: Final = 60  # what an artifact asks for unless it says otherwise
_SPOOLED_TYPES: Final = frozenset(
    {
        EntryType.EXECUTION_START,
        EntryType.EXECUTION_EXIT,
        EntryType.EXECUTION_TERMINATED,
        EntryType.DECISION_VOID,
    }
)


@dataclass
class Core:
    """One agent's parts. Used from its loop only; what is slow or blocks is awaited.

    Attributes:
        store: The log, opened to read.
        slow: Taken while something slow is done for that user, in a thread.
        runner_info: What the runner said of itself last; empty until it did.
        runner_lost: It does not answer now. What it said stays: which user it can become decides a check of its own.
        releases: Executions handed to the runner since the start.
        boots: The last boots, kept.
        boot_reader: Reads the logs of this one.
        updater: Downloads governance.
        other_records: And other hosts' records.
        epoch: Moves the TPM's epoch up as governance says.
        grace: For how long governance metadata may be used after it expired.
        salt_key: From it the salt of each decision is derived.
        verification: Verifies the log in the background.
        verifiers: Attests to the verifiers of `mesh.json`.
    """

    layout: Layout
    host: str
    boot: str
    trust_directory: TrustDirectory
    port: TpmPort
    store: LogStore
    seals: SealService
    cosigning: Cosigning
    evidence: EvidenceKeeper
    boots: Boots
    boot_reader: BootReader
    health: Health
    verification: LogVerification
    verifiers: Verifiers
    metrics: Metrics
    clock: TrustedClock
    runner: RunnerLink
    installed: InstalledArtifacts
    updater: Updater
    other_records: OtherRecords
    epoch: EpochKeeper
    grace: timedelta
    salt_key: bytes = field(repr=False)
    log: logging.Logger
    denials: DenialMeter = field(default_factory=lambda: DenialMeter(time.monotonic))
    slow: dict[int, asyncio.Lock] = field(default_factory=dict)
    runner_info: dict[str, Any] = field(default_factory=dict)
    runner_lost: bool = False
    releases: int = 0
    _seen: Floor | None = None
    _seen_at: int = 0
    _to_void: dict[int, str] = field(default_factory=dict)
    _untold: list[Moved] = field(default_factory=list)
    _receipts: Delivery[Receipt] = field(default_factory=Delivery)

    def trust(self) -> Trust | Denial:
        """What is trusted now; governance that does not verify, or that is older than what was, denies everything."""
        try:
            return self.trust_directory.current()
        except (StoreError, VerificationError, MalformedError) as error:
            return Denial(
                Code.GOVERNANCE_MISMATCH,
                f"this host's governance does not verify: {error}",
                "see attestd doctor",
            )

    def context(self) -> Context:
        """What a decision is taken against, as of now."""
        moment = self.clock.read()
        return Context(
            trust=self.trust(),
            host=self.host,
            isolation=str(self.runner_info.get("isolation", "none")),
            runner_uid=int(self.runner_info.get("uid", -1)),
            now=moment.now,
            grace=self.grace,
            appraisals=self.evidence.latest(),
            results=self.verifiers.results(),
            conditions=self.conditions(),
            uses=self.store.uses,
        )

    def conditions(self) -> dict[str, Denial | None]:
        """The operational trust conditions by name; None: it holds."""
        return {
            "clock": self.clock.read().denial,
            "log": self._log_condition(),
            "tpm": self.health.tpm(),
            "runner": self._runner_condition(),
        }

    @property
    def runner_up(self) -> bool:
        """Whether the runner answered last."""
        return bool(self.runner_info) and not self.runner_lost

    def _named_platform(self, statement: Statement) -> tuple[Trust, PlatformPolicy] | None:
        """The platform policy that an artifact names, and the governance that it is of; None: it is not there, so it denies."""
        trust = self.trust()
        if isinstance(trust, Denial):
            return None
        policy = trust.platforms.get(statement.predicate.environment.platform)
        return None if policy is None else (trust, policy)

    def has_evidence(self, statement: Statement) -> bool:
        """Whether there is evidence for the platform policy that an artifact names, as fresh as it asks."""
        if (named := self._named_platform(statement)) is None:
            return True  # none is needed for what this comes to
        trust, policy = named
        return self.evidence.is_fresh(policy, trust, statement.predicate.environment.max_evidence_age_s)

    async def look(self, statement: Statement) -> None:
        """Looks at what was measured since, by the platform policy that an artifact names: each decision is by that."""
        if (named := self._named_platform(statement)) is not None and named[1].ima is not None:
            await self.evidence.look(named[1])

    async def refresh_evidence(self, statement: Statement | None) -> None:
        """Takes evidence for the platform policy that an artifact names, unless there is fresh one."""
        if statement is None or (named := self._named_platform(statement)) is None:
            return
        trust, policy = named
        max_age_s = statement.predicate.environment.max_evidence_age_s
        await self.evidence.ensure(policy, trust=trust, max_age_s=max_age_s)

    def has_results(self, statement: Statement) -> bool:
        """Whether nothing is gained by asking verifiers for what an artifact asks."""
        if (named := self._named_platform(statement)) is None:
            return True  # none is needed for what this comes to
        trust, policy = named
        quorum = required_quorums(statement, policy, trust.mesh).verifiers
        return self.verifiers.is_enough(policy, trust, quorum)

    async def refresh_results(self, statement: Statement) -> None:
        """Asks the verifiers whose results an artifact needs and that do not hold."""
        if (named := self._named_platform(statement)) is not None and not self.has_results(statement):
            trust, policy = named
            quorum = required_quorums(statement, policy, trust.mesh).verifiers
            await self.verifiers.ensure(policy, trust, quorum)

    def tokens(self, statement: Statement, policy: PlatformPolicy) -> list[str]:
        """The results that the runner is to see: of those that affirm, where any are needed."""
        trust = self.trust()
        if isinstance(trust, Denial) or not required_quorums(statement, policy, trust.mesh).verifiers:
            return []
        return [result.token for result in self.verifiers.vouched(policy, trust).counted]

    async def attest(self) -> None:
        """Keeps the results of verifiers; where evidence was contradicted, with new evidence.

        Raises:
            StoreError, VerificationError, MalformedError: There is no governance.
        """
        trust = self.trust_directory.current()
        if trust.mesh.verifiers:
            for policy in trust.platforms.values():
                if policy.name not in self.evidence.latest():
                    await self.evidence.ensure(policy, trust=trust, max_age_s=EVIDENCE_MAX_AGE_S)
        await self.verifiers.keep(trust)

    async def seal(
        self,
        pending: Pending,
        *,
        platform: PlatformPolicy | None = None,
        witnesses: int = 0,
        lazy: bool = False,
    ) -> Receipt:
        """Seals one entry; one that witnesses must cosign is not cosigned yet: see `cosign`.

        Raises:
            StoreError, TpmError, RollbackError: It is not sealed; nothing may be released.
        """
        approval = None
        if platform is not None:
            found = self.evidence.latest().get(platform.name)
            approval = found.approval if isinstance(found, Appraisal) else None
        future = self.seals.submit(
            pending, platform=platform, approval=approval, witnesses=witnesses, lazy=lazy
        )
        return await self._receipts.wait(future)

    async def cosign(self, receipt: Receipt, witnesses: int) -> Receipt | Denial:
        """The receipt with what witnesses signed; or why there are too few, and then nothing may be released."""
        if witnesses == 0:
            return receipt
        note = await self.cosigning.enough(receipt.size, witnesses)
        return note if isinstance(note, Denial) else receipt.cosigned(note)

    async def void(self, seq: int, reason: str) -> None:
        """Burns a sealed allow at the runner, and records that nothing ran; unless something did."""
        try:
            if await self.runner.forfeit(self.store.log_id, seq):
                body = dict(void_body(self.store, seq, reason=reason[:1024]))
                await self.seal(Pending(EntryType.DECISION_VOID, body), lazy=True)
        except AttestdError as error:
            self._to_void[seq] = reason
            self.log.warning(event("decision.void_waits", seq=seq, error=error))

    async def retry_voids(self) -> None:
        """Makes void what could not be, for want of runner, TPM or disk. What is left the next start finds."""
        waiting, self._to_void = self._to_void, {}
        await asyncio.gather(*(self.void(seq, reason) for seq, reason in waiting.items()))

    async def drain_spool(self) -> int:
        """Moves what the runner spooled into the log; returns how many entries."""
        moved = 0
        while items := await self.runner.spool():
            # A full page is company enough: a backlog is not moved at one page a wait.
            lazy = len(items) < SPOOL_MAX
            waiting = [self._seal_spooled(item, lazy=lazy) for item in items if self._is_new(item)]
            await asyncio.gather(*waiting)
            await self.runner.acknowledge(items[-1].id)
            moved += len(items)
        return moved

    async def flush_denials(self) -> None:
        """Seals the aggregated denials that are due, one leaf a user."""
        for body in self.denials.drain():
            try:
                await self.seal(Pending(EntryType.DENIALS_AGGREGATED, body), lazy=True)
            except AttestdError as error:
                self.denials.restore(body)
                self.log.warning(event("denials.unsealed", uid=body["uid"], error=error))

    async def note_governance(self) -> None:
        """Records that trust changed: from here on nothing older is believed, also after a restart.

        And now and then that it did not, so that whoever starts finds it near the log's end.
        """
        if self.trust_directory.floor != self._seen or self.store.size - self._seen_at >= SEEN_EVERY:
            seen = self.see_governance()
            if seen is not None:
                try:
                    await self.seal(Pending(EntryType.GOVERNANCE_UPDATE, seen), lazy=True)
                except AttestdError:
                    self._seen = None  # The log was not told: the next call tells it.
                    raise

    def see_governance(self) -> dict[str, Any] | None:
        """What the log is told of the governance that is in force, by whoever calls; None: none is."""
        trust, floor = self.trust(), self.trust_directory.floor
        if isinstance(trust, Denial) or floor is None:
            return None
        self._seen, self._seen_at = floor, self.store.size
        return seen_body(trust, anchor=floor.anchor)

    async def update_governance(self) -> Updated:
        """Looks for newer governance now.

        Raises:
            StoreError, VerificationError, MalformedError, UsageError: It cannot be updated, or does not verify.
        """
        updated = await update_now(self.updater, self.trust_directory)
        await self.note_governance()
        await self.follow_epoch(at_once=True)
        return updated

    async def follow_epoch(self, *, at_once: bool = False) -> None:
        """Moves the TPM to the epoch of governance, and records that it moved.

        Raises:
            StoreError, TpmError, RollbackError: It could not be recorded; the next call does.
        """
        trust = self.trust()
        if not isinstance(trust, Denial):
            moved = await self.epoch.follow(trust, at_once=at_once)
            self._untold += [] if moved is None else [moved]
        waiting, self._untold = self._untold, []
        for moved in waiting:
            try:
                await self.seal(Pending(EntryType.REVOCATION, moved.body()))
            except AttestdError:
                self._untold += waiting[waiting.index(moved) :]
                raise

    def now(self) -> datetime:
        """Trusted time."""
        return self.clock.read().now

    def _spool_id(self, item: Spooled) -> SpoolId:
        return SpoolId(source=str(self.runner_info.get("spool", "runner")), id=item.id)

    def _is_new(self, item: Spooled) -> bool:
        return not self.store.is_sealed(self._spool_id(item))

    async def _seal_spooled(self, item: Spooled, *, lazy: bool) -> Receipt:
        type_ = next((allowed for allowed in _SPOOLED_TYPES if allowed == item.type), None)
        if type_ is None:
            raise StoreError(f"the runner spooled a {item.type!r}")
        return await self.seal(Pending(type_, item.body, spooled=self._spool_id(item)), lazy=lazy)

    def _log_condition(self) -> Denial | None:
        last = self.verification.last
        problem = self.seals.fatal or (last.problem if last else None)
        if problem is None:
            return self.health.disk()
        return Denial(Code.AUDIT_UNAVAILABLE, f"the audit log is not sound: {problem}", "see attestd doctor")

    def _runner_condition(self) -> Denial | None:
        if self.runner_up:
            return None
        return Denial(
            Code.AGENT_UNAVAILABLE,
            f"the runner at {self.layout.runner_socket} does not answer",
            "start it (systemctl start attestd-runner); see attestd doctor",
        )
