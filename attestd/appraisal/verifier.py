"""The remote verifier's decision, pure: evidence of a host in, an appraisal and the host's next state out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from attestd.appraisal.boot_rules import BootRules
from attestd.appraisal.challenge import ClockMove, compare_clocks, make_challenge, verify_challenge
from attestd.appraisal.evidence import (
    BootLogs,
    EvidenceChallenge,
    EvidenceIma,
    EvidenceLog,
    ImaOffset,
    UntrustedEvidence,
    log_digest,
)
from attestd.appraisal.host_state import MAX_POLICIES, HostState, ImaState
from attestd.appraisal.ima import ImaPolicy, appraise_ima
from attestd.appraisal.logs import MAX_TOLD, LogAppraisal, in_words
from attestd.appraisal.quote import Appraisal, appraise_evidence
from attestd.appraisal.state import BootAppraiser, BootState
from attestd.errors import EvidenceIncompleteError, MalformedError, VerificationError
from attestd.governance.host import VerifiedHost
from attestd.governance.platform import PlatformPolicy
from attestd.governance.trust import Trust
from attestd.strict import canonical, convert, decode_base64url, format_time, parse_json
from attestd.tcg.eventlog.parse import parse_event_log
from attestd.tcg.eventlog.userspace import parse_userspace_log
from attestd.tcg.ima.replay import IMA_PCR, start_of_list, verify_list

__all__ = ["AuthenticEvidence", "VerifiedEvidence", "Verifier", "ask_evidence", "parse_boot_logs"]

_WHAT: Final = "evidence"
_BANK: Final = "sha256"
MAX_LOGS_BYTES: Final = 8 << 20
# Of base64url: some hundred entries of an IMA list.
MAX_QUICK_ENTRIES: Final = 32 * 1024
_WORDS: Final = {
    ClockMove.REPLAYED: "it is the very quote that was accepted last: a replay",
    ClockMove.BACK: "the TPM's clock went back: an older quote that came late, or a TPM whose state was restored from a copy",
    ClockMove.CLEARED: (
        "the TPM counts fewer resets than before: it was cleared, or its state was restored from a copy; an operator has to"
        " enrol it again"
    ),
}


@dataclass(frozen=True)
class AuthenticEvidence:
    """Evidence of the host that it names, for a challenge of this verifier. Only `Verifier.authenticate` makes one.

    That it was not accepted before, and what it shows, is for `Verifier.appraise` to say.

    Attributes:
        sent: As it came.
        host: The host's record.
        quoted: What the quote alone shows.
        values: The quoted PCRs.
    """

    sent: UntrustedEvidence
    host: VerifiedHost
    quoted: Appraisal
    values: Mapping[int, bytes]


@dataclass(frozen=True)
class VerifiedEvidence:
    """Evidence that verified, and what it shows. Only `Verifier.verify` makes one.

    It says nothing good by itself: `findings` does.

    Attributes:
        host: The host's record.
        appraisal: Of the quote and the logs, under its `policy`.
        findings: All that speaks against the host, in words: up to some hundreds of `count`. It may be trusted exactly if
            `count` is 0.
        challenge: What the quote is over, as the verifier wrote it.
        state: What to keep of the host.
        logs: The boot's logs, to be kept under `state.eventlog`; None: they are kept already, or there are none.
    """

    host: VerifiedHost
    appraisal: Appraisal
    findings: tuple[str, ...]
    count: int
    challenge: str
    state: HostState
    logs: bytes | None


def ask_evidence(
    state: HostState | None,
    *,
    host: str,
    policy: PlatformPolicy,
    key: bytes,
    expires: datetime,
    random: Callable[[int], bytes],
) -> EvidenceChallenge:
    """Asks a host for evidence, and for as little of its logs as is not known.

    Args:
        state: What is kept of the host; None: nothing.
        host: The host-id.
        policy: The platform policy to appraise it under.
        key: As for `make_challenge`.
        expires: When the challenge is over.
        random: Gives as many unpredictable bytes as asked for.

    Raises:
        UsageError: The key is too short.
    """
    known = state.ima.get(policy.ima.sha256) if state is not None and policy.ima is not None else None
    return EvidenceChallenge(
        v=1,
        challenge=make_challenge(host=host, platform=policy.name, key=key, expires=expires, random=random),
        expires=format_time(expires),
        host=host,
        platform=policy.name,
        eventlog=None if state is None else state.eventlog,
        ima=None
        if state is None or known is None
        else ImaOffset(
            reset_count=state.last.reset_count, restart_count=state.last.restart_count, offset=known.offset
        ),
    )


@dataclass(frozen=True)
class Verifier:
    """What a verifier appraises evidence with.

    Attributes:
        key: As for `make_challenge`.
        boots: Appraises boots, and remembers what came of it.
        ima_policy: Gives an IMA policy of `Trust.ima` by its digest: it is expensive to parse, so who calls keeps it.
        kept_logs: Gives the boot logs that are kept under a digest; None: they are not.
    """

    key: bytes
    boots: BootAppraiser
    ima_policy: Callable[[str], ImaPolicy]
    kept_logs: Callable[[str], bytes | None]

    def verify(
        self, evidence: UntrustedEvidence, *, trust: Trust, state: HostState | None, now: datetime
    ) -> VerifiedEvidence:
        """Verifies and appraises a host's evidence: `authenticate`, then `appraise`.

        Raises:
            MalformedError, EvidenceIncompleteError, VerificationError: As those two.
        """
        return self.appraise(self.authenticate(evidence, trust=trust, now=now), trust=trust, state=state)

    def authenticate(self, evidence: UntrustedEvidence, *, trust: Trust, now: datetime) -> AuthenticEvidence:
        """Verifies whose evidence it is, and that it was asked for. It takes little time, whatever was sent.

        1. Governance holds; the host is enrolled, its record holds now, and it is not revoked.
        2. This verifier made the challenge, for this host and platform policy, and it is not over.
        3. The quote is by the host's attestation key, over that challenge and the PCRs and values that are to be quoted.

        Args:
            evidence: Parsed.
            trust: Verified governance.
            now: The time.

        Raises:
            MalformedError: A part does not parse.
            VerificationError: One of the above does not hold.
        """
        host, policy = _named(evidence, trust, now)  # 1
        challenge = verify_challenge(  # 2
            evidence.challenge, host=host.host, platform=policy.name, key=self.key, now=now
        )
        values = {int(pcr): bytes.fromhex(value) for pcr, value in evidence.pcrs.sha256.items()}
        found = appraise_evidence(  # 3
            host=host,
            challenge=challenge,
            attest=decode_base64url(evidence.quote, what=_WHAT),
            signature=decode_base64url(evidence.signature, what=_WHAT),
            values=values,
            policy=policy,
            epoch=trust.revocations.epoch,
            at=now,
        )
        return AuthenticEvidence(evidence, host, found, values)

    def is_quick(self, evidence: AuthenticEvidence) -> bool:
        """Whether `appraise` has no logs to read: none were sent, and what the boot's came to is remembered."""
        policy, sent = evidence.quoted.policy, evidence.sent
        if sent.ima is not None and len(sent.ima.entries) > MAX_QUICK_ENTRIES:
            return False
        if policy.boot is None or sent.eventlog is None:
            return True
        return self.boots.remembers(
            sent.eventlog.sha256, policy=policy, rules=policy.boot, values=evidence.values
        )

    def appraise(
        self, evidence: AuthenticEvidence, *, trust: Trust, state: HostState | None
    ) -> VerifiedEvidence:
        """Appraises what a host showed.

        4. The TPM's clock went on since the last quote that was accepted: nothing is accepted twice.
        5. The state is an approved one, or that is a finding.
        6. The boot's logs replay to the quoted values and comply with the boot rules, or that is a finding.
        7. The IMA list replays to the quoted PCR 10, from where it was proved before or from its start; what it measured
           complies with the IMA policy, or that is a finding, also later in this boot.
        8. The host's tier and user space are what the policy accepts, and the policy is still valid, or that is a finding.

        Whoever keeps `state` must replace it only if it is still what was given here: else one quote counts twice.

        Args:
            evidence: Authentic.
            trust: The governance that it was authenticated by.
            state: What is kept of this host; None: nothing was ever accepted.

        Raises:
            MalformedError: A log does not parse.
            EvidenceIncompleteError: It goes on from what is not kept here: the host is to send its logs whole.
            VerificationError: Check 4 fails, logs are missing, or the IMA list is not that of the quote.
        """
        sent, host, found, values = evidence.sent, evidence.host, evidence.quoted, evidence.values
        policy = found.policy
        # Logs are named by what they say and must replay to this quote: of which boot they were kept does not matter.
        eventlog: str | None = None if state is None else state.eventlog
        if state is not None:  # 4
            move = compare_clocks(state.clock, found.clock)
            if move is not ClockMove.FORWARD:
                raise VerificationError(
                    f"{_WHAT}: {_WORDS[move]} (from {state.clock.order} to {found.clock.order})"
                )
        logs: BootLogs | None = None
        if policy.boot is not None:  # 6
            boot, named = self._boot(sent.eventlog, policy, policy.boot, values, eventlog)
            found, eventlog, logs = replace(found, boot=boot), named.sha256, named.log
        known = state.ima if state is not None and state.is_boot_of(found.clock) else {}
        ima = {name: item for name, item in known.items() if name in trust.ima}
        if policy.ima is not None:  # 7
            name = policy.ima.sha256
            measured, proved = self._ima(sent.ima, name, values[IMA_PCR], ima.pop(name, None))
            found = replace(found, ima=measured)
            ima = {**dict(list(ima.items())[-(MAX_POLICIES - 1) :]), name: proved}
        other = _unfit(host, policy, found.at)  # 8
        more = sum(logs.count - len(logs.findings) for logs in (found.boot, found.ima) if logs is not None)
        findings = other + found.all_findings
        return VerifiedEvidence(
            host=host,
            appraisal=found,
            findings=findings,
            count=len(findings) + more,
            challenge=sent.challenge,
            state=HostState.of(found.clock, eventlog=eventlog, ima=ima),
            logs=None if logs is None else canonical(logs),
        )

    def _boot(
        self,
        sent: EvidenceLog | None,
        policy: PlatformPolicy,
        rules: BootRules,
        values: Mapping[int, bytes],
        held: str | None,
    ) -> tuple[LogAppraisal, EvidenceLog]:
        if sent is None:
            raise VerificationError(
                f"{_WHAT}: platform policy {policy.name!r} has boot rules, and there is no event log: configure it on the host"
                " (eventlog)"
            )
        if sent.log is None and sent.sha256 != held:
            raise EvidenceIncompleteError(
                f"{_WHAT}: the event log {sent.sha256} is not kept of this host: send it whole"
            )

        def load(looked_at: Mapping[int, bytes]) -> BootState:
            return _boot_state(sent.log or self._kept(sent.sha256), policy.selection.bank, looked_at)

        return self.boots.appraise(sent.sha256, policy=policy, rules=rules, values=values, load=load), sent

    def _kept(self, digest: str) -> BootLogs:
        data = self.kept_logs(digest)
        if data is None:
            raise EvidenceIncompleteError(f"{_WHAT}: the event log {digest} is not kept: send it whole")
        logs = parse_boot_logs(data)
        if log_digest(logs) != digest:
            raise EvidenceIncompleteError(
                f"{_WHAT}: what is kept as event log {digest} is another: send it whole"
            )
        return logs

    def _ima(
        self, sent: EvidenceIma | None, policy: str, value: bytes, before: ImaState | None
    ) -> tuple[LogAppraisal, ImaState]:
        if sent is None:
            raise VerificationError(
                f"{_WHAT}: the platform policy has an IMA policy, and there is no IMA list: configure it on the host (ima_list)"
            )
        if sent.offset == 0:
            before = None  # The whole list proves itself again, and is looked at again.
        elif before is None or sent.offset != before.offset:
            wanted = 0 if before is None else before.offset
            raise EvidenceIncompleteError(
                f"{_WHAT}: the IMA list goes on from byte {sent.offset}, expected {wanted} or 0: send it from its start"
            )
        position = start_of_list(_BANK) if before is None else before.position
        data = decode_base64url(sent.entries, what=_WHAT)
        try:
            proved = verify_list(data, position=position, value=value)
        except (MalformedError, VerificationError) as error:
            if before is None:
                raise
            raise EvidenceIncompleteError(f"{error}: send it from its start") from error
        new = appraise_ima(proved, policy=self.ima_policy(policy), aggregates=None)
        told = (*(() if before is None else before.findings), *map(in_words, new.findings))[:MAX_TOLD]
        count = new.count + (0 if before is None else before.count)
        measured = LogAppraisal(proved.end.entries, told, count)
        return measured, ImaState.of(proved.end, measured)


