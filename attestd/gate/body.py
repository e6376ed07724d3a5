"""What the log entry of a decision says: its body. The runner recomputes all of it that follows from what it sees."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from attestd.appraisal.result import AttestationResult
from attestd.authorization.artifact import UntrustedArtifact
from attestd.codes import Code, Denial
from attestd.gate.concealment import Concealment
from attestd.gate.execution import Execution, execution_body
from attestd.gate.model import Check, Outcome
from attestd.governance.platform import PlatformPolicy
from attestd.governance.trust import Trust
from attestd.strict import canonical, format_time

__all__ = ["as_denied", "checks_body", "decided_body", "denial_body", "governance_body", "verifiers_body"]

# An entry holds 65,535 bytes (lineage.entry), a command line up to 1 MiB. What comes from requester and artifact may
# take this much of it; checks, with their details cut, and the fixed members stay below the rest.
MAX_DECIDED_BYTES: Final = 36 * 1024
MAX_MEMBER_BYTES: Final = 2 * 1024
MAX_DETAIL: Final = 240
MAX_SENTENCE: Final = 1024
# Which check a denial that comes after the decision belongs to: the TPM decides about the environment once more, and
# the sealer about uses. A failure to seal belongs to none.
_LATE_CHECKS: Final = {Code.ENVIRONMENT_UNTRUSTED: "environment", Code.USES_EXHAUSTED: "uses"}


def decided_body(
    execution: Execution,
    *,
    artifact: bytes | None,
    untrusted: UntrustedArtifact | None,
    authority: str | None,
    terms: Mapping[str, Any] | None,
    witness_quorum: int,
    code: Code | None,
    isolation: str,
    concealment: Concealment,
) -> dict[str, Any]:
    """The members that follow from request and artifact: of an allowed decision the runner compares each.

    Args:
        execution: What would run.
        artifact: The artifact's file; None: none was given.
        untrusted: The artifact, if it parses.
        authority: Name of the rule under which it was signed; None: it was not verified.
        terms: What policies see of the artifact (`gate.policy.artifact_terms`); None: it was not verified.
        witness_quorum: How many witnesses must cosign.
        code: Why it was denied; None: it was allowed.
        isolation: What the runner can do.
        concealment: What of the execution is secret.
    """
    attribution = None if untrusted is None else untrusted.statement.predicate.attribution
    named: dict[str, Any] | None = None
    if artifact is not None:
        named = {"id": untrusted and untrusted.id, "sha256": hashlib.sha256(artifact).hexdigest()}
    origin = {}
    if untrusted is not None and len(untrusted.links) > 1:
        named = {**(named or {}), "chain": [link.id for link in untrusted.links]}
        origin = {"origin": msgspec.to_builtins(untrusted.links[0].statement.predicate.attribution)}
    return _fitted(
        {
            **execution_body(execution, concealment=concealment),
            **origin,
            "artifact": named,
            "attribution": msgspec.to_builtins(attribution),
            "authority": authority,
            "code": None if code is None else code.value,
            "isolation": isolation,
            "policy": None if untrusted is None else untrusted.statement.predicate.governance.policy,
            "requester": {"uid": execution.requester_uid},
            "terms": terms,
            "witness_quorum": witness_quorum,
        }
    )


def governance_body(
    trust: Trust | Denial, platform: PlatformPolicy | None, *, now: datetime
) -> dict[str, Any]:
    """Under which governance was decided, and how old it was; None where the decision did not come so far.

    `mesh` is also None where governance has no `mesh.json`.
    """
    return {
        "governance": None if isinstance(trust, Denial) else _governance(trust, now),
        "mesh": None if isinstance(trust, Denial) else trust.mesh.named,
        "platform": None
        if platform is None
        else {"name": platform.name, "version": platform.version, "digest": platform.digest},
    }


def _governance(trust: Trust, now: datetime) -> dict[str, Any]:
    return {
        "version": trust.version,
        "digest": trust.digest,
        "timestamp": trust.versions.timestamp,
        "expires": format_time(trust.expires),
        "age_s": None if trust.issued is None else int((now - trust.issued).total_seconds()),
    }


def checks_body(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Every check, in order."""
    return [
        {
            "n": check.number,
            "name": check.name,
            "outcome": check.outcome.value,
            "detail": _plain(check.detail, MAX_DETAIL),
        }
        for check in checks
    ]


def verifiers_body(counted: Sequence[AttestationResult]) -> list[dict[str, Any]]:
    """Whose results were counted, and what they say."""
    return [
        {
            "verifier": result.verifier,
            "status": result.claims.submods.platform.status.value,
            "tier": result.claims.attestd.tier,
        }
        for result in counted
    ]


def denial_body(denial: Denial) -> dict[str, str]:
    """The denial in words."""
    return {"sentence": _plain(denial.sentence, MAX_SENTENCE), "hint": _plain(denial.hint, MAX_SENTENCE)}


def as_denied(body: Mapping[str, Any], denial: Denial) -> dict[str, Any]:
    """The body of an allowed decision after sealing it for release was refused.

    Args:
        body: The body of the `decision.allow` that does not come to be.
        denial: Why.

    Returns:
        The body of the `decision.deny`: the same, with the check that now rejects.
    """
    late = _LATE_CHECKS.get(denial.code)
    rejected = {"outcome": Outcome.REJECTED.value, "detail": _plain(denial.sentence, MAX_DETAIL)}
    checks = [{**check, **rejected} if check["name"] == late else check for check in body["checks"]]
    return {**body, "checks": checks, "code": denial.code.value, "denial": denial_body(denial)}


def _fitted(members: dict[str, Any]) -> dict[str, Any]:
    """Members that together are too large for a leaf: the large ones become their size and digest.

    Nobody keeps a decision out of the log by making it large.
    """
    if len(msgspec.json.encode(members)) <= MAX_DECIDED_BYTES:  # as long as the canonical form, and cheaper
        return members
    return {name: _shortened(value) for name, value in members.items()}


def _shortened(value: Any) -> Any:
    data = canonical(value)
    if len(data) <= MAX_MEMBER_BYTES:
        return value
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _plain(text: str, most: int) -> str:
    """Text that a terminal can show: it holds paths and names that others chose."""
    shown = text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."
