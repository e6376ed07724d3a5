"""Whether an artifact stands by itself: signed by who may, and not revoked. For whoever has no request to decide."""

from attestd.authorization.artifact import UntrustedArtifact, VerifiedArtifact
from attestd.codes import Code, Denied
from attestd.gate.authority import verify_authorization
from attestd.gate.requirements import require_chain
from attestd.governance.authorities import AuthorityRule
from attestd.governance.trust import Trust

__all__ = ["verify_standing"]


def verify_standing(untrusted: UntrustedArtifact, *, trust: Trust) -> tuple[VerifiedArtifact, AuthorityRule]:
    """Verifies an artifact's signatures for what it says it is for, its chain, and that it is not revoked.

    Does not check validity in time, uses, hosts, requesters or the bytes on a host: these belong to a request.

    Args:
        untrusted: The parsed artifact.
        trust: Verified governance.

    Returns:
        The artifact, and the rule under which it is signed.

    Raises:
        Denied: `invalid_signature`, `insufficient_approvals`, `revoked`, `lineage_broken`.
    """
    subjects = untrusted.statement.subject
    verified, rule = verify_authorization(
        untrusted, trust=trust, executable=subjects[0].name, uid=untrusted.statement.predicate.scope.uid
    )
    revoked = trust.revocations
    found = [f"artifact {link.id}" for link in verified.links if link.id in revoked.artifacts]
    found += [f"file {item.name}" for item in subjects if item.digest.sha256 in revoked.subjects]
    if found:
        raise Denied(Code.REVOKED, f"{found[0]} is revoked", "ask the authority that revoked it")
    require_chain(verified, rule)
    return verified, rule
