"""Chains of artifacts for tests: as a delegate makes them, and as one with tools of its own would."""

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

from attestd.authorization.artifact import parse_artifact
from attestd.strict import canonical
from tests.world import AnyKey, World, dsse, ed25519_key, key_id, spki

Edit = Callable[[dict[str, Any]], None]


def delegate_key(name: str = "delegate") -> AnyKey:
    return ed25519_key(name)


def statement_of(artifact: bytes, link: int = -1) -> dict[str, Any]:
    """What a link says, to be changed."""
    return dict(json.loads(parse_artifact(artifact).links[link].envelope.payload))


def chain_file(envelopes: Sequence[bytes], keys: Sequence[AnyKey]) -> bytes:
    """The file of any envelopes and keys, whether they follow from each other or not."""
    return canonical(
        {
            "v": 1,
            "chain": [json.loads(envelope) for envelope in envelopes],
            "keys": {key_id(key): b64encode(spki(key)).decode() for key in keys},
        }
    )


def envelopes_of(artifact: bytes) -> list[bytes]:
    value = json.loads(artifact)
    return [canonical(item) for item in value["chain"]] if "chain" in value else [artifact]


def under(
    parent: bytes, *signers: AnyKey, edit: Edit = lambda _: None, carried: Sequence[AnyKey] = ()
) -> bytes:
    """The same once more, one link deeper, as `edit` changes it; whatever that is, it is signed.

    Args:
        parent: A file.
        signers: Who signs the new link.
        edit: Changes the new statement's JSON.
        carried: Keys in the file besides the signers', as far as the parent's file has none.
    """
    statement = statement_of(parent)
    lineage = statement["predicate"]["lineage"]
    lineage["parent"], lineage["max_depth"] = parse_artifact(parent).id, max(lineage["max_depth"] - 1, 0)
    if not lineage["max_depth"]:
        lineage["delegate_to"] = []
    edit(statement)
    value = json.loads(parent)
    known = value.get("keys", {}) if "chain" in value else {}
    found = json.loads(
        chain_file([*envelopes_of(parent), dsse(canonical(statement), signers)], [*signers, *carried])
    )
    return canonical({**found, "keys": {**known, **found["keys"]}})


def delegable(world: World, *delegates: AnyKey, depth: int = 2, rule_depth: int = 8, **changes: Any) -> bytes:
    """An authority's artifact under which these keys may delegate."""
    world.authorities["authorizations"][0]["max_depth"] = rule_depth
    names = [key_id(key) for key in delegates]
    return world.artifact(delegate_to=names, max_depth=depth, **changes)
