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
        The verified artifact and the rule.

    Raises:
        Denied: `invalid_signature` (also: no authority for this scope), `insufficient_approvals`, `revoked` (the
            threshold is only missed because a signing key is revoked).
    """
    rule = trust.authorities.rule_for(executable=executable, uid=uid)
    if rule is None:
        raise Denied(
            Code.INVALID_SIGNATURE,
            f"no authority may authorize {executable} as uid {uid} on this host",
            "governance must name an authority for this scope",
        )
    keys = [key for key in rule.keys if key.key_id not in trust.revocations.keys]
    revoked = {key.key_id for key in rule.keys} & trust.revocations.keys
    claimed = {signature.key_id for signature in untrusted.envelope.signatures}
    if not keys or (revoked & claimed and len(keys) < rule.threshold):
        raise Denied(
            Code.REVOKED,
            f"the artifact is signed by key {min(revoked)}, which is revoked",
            "ask for a new authorization signed by a key in force",
        )
    try:
        return verify_artifact(untrusted, keys=keys, threshold=rule.threshold), rule
    except SignatureInvalidError as error:
        if revoked & claimed:
            raise Denied(
                Code.REVOKED,
                f"the artifact is signed by key {min(revoked & claimed)}, which is revoked",
                "ask for a new authorization signed by a key in force",
            ) from error
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
