"""Approves a platform state: a new version of a platform policy, staged in the repository.

Three steps, so that a person sees what is signed before it is: plan, sign and stage, publish.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec

from attestd.distribution.repository import Repository
from attestd.distribution.signer import Authority
from attestd.errors import MalformedError, UsageError
from attestd.governance.amend import amend_platform_policy
from attestd.governance.issue import (
    approve_platform_key,
    approve_state,
    draft_platform_policy,
)
from attestd.governance.platform import PlatformPolicy
from attestd.governance.trust import Trust
from attestd.strict import Sha256Hex, convert, parse_json
from attestd.tcg.pcr import PcrSelection, composite

__all__ = ["Plan", "first_policy", "parse_pcr_values", "plan_approval", "stage_approval"]

MAX_VALUES_BYTES: Final = 16 * 1024 * 1024
_VALUES: Final = "PCR values"
# The root lets a platform key approve states for this many epochs; a bump that revokes only approvals is usual.
MAX_EPOCH: Final = 1_000_000
_PCR_LINE: Final = re.compile(r"^ *([0-9]{1,2}) *: *0x([0-9A-Fa-f]{64}) *$", re.MULTILINE)


_PcrName = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,2}\Z")]


class _ShownPcr(msgspec.Struct, frozen=True):
    now: Sha256Hex


class _Shown(msgspec.Struct, frozen=True):
    """As much as is needed of what `attestd platform show --json` writes."""

    pcrs: dict[_PcrName, _ShownPcr]
    bank: Literal["sha256"]


class _Banks(msgspec.Struct, frozen=True):
    sha256: dict[_PcrName, Sha256Hex]


class _Replayed(msgspec.Struct, frozen=True):
    """As much as is needed of what `attestd platform predict --json` and `measure --json` write."""

    pcrs: _Banks


@dataclass(frozen=True)
class Plan:
    """What would be approved.

    Attributes:
        policy: The present version.
        values: The PCR values of the state, `pcr_digest` their composite: this is what the TPM compares.
        epoch: The approval holds while the epoch is at most this.
        kept: How many approvals go on to hold beside it.
        is_approved: The state is approved already.
        ends: When that ends; None: it does not.
    """

    policy: PlatformPolicy
    values: Mapping[int, bytes]
    pcr_digest: bytes
    epoch: int
    kept: int
    is_approved: bool
    ends: datetime | None


def plan_approval(trust: Trust, *, name: str, values: Mapping[int, bytes], now: datetime) -> Plan:
    """Says what approving a state would change.

    Args:
        trust: Verified governance.
        name: The platform policy.
        values: The state's PCR values, of exactly the policy's PCRs.
        now: The time: a state whose window has closed is not approved.

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
        is_approved=policy.approval_for(pcr_digest, epoch=epoch, at=now) is not None,
        ends=policy.windows.get(pcr_digest),
    )


def stage_approval(
    plan: Plan,
    *,
    repository: Repository,
    key: Authority,
    not_after: datetime | None = None,
    others_not_after: datetime | None = None,
) -> PlatformPolicy:
    """Signs the approval and stages the policy's next version; the present one goes to the history.

    Args:
        plan: From `plan_approval`.
        repository: Where.
        key: A platform authority's key.
        not_after: Until when the state is approved; None: without end.
        others_not_after: Until when the states are approved that are so already; None: as before.

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
        not_after=not_after,
        others_not_after=others_not_after,
    )
    repository.stage({name: amended}, seen=staged.files)
    return repository.validate().trust.platforms[plan.policy.name]


def first_policy(
    repository: Repository,
    *,
    name: str,
    values: Mapping[int, bytes],
    root: Authority,
    platform: Authority,
    min_tier: str,
    userspace: Sequence[str],
    writable: str,
) -> bytes:
    """The first version of a platform policy: one approved state, by a platform key that the TPM root approves.

    Args:
        repository: Its `authorities.json` names both keys.
        name: The policy's name.
        values: The state's PCR values; their indices are the policy's selection.
        root: The TPM root's key.
        platform: A platform authority's key.
        min_tier: The weakest evidence that is accepted.
        userspace: The kinds of user space protection that are accepted.
        writable: `copy` or `refuse` files that others than root can write.

    Raises:
        UsageError: There is such a policy already, or a key is not what it should be.
        MalformedError, VerificationError, StoreError: As `Repository.validate`.
    """
    trust = repository.validate().trust
    authorities, epoch = trust.authorities, trust.revocations.epoch
    if name in trust.platforms:
        raise UsageError(f"platform policy {name!r} is there: attestd platform approve adds a state to it")
    if root.public.key_id != authorities.root.key_id:
        raise UsageError(f"key {root.public.key_id} is not the TPM root: expected {authorities.root.key_id}")
    if platform.public.key_id not in authorities.platform:
        raise UsageError(f"key {platform.public.key_id} is no platform authority of {repository.path}")
    selection = PcrSelection("sha256", tuple(sorted(values)))
    return draft_platform_policy(
        name=name,
        version=1,
        values={selection.bank: {index: [value] for index, value in values.items()}},
        approvals=[
            approve_state(
                authorities, selection=selection, values=values, epoch=epoch, sign_platform=platform.sign
            )
        ],
        platform_keys=[
            approve_platform_key(
                authorities, platform=platform.public.key_id, max_epoch=MAX_EPOCH, sign_root=root.sign
            )
        ],
        min_tier=min_tier,
        userspace=userspace,
        writable=writable,
    )


def parse_pcr_values(data: bytes) -> dict[int, bytes]:
    """PCR values of the bank sha256: as `tpm2_pcrread` or `attestd platform show|predict|measure --json` write them.

    Raises:
        MalformedError: None of these, or no value in it.
    """
    text = data.decode("utf-8", errors="replace")
    if text.lstrip().startswith("{"):
        pairs = _pairs(parse_json(data, max_bytes=MAX_VALUES_BYTES, what=_VALUES))
    else:
        pairs = _PCR_LINE.findall(text.partition("sha256:")[2])
    values = {int(index): bytes.fromhex(value) for index, value in pairs if int(index) < 24}
    if not values or len(values) != len(pairs):
        raise MalformedError(
            "PCR values: expected lines such as '0 : 0x3D45...' below 'sha256:', each PCR once"
        )
    return dict(sorted(values.items()))


def _pairs(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict) and isinstance(value.get("pcrs"), dict) and "sha256" in value["pcrs"]:
        return list(convert(value, _Replayed, what=_VALUES).pcrs.sha256.items())
    return [(index, pcr.now) for index, pcr in convert(value, _Shown, what=_VALUES).pcrs.items()]
