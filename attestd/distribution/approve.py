"""Approves a platform state: a new version of a platform policy in the local trust directory.

Three steps, so that a person sees what is signed before it is: plan, sign, publish.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from attestd.distribution.local import load_trust, read_trust_files, write_atomic
from attestd.distribution.signer import Authority
from attestd.errors import UsageError
from attestd.governance.issue import amend_platform_policy, approve_state
from attestd.governance.platform import PlatformPolicy
from attestd.governance.trust import Trust, parse_trust
from attestd.tcg.pcr import composite

__all__ = ["Plan", "plan_approval", "publish_approval"]


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


def publish_approval(
    plan: Plan, *, directory: Path, owners: Collection[int], key: Authority
) -> PlatformPolicy:
    """Signs the approval and makes it the policy's next version; the present one goes to the history.

    Old receipts name the version that they were sealed under: so the history is written first, and whoever reads
    meanwhile has both.

    Args:
        plan: From `plan_approval`.
        directory: The trust directory.
        owners: The only users that may own it.
        key: A platform authority's key.

    Returns:
        The new version, read back and verified.

    Raises:
        UsageError: The policy changed since the plan was made, or the key is no platform authority.
        StoreError: It cannot be written.
        VerificationError, MalformedError: The trust directory does not verify (any more).
    """
    policy = plan.policy
    name = f"platform/{policy.name}.json"
    files = read_trust_files(directory, owners=owners)
    trust = parse_trust(files)
    if trust.platforms[policy.name].digest != policy.digest:
        raise UsageError(f"platform policy {policy.name!r} was changed meanwhile: look again")
    if key.public.key_id not in trust.authorities.platform:
        raise UsageError(f"key {key.public.key_id} is no platform authority of {directory}")
    approval = approve_state(
        trust.authorities,
        selection=policy.selection,
        values=plan.values,
        epoch=plan.epoch,
        sign_platform=key.sign,
    )
    amended = amend_platform_policy(
        files[name],
        approval=approval,
        values=plan.values,
        epoch=plan.epoch,
        revoked_keys=trust.revocations.keys,
    )
    history = f"platform/history/{policy.name}-{policy.version}.json"
    # Verified with all the rest before anything is written: a directory that does not verify denies everything.
    parse_trust({**files, history: files[name], name: amended})
    write_atomic(directory / history, files[name], mode=0o644)
    write_atomic(directory / name, amended, mode=0o644)
    return load_trust(directory, owners=owners).platforms[policy.name]
