"""Puts an execution before the policies of governance, the same way in the agent, in the runner and in a replay."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from attestd.authorization.statement import Statement
from attestd.codes import Code, Denied
from attestd.gate.execution import Execution
from attestd.governance.cedar import Policies, PolicyRequest
from attestd.governance.host import VerifiedHost
from attestd.strict import parse_time

__all__ = ["artifact_terms", "policy_request", "require_policy", "require_policy_file", "require_verdict"]


def require_policy(
    statement: Statement,
    execution: Execution,
    *,
    terms: Mapping[str, Any],
    policies: Policies,
    host: VerifiedHost,
    findings: Iterable[str],
    depth: int,
    now: datetime,
) -> str:
    """The policy that the artifact names permits the execution, and no policy in whose scope it lies forbids it.

    Args:
        statement: The artifact's statement, its signatures verified.
        execution: What would run.
        terms: `artifact_terms` of the artifact.
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
    predicate = statement.predicate
    for what, value in (("secrets", predicate.secrets), ("tool", predicate.tool)):
        if value:
            raise Denied(
                Code.POLICY_DENIED,
                f"the artifact asks for {what}, which no policy on this host permits",
                f"ask for an authorization without {what}",
            )
    request = policy_request(
        execution,
        terms=terms,
        platform=predicate.environment.platform,
        host=host,
        findings=findings,
        depth=depth,
        now=now,
    )
    return require_verdict(predicate.governance.policy, request, policies=policies)


def require_policy_file(name: str, *, pinned: str | None, policies: Policies) -> None:
    """The policy that an artifact names is in force, and is the text that it pins, if it pins one.

    Raises:
        Denied: `governance_mismatch`.
    """
    digest = policies.digest(name)
    hint = "update this host's governance metadata, or ask for an authorization under the one in force"
    if digest is None:
        reason = policies.unusable_reason(name)
        raise Denied(
            Code.GOVERNANCE_MISMATCH,
            f"policy {name!r} is not in force here" + (f": {reason}" if reason else ""),
            hint,
        )
    if pinned not in {None, digest}:
        raise Denied(
            Code.GOVERNANCE_MISMATCH,
            f"the artifact is for policy {name!r} with digest {pinned}, here it has {digest}",
            hint,
        )


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


@dataclass(frozen=True)
class _Facts:
    execution: Execution
    terms: Mapping[str, Any]
    platform: str
    host: VerifiedHost
    findings: tuple[str, ...]
    depth: int
    now: datetime

    def attribute(self, name: str) -> Any:
        group, _, member = name.partition(".")
        if member:
            value = self.terms[member]
            return _entity("TrustLoss", value) if member == "on_trust_loss" else value
        return _ATTRIBUTES[group](self)


# Each is computed only when a policy looks at it.
_ATTRIBUTES: Final[Mapping[str, Callable[[_Facts], Any]]] = {
    "executable": lambda facts: facts.execution.executable.path,
    "directory": lambda facts: f"{facts.execution.executable.path.rpartition('/')[0]}/",
    "interpreters": lambda facts: [
        _entity("Executable", item.sha256) for item in facts.execution.interpreters
    ],
    "argv": lambda facts: facts.execution.argv,
    "argc": lambda facts: len(facts.execution.argv),
    # Quoted, so that two command lines never look the same: `rm "a b"` is not `rm a b`.
    "command_line": lambda facts: shlex.join(facts.execution.argv),
    "cwd": lambda facts: facts.execution.cwd,
    "uid": lambda facts: facts.execution.uid,
    "env": lambda facts: list(facts.execution.env),
    "inputs": lambda facts: [item.path for item in facts.execution.inputs],
    "host": lambda facts: facts.host.host,
    "labels": lambda facts: _pairs(facts.host.labels),
    "platform": lambda facts: facts.platform,
    "tier": lambda facts: _entity("Tier", facts.host.tier),
    "userspace": lambda facts: _entity("Userspace", facts.host.userspace),
    "findings": lambda facts: facts.findings,
    "depth": lambda facts: facts.depth,
    "time": lambda facts: int(facts.now.timestamp()),
    "hour": lambda facts: facts.now.astimezone(UTC).hour,
    "weekday": lambda facts: facts.now.astimezone(UTC).isoweekday(),
}


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
    """The request that policies see.

    Args:
        execution: What would run.
        terms: `artifact_terms`.
        platform: Name of the platform policy.
        host: This host's record.
        findings: What the appraisal found.
        depth: How many delegations stand above the artifact.
        now: When.
    """
    facts = _Facts(execution, terms, platform, host, tuple(findings), depth, now)
    return PolicyRequest(
        requester=execution.requester_uid,
        sha256=execution.executable.sha256,
        executable=execution.executable.path,
        uid=execution.uid,
        attributes=facts.attribute,
    )


def artifact_terms(statement: Statement, *, origin: Statement, signers: Iterable[str]) -> dict[str, Any]:
    """What policies see of the artifact (`context.artifact` of the schema): the log records it.

    In plain values; what the schema lets be absent is None.

    Args:
        statement: The artifact's statement.
        origin: That of the first link, which authorities signed: who requested it, who approved it and why is their
            word, for a delegate could say whatever a policy permits.
        signers: Ids of the keys whose signatures count.
    """
    predicate = statement.predicate
    validity, attribution = predicate.validity, origin.predicate.attribution
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


def _pairs(members: Mapping[str, str]) -> list[str]:
    """`name=value`, each once: a name holds no "="."""
    return sorted(f"{name}={value}" for name, value in members.items())


def _entity(kind: str, key: str) -> dict[str, dict[str, str]]:
    return {"__entity": {"type": kind, "id": key}}
