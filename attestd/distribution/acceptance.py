"""Whether governance that is staged may be published: what hosts would accept of it, and what they could not know. Pure."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from attestd.appraisal.ima import parse_ima_policy
from attestd.distribution.documents import role_facts
from attestd.distribution.next_version import Next
from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.governance.changes import Change, compare_facts, describe_changes
from attestd.governance.host_records import HOSTS
from attestd.governance.mesh import MESH, MESH_HISTORY, mesh_history_name
from attestd.governance.policy_schema import EMPTY_ENTITIES, SCHEMA
from attestd.governance.signed import MAX_TARGET_BYTES
from attestd.governance.trust import Trust, parse_revocations, parse_trust, require_still_revoked
from attestd.strict import canonical, parse_json

__all__ = [
    "Accepted",
    "describe_plan",
    "in_form",
    "require_acceptable",
    "with_history",
]


_SCHEMA: Final = "policy/schema.cedarschema"
_ENTITIES: Final = "policy/entities.json"


@dataclass(frozen=True)
class Accepted:
    """What hosts would believe.

    Attributes:
        trust: All of it.
        lost: Files that hosts would leave out from then on, with the reason: they rest on keys that are revoked.
    """

    trust: Trust
    lost: Mapping[str, str]


def with_history(files: Mapping[str, bytes], published: Mapping[str, bytes]) -> dict[str, bytes]:
    """Adds the published version of each platform policy that changes, and of `mesh.json`, to the history: old receipts name it."""
    found = dict(files)
    for name, data in published.items():
        if _is_platform(name) and files.get(name) != data:
            value = json.loads(data)
            found.setdefault(f"platform/history/{value['name']}-{value['version']}.json", data)
    mesh = published.get(MESH)
    if mesh is not None:
        past = mesh_history_name(json.loads(mesh)["version"])
        if files.get(MESH) != mesh:
            found.setdefault(past, mesh)
        elif found.get(past) == mesh:  # A change was taken back: it is in force.
            del found[past]
    return found


def in_form(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """JSON as hosts read it, RFC 8785, however a person laid it out; and what every version has: schema and entities of policies.

    Raises:
        MalformedError: Not JSON, or JSON that has no such form; over the limit of a target file.
    """
    return {name: _in_one_form(name, data) for name, data in _with_schema(files).items()}


def _in_one_form(name: str, data: bytes) -> bytes:
    if len(data) > MAX_TARGET_BYTES:
        raise MalformedError(f"{name}: expected at most {MAX_TARGET_BYTES} bytes")
    if not name.endswith(".json") or name == _ENTITIES:
        return data
    return canonical(parse_json(data, max_bytes=MAX_TARGET_BYTES, what=name))


def _with_schema(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Adds what every version has: the schema of policies, which is attestd's own, and entities, if only none."""
    return {_ENTITIES: EMPTY_ENTITIES, **files, _SCHEMA: SCHEMA}


def require_acceptable(plan: Next) -> Accepted:
    """Refuses what hosts would not accept, in whole or in part, and what breaks a rule that they cannot check.

    Raises:
        MalformedError, VerificationError: Hosts would accept nothing, or leave a file out that is staged; an IMA policy
            that agents could not go by.
        GovernanceRollbackError: Something is not revoked any more, or the epoch goes back.
        UsageError: A version does not rise, a policy or a version of `mesh.json` that old receipts name is gone or another.
    """
    before = plan.published.files
    trust = parse_trust(plan.files.__getitem__, metadata=plan.metadata())
    trust.look_at_hosts(_to_verify(plan))
    _require_rising(plan.files, before)
    _require_mesh_history(plan.files, before)
    for name, data in plan.files.items():
        if name.startswith("ima/") and before.get(name) != data:
            parse_ima_policy(data)  # Hosts do not look at it before they need it.
    if "revocations.json" in before:
        require_still_revoked(parse_revocations(before["revocations.json"]), trust.revocations)
    refused = {name: why for name, why in trust.unusable.items() if before.get(name) != plan.files[name]}
    others = _usable_before(plan, {name: why for name, why in trust.unusable.items() if name not in refused})
    edited = _unusable_unrevoked(plan, others)
    lost = {name: why for name, why in others.items() if name not in edited}
    refused |= {name: why for name, why in others.items() if name in edited}
    if refused:
        name, why = min(refused.items())
        raise VerificationError(f"{name}: no host would accept it: {why}")
    return Accepted(trust, lost)


