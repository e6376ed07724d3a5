"""The next version of `mesh.json`: what `attestd governance mesh` writes. Pure."""

from base64 import b64encode
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from attestd.authorization.dsse import PublicKey
from attestd.errors import UsageError
from attestd.governance.mesh import MAX_MESH_BYTES, MeshFile
from attestd.strict import canonical, format_time, parse_canonical

__all__ = ["WITNESS_PREFIX", "MeshNode", "amend_mesh", "with_enroller_key"]

WITNESS_PREFIX: Final = "/witness"
"""Below a controller's address: where its witness is (C2SP tlog-witness: the submission prefix)."""


@dataclass(frozen=True)
class MeshNode:
    """One controller; what is None stays as it is.

    Attributes:
        url: Its address.
        enroller: The key that signs host records.
        verifier: The key that signs attestation results.
        witness: The key that signs cosignatures, a vkey.
    """

    url: str | None = None
    enroller: PublicKey | None = None
    verifier: PublicKey | None = None
    witness: str | None = None


def amend_mesh(
    mesh: bytes | None,
    *,
    published: bytes | None,
    handover: datetime,
    name: str | None = None,
    node: MeshNode | None = None,
    verifier_quorum: int | None = None,
    witness_quorum: int | None = None,
) -> bytes:
    """The version of `mesh.json` after the published one, with a controller, new or changed, or without one; and with other quorums.

    Does not check that the keys are such as may stand there, nor that the quorums can be reached: `parse_mesh` does.

    Args:
        mesh: The file to change, as it is staged; None: there is none.
        published: The file that is in force; None: there is none.
        handover: From then on nothing counts that still names the published version, or says that there is none.
        name: The controller that changes; None: none does.
        node: What it is from now on; None: it goes.
        verifier_quorum: How many verifiers every decision takes; None: as before.
        witness_quorum: Likewise witnesses.

    Raises:
        MalformedError: Not that file, or a name, address or quorum that it cannot hold.
        UsageError: A new controller without address or keys; one that goes and is not there.
    """
    value = _empty() if mesh is None else _value(mesh)
    kinds = {
        "enroller": value["enrollers"],
        "verifier": value["verifiers"]["nodes"],
        "witness": value["witnesses"]["nodes"],
    }
    if name is not None and node is not None:
        _put(kinds, name, node)
    elif name is not None and not [nodes.pop(name) for nodes in kinds.values() if name in nodes]:
        raise UsageError(f"there is no controller {name!r}; there are: {_names(kinds)}")
    for kind, quorum in (("verifiers", verifier_quorum), ("witnesses", witness_quorum)):
        if quorum is not None:
            value[kind]["quorum"] = quorum
    return _following(value, published=published, handover=handover)


def with_enroller_key(
    mesh: bytes, *, published: bytes | None, handover: datetime, old: str, new: str
) -> bytes | None:
    """The version of `mesh.json` after the published one, in which the enroller with one key has another.

    Args:
        mesh: The file to change, as it is staged.
        published: As `amend_mesh`.
        handover: As `amend_mesh`.
        old: The id of the key that goes.
        new: The id of the key that comes.

    Returns:
        None: no enroller has that key.

    Raises:
        MalformedError: Not that file.
    """
    value = _value(mesh)
    changed = [node for node in value["enrollers"].values() if node["key_id"] == old]
    for node in changed:
        node["key_id"] = new
    return _following(value, published=published, handover=handover) if changed else None


def _following(value: dict[str, Any], *, published: bytes | None, handover: datetime) -> bytes:
    value["version"] = 1 if published is None else _value(published)["version"] + 1
    value["handover"] = format_time(handover)
    data = canonical(value)
    _value(data)
    return data


def _empty() -> dict[str, Any]:
    asked: dict[str, Any] = {kind: {"quorum": 0, "nodes": {}} for kind in ("verifiers", "witnesses")}
    return {"v": 1, "version": 0, "enrollers": {}, **asked}


def _value(data: bytes) -> dict[str, Any]:
    file = parse_canonical(data, MeshFile, max_bytes=MAX_MESH_BYTES, what="mesh.json")
    value: dict[str, Any] = msgspec.to_builtins(file)
    return value


def _put(kinds: dict[str, dict[str, Any]], name: str, node: MeshNode) -> None:
    keys: dict[str, dict[str, str]] = {
        "enroller": {} if node.enroller is None else {"key_id": node.enroller.key_id},
        "verifier": {}
        if node.verifier is None
        else {"key": b64encode(node.verifier.spki_der).decode("ascii")},
        "witness": {} if node.witness is None else {"vkey": node.witness},
    }
    before = {kind: nodes[name] for kind, nodes in kinds.items() if name in nodes}
    known = [item["url"].removesuffix(WITNESS_PREFIX) for item in before.values()]
    url = known[0] if node.url is None and known else node.url
    changed = [kind for kind in kinds if keys[kind] or kind in before]
    if url is None or not changed:
        raise UsageError(
            f"controller {name!r} is new: it needs --url, and a key: --enroller, --verifier or --witness"
        )
    for kind in changed:
        place = url.rstrip("/") + (WITNESS_PREFIX if kind == "witness" else "")
        kept = before.get(kind, {"url": place})
        kinds[kind][name] = {**kept, **keys[kind], **({} if node.url is None else {"url": place})}


def _names(kinds: dict[str, dict[str, Any]]) -> str:
    return ", ".join(sorted({name for nodes in kinds.values() for name in nodes})) or "none"
