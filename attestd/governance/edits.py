"""Next versions of trust files: what `attestd governance delegate`, `revoke` and `init` write. Pure."""

from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from attestd.authorization.dsse import PublicKey
from attestd.errors import UsageError
from attestd.governance.authorities import MAX_AUTHORITIES_BYTES, AuthoritiesFile, parse_authorities
from attestd.governance.draft import RoleKeys
from attestd.governance.issue import Sign
from attestd.governance.trust import MAX_REVOCATIONS_BYTES, Revocations
from attestd.strict import canonical, parse_canonical
from attestd.tcg.policy import REF_EPOCH_SET, approval_message, epoch_set_policy

__all__ = [
    "REVOCABLE",
    "draft_shared_authorities",
    "with_epoch",
    "with_revoked",
    "with_team",
    "without_bump",
    "without_team",
]

REVOCABLE: Final = ("artifacts", "keys", "hosts", "subjects", "requesters")


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
    is_last: bool = False,
) -> bytes:
    """`authorities.json` with a rule of who authorizes what; what is not given stays as it is in the present rule.

    A new rule comes first, for the first that covers an execution decides; or last.

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


def _next(authorities: bytes) -> dict[str, Any]:
    file = parse_canonical(
        authorities, AuthoritiesFile, max_bytes=MAX_AUTHORITIES_BYTES, what="authorities.json"
    )
    value: dict[str, Any] = msgspec.to_builtins(file)
    value["version"] += 1
    return value


def _revocations(data: bytes) -> dict[str, Any]:
    file = parse_canonical(data, Revocations, max_bytes=MAX_REVOCATIONS_BYTES, what="revocations.json")
    value: dict[str, Any] = msgspec.to_builtins(file)
    value["version"] += 1
    return {name: sorted(item) if name in REVOCABLE else item for name, item in value.items()}


def _checked(value: dict[str, Any]) -> bytes:
    data = canonical(value)
    parse_canonical(data, Revocations, max_bytes=MAX_REVOCATIONS_BYTES, what="revocations.json")
    return data
