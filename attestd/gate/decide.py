"""The release decision. One function; read its docstring as the specification."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from attestd.appraisal.result import AttestationResult
from attestd.authorization.artifact import UntrustedArtifact, VerifiedArtifact
from attestd.authorization.secret import ALL_SECRET, Secrets
from attestd.codes import Denial, Denied
from attestd.gate import checks
from attestd.gate.body import checks_body, decided_body, denial_body, governance_body, verifiers_body
from attestd.gate.concealment import Concealment
from attestd.gate.environment import findings_body
from attestd.gate.model import CHECKS, ENVIRONMENT, Check, Context, Decision, Outcome, Request
from attestd.gate.policy import artifact_terms
from attestd.gate.requirements import required_quorums
from attestd.governance.platform import PlatformPolicy
from attestd.lineage.receipt import VerifiedReceipt

__all__ = ["decide"]

_T = TypeVar("_T")


@dataclass
class _Found:
    """What checks found out before one denied; None, or empty: none came that far."""

    untrusted: UntrustedArtifact | None = None
    artifact: VerifiedArtifact | None = None
    platform: PlatformPolicy | None = None
    authority: str | None = None
    terms: Mapping[str, Any] | None = None
    secrets: Secrets | None = None
    counted: Sequence[AttestationResult] = ()


class _Record:
    """Collects the checks in their order; the first that is denied ends the decision."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def run(self, number: int, check: Callable[[], tuple[_T, str]]) -> _T:
        name = CHECKS[number - 1]
        try:
            value, detail = check()
        except Denied as denied:
            self.checks.append(Check(number, name, Outcome.REJECTED, denied.denial.sentence))
            raise
        self.checks.append(Check(number, name, Outcome.VERIFIED, detail))
        return value

    def complete(self) -> tuple[Check, ...]:
        done = len(self.checks)
        rest = (Check(n + 1, CHECKS[n], Outcome.NOT_EVALUATED, "") for n in range(done, len(CHECKS)))
        return (*self.checks, *rest)


