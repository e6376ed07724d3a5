"""The checks of the decision, one function each, in the order in which `decide` numbers them.

Each returns a value and what it compared, for the record, or raises `Denied`.
"""

from datetime import timedelta

from attestd.appraisal.quote import Appraisal
from attestd.authorization.artifact import UntrustedArtifact, VerifiedArtifact, parse_artifact
from attestd.authorization.statement import Statement
from attestd.codes import Code, Denial, Denied
from attestd.errors import MalformedError
from attestd.gate.authority import verify_authorization
from attestd.gate.execution import require_binding, require_scope
from attestd.gate.model import Context, Request
from attestd.governance.platform import PlatformPolicy
from attestd.governance.trust import Trust
from attestd.lineage.entry import EntryType
from attestd.strict import parse_time


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
) -> tuple[tuple[Trust, VerifiedArtifact, str], str]:
    """Check 3."""
    trust = context.trust
    if isinstance(trust, Denial):
        raise Denied(trust.code, trust.sentence, trust.hint)
    if untrusted is None:  # Check 2 returned it: a caller that changes the order must fail closed.
        raise Denied(Code.INTERNAL_ERROR, "the artifact was not parsed", "report this")
    verified, rule = verify_authorization(
        untrusted, trust=trust, executable=request.execution.executable.path, uid=request.execution.uid
    )
    detail = f"{len(verified.key_ids)} of {rule.threshold} needed, rule {rule.name!r}"
    return (trust, verified, rule.name), detail


def check_revocation(
    artifact: VerifiedArtifact, request: Request, context: Context, trust: Trust
) -> tuple[None, str]:
    """Check 4."""
    revoked = trust.revocations
    execution = request.execution
    files = (execution.executable, *execution.interpreters, *execution.inputs)
    found = (
        ("artifact", artifact.id, artifact.id in revoked.artifacts),
        ("host", context.host, context.host in revoked.hosts),
        ("requester uid", str(execution.requester_uid), execution.requester_uid in revoked.requesters),
        *((f"file {item.path}, SHA-256", item.sha256, item.sha256 in revoked.subjects) for item in files),
    )
    for what, value, is_revoked in found:
        if is_revoked:
            raise Denied(Code.REVOKED, f"{what} {value} is revoked", "ask the authority that revoked it")
    return None, f"revocations version {revoked.version}"


def check_governance(statement: Statement, context: Context, trust: Trust) -> tuple[PlatformPolicy, str]:
    """Check 5."""
    governance, environment = statement.predicate.governance, statement.predicate.environment
    hint = "update this host's governance metadata, or ask for an authorization under the one in force"
    if trust.version < governance.min_version:
        raise Denied(
            Code.GOVERNANCE_MISMATCH,
            f"the artifact needs governance version {governance.min_version}, this host has {trust.version}",
            hint,
        )
    if governance.policy not in trust.policies:
        raise Denied(Code.GOVERNANCE_MISMATCH, f"policy {governance.policy!r} is not in force here", hint)
    digest = trust.policies[governance.policy]
    if governance.policy_digest is not None and governance.policy_digest != digest:
        raise Denied(
            Code.GOVERNANCE_MISMATCH,
            f"the artifact is for policy {governance.policy!r} with digest {governance.policy_digest}, here it has"
            f" {digest or 'none (built in)'}",
            hint,
        )
    platform = trust.platforms.get(environment.platform)
    if platform is None:
        raise Denied(
            Code.GOVERNANCE_MISMATCH, f"platform policy {environment.platform!r} is not in force here", hint
        )
    if platform.valid_until is not None and context.now >= platform.valid_until:
        raise Denied(
            Code.GOVERNANCE_MISMATCH,
            f"platform policy {platform.name!r} version {platform.version} was valid until {platform.valid_until}",
            "approve the platform again (attestd platform approve)",
        )
    host = trust.hosts.get(context.host)
    if host is None or not host.not_before <= context.now < host.not_after:
        found = "none" if host is None else f"valid from {host.not_before} until {host.not_after}"
        raise Denied(
            Code.GOVERNANCE_MISMATCH, f"a valid record of host {context.host} is needed, found: {found}", hint
        )
    return platform, f"version {trust.version}, platform {platform.name!r} version {platform.version}"


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
    validity = statement.predicate.validity
    if context.now < parse_time(validity.not_before):
        raise Denied(
            Code.NOT_YET_VALID,
            f"the artifact is valid from {validity.not_before}, trusted time is {context.now:%Y-%m-%dT%H:%M:%SZ}",
            "wait, or ask for an authorization that is valid now",
        )
    if context.now >= parse_time(validity.not_after):
        raise Denied(
            Code.EXPIRED,
            f"the artifact was valid until {validity.not_after}, trusted time is {context.now:%Y-%m-%dT%H:%M:%SZ}",
            "ask for a new authorization (attestd authorization issue)",
        )
    return None, f"until {validity.not_after}"


