"""Approves a platform state: a new version of a platform policy, staged in the repository.

Three steps, so that a person sees what is signed before it is: plan, sign and stage, publish.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from attestd.distribution.repository import Repository
from attestd.distribution.signer import Authority
from attestd.errors import UsageError
from attestd.governance.issue import amend_platform_policy, approve_state
from attestd.governance.platform import PlatformPolicy
from attestd.governance.trust import Trust
from attestd.tcg.pcr import composite

__all__ = ["Plan", "plan_approval", "stage_approval"]


@dataclass(frozen=True)
class Plan:
    """What would be approved.

    Attributes:
        policy: The present version.
        values: The PCR values of the state, `pcr_digest` their composite: this is what the TPM compares.
        epoch: The approval holds while the epoch is at most this.
        kept: How many approvals go on to hold beside it.
        is_approved: The state is approved already: there is nothing to do.
    """

    policy: PlatformPolicy
    values: Mapping[int, bytes]
    pcr_digest: bytes
    epoch: int
    kept: int
    is_approved: bool


def plan_approval(trust: Trust, *, name: str, values: Mapping[int, bytes]) -> Plan:
    """Says what approving a state would change.

    Args:
        trust: Verified governance.
        name: The platform policy.
        values: The state's PCR values, of exactly the policy's PCRs.

    Raises:
        UsageError: There is no such policy.
        MalformedError: The values are of other PCRs.
    """
    policy = trust.platforms.get(name)
    if policy is None:
        raise UsageError(f"there is no platform policy {name!r}; there are: {', '.join(trust.platforms)}")
    epoch = trust.revocations.epoch
    pcr_digest = composite(policy.selection, values)
    return Plan(
        policy=policy,
        values=values,
        pcr_digest=pcr_digest,
        epoch=epoch,
        kept=sum(epoch <= min(old.epoch, old.max_epoch) for old in policy.approvals),
        is_approved=policy.approval_for(pcr_digest, epoch=epoch) is not None,
    )


def stage_approval(plan: Plan, *, repository: Repository, key: Authority) -> PlatformPolicy:
    """Signs the approval and stages the policy's next version; the present one goes to the history.

    Args:
        plan: From `plan_approval`.
        repository: Where.
        key: A platform authority's key.

    Returns:
        The version that is staged.

    Raises:
        UsageError: Something else is staged, the policy is another one there, or the key is no platform authority.
        StoreError: It cannot be written.
        VerificationError, MalformedError: Hosts would not accept it.
    """
    name = f"platform/{plan.policy.name}.json"
    staged = repository.plan()
    if staged.drafts:
        raise UsageError(
            f"{repository.path}: something is staged already ({', '.join(sorted(staged.drafts))}): publish it, or take it"
            " back with attestd governance stage --reset"
        )
    trust = repository.validate().trust
    present = trust.platforms.get(plan.policy.name)
    if present is None or present.digest != plan.policy.digest:
        raise UsageError(
            f"platform policy {plan.policy.name!r} is another one in {repository.path}: look again"
        )
    if key.public.key_id not in trust.authorities.platform:
        raise UsageError(f"key {key.public.key_id} is no platform authority of {repository.path}")
    approval = approve_state(
        trust.authorities,
        selection=plan.policy.selection,
        values=plan.values,
        epoch=plan.epoch,
        sign_platform=key.sign,
    )
    amended = amend_platform_policy(
        staged.files[name],
        approval=approval,
        values=plan.values,
        epoch=plan.epoch,
        revoked_keys=trust.revocations.keys,
    )
    repository.stage({name: amended})
    return repository.validate().trust.platforms[plan.policy.name]