def decide(request: Request, context: Context) -> Decision:
    """Decides whether an execution may be released.

    In this order; the first failure decides, and every check is recorded:

     1. authorization_present: an artifact was given or installed (`missing_authorization`).
     2. authorization_form: it parses, strictly (`malformed_authorization`).
     3. signatures: enough distinct keys that governance trusts for this scope signed it, and a delegate each link that
        was delegated (`invalid_signature`, `insufficient_approvals`; a governance that cannot be loaded is
        `governance_mismatch`).
     4. revocation: neither artifact, one above it, keys, host, files nor requester is revoked (`revoked`).
     5. governance: it is fresh; the platform policy, version floor and policy it names are in force
        (`governance_mismatch`).
     6. clock: time can be trusted (`clock_untrusted`).
     7. validity: it is within its validity (`not_yet_valid`, `expired`).
     8. identity: this host, this requester, these bytes (`identity_mismatch`).
     9. scope: argv, cwd, user, environment and inputs lie within its scope (`scope_violation`).
    10. policy: the policy it names permits it, and none forbids it (`policy_denied`, `policy_conflict`).
    11. lineage: the artifact follows from an authority's, link by link, each within the one above; the parent's
        receipt verifies (`lineage_broken`; `governance_mismatch`: not by governance here, which is older).
    12. evidence: the TPM's evidence verifies and is fresh enough (`evidence_invalid`, `evidence_stale`,
        `tpm_unavailable`).
    13. environment: the measured state is an approved one, the tier is strong enough; what the logs show complies with
        the policy's boot rules and IMA policy (`environment_untrusted`, `evidence_invalid` without logs).
    14. mesh: as many verifiers as are asked for affirm the host in this very state (`environment_untrusted` if they found
        something, `mesh_unavailable` if too few answered), and there are as many witnesses (`mesh_unavailable`).
    15. conditions: log, TPM and runner are healthy (`audit_unavailable`, `tpm_unavailable`, `agent_unavailable`).
    16. uses: neither the artifact nor one above it is used up (`uses_exhausted`).

    What it does not do: seal. An allowed decision releases nothing before a receipt exists.

    Args:
        request: What is asked.
        context: What it is decided against.

    Returns:
        The decision; it never raises for anything that a request can contain.
    """
    record, found = _Record(), _Found()
    denial: Denial | None = None
    try:
        data = record.run(1, lambda: checks.check_present(request))
        found.untrusted = untrusted = record.run(2, lambda: checks.check_form(data))
        trust, verified, rule = record.run(3, lambda: checks.check_signatures(untrusted, request, context))
        found.authority, statement = rule.name, verified.statement
        terms = artifact_terms(statement, origin=verified.links[0].statement, signers=verified.key_ids)
        found.terms = terms
        record.run(4, lambda: checks.check_revocation(verified, request, context, trust))
        platform, host = record.run(5, lambda: checks.check_governance(statement, context, trust))
        found.platform = platform
        record.run(6, lambda: checks.check_condition("clock", context))
        record.run(7, lambda: checks.check_validity(statement, context))
        record.run(8, lambda: checks.check_identity(statement, request, host, platform))
        record.run(9, lambda: checks.check_scope(statement, request, context, trust))
        found.secrets = rule.secrets
        record.run(
            10,
            lambda: checks.check_policy(
                verified, terms, request, context, policies=trust.policies, host=host
            ),
        )
        record.run(11, lambda: checks.check_lineage(verified, rule, request))
        appraisal = record.run(12, lambda: checks.check_evidence(statement, context))
        record.run(13, lambda: checks.check_environment(appraisal, platform, host, context))
        found.counted = record.run(
            14, lambda: checks.check_mesh(statement, appraisal, platform, trust, context)
        )
        record.run(15, lambda: checks.check_conditions(context))
        record.run(16, lambda: checks.check_uses(verified, context))
        found.artifact = verified
    except Denied as denied:
        denial = denied.denial
    recorded = record.complete()
    body = _body(request, context, recorded, found, denial)
    return Decision(denial, recorded, artifact=found.artifact, platform=found.platform, body=body)


def _possible_secrets(request: Request, context: Context) -> Secrets:
    """What may be secret of a request that was not found to lie within an artifact's scope, so that no rule decides."""
    if isinstance(context.trust, Denial):
        return ALL_SECRET
    known = None if request.observation is not None else request.execution.executable.path
    return context.trust.authorities.secrets_of(known).wherever_they_stand()


def _body(
    request: Request, context: Context, recorded: Sequence[Check], found: _Found, denial: Denial | None
) -> Mapping[str, Any]:
    untrusted, platform, witnesses = found.untrusted, found.platform, 0
    if untrusted is not None and platform is not None and not isinstance(context.trust, Denial):
        witnesses = required_quorums(untrusted.statement, platform, context.trust.mesh).witnesses
    body: dict[str, Any] = {
        **decided_body(
            request.execution,
            artifact=request.artifact,
            untrusted=untrusted,
            authority=found.authority,
            terms=found.terms,
            witness_quorum=witnesses,
            code=None if denial is None else denial.code,
            isolation=context.isolation,
            concealment=Concealment(found.secrets or _possible_secrets(request, context), request.salt),
        ),
        **governance_body(context.trust, platform, now=context.now),
        "id": request.id,
        "parent": request.parent.leaf if isinstance(request.parent, VerifiedReceipt) else None,
        "verifiers": verifiers_body(found.counted),
        "checks": checks_body(recorded),
    }
    if denial is None:
        return body
    is_state = recorded[ENVIRONMENT - 1].outcome is Outcome.REJECTED
    findings = findings_body(context.appraisals.get(platform.name)) if platform and is_state else {}
    return {**body, **findings, "denial": denial_body(denial)}