def check_identity(
    statement: Statement, request: Request, context: Context, trust: Trust, platform: PlatformPolicy
) -> tuple[None, str]:
    """Check 8."""
    execution = request.execution
    if request.observation is not None:
        raise Denied(request.observation.code, request.observation.sentence, request.observation.hint)
    host = trust.hosts[context.host]
    detail = require_binding(statement, execution, host=context.host, labels=host.labels)
    if execution.writable and platform.writable == "refuse":
        raise Denied(
            Code.IDENTITY_MISMATCH,
            f"{min(execution.writable)} can be changed by others than root, which platform policy"
            f" {platform.name!r} refuses",
            "install it owned by root and writable by root only",
        )
    return None, detail


def check_scope(statement: Statement, request: Request, context: Context) -> tuple[None, str]:
    """Check 9."""
    detail = require_scope(statement, request.execution)
    if context.isolation != "user" and request.execution.uid != context.runner_uid:
        raise Denied(
            Code.SCOPE_VIOLATION,
            f"the artifact runs as uid {request.execution.uid}, this runner can only run as uid {context.runner_uid}",
            "run the agent as a service (root), or ask for an authorization for this user",
        )
    return None, detail


def check_policy(statement: Statement) -> tuple[None, str]:
    """Check 10."""
    predicate = statement.predicate
    for what, value in (("secrets", predicate.secrets), ("tool", predicate.tool)):
        if value:
            raise Denied(
                Code.POLICY_DENIED,
                f"the artifact asks for {what}, which no policy on this host permits",
                f"ask for an authorization without {what}",
            )
    return None, f"{predicate.governance.policy!r}: authorities and scope decide"


def check_lineage(statement: Statement, request: Request) -> tuple[None, str]:
    """Check 11."""
    lineage = statement.predicate.lineage
    if lineage.parent is not None:
        raise Denied(
            Code.LINEAGE_BROKEN,
            f"the artifact was issued under {lineage.parent}, and the chain to it is missing",
            "give the artifact together with its chain",
        )
    if isinstance(request.parent, Denial):
        raise Denied(request.parent.code, request.parent.sentence, request.parent.hint)
    if request.parent is None:
        return None, "no parent"
    if request.parent.entry.type not in (EntryType.DECISION_ALLOW, EntryType.EXECUTION_START):
        raise Denied(
            Code.LINEAGE_BROKEN,
            f"the parent's receipt is for a {request.parent.entry.type.value}, not for an execution",
            "give the receipt that attestd exec --receipt wrote for the parent",
        )
    return None, f"parent {request.parent.leaf}"


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
    return appraisal, f"quote of {appraisal.at:%H:%M:%S}, reset count {appraisal.clock.reset_count}"


def check_environment(
    appraisal: Appraisal, platform: PlatformPolicy, trust: Trust, context: Context
) -> tuple[None, str]:
    """Check 13."""
    host = trust.hosts[context.host]
    if appraisal.policy.digest != platform.digest:
        raise Denied(
            Code.EVIDENCE_INVALID,
            "the evidence was appraised under another platform policy version",
            "try again",
        )
    if appraisal.approval is None:
        raise Denied(
            Code.ENVIRONMENT_UNTRUSTED,
            "the platform is in no approved state: " + "; ".join(appraisal.findings),
            "boot the approved state, or have an authority approve this one (attestd platform approve)",
        )
    if not platform.accepts_tier(host.tier) or host.userspace not in platform.userspace:
        raise Denied(
            Code.ENVIRONMENT_UNTRUSTED,
            f"platform policy {platform.name!r} asks for tier {platform.min_tier} and user space"
            f" {' or '.join(platform.userspace)}, this host has {host.tier} and {host.userspace}",
            "run it on a host with a stronger root of trust",
        )
    return None, f"composite {appraisal.pcr_digest.hex()}, tier {host.tier}, user space {host.userspace}"


def check_mesh(statement: Statement, platform: PlatformPolicy, context: Context) -> tuple[None, str]:
    """Check 14."""
    environment = statement.predicate.environment
    for what, needed, found in (
        ("verifiers", max(environment.verifiers.quorum, platform.verifier_quorum), context.mesh.verifiers),
        ("witnesses", max(environment.witnesses.quorum, platform.witness_quorum), context.mesh.witnesses),
    ):
        if found < needed:
            raise Denied(
                Code.MESH_UNAVAILABLE,
                f"{needed} {what} must vouch for this host, {found} do",
                "connect this host to a controller, or ask for an authorization that needs none",
            )
    return (
        None,
        "no mesh is asked for" if not context.mesh.verifiers else f"{context.mesh.verifiers} verifiers",
    )


def check_conditions(context: Context) -> tuple[None, str]:
    """Check 15."""
    for name in ("log", "tpm", "runner"):
        check_condition(name, context)
    return None, "log, TPM and runner are healthy"


def check_uses(artifact: VerifiedArtifact, context: Context) -> tuple[None, str]:
    """Check 16."""
    allowed = artifact.statement.predicate.validity.max_uses
    if allowed is None:
        return None, "unlimited"
    used = context.uses(artifact.id)
    if used >= allowed:
        raise Denied(
            Code.USES_EXHAUSTED,
            f"the artifact may be used {allowed} times and was used {used} times",
            "ask for a new authorization (attestd authorization issue --max-uses)",
        )
    return None, f"use {used + 1} of {allowed}"
