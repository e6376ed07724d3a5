"""The checks of the decision, one function each, in the order in which `decide` numbers them.

Each returns a value and what it compared, for the record, or raises `Denied`.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from attestd.appraisal.quote import Appraisal
from attestd.appraisal.result import AttestationResult
from attestd.authorization.artifact import UntrustedArtifact, VerifiedArtifact, parse_artifact
from attestd.authorization.statement import Statement
from attestd.codes import Code, Denial, Denied
from attestd.errors import MalformedError
from attestd.gate.authority import verify_authorization
from attestd.gate.environment import require_measured, require_state
from attestd.gate.execution import require_binding, require_scope
from attestd.gate.model import Context, Request
from attestd.gate.policy import require_policy
from attestd.gate.requirements import (
    require_chain,
    require_governance,
    require_not_revoked,
    require_strength,
    require_unchangeable,
    require_validity,
    require_witnesses,
    required_quorums,
)
from attestd.gate.vouching import QuotedState, require_verifiers, vouched_for
from attestd.governance.authorities import AuthorityRule
from attestd.governance.cedar import Policies
from attestd.governance.host import VerifiedHost
from attestd.governance.platform import PlatformPolicy
from attestd.governance.trust import Trust
from attestd.lineage.entry import EntryType


def check_present(request: Request) -> tuple[bytes, str]:
    """Check 1."""
    if request.artifact is None:
        raise Denied(
            Code.MISSING_AUTHORIZATION,
            f"no authorization was given, and none is installed, for {request.execution.argv[0]}",
            "give one with -a FILE, install one with attestd authorization install, or ask an authority to issue one",
        )
    return request.artifact, f"{len(request.artifact)} bytes"


def check_form(data: bytes) -> tuple[UntrustedArtifact, str]:
    """Check 2."""
    try:
        untrusted = parse_artifact(data)
    except MalformedError as error:
        raise Denied(
            Code.MALFORMED_AUTHORIZATION,
            str(error),
            "ask the authority for the artifact again; it must not be edited",
        ) from error
    return untrusted, f"artifact {untrusted.id}"


def check_signatures(
    untrusted: UntrustedArtifact | None, request: Request, context: Context
) -> tuple[tuple[Trust, VerifiedArtifact, AuthorityRule], str]:
    """Check 3."""
    trust = context.trust
    if isinstance(trust, Denial):
        raise Denied(trust.code, trust.sentence, trust.hint)
    if untrusted is None:  # Check 2 returned it: a caller that changes the order must fail closed.
        raise Denied(Code.INTERNAL_ERROR, "the artifact was not parsed", "report this")
    verified, rule = verify_authorization(
        untrusted, trust=trust, executable=request.execution.executable.path, uid=request.execution.uid
    )
    detail = f"{len(verified.signers[0])} of {rule.threshold} needed, rule {rule.name!r}"
    if len(verified.signers) > 1:
        detail += f"; delegated by key {', then '.join(key_ids[0] for key_ids in verified.signers[1:])}"
    return (trust, verified, rule), detail


def check_revocation(
    artifact: VerifiedArtifact, request: Request, context: Context, trust: Trust
) -> tuple[None, str]:
    """Check 4."""
    return None, require_not_revoked(artifact, request.execution, host=context.host, trust=trust)


def check_governance(
    statement: Statement, context: Context, trust: Trust
) -> tuple[tuple[PlatformPolicy, VerifiedHost], str]:
    """Check 5. The checks after it go by the record it found: another look may find none."""
    platform, record = require_governance(
        statement, trust=trust, host=context.host, now=context.now, grace=context.grace
    )
    return (
        platform,
        record,
    ), f"version {trust.version}, platform {platform.name!r} version {platform.version}"


def check_condition(name: str, context: Context) -> tuple[None, str]:
    """Check 6, and one of those that check 15 goes through."""
    if name not in context.conditions:
        raise Denied(Code.INTERNAL_ERROR, f"the condition {name!r} was not evaluated", "report this")
    found = context.conditions[name]
    if found is not None:
        raise Denied(found.code, found.sentence, found.hint)
    return None, f"{name} is healthy"


def check_validity(statement: Statement, context: Context) -> tuple[None, str]:
    """Check 7."""
    return None, require_validity(statement, now=context.now, tolerance=timedelta(0))


def check_identity(
    statement: Statement, request: Request, host: VerifiedHost, platform: PlatformPolicy
) -> tuple[None, str]:
    """Check 8."""
    if request.observation is not None:
        raise Denied(request.observation.code, request.observation.sentence, request.observation.hint)
    detail = require_binding(statement, request.execution, host=host.host, labels=host.labels)
    require_unchangeable(request.execution, platform)
    return None, detail


def check_scope(statement: Statement, request: Request, context: Context, trust: Trust) -> tuple[None, str]:
    """Check 9."""
    secrets = trust.authorities.secrets_of(request.execution.executable.path)
    detail = require_scope(statement, request.execution, secrets=secrets)
    if context.isolation != "user" and request.execution.uid != context.runner_uid:
        raise Denied(
            Code.SCOPE_VIOLATION,
            f"the artifact runs as uid {request.execution.uid}, this runner can only run as uid {context.runner_uid}",
            "run the agent as a service (root), or ask for an authorization for this user",
        )
    return None, detail


def check_policy(
    artifact: VerifiedArtifact,
    terms: Mapping[str, Any],
    request: Request,
    context: Context,
    *,
    policies: Policies,
    host: VerifiedHost,
) -> tuple[None, str]:
    """Check 10."""
    statement = artifact.statement
    appraisal = context.appraisals.get(statement.predicate.environment.platform)
    detail = require_policy(
        statement,
        request.execution,
        terms=terms,
        policies=policies,
        host=host,
        # Without an appraisal nothing is found: check 12 denies.
        findings=appraisal.all_findings if isinstance(appraisal, Appraisal) else (),
        depth=len(artifact.links) - 1,
        now=context.now,
    )
    return None, detail


def check_lineage(artifact: VerifiedArtifact, rule: AuthorityRule, request: Request) -> tuple[None, str]:
    """Check 11."""
    origin = require_chain(artifact, rule)
    if isinstance(request.parent, Denial):
        raise Denied(request.parent.code, request.parent.sentence, request.parent.hint)
    if request.parent is None:
        return None, f"{origin}no parent"
    if request.parent.entry.type not in (EntryType.DECISION_ALLOW, EntryType.EXECUTION_START):
        raise Denied(
            Code.LINEAGE_BROKEN,
            f"the parent's receipt is for a {request.parent.entry.type.value}, not for an execution",
            "give the receipt that attestd exec --receipt wrote for the parent",
        )
    return None, f"{origin}parent {request.parent.leaf}"


def check_evidence(statement: Statement, context: Context) -> tuple[Appraisal, str]:
    """Check 12."""
    name = statement.predicate.environment.platform
    appraisal = context.appraisals.get(name)
    if appraisal is None:
        raise Denied(
            Code.EVIDENCE_INVALID, f"there is no evidence for platform policy {name!r}", "see attestd doctor"
        )
    if isinstance(appraisal, Denial):
        raise Denied(appraisal.code, appraisal.sentence, appraisal.hint)
    age = context.now - appraisal.at
    allowed = timedelta(seconds=statement.predicate.environment.max_evidence_age_s)
    if not timedelta(0) <= age <= allowed:
        raise Denied(
            Code.EVIDENCE_STALE,
            f"evidence may be {allowed.total_seconds():.0f} s old, it is {age.total_seconds():.0f} s old",
            "try again; if it persists, see attestd doctor",
        )
    return (
        appraisal,
        f"quote of {appraisal.at.time().isoformat('seconds')}, reset count {appraisal.clock.reset_count}",
    )


def check_environment(
    appraisal: Appraisal, platform: PlatformPolicy, host: VerifiedHost, context: Context
) -> tuple[None, str]:
    """Check 13."""
    if appraisal.policy.digest != platform.digest:
        raise Denied(
            Code.EVIDENCE_INVALID,
            "the evidence was appraised under another platform policy version",
            "try again",
        )
    require_state(appraisal, platform, now=context.now)
    strength = require_strength(platform, host)
    measured = require_measured(appraisal, platform)
    return None, f"composite {appraisal.pcr_digest.hex()}, {strength}{measured}"


def check_mesh(
    statement: Statement, appraisal: Appraisal, platform: PlatformPolicy, trust: Trust, context: Context
) -> tuple[Sequence[AttestationResult], str]:
    """Check 14: the results that count. The cosignatures themselves are required once there is a checkpoint."""
    needed = required_quorums(statement, platform, trust.mesh)
    if not any(needed):
        return (), "no mesh is asked for"
    vouched = vouched_for(
        context.results,
        host=context.host,
        mesh=trust.mesh,
        platform=platform,
        state=QuotedState(appraisal.clock, appraisal.pcr_digest),
        now=context.now,
    )
    found = (
        require_verifiers(needed.verifiers, vouched),
        require_witnesses(needed.witnesses, len(trust.mesh.witness_names)),
    )
    return vouched.counted if needed.verifiers else (), "; ".join(filter(None, found))


def check_conditions(context: Context) -> tuple[None, str]:
    """Check 15."""
    for name in ("log", "tpm", "runner"):
        check_condition(name, context)
    return None, "log, TPM and runner are healthy"


def check_uses(artifact: VerifiedArtifact, context: Context) -> tuple[None, str]:
    """Check 16."""
    shown = "unlimited"
    for link in artifact.links:
        allowed = link.statement.predicate.validity.max_uses
        if allowed is None:
            continue
        used = context.uses(link.id)
        if used >= allowed:
            what = "the artifact" if link.id == artifact.id else f"artifact {link.id}, above this one,"
            raise Denied(
                Code.USES_EXHAUSTED,
                f"{what} may be used {_times(allowed)} and was used {_times(used)}",
                "ask for a new authorization (attestd authorization issue --max-uses)",
            )
        shown = f"use {used + 1} of {allowed}"
    return None, shown


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
