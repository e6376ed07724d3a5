"""What check 13 asks of an appraisal: an approved state, now; and that what the logs show complies with the policy's rules."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from attestd.appraisal.logs import LogAppraisal
from attestd.appraisal.quote import Appraisal
from attestd.codes import Code, Denied
from attestd.governance.platform import PlatformPolicy
from attestd.strict import format_time

__all__ = ["findings_body", "require_measured", "require_state", "said"]

# Of a denial's sentence; and of a leaf, in bytes of UTF-8: what request and artifact need fits beside them.
MAX_SAID: Final = 8
MAX_RECORDED_BYTES: Final = 12 * 1024


def require_state(appraisal: Appraisal, platform: PlatformPolicy, *, now: datetime) -> None:
    """The quoted state is one that the policy approves, and still does: its window may have closed since the quote.

    Raises:
        Denied: `environment_untrusted`.
    """
    hint = "boot the approved state, or have an authority approve this one (attestd platform approve)"
    if appraisal.approval is None:
        found = said(appraisal.findings, len(appraisal.findings))
        raise _untrusted(f"the platform is in no approved state: {found}", hint)
    until = platform.windows.get(appraisal.pcr_digest)
    if until is not None and now >= until:
        raise _untrusted(
            f"the platform is in no approved state: this one was approved until {format_time(until)}", hint
        )


def require_measured(appraisal: Appraisal, platform: PlatformPolicy) -> str:
    """What the policy's rules look at was looked at, and complies.

    Returns:
        What was compared, for the record.

    Raises:
        Denied: `environment_untrusted`; `evidence_invalid` if it was not looked at.
    """
    compared = ""
    if platform.boot is not None:
        boot = _looked_at(appraisal.boot, "the boot rules")
        if boot.count:
            raise _untrusted(
                f"the boot does not comply with the boot rules of platform policy {platform.name!r}: {said(boot.findings, boot.count)}",
                "boot what the rules allow, or have an authority change them (attestd platform rules --boot FILE)",
            )
        compared += f", {boot.looked_at} boot events comply"
    if platform.ima is not None:
        ima = _looked_at(appraisal.ima, "the IMA policy")
        if ima.count:
            raise _untrusted(
                f"something was measured that IMA policy {platform.ima.policy!r} does not allow: {said(ima.findings, ima.count)}",
                "find out who ran it; until the next boot only another IMA policy helps (attestd platform rules --ima FILE)",
            )
        compared += f", {ima.looked_at} IMA entries comply"
    return compared


def findings_body(appraisal: object) -> dict[str, Any]:
    """The findings for the log: as many as fit, and how many there are."""
    if not isinstance(appraisal, Appraisal) or not appraisal.all_findings:
        return {}
    count = len(appraisal.findings) + sum(logs.count for logs in (appraisal.boot, appraisal.ima) if logs)
    room, kept = MAX_RECORDED_BYTES, []
    for finding in appraisal.all_findings:
        room -= len(finding.encode())
        if room < 0:
            break
        kept.append(finding)
    return {"findings": {"count": count, "first": kept}}


def said(findings: Sequence[str], count: int) -> str:
    """The first findings of so many, in a sentence."""
    more = count - min(len(findings), MAX_SAID)
    return "; ".join(findings[:MAX_SAID]) + (f"; and {more} more" if more > 0 else "")


def _looked_at(measured: LogAppraisal | None, what: str) -> LogAppraisal:
    if measured is None:
        raise Denied(
            Code.EVIDENCE_INVALID,
            f"no evidence for {what} of the platform policy was taken",
            "see attestd doctor",
        )
    return measured


def _untrusted(sentence: str, hint: str) -> Denied:
    return Denied(Code.ENVIRONMENT_UNTRUSTED, sentence, hint)