def parse_boot_logs(data: bytes) -> BootLogs:
    """Reads logs that are kept.

    Raises:
        MalformedError: They are none.
    """
    what = "boot logs"
    return convert(parse_json(data, max_bytes=MAX_LOGS_BYTES, what=what), BootLogs, what=what)


def _named(evidence: UntrustedEvidence, trust: Trust, now: datetime) -> tuple[VerifiedHost, PlatformPolicy]:
    """The host and the policy that the evidence names."""
    if now >= trust.expires:
        raise VerificationError(
            f"{_WHAT}: this verifier's governance expired at {format_time(trust.expires)} ({trust.expires_role})"
        )
    host, policy = trust.hosts.get(evidence.host), trust.platforms.get(evidence.platform)
    if evidence.host in trust.revocations.hosts:
        raise VerificationError(f"{_WHAT}: host {evidence.host} is revoked")
    if host is None:
        raise VerificationError(
            f"{_WHAT}: host {evidence.host} is not enrolled{trust.why_none(evidence.host)}"
        )
    if not host.not_before <= now < host.not_after:
        raise VerificationError(
            f"{_WHAT}: the record of host {host.host} holds from {format_time(host.not_before)} to"
            f" {format_time(host.not_after)}, and it is {format_time(now)}: enrol it again"
        )
    if policy is None:
        raise VerificationError(f"{_WHAT}: governance has no usable platform policy {evidence.platform!r}")
    return host, policy


def _boot_state(logs: BootLogs, bank: str, values: Mapping[int, bytes]) -> BootState:
    firmware = parse_event_log(decode_base64url(logs.firmware, what=_WHAT))
    userspace = decode_base64url(logs.userspace, what=_WHAT)
    events = parse_userspace_log(userspace, first=len(firmware.events))
    return BootState(firmware, events, logs.command_line, bank, values)


def _unfit(host: VerifiedHost, policy: PlatformPolicy, now: datetime) -> tuple[str, ...]:
    found: list[str] = []
    if not policy.accepts_tier(host.tier):
        found.append(f"tier: expected {policy.min_tier} or stronger, found {host.tier}")
    if host.userspace not in policy.userspace:
        found.append(f"user space: expected {' or '.join(policy.userspace)}, found {host.userspace}")
    if policy.valid_until is not None and now >= policy.valid_until:
        found.append(f"platform policy {policy.name!r} was valid until {format_time(policy.valid_until)}")
    return tuple(found)
