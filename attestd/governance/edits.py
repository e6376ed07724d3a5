"""Next versions of trust files: what `attestd governance delegate`, `revoke` and `init` write. Pure."""

from base64 import b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from attestd.authorization.dsse import PublicKey
from attestd.errors import UsageError
from attestd.governance.amend import windows_of
from attestd.governance.authorities import (
    MAX_AUTHORITIES_BYTES,
    Authorities,
    AuthoritiesFile,
    parse_authorities,
)
from attestd.governance.draft import RoleKeys
from attestd.governance.ek_trust import MAX_ALLOW_BYTES, EkAllow
from attestd.governance.issue import Sign, approve_digest
from attestd.governance.platform import MAX_PLATFORM_BYTES, PlatformFile
from attestd.governance.trust import REVOCABLE, Revocations, parse_revocations
from attestd.strict import canonical, parse_canonical
from attestd.tcg.pcr import PcrSelection
from attestd.tcg.policy import REF_EPOCH_SET, approval_message, epoch_set_policy

__all__ = [
    "Reapproved",
    "draft_shared_authorities",
    "with_allowed_eks",
    "with_epoch",
    "with_revoked",
    "with_states",
    "with_team",
    "without_bump",
    "without_team",
]


def draft_shared_authorities(
    *,
    authorization: RoleKeys,
    enrollers: RoleKeys,
    root: PublicKey,
    platform: Sequence[PublicKey],
    epoch: PublicKey,
) -> bytes:
    """The first `authorities.json` of a fleet: one rule, `all`, for everything.

    Args:
        authorization: Who authorizes commands.
        enrollers: Who admits hosts.
        root: The TPM root: approves platform keys.
        platform: Approve platform states.
        epoch: Moves the epoch of TPMs.
    """
    every = [*authorization.keys, *enrollers.keys, root, *platform, epoch]
    return canonical(
        {
            "v": 1,
            "version": 1,
            "keys": {key.key_id: {"spki": b64encode(key.spki_der).decode("ascii")} for key in every},
            "authorizations": [
                {
                    "name": "all",
                    "paths": ["/"],
                    "uids": None,
                    "keys": [key.key_id for key in authorization.keys],
                    "threshold": authorization.threshold,
                    "max_depth": 0,
                }
            ],
            "teams": {},
            "enrollers": {"keys": [key.key_id for key in enrollers.keys], "threshold": enrollers.threshold},
            "tpm": {
                "root": root.key_id,
                "platform": [key.key_id for key in platform],
                "epoch": epoch.key_id,
            },
        }
    )


def with_rule(
    authorities: bytes,
    *,
    name: str,
    keys: Sequence[PublicKey] = (),
    threshold: int | None = None,
    paths: Sequence[str] = (),
    uids: Collection[int] = (),
    max_depth: int | None = None,
    secret: tuple[Collection[int], Collection[str]] | None = None,
    is_last: bool = False,
) -> bytes:
    """`authorities.json` with a rule of who authorizes what; what is not given stays as it is in the present rule.

    A new rule comes first, for the first that covers an execution decides; or last. `secret` is arguments by position, and
    variables by name; both empty: nothing is secret.

    Raises:
        MalformedError: Not that file, or a rule that makes no sense.
        UsageError: A new rule without keys or paths.
    """
    value = _next(authorities)
    rules: list[dict[str, Any]] = value["authorizations"]
    rule = next((rule for rule in rules if rule["name"] == name), None)
    if rule is None:
        if not keys or not paths:
            raise UsageError(f"rule {name!r} is new: it needs --key and --path: who authorizes what")
        rule = {"name": name, "uids": None, "threshold": len(keys), "max_depth": 0}
        rules.insert(len(rules) if is_last else 0, rule)
    if keys:
        rule["keys"] = [key.key_id for key in keys]
        value["keys"] |= {key.key_id: {"spki": b64encode(key.spki_der).decode("ascii")} for key in keys}
    if paths:
        rule["paths"] = list(paths)
    if uids:
        rule["uids"] = sorted(uids)
    rule["threshold"] = rule["threshold"] if threshold is None else threshold
    if secret is not None:
        arguments, variables = secret
        rule["secret"] = {"argv": sorted(set(arguments)), "env": sorted(set(variables))}
        if not arguments and not variables:
            del rule["secret"]
    rule["max_depth"] = rule["max_depth"] if max_depth is None else max_depth
    data = canonical(value)
    parse_authorities(data)
    return data


