"""Appraises a verified quote against a platform policy: is this state an approved one, and if not, what differs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from attestd.errors import UsageError
from attestd.governance.platform import Approval, PlatformPolicy
from attestd.tcg.attest import ClockInfo
from attestd.tcg.pcr import composite
from attestd.tcg.quote import VerifiedQuote

__all__ = ["Appraisal", "appraise_quote"]


@dataclass(frozen=True)
class Appraisal:
    """What a quote shows, measured against one platform policy.

    Attributes:
        approval: The approval that the quoted state matches; None: no approved state.
        findings: What is wrong, in words; empty exactly when `approval` is set.
        pcr_digest: The quoted composite.
        clock: The TPM's clock, reset and restart counts at the quote.
        at: When the quote was taken, in trusted time.
    """

    policy: PlatformPolicy
    approval: Approval | None
    findings: tuple[str, ...]
    pcr_digest: bytes
    clock: ClockInfo
    at: datetime


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
        quote: A quote over the policy's selection, signature verified.
        policy: The platform policy.
        reference: PCR values of an approved state, to explain a difference; may be empty.
        values: The PCR values behind the quote; they must hash to its composite.
        epoch: Approvals below this epoch no longer hold.
        at: When the quote was taken.

    Returns:
        The appraisal; a state without an approval is a result, not an error.

    Raises:
        UsageError: The quote is over other PCRs, or `values` are not what was quoted.
        MalformedError: `values` are not digests of exactly the policy's PCRs.
    """
    if quote.selections != (policy.selection,):
        raise UsageError(
            f"appraisal: the quote is over {quote.selections}, the policy over {policy.selection}"
        )
    if composite(policy.selection, values) != quote.pcr_digest:
        raise UsageError("appraisal: the PCR values are not those that were quoted")
    approval = policy.approval_for(quote.pcr_digest, epoch=epoch, at=at)
    findings: tuple[str, ...] = ()
    if approval is None:
        findings = tuple(
            f"PCR {index} ({policy.selection.bank}): expected {reference[index].hex()}, found {values[index].hex()}"
            for index in policy.selection.pcrs
            if index in reference and reference[index] != values[index]
        )
    if approval is None and not findings:
        finding = (
            f"{policy.selection} hashes to {quote.pcr_digest.hex()}, which version {policy.version} of platform"
            f" policy {policy.name!r} does not approve at epoch {epoch}"
        )
        findings = (finding,)
    return Appraisal(
        policy=policy,
        approval=approval,
        findings=findings,
        pcr_digest=quote.pcr_digest,
        clock=quote.clock,
        at=at,
    )
