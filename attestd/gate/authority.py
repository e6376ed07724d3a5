"""Who signed an artifact, and whether they may authorize what it is for."""

from attestd.authorization.artifact import UntrustedArtifact, VerifiedArtifact, verify_artifact
from attestd.authorization.dsse import InsufficientApprovalsError, SignatureInvalidError
from attestd.codes import Code, Denied
from attestd.governance.authorities import AuthorityRule
from attestd.governance.trust import Trust

__all__ = ["verify_authorization"]


def verify_authorization(
    untrusted: UntrustedArtifact, *, trust: Trust, executable: str, uid: int
) -> tuple[VerifiedArtifact, AuthorityRule]:
    """Verifies an artifact's signatures under the first rule of governance that covers the execution.

    Args:
        untrusted: The parsed artifact.
        trust: Verified governance.
        executable: The real path of what would run; the rule is chosen by what runs, not by what is claimed.
        uid: The user it would run as.

    Returns:
        The artifact, verified with keys that are in force, and the rule.

    Raises:
        Denied: `governance_mismatch` (the team's rules for this scope are not usable), `invalid_signature` (also: no authority for this scope), `insufficient_approvals`, `revoked` (the
            threshold is missed only because signing keys are revoked).
    """
    rule = trust.authorities.rule_for(executable=executable, uid=uid)
    if rule is None:
        raise Denied(
            Code.INVALID_SIGNATURE,
            f"no authority may authorize {executable} as uid {uid} on this host",
            "governance must name an authority for this scope",
        )
    if rule.unusable is not None:
        raise Denied(
            Code.GOVERNANCE_MISMATCH,
            f"rule {rule.name!r}: {rule.unusable}",
            "the team must publish rules that verify (attestd governance show)",
        )
    try:
        signed = verify_artifact(untrusted, keys=rule.keys, threshold=rule.threshold)
    except SignatureInvalidError as error:
        raise Denied(
            Code.INVALID_SIGNATURE,
            f"rule {rule.name!r}: {error}",
            "ask an authority of this host to issue it; attestd authorization verify explains",
        ) from error
    except InsufficientApprovalsError as error:
        raise Denied(
            Code.INSUFFICIENT_APPROVALS,
            f"rule {rule.name!r}: {error}",
            "ask further authorities to approve it (attestd authorization approve)",
        ) from error
    revoked = trust.revocations.keys.intersection(signed.key_ids)
    if not revoked:
        return signed, rule
    if len(signed.key_ids) - len(revoked) < rule.threshold:
        raise Denied(
            Code.REVOKED,
            f"the artifact is signed by key {min(revoked)}, which is revoked",
            "ask for a new authorization signed by a key in force",
        )
    in_force = [key for key in rule.keys if key.key_id not in revoked]
    return verify_artifact(untrusted, keys=in_force, threshold=rule.threshold), rule
