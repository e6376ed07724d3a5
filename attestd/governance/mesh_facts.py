"""What `mesh.json` says, as facts that can be compared (`attestd.governance.changes`). Pure."""

import json
from typing import Any

from attestd.governance.facts import Facts, Value, text

__all__ = ["mesh_facts"]


def mesh_facts(_: str, data: bytes) -> Facts:
    """Of `mesh.json`; whatever error there is, it is not of that form."""
    value = json.loads(data)
    verifiers, witnesses = value.pop("verifiers"), value.pop("witnesses")
    quorums: dict[str, Value] = {
        "verifiers": text(verifiers.pop("quorum")),
        "witnesses": text(witnesses.pop("quorum")),
    }
    facts: dict[str, dict[str, Value]] = {"mesh quorum": quorums}
    nodes = (
        ("enroller", value.pop("enrollers"), "key_id"),
        ("verifier", verifiers.pop("nodes"), "key"),
        ("witness", witnesses.pop("nodes"), "vkey"),
    )
    for kind, named, key in nodes:
        for name, node in named.items():
            facts[f"{kind} {name}"] = {"key": frozenset([str(node.pop(key))]), **_rest(node)}
    version = value.pop("version")
    rest = {**_rest(value), **_rest(verifiers), **_rest(witnesses)}
    return {**facts, "mesh": {"version": text(version), **rest}}


def _rest(value: dict[str, Any]) -> dict[str, Value]:
    return {member: text(item) for member, item in value.items() if member != "v"}
