"""Puts rules over boots, an IMA policy and quorums into a platform policy: a new version of it, staged in the repository."""

import hashlib
from dataclasses import dataclass

from attestd.appraisal.boot_rules import BootRules
from attestd.distribution.repository import Repository
from attestd.errors import UsageError
from attestd.governance.amend import amend_platform_rules
from attestd.governance.platform import ImaReference, PlatformPolicy, Quorums

__all__ = ["Rules", "stage_rules"]


@dataclass(frozen=True)
class Rules:
    """What a platform policy goes by beside its approvals.

    Attributes:
        boot: Rules over what was measured in a boot; None: none.
        ima: The IMA policy's file; None: none.
        quorums: How many must vouch for a host.
    """

    boot: BootRules | None
    ima: bytes | None
    quorums: Quorums


def stage_rules(repository: Repository, name: str, rules: Rules) -> PlatformPolicy:
    """Stages the next version of a platform policy, with these rules and no others.

    The approvals in it stay as they are signed: no platform key is needed.

    Args:
        repository: Where.
        name: The platform policy.
        rules: The rules.

    Returns:
        The version that is staged.

    Raises:
        UsageError: There is no such policy; it is staged already.
        StoreError: It cannot be written.
        MalformedError, VerificationError: Hosts would not accept it.
    """
    target = f"platform/{name}.json"
    plan = repository.plan()
    if target not in plan.files:
        raise UsageError(f"{repository.path}: there is no platform policy {name!r}")
    if plan.drafts and plan.files[target] != plan.published.files.get(target):
        raise UsageError(
            f"{repository.path}: {target} is staged already: publish it, or take it back with attestd governance stage"
            f" --reset {target}"
        )
    reference = None
    if rules.ima is not None:
        reference = ImaReference(policy=name, sha256=hashlib.sha256(rules.ima).hexdigest())
    files: dict[str, bytes | None] = {
        target: amend_platform_rules(
            plan.files[target], boot=rules.boot, ima=reference, quorums=rules.quorums
        )
    }
    if reference is not None:
        files[reference.target] = rules.ima
    elif f"ima/{name}.json" in plan.files:
        files[f"ima/{name}.json"] = None
    repository.stage(files, seen=plan.files)
    return repository.validate().trust.platforms[name]
