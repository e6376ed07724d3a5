"""What agent and runner both require of an artifact whose signatures hold. Here once, so that they cannot differ.

`gate.checks` gives each its number in the decision; `gate.release` repeats them on what the runner sees itself. What
both require of the execution stands in `gate.execution`. Each raises `Denied`; what it returns is for the record.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from attestd.authorization.artifact import ChainBrokenError, VerifiedArtifact, verify_chain
from attestd.authorization.statement import Statement
from attestd.codes import Code, Denied
from attestd.gate.execution import Execution
from attestd.gate.policy import require_policy_file
from attestd.governance.authorities import AuthorityRule
from attestd.governance.host import VerifiedHost
from attestd.governance.mesh import MeshTrust
from attestd.governance.platform import PlatformPolicy
from attestd.governance.trust import Trust
from attestd.plain import counted
from attestd.strict import parse_time

__all__ = [
    "Quorums",
    "require_chain",
    "require_governance",
    "require_not_revoked",
    "require_strength",
    "require_unchangeable",
    "require_validity",
    "require_witnesses",
    "required_quorums",
]


def require_not_revoked(artifact: VerifiedArtifact, execution: Execution, *, host: str, trust: Trust) -> str:
    """Neither artifact, one above it, host, requester nor a file is revoked. At keys `verify_authorization` looks.

    Raises:
        Denied: `revoked`.
    """
    revoked = trust.revocations
    files = (execution.executable, *execution.interpreters, *execution.inputs)
    found = (
        *(("artifact", link.id, link.id in revoked.artifacts) for link in artifact.links),
        ("host", host, host in revoked.hosts),
        ("requester uid", str(execution.requester_uid), execution.requester_uid in revoked.requesters),
        *((f"file {item.path}, SHA-256", item.sha256, item.sha256 in revoked.subjects) for item in files),
    )
    for what, value, is_revoked in found:
        if is_revoked:
            raise Denied(Code.REVOKED, f"{what} {value} is revoked", "ask the authority that revoked it")
    return f"revocations version {revoked.version}"


def require_governance(
    statement: Statement, *, trust: Trust, host: str, now: datetime, grace: timedelta
) -> tuple[PlatformPolicy, VerifiedHost]:
    """Governance is fresh; version floor, policy, platform policy and host record that the artifact needs are in force.

    Args:
        statement: The artifact's statement.
        trust: What is trusted.
        host: This host's id.
        now: Trusted time, or the wall clock.
        grace: For how long metadata may be used after it expired.

    Returns:
        The platform policy that the artifact names, and the host's record.

    Raises:
        Denied: `governance_mismatch`.
    """
    _require_fresh(trust, now=now, grace=grace)
    governance, environment = statement.predicate.governance, statement.predicate.environment
    hint = "update this host's governance metadata, or ask for an authorization under the one in force"
    if trust.version < governance.min_version:
        raise _mismatch(
            f"the artifact needs governance version {governance.min_version}, this host has {trust.version}",
            hint,
        )
    require_policy_file(governance.policy, pinned=governance.policy_digest, policies=trust.policies)
    platform = trust.platforms.get(environment.platform)
    if platform is None:
        reason = trust.unusable.get(f"platform/{environment.platform}.json")
        raise _mismatch(
            f"platform policy {environment.platform!r} is not in force here{_because(reason)}", hint
        )
    if platform.valid_until is not None and now >= platform.valid_until:
        raise _mismatch(
            f"platform policy {platform.name!r} version {platform.version} was valid until {platform.valid_until}",
            "approve the platform again (attestd platform approve)",
        )
    record = trust.hosts.get(host)
    if record is None or not record.not_before <= now < record.not_after:
        reason = trust.unusable.get(f"hosts/{host}.json")
        found = (
            f"none{_because(reason)}"
            if record is None
            else f"valid from {record.not_before} until {record.not_after}"
        )
        raise _mismatch(f"a valid record of host {host} is needed, found: {found}", hint)
    return platform, record


def require_validity(statement: Statement, *, now: datetime, tolerance: timedelta) -> str:
    """It is within its validity.

    Args:
        statement: The artifact's statement.
        now: Trusted time, or the wall clock.
        tolerance: How far the wall clock may lag behind trusted time; zero for trusted time.

    Raises:
        Denied: `not_yet_valid`, `expired`.
    """
    validity = statement.predicate.validity
    if now + tolerance < parse_time(validity.not_before):  # the year 1 has nothing before it
        raise Denied(
            Code.NOT_YET_VALID,
            f"the artifact is valid from {validity.not_before}, it is {now:%Y-%m-%dT%H:%M:%SZ}",
            "wait, or ask for an authorization that is valid now",
        )
    if now >= parse_time(validity.not_after):
        raise Denied(
            Code.EXPIRED,
            f"the artifact was valid until {validity.not_after}, it is {now:%Y-%m-%dT%H:%M:%SZ}",
            "ask for a new authorization (attestd authorization issue)",
        )
    return f"until {validity.not_after}"


def require_unchangeable(execution: Execution, platform: PlatformPolicy) -> None:
    """Where the platform policy says `writable: refuse`, only root can write to the files.

    Raises:
        Denied: `identity_mismatch`.
    """
    if execution.writable and platform.writable == "refuse":
        raise Denied(
            Code.IDENTITY_MISMATCH,
            f"{min(execution.writable)} can be changed by others than root, which platform policy"
            f" {platform.name!r} refuses",
            "install it owned by root and writable by root only",
        )


def require_chain(artifact: VerifiedArtifact, rule: AuthorityRule) -> str:
    """Each link follows from the one above and allows no more, and governance lets it be delegated so often.

    Args:
        artifact: Verified under the rule.
        rule: Its `max_depth` holds whatever the artifacts say.

    Returns:
        What was found, for the record; nothing to say of an artifact that authorities issued.

    Raises:
        Denied: `lineage_broken`.
    """
    depth = len(artifact.links) - 1
    if depth > rule.max_depth:
        raise Denied(
            Code.LINEAGE_BROKEN,
            f"rule {rule.name!r} lets an artifact be delegated {rule.max_depth} deep, this one is {depth} deep",
            "ask for an authorization that is nearer to its authority",
        )
    try:
        verify_chain(artifact.untrusted)
    except ChainBrokenError as error:
        raise Denied(
            Code.LINEAGE_BROKEN,
            f"the artifact does not follow from an authority's: {error}",
            "ask whoever delegated it for the whole chain, each link within the one above (attestd authorization delegate)",
        ) from error
    return f"delegated {depth} deep, from {artifact.links[0].id}, " if depth else ""


def require_strength(platform: PlatformPolicy, host: VerifiedHost) -> str:
    """The host's evidence is rooted, and its user space protected, as the platform policy asks.

    Raises:
        Denied: `environment_untrusted`.
    """
    if not platform.accepts_tier(host.tier) or host.userspace not in platform.userspace:
        raise Denied(
            Code.ENVIRONMENT_UNTRUSTED,
            f"platform policy {platform.name!r} asks for tier {platform.min_tier} and user space"
            f" {' or '.join(platform.userspace)}, this host has {host.tier} and {host.userspace}",
            "run it on a host with a stronger root of trust",
        )
    return f"tier {host.tier}, user space {host.userspace}"


class Quorums(NamedTuple):
    """How many verifiers must vouch for a host, and how many witnesses cosign the checkpoint of a release."""

    verifiers: int
    witnesses: int


def required_quorums(statement: Statement, platform: PlatformPolicy, mesh: MeshTrust) -> Quorums:
    """What an execution needs: the greatest of what artifact, platform policy and `mesh.json` ask."""
    environment = statement.predicate.environment
    return Quorums(
        max(environment.verifiers.quorum, platform.verifier_quorum, mesh.verifier_quorum),
        max(environment.witnesses.quorum, platform.witness_quorum, mesh.witness_quorum),
    )


def require_witnesses(quorum: int, witnesses: int) -> str:
    """As many witnesses vouch for the host's log as are needed.

    Args:
        quorum: By `required_quorums`.
        witnesses: How many cosigned the checkpoint; before there is one, how many there are.

    Raises:
        Denied: `mesh_unavailable`.
    """
    if witnesses < quorum:
        raise Denied(
            Code.MESH_UNAVAILABLE,
            f"{counted(quorum, 'witness')} must cosign a release, there are {witnesses}",
            "connect this host to a controller, or ask for an authorization that needs none",
        )
    return f"{counted(witnesses, 'witness')}, {quorum} must cosign" if quorum else ""


def _require_fresh(trust: Trust, *, now: datetime, grace: timedelta) -> None:
    # Whoever keeps newer metadata from this host must not gain more by it than this.
    if now - trust.expires > grace:  # no sum: the year 9999 has nothing behind it
        allowed = f" and {grace.total_seconds():.0f} s more are allowed" if grace else ""
        raise _mismatch(
            f"governance metadata expired: role {trust.expires_role!r} at {trust.expires:%Y-%m-%dT%H:%M:%SZ}{allowed},"
            f" it is {now:%Y-%m-%dT%H:%M:%SZ}",
            "update it (attestd governance update); if what is published is as old, have it signed again (attestd"
            " governance refresh)",
        )


def _because(reason: str | None) -> str:
    return "" if reason is None else f": it is published, but {reason}"


def _mismatch(sentence: str, hint: str) -> Denied:
    return Denied(Code.GOVERNANCE_MISMATCH, sentence, hint)