def without_rule(authorities: bytes, *, name: str) -> bytes:
    """`authorities.json` without a rule.

    Raises:
        MalformedError: Not that file.
        UsageError: There is no such rule.
    """
    value = _next(authorities)
    kept = [rule for rule in value["authorizations"] if rule["name"] != name]
    if len(kept) == len(value["authorizations"]):
        names = ", ".join(rule["name"] for rule in kept) or "none"
        raise UsageError(f"there is no rule {name!r}; there are: {names}")
    return canonical({**value, "authorizations": kept})


def with_team(
    authorities: bytes, *, team: str, paths: Sequence[str], uids: Collection[int] | None, max_depth: int
) -> bytes:
    """`authorities.json` with a team's scope, new or changed.

    Raises:
        MalformedError: Not that file, or a scope that makes no sense.
    """
    value = _next(authorities)
    value["teams"][team] = {
        "paths": list(paths),
        "uids": None if uids is None else sorted(uids),
        "max_depth": max_depth,
    }
    data = canonical(value)
    parse_authorities(data)
    return data


def without_team(authorities: bytes, *, team: str) -> bytes:
    """`authorities.json` without a team.

    Raises:
        MalformedError: Not that file.
        UsageError: There is no such team.
    """
    value = _next(authorities)
    if value["teams"].pop(team, None) is None:
        raise UsageError(f"there is no team {team!r}; there are: {', '.join(value['teams']) or 'none'}")
    return canonical(value)


def with_revoked(revocations: bytes, revoked: Mapping[str, Collection[Any]]) -> bytes:
    """`revocations.json` with more of what is no longer trusted.

    Args:
        revocations: The present version.
        revoked: Additions by member, of `REVOCABLE`.

    Raises:
        MalformedError: Not that file, or not what such a member holds.
        UsageError: All of it is revoked already.
    """
    value = _revocations(revocations)
    before = {member: set(value[member]) for member in REVOCABLE}
    for member, items in revoked.items():
        value[member] = sorted(before[member] | set(items))
    if all(set(value[member]) == before[member] for member in REVOCABLE):
        raise UsageError("nothing to revoke: name something that is not revoked already")
    return _checked(value)


def with_epoch(revocations: bytes, *, authorities: bytes, epoch: int, sign: Sign) -> bytes:
    """`revocations.json` with a higher epoch, signed so that every TPM of the fleet moves to it.

    Raises:
        MalformedError: Not these files.
        UsageError: The epoch does not rise, or the key is not the epoch authority's.
    """
    value = _revocations(revocations)
    known = parse_authorities(authorities)
    if epoch <= value["epoch"]:
        raise UsageError(f"epoch {epoch}: expected {value['epoch'] + 1} or more: it only goes up")
    policy = epoch_set_policy(epoch_name=known.epoch_name, epoch=epoch)
    key, signature = sign(approval_message(policy, REF_EPOCH_SET))
    if key.key_id != known.epoch.key_id:
        raise UsageError(f"key {key.key_id} is not the epoch authority's: expected {known.epoch.key_id}")
    value["epoch"] = epoch
    value["bump"] = {"epoch": epoch, "sig": b64encode(signature).decode("ascii")}
    return _checked(value)


def without_bump(data: bytes) -> bytes:
    """`revocations.json` without the signature that moves TPMs: their epoch indices are to be made anew.

    Raises:
        MalformedError: Not that file.
    """
    return _checked({**_revocations(data), "bump": None})


@dataclass(frozen=True)
class Reapproved:
    """A platform policy before a bump of the epoch.

    Attributes:
        data: Its next version; None: none is needed, or there would be no approval in it.
        kept: The states that stay approved, by their PCR composite, hex.
        ended: Those that do not.
    """

    data: bytes | None
    kept: tuple[str, ...]
    ended: tuple[str, ...]


