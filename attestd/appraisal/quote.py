"""Appraises a verified quote against a platform policy: is this state an approved one, and if not, what differs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from attestd.appraisal.logs import LogAppraisal
from attestd.errors import UsageError
from attestd.governance.host import VerifiedHost
from attestd.governance.platform import Approval, PlatformPolicy
from attestd.strict import format_time
from attestd.tcg.attest import ClockInfo
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.pcr import PcrSelection, composite
from attestd.tcg.quote import VerifiedQuote, verify_quote

__all__ = ["Appraisal", "appraise_evidence", "appraise_quote"]


@dataclass(frozen=True)
class Appraisal:
    """What a quote shows, measured against one platform policy.

    Attributes:
        approval: The approval that the quoted state matches; None: no approved state.
        findings: Why it is no approved state, in words; empty exactly when `approval` is set.
        pcr_digest: The composite of the policy's PCRs.
        clock: The TPM's clock, reset and restart counts at the quote.
        at: When the quote was taken, in trusted time.
        boot: What the boot's log shows under the policy's rules; None: it was not looked at.
        ima: What the IMA list shows under the policy's IMA policy; None: it was not looked at.
    """

    policy: PlatformPolicy
    approval: Approval | None
    findings: tuple[str, ...]
    pcr_digest: bytes
    clock: ClockInfo
    at: datetime
    boot: LogAppraisal | None = None
    ima: LogAppraisal | None = None

    @property
    def all_findings(self) -> tuple[str, ...]:
        """Whatever speaks against this host's state."""
        if self.boot is None and self.ima is None:
            return self.findings
        logs = [measured.findings for measured in (self.boot, self.ima) if measured is not None]
        return self.findings + sum(logs, ())


def appraise_evidence(
    *,
    host: VerifiedHost,
    challenge: bytes,
    attest: bytes,
    signature: bytes,
    values: Mapping[int, bytes],
    policy: PlatformPolicy,
    epoch: int,
    at: datetime,
) -> Appraisal:
    """Verifies a host's quote and compares it with the approvals of a policy: what agent and remote verifier do alike.

    Does not check the host record's validity in time, the TPM clock's order against earlier quotes, that the challenge is
    fresh, and what the logs show.

    Args:
        host: Whose attestation key must have signed.
        challenge: What the quote must be over, with the host and the purpose `evidence`.
        attest: TPMS_ATTEST.
        signature: TPMT_SIGNATURE.
        values: The values of all that the policy has quoted.
        policy: The platform policy.
        epoch: Approvals below this epoch no longer hold.
        at: When the quote was taken.

    Raises:
        MalformedError: Attestation, signature or values do not parse.
        VerificationError: The quote is not this host's, over this challenge, these PCRs and these values.
        UsageError: The challenge is empty.
    """
    quote = verify_quote(
        ak_public_key=host.ak,
        attest=attest,
        signature=signature,
        extra_data=extra_data(Purpose.EVIDENCE, host_id=host.host, data=challenge),
        selection=policy.quoted,
        values=values,
    )
    return appraise_quote(
        quote, policy=policy, reference=policy.reference(), values=values, epoch=epoch, at=at
    )


def appraise_quote(
    quote: VerifiedQuote,
    *,
    policy: PlatformPolicy,
    reference: Mapping[int, bytes],
    values: Mapping[int, bytes],
    epoch: int,
    at: datetime,
) -> Appraisal:
    """Compares the quoted composite with the approvals of a policy.

    Args:
        quote: A quote over the policy's selection, or over more PCRs of its bank, signature verified.
        policy: The platform policy.
        reference: PCR values of an approved state, to explain a difference; may be empty.
        values: The PCR values behind the quote; they must hash to its composite.
        epoch: Approvals below this epoch no longer hold.
        at: When the quote was taken.

    Returns:
        The appraisal; a state without an approval is a result, not an error.

    Raises:
        UsageError: The quote is not over all of the policy's PCRs, or `values` are not what was quoted.
        MalformedError: `values` are not digests of exactly the quoted PCRs.
    """
    selection = policy.selection
    quoted = next((item for item in quote.selections if item.bank == selection.bank), None)
    if len(quote.selections) != 1 or quoted is None or not set(selection.pcrs) <= set(quoted.pcrs):
        raise UsageError(f"appraisal: the quote is over {quote.selections}, the policy over {selection}")
    found = composite(quoted, values)
    if found != quote.pcr_digest:
        raise UsageError("appraisal: the PCR values are not those that were quoted")
    state = (
        found
        if quoted == selection
        else composite(selection, {index: values[index] for index in selection.pcrs})
    )
    approval = policy.approval_for(state, epoch=epoch, at=at)
    findings: tuple[str, ...] = ()
    if approval is None:
        findings = _differences(selection, reference, values) or (
            _unapproved(policy, state, epoch=epoch, at=at),
        )
    return Appraisal(
        policy=policy,
        approval=approval,
        findings=findings,
        pcr_digest=state,
        clock=quote.clock,
        at=at,
    )


def _differences(
    selection: PcrSelection, reference: Mapping[int, bytes], values: Mapping[int, bytes]
) -> tuple[str, ...]:
    return tuple(
        f"PCR {index} ({selection.bank}): expected {reference[index].hex()}, found {values[index].hex()}"
        for index in selection.pcrs
        if index in reference and reference[index] != values[index]
    )


def _unapproved(policy: PlatformPolicy, state: bytes, *, epoch: int, at: datetime) -> str:
    until = policy.windows.get(state)
    why = (
        f"approved until {format_time(until)}"
        if until and at >= until
        else f"does not approve at epoch {epoch}"
    )
    return f"{policy.selection} hashes to {state.hex()}, which version {policy.version} of platform policy {policy.name!r} {why}"