def describe_plan(plan: Next) -> list[Change]:
    """What a version changes, in words: keys and thresholds of roles, then each file."""
    before = plan.published
    old = role_facts(
        before.root.content if before.root else None,
        before.roles["targets"].content if "targets" in before.roles else None,
    )
    new = role_facts(plan.root.content, plan.roles["targets"].content)
    return compare_facts("roles", old, new) + describe_changes(before.files, plan.files)


def _to_verify(plan: Next) -> list[str] | None:
    """Host records that may have become unusable: those that change; all (None), if what they are verified by does."""
    files, before = plan.files, plan.published.files
    if files["authorities.json"] != before.get("authorities.json") or (
        _revoked_keys(files) != _revoked_keys(before)
    ):
        return None
    return [name for name, data in files.items() if before.get(name) != data]


def _revoked_keys(files: Mapping[str, bytes]) -> object:
    return _object(files["revocations.json"]).get("keys") if "revocations.json" in files else None


def _usable_before(plan: Next, unusable: Mapping[str, str]) -> dict[str, str]:
    """Those of these files that hosts believe as they are published."""
    files = plan.published.files
    there = {name: why for name, why in unusable.items() if name in files}
    if not there:
        return {}
    trust = parse_trust(files.__getitem__, metadata=plan.metadata(files))
    trust.look_at_hosts(there)
    return {name: why for name, why in there.items() if name not in trust.unusable}


def _unusable_unrevoked(plan: Next, names: Collection[str]) -> set[str]:
    """Those of these files that would be left out even if no key were revoked: an edit did that, and nobody said so."""
    if plan.files["authorities.json"] == plan.published.files.get("authorities.json"):
        # Host records rest on nothing else: revocations alone ended these.
        names = [name for name in names if not name.startswith(HOSTS)]
    if not names:
        return set()
    revocations = json.loads(plan.files["revocations.json"])
    files = {**plan.files, "revocations.json": canonical({**revocations, "keys": []})}
    trust = parse_trust(files.__getitem__, metadata=plan.metadata(files))
    trust.look_at_hosts(names)
    return {name for name in names if name in trust.unusable}


def _require_rising(files: Mapping[str, bytes], before: Mapping[str, bytes]) -> None:
    for name, old in before.items():
        new = files.get(name)
        if new is None and (
            name.startswith(("platform/history/", MESH_HISTORY))
            or name in ("authorities.json", "revocations.json", MESH)
        ):
            raise UsageError(
                f"{name}: it cannot be removed: receipts that were sealed under it would not verify"
            )
        if new is None or new == old or not _has_version(name):
            continue
        was, now = _object(old), _object(new)
        if not isinstance(now.get("version"), int) or now["version"] <= was["version"]:
            raise UsageError(
                f"{name}: it changes, so its version must rise: expected {was['version'] + 1} or more, found"
                f" {now.get('version')}"
            )
        history = f"platform/history/{was.get('name')}-{was['version']}.json"
        if _is_platform(name) and files.get(history) != old:
            raise UsageError(f"{history}: expected the version that is published: receipts name it")


def _require_mesh_history(files: Mapping[str, bytes], before: Mapping[str, bytes]) -> None:
    """Refuses another past of `mesh.json` than it had: a key that stands in a version counts for what names that version.

    Raises:
        UsageError: A version was not the published one, or is another than it was; or the next one does not follow from it.
    """
    published, new = before.get(MESH), files.get(MESH)
    for name, data in files.items():
        if name.startswith(MESH_HISTORY) and before.get(name, published) != data:
            raise UsageError(
                f"{name}: expected the version as it was published; only what was in force goes to the history, and it stays as"
                " it was"
            )
    if new is None or new == published:
        return
    was, now = 0 if published is None else _object(published)["version"], _object(new)
    if now.get("version") != was + 1:
        raise UsageError(
            f"{MESH}: it changes, so its version must be the next: expected {was + 1}, found {now.get('version')}"
        )
    if was and mesh_history_name(was) not in files:
        raise UsageError(
            f"{mesh_history_name(was)}: expected the version that is published: receipts name it"
        )
    if now.get("handover") is None:
        past = f"by version {was}" if was else "without one"
        raise UsageError(
            f"{MESH}: handover: expected until when hosts may go {past}, RFC 3339, found none: attestd governance mesh"
            " --handover 7d sets it"
        )


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not JSON: {error}") from error
    return value if isinstance(value, dict) else {}


def _is_platform(name: str) -> bool:
    return name.startswith("platform/") and name.count("/") == 1


def _has_version(name: str) -> bool:
    return name in ("authorities.json", "revocations.json") or _is_platform(name)