def with_states(
    policy: bytes,
    *,
    authorities: Authorities,
    revocations: Revocations,
    epoch: int,
    keep: Callable[[str], bool],
    sign: Sign | None,
) -> Reapproved:
    """A platform policy whose states are approved for a later epoch as well.

    Args:
        policy: The present version, verified before.
        authorities: Verified authorities.
        revocations: As they are before the bump.
        epoch: The epoch that is to come.
        keep: Says of a state, by its PCR composite in hex, whether it stays approved.
        sign: Signs with a platform key; None: there is none.

    Raises:
        MalformedError: `policy` is no platform policy.
        UsageError: There is no key to sign with, or the root did not approve it for that epoch.
    """
    file = parse_canonical(policy, PlatformFile, max_bytes=MAX_PLATFORM_BYTES, what="platform policy")
    until = {key.key_id: key.max_epoch for key in file.platform_keys if key.key_id not in revocations.keys}
    # By state: it may be approved more than once.
    states: dict[str, list[Any]] = {}
    for old in file.approvals:
        if min(old.epoch, until.get(old.key_id, -1)) >= revocations.epoch:
            states.setdefault(old.pcr_digest, []).append(old)
    approvals: list[dict[str, Any]] = []
    kept, ended, signed = [], [], False
    for digest, olds in states.items():
        lasting = [old for old in olds if min(old.epoch, until[old.key_id]) >= epoch]
        approvals += map(msgspec.to_builtins, lasting)
        if not lasting and not keep(digest):
            ended.append(digest)
            continue
        kept.append(digest)
        if not lasting:
            approvals.append(_approve_again(olds[0], authorities, epoch=epoch, sign=sign))
            _require_root_approved(approvals[-1]["key_id"], until, epoch=epoch, name=file.name)
            signed = True
    data = None
    if signed:
        lifecycle = msgspec.structs.replace(file.lifecycle, windows=windows_of(file, kept))
        amended = msgspec.structs.replace(file, version=file.version + 1, lifecycle=lifecycle)
        data = canonical({**msgspec.to_builtins(amended), "approvals": approvals})
    return Reapproved(data, tuple(kept), tuple(ended))


def _approve_again(old: Any, authorities: Authorities, *, epoch: int, sign: Sign | None) -> dict[str, Any]:
    if sign is None:
        raise UsageError(f"--platform-key is needed: it approves state {old.pcr_digest} for epoch {epoch}")
    return approve_digest(
        authorities,
        selection=PcrSelection(old.bank, tuple(old.pcrs)),
        pcr_digest=bytes.fromhex(old.pcr_digest),
        epoch=epoch,
        sign_platform=sign,
    )


def _require_root_approved(key_id: str, until: Mapping[str, int], *, epoch: int, name: str) -> None:
    if until.get(key_id, -1) < epoch:
        raise UsageError(
            f"platform policy {name!r}: the root did not approve platform key {key_id} for epoch {epoch}"
        )


def with_allowed_eks(allowed: bytes | None, hosts: Collection[str], *, tier: str | None) -> bytes:
    """`ek-allow.json` with these hosts.

    Args:
        allowed: The present file; None: there is none.
        hosts: Host-ids.
        tier: What they are; None: they go.

    Raises:
        MalformedError: Not that file, or a host-id or tier that it cannot hold.
        UsageError: One that goes and is not there.
    """
    value = _allowed(canonical({"v": 1, "hosts": {}}) if allowed is None else allowed)
    for host in hosts:
        if tier is not None:
            value["hosts"][host] = tier
        elif value["hosts"].pop(host, None) is None:
            raise UsageError(f"host {host} does not stand in ek-allow.json")
    data = canonical(value)
    _allowed(data)
    return data


def _allowed(data: bytes) -> dict[str, Any]:
    file = parse_canonical(data, EkAllow, max_bytes=MAX_ALLOW_BYTES, what="ek-allow.json")
    value: dict[str, Any] = msgspec.to_builtins(file)
    return value


def _next(authorities: bytes) -> dict[str, Any]:
    file = parse_canonical(
        authorities, AuthoritiesFile, max_bytes=MAX_AUTHORITIES_BYTES, what="authorities.json"
    )
    value: dict[str, Any] = msgspec.to_builtins(file)
    value["version"] += 1
    return value


def _revocations(data: bytes) -> dict[str, Any]:
    file = parse_revocations(data)
    value: dict[str, Any] = msgspec.to_builtins(file)
    value["version"] += 1
    return {name: sorted(item) if name in REVOCABLE else item for name, item in value.items()}


def _checked(value: dict[str, Any]) -> bytes:
    data = canonical(value)
    parse_revocations(data)
    return data
