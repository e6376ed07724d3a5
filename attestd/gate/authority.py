"""Who signed an artifact, and whether they may authorize what it is for."""

from typing import Final

from attestd.authorization.artifact import UntrustedArtifact, VerifiedArtifact, verify_artifact
from attestd.authorization.dsse import InsufficientApprovalsError, SignatureInvalidError
from attestd.codes import Code, Denied
from attestd.governance.authorities import AuthorityRule
from attestd.governance.trust import Trust

__all__ = ["verify_authorization"]

_NEW: Final = "ask for a new authorization signed by a key in force"


def verify_authorization(
    untrusted: UntrustedArtifact, *, trust: Trust, executable: str, uid: int
) -> tuple[VerifiedArtifact, AuthorityRule]:
    """Verifies an artifact's signatures under the first rule of governance that covers the execution.

    The rule's keys sign its first link; of a delegated artifact each other link is signed by a delegate of the link above.
    That the links follow from each other, `requirements.require_chain` requires.

    Args:
        untrusted: The parsed artifact.
        trust: Verified governance.
        executable: The real path of what would run; the rule is chosen by what runs, not by what is claimed.
        uid: The user it would run as.

    Returns:
        The artifact, verified with keys that are in force, and the rule.

    Raises:
        Denied: `governance_mismatch` (the team's rules for this scope are not usable), `invalid_signature` (also: no
            authority for this scope), `insufficient_approvals`, `revoked` (the threshold of a link is missed only
            because signing keys are revoked).
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
    signed = _signed(untrusted, rule)
    revoked = trust.revocations.keys
    needed = (rule.threshold, *(1 for _ in untrusted.links[1:]))
    for number, (key_ids, threshold) in enumerate(zip(signed.signers, needed, strict=True), 1):
        gone = revoked.intersection(key_ids)
        if len(key_ids) - len(gone) < threshold:
            what = "the artifact" if len(needed) == 1 else f"link {number} of the artifact"
            raise Denied(Code.REVOKED, f"{what} is signed by key {min(gone)}, which is revoked", _NEW)
    if revoked.isdisjoint(signed.key_ids):
        return signed, rule
    in_force = [key for key in rule.keys if key.key_id not in revoked]
    return verify_artifact(untrusted, keys=in_force, threshold=rule.threshold, revoked=revoked), rule


def _signed(untrusted: UntrustedArtifact, rule: AuthorityRule) -> VerifiedArtifact:
    try:
        return verify_artifact(untrusted, keys=rule.keys, threshold=rule.threshold)
    except SignatureInvalidError as error:
        parent = untrusted.links[0].statement.predicate.lineage.parent
        hint = "ask an authority of this host to issue it; attestd authorization verify explains"
        if parent is not None:
            hint = f"it was issued under {parent}: give the file that has the chain to that"
        raise Denied(Code.INVALID_SIGNATURE, f"rule {rule.name!r}: {error}", hint) from error
    except InsufficientApprovalsError as error:
        raise Denied(
            Code.INSUFFICIENT_APPROVALS,
            f"rule {rule.name!r}: {error}",
            "ask further authorities to approve it (attestd authorization approve)",
        ) from error
