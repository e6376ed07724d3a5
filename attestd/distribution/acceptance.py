"""Whether governance that is staged may be published: what hosts would accept of it, and what they could not know. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from attestd.appraisal.ima import parse_ima_policy
from attestd.distribution.next_version import Next
from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.governance.policy_schema import EMPTY_ENTITIES, SCHEMA
from attestd.governance.signed import MAX_TARGET_BYTES
from attestd.governance.trust import Trust, parse_revocations, parse_trust, require_still_revoked
from attestd.strict import canonical, parse_json

__all__ = ["Accepted", "in_one_form", "require_acceptable", "with_history", "with_schema"]


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
    """Adds the published version of each platform policy that changes to the history: old receipts name it."""
    found = dict(files)
    for name, data in published.items():
        if _is_platform(name) and files.get(name) != data:
            value = json.loads(data)
            found.setdefault(f"platform/history/{value['name']}-{value['version']}.json", data)
    return found


def in_one_form(name: str, data: bytes) -> bytes:
    """JSON as hosts read it, RFC 8785, however a person laid it out; anything else as it is.

    Raises:
        MalformedError: Not JSON, or JSON that has no such form; over the limit of a target file.
    """
    if len(data) > MAX_TARGET_BYTES:
        raise MalformedError(f"{name}: expected at most {MAX_TARGET_BYTES} bytes")
    if not name.endswith(".json") or name == _ENTITIES:
        return data
    return canonical(parse_json(data, max_bytes=MAX_TARGET_BYTES, what=name))


def with_schema(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Adds what every version has: the schema of policies, which is attestd's own, and entities, if only none."""
    return {_ENTITIES: EMPTY_ENTITIES, **files, _SCHEMA: SCHEMA}


def require_acceptable(plan: Next) -> Accepted:
    """Refuses what hosts would not accept, in whole or in part, and what breaks a rule that they cannot check.

    Raises:
        MalformedError, VerificationError: Hosts would accept nothing, or leave a file out that is staged; an IMA policy
            that agents could not go by.
        GovernanceRollbackError: Something is not revoked any more, or the epoch goes back.
        UsageError: A version does not rise, a policy that old receipts name is gone.
    """
    trust = parse_trust(plan.files, metadata=plan.metadata())
    before = plan.published.files
    _require_rising(plan.files, before)
    for name, data in plan.files.items():
        if name.startswith("ima/") and before.get(name) != data:
            parse_ima_policy(data)  # Hosts do not look at it before they need it.
    if "revocations.json" in before:
        require_still_revoked(parse_revocations(before["revocations.json"]), trust.revocations)
    refused = {name: why for name, why in trust.unusable.items() if before.get(name) != plan.files[name]}
    lost: dict[str, str] = {}
    if len(refused) < len(trust.unusable):
        usable_before = before.keys() - _unusable_before(plan)
        others = {
            name: why for name, why in trust.unusable.items() if name not in refused and name in usable_before
        }
        lost = (
            {name: why for name, why in others.items() if name not in _unusable_unrevoked(plan)}
            if others
            else {}
        )
        refused |= {name: why for name, why in others.items() if name not in lost}
    if refused:
        name, why = min(refused.items())
        raise VerificationError(f"{name}: no host would accept it: {why}")
    return Accepted(trust, lost)


def _unusable_before(plan: Next) -> set[str]:
    files = plan.published.files
    return set(parse_trust(files, metadata=plan.metadata(files)).unusable)


def _unusable_unrevoked(plan: Next) -> set[str]:
    """What would be left out even if no key were revoked: an edit did that, and nobody said so."""
    revocations = json.loads(plan.files["revocations.json"])
    files = {**plan.files, "revocations.json": canonical({**revocations, "keys": []})}
    return set(parse_trust(files, metadata=plan.metadata(files)).unusable)


def _require_rising(files: Mapping[str, bytes], before: Mapping[str, bytes]) -> None:
    for name, old in before.items():
        new = files.get(name)
        if new is None and (
            name.startswith("platform/history/") or name in ("authorities.json", "revocations.json")
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
