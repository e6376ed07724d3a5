"""Puts an execution before the policies of governance, the same way in the agent, in the runner and in a replay."""

import shlex
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from attestd.authorization.artifact import VerifiedArtifact
from attestd.authorization.statement import Statement
from attestd.codes import Code, Denied
from attestd.gate.execution import Execution
from attestd.governance.cedar import Policies, PolicyRequest
from attestd.governance.host import VerifiedHost
from attestd.governance.policy_index import Attributes
from attestd.strict import parse_time

__all__ = ["artifact_terms", "policy_request", "require_policy", "require_verdict"]


def require_policy(
    artifact: VerifiedArtifact,
    execution: Execution,
    *,
    policies: Policies,
    host: VerifiedHost,
    findings: Iterable[str],
    depth: int,
    now: datetime,
) -> str:
    """The policy that the artifact names permits the execution, and no policy in whose scope it lies forbids it.

    Args:
        artifact: The artifact, its signatures verified.
        execution: What would run.
        policies: Those in force; `require_governance` has checked that the named one is among them.
        host: This host's record.
        findings: What the appraisal found.
        depth: How many delegations stand above the artifact.
        now: Trusted time, or the runner's clock.

    Returns:
        What permitted it, for the record.

    Raises:
        Denied: `policy_denied` (no permit; also what no policy can permit), `policy_conflict` (a forbid, or a policy
            that cannot be evaluated).
    """
    predicate = artifact.statement.predicate
    for what, value in (("secrets", predicate.secrets), ("tool", predicate.tool)):
        if value:
            raise Denied(
                Code.POLICY_DENIED,
                f"the artifact asks for {what}, which no policy on this host permits",
                f"ask for an authorization without {what}",
            )
    request = policy_request(
        execution,
        terms=artifact_terms(artifact.statement, signers=artifact.key_ids),
        platform=predicate.environment.platform,
        host=host,
        findings=findings,
        depth=depth,
        now=now,
    )
    return require_verdict(predicate.governance.policy, request, policies=policies)


def require_verdict(name: str, request: PolicyRequest, *, policies: Policies) -> str:
    """The policies permit the request.

    Args:
        name: The file that must permit it.
        request: The request.
        policies: Those in force.

    Returns:
        What permitted it, for the record.

    Raises:
        Denied: `policy_denied`, `policy_conflict`.
    """
    verdict = policies.evaluate(name, request)
    if verdict.permitted:
        return f"permitted by {', '.join(verdict.permits)}"
    if verdict.forbids:
        found = "; ".join(
            policy.id if policy.reason is None else f"{policy.id} ({policy.reason})"
            for policy in verdict.forbids
        )
        raise Denied(
            Code.POLICY_CONFLICT,
            f"forbidden by policy {found}",
            "the policy's authors decide: see attestd why, and attestd governance show",
        )
    if verdict.errors:
        raise Denied(
            Code.POLICY_CONFLICT,
            f"a policy cannot be evaluated, so nothing is permitted: {verdict.errors[0]}",
            "report it to the policy's authors; attestd governance replay shows what else it concerns",
        )
    if not policies.covers(name, executable=request.executable, uid=request.uid):
        raise Denied(
            Code.POLICY_DENIED,
            f"policy {name!r} does not permit it: running {request.executable} as uid {request.uid} is not its"
            " team's to govern",
            "ask for an authorization under a policy that governs this",
        )
    raise Denied(
        Code.POLICY_DENIED,
        f"no permit of policy {name!r} holds for running {request.executable} for uid {request.requester}",
        "run what the policy permits, or ask its authors",
    )


def policy_request(
    execution: Execution,
    *,
    terms: Mapping[str, Any],
    platform: str,
    host: VerifiedHost,
    findings: Iterable[str],
    depth: int,
    now: datetime,
) -> PolicyRequest:
    """The request that policies see. Attributes are computed when a policy looks at them.

    Args:
        execution: What would run.
        terms: `artifact_terms`.
        platform: Name of the platform policy.
        host: This host's record.
        findings: What the appraisal found.
        depth: How many delegations stand above the artifact.
        now: When.
    """
    path = execution.executable.path
    moment = now.astimezone(UTC)
    attributes: Attributes = {
        "executable": lambda: path,
        "directory": lambda: f"{path.rpartition('/')[0]}/",
        "interpreters": lambda: [_entity("Executable", item.sha256) for item in execution.interpreters],
        "argv": lambda: list(execution.argv),
        "argc": lambda: len(execution.argv),
        # Quoted, so that two command lines never look the same: `rm "a b"` is not `rm a b`.
        "command_line": lambda: shlex.join(execution.argv),
        "cwd": lambda: execution.cwd,
        "uid": lambda: execution.uid,
        "env": lambda: list(execution.env),
        "inputs": lambda: [item.path for item in execution.inputs],
        "host": lambda: host.host,
        "labels": lambda: _pairs(host.labels),
        "platform": lambda: platform,
        "tier": lambda: _entity("Tier", host.tier),
        "userspace": lambda: _entity("Userspace", host.userspace),
        "findings": lambda: list(findings),
        "depth": lambda: depth,
        "time": lambda: int(moment.timestamp()),
        "hour": lambda: moment.hour,
        "weekday": moment.isoweekday,
        "artifact": lambda: _artifact(terms),
    }
    return PolicyRequest(
        requester=execution.requester_uid,
        sha256=execution.executable.sha256,
        executable=path,
        uid=execution.uid,
        attributes=attributes,
    )


def artifact_terms(statement: Statement, *, signers: Iterable[str]) -> dict[str, Any]:
    """What policies see of the artifact (`context.artifact` of the schema): the log records it.

    In plain values; what the schema lets be absent is None.

    Args:
        statement: The artifact's statement.
        signers: Ids of the keys whose signatures count.
    """
    predicate = statement.predicate
    validity, attribution = predicate.validity, predicate.attribution
    lifetime = parse_time(validity.not_after) - parse_time(validity.not_before)
    return {
        "ttl_s": int(lifetime.total_seconds()),
        "max_uses": validity.max_uses,
        "max_evidence_age_s": predicate.environment.max_evidence_age_s,
        "on_trust_loss": predicate.enforcement.on_trust_loss,
        "recheck_interval_s": predicate.enforcement.recheck_interval_s,
        "signers": sorted(signers),
        "metadata": _pairs(predicate.governance.metadata),
        "requested_by": attribution.requested_by,
        "approved_by": list(attribution.approved_by),
        "on_behalf_of": attribution.on_behalf_of,
        "reason": attribution.reason,
    }


def _artifact(terms: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in terms.items() if value is not None}
    return {**given, "on_trust_loss": _entity("TrustLoss", terms["on_trust_loss"])}


def _pairs(members: Mapping[str, str]) -> list[str]:
    """`name=value`, each once: a name holds no "="."""
    return sorted(f"{name}={value}" for name, value in members.items())


def _entity(kind: str, key: str) -> dict[str, dict[str, str]]:
    return {"__entity": {"type": kind, "id": key}}
