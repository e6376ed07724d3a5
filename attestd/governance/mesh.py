"""`mesh.json`: the controllers that a fleet asks: where they are, by which keys their answers are known, how many it takes."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.authorization.dsse import PublicKey
from attestd.errors import MalformedError, VerificationError
from attestd.governance.authorities import Authorities, Version
from attestd.strict import (
    Base64Bytes,
    Sha256Hex,
    Strict,
    Utc,
    decode_base64,
    parse_canonical,
    parse_time,
)
from attestd.tlog.vkey import SignatureType, VerifierKey, parse_vkey

__all__ = [
    "MESH",
    "MESH_HISTORY",
    "NO_MESH",
    "UNUSABLE_MESH",
    "MeshEnroller",
    "MeshTrust",
    "MeshVerifier",
    "MeshWitness",
    "mesh_history_name",
    "parse_mesh",
    "witness_key_id",
]

MESH: Final = "mesh.json"
MESH_HISTORY: Final = "mesh/history/"
MAX_MESH_BYTES: Final = 256 * 1024
_MAX_NODES: Final = 64
_MAX_QUORUM: Final = 16
# What signs attestation results: ES256 and EdDSA.
_SPKI_BYTES: Final = {91, 44}

_Quorum = Annotated[int, msgspec.Meta(ge=0, le=_MAX_QUORUM)]
_Name = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9.-]{0,63}\Z")]
# No user, no query, no fragment, no dot segment: nothing that two libraries could read in two ways.
_Url = Annotated[
    str,
    msgspec.Meta(
        pattern=r"\Ahttps?://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?(/[A-Za-z0-9_-]+)*\Z",
        max_length=512,
    ),
]


class _Enroller(Strict, frozen=True):
    url: _Url
    key_id: Sha256Hex


class _Verifier(Strict, frozen=True):
    url: _Url
    key: Annotated[Base64Bytes, msgspec.Meta(max_length=256)]


class _Witness(Strict, frozen=True):
    url: _Url
    vkey: Annotated[str, msgspec.Meta(max_length=4096)]


class _Verifiers(Strict, frozen=True):
    quorum: _Quorum
    nodes: Annotated[dict[_Name, _Verifier], msgspec.Meta(max_length=_MAX_NODES)]


class _Witnesses(Strict, frozen=True):
    quorum: _Quorum
    nodes: Annotated[dict[_Name, _Witness], msgspec.Meta(max_length=_MAX_NODES)]


class MeshFile(Strict, frozen=True):
    """The file's exact shape; `MeshTrust` is what it means once its keys are loaded."""

    v: Literal[1]
    version: Version
    enrollers: Annotated[dict[_Name, _Enroller], msgspec.Meta(max_length=_MAX_NODES)]
    verifiers: _Verifiers
    witnesses: _Witnesses
    handover: Utc | None = None


@dataclass(frozen=True)
class MeshEnroller:
    """One enroller: `key_id` names the key in `authorities.json` that it signs host records with."""

    url: str
    key_id: str


@dataclass(frozen=True)
class MeshVerifier:
    """One verifier, and the key that signs its attestation results."""

    url: str
    key: PublicKey


@dataclass(frozen=True)
class MeshWitness:
    """One witness: `<url>/add-checkpoint` takes checkpoints, and the key signs its cosignatures."""

    url: str
    key: VerifierKey


@dataclass(frozen=True)
class MeshTrust:
    """The controllers of a fleet, by name; no two of a kind share a key, so that each counts once.

    A witness is the name of its keys: it may stand here once with a key of each kind, and counts once.

    Attributes:
        version: Which one it is; 0: there is no such file, or none that can be used.
        digest: SHA-256 of the file, hex.
        handover: All versions before count for what was signed before; None: for nothing.
        until: Of an earlier version, its end: the earliest handover of a later one. None: it is in force.
        verifier_quorum: How many verifiers it takes at the least, whatever platform policies and artifacts say.
        witness_quorum: Likewise of witnesses.
    """

    enrollers: Mapping[str, MeshEnroller]
    verifiers: Mapping[str, MeshVerifier]
    verifier_quorum: int
    witnesses: Mapping[str, MeshWitness]
    witness_quorum: int
    version: int = 0
    digest: str = ""
    handover: datetime | None = None
    until: datetime | None = None

    def counts_at(self, time: datetime) -> bool:
        """Whether its keys count for what was signed then; not whether they count for whoever acts now."""
        return self.until is None or time < self.until

    @property
    def named(self) -> dict[str, Any] | None:
        """As a log entry names it; None: there is none."""
        return {"version": self.version, "digest": self.digest} if self.version else None

    @property
    def words(self) -> str:
        """As a sentence names what went by it."""
        return f"by version {self.version} of {MESH}" if self.version else f"without {MESH}"

    @property
    def witness_names(self) -> frozenset[str]:
        """The witnesses, as their keys name them."""
        return frozenset(node.key.name for node in self.witnesses.values())


NO_MESH: Final = MeshTrust({}, {}, 0, {}, 0)
# Stands for a file that cannot be used: what it asked for is not known, so nothing reaches it.
UNUSABLE_MESH: Final = MeshTrust({}, {}, _MAX_QUORUM, {}, _MAX_QUORUM)


def mesh_history_name(version: int) -> str:
    """Where a version of `mesh.json` goes when the next one takes its place."""
    return f"{MESH_HISTORY}{version}.json"


def parse_mesh(data: bytes, *, authorities: Authorities | None, revoked_keys: Collection[str]) -> MeshTrust:
    """Parses `mesh.json`; nodes whose keys are revoked are left out, and quorums stay what they are.

    Args:
        data: The file.
        authorities: Whose enrollers there are; None: it is an earlier version, whose enrollers nobody asks any more.
        revoked_keys: They count for nothing, in whatever version.

    Raises:
        MalformedError: Not that file, a key that is not what it must be, one key twice, or a quorum that nobody reaches.
        VerificationError: An enroller that `authorities.json` does not name.
    """
    what = MESH
    file = parse_canonical(data, MeshFile, max_bytes=MAX_MESH_BYTES, what=what)
    enrollers = {} if authorities is None else _enrollers(file, authorities, what)
    verifiers = {
        name: _verifier(node, f"{what}: verifier {name!r}") for name, node in file.verifiers.nodes.items()
    }
    witnesses = {
        name: _witness(node, f"{what}: witness {name!r}") for name, node in file.witnesses.nodes.items()
    }
    _require_distinct([node.key_id for node in enrollers.values()], f"{what}: enrollers")
    _require_distinct(
        [node.key.key_id for node in verifiers.values()], f"{what}: verifiers", file.verifiers.quorum
    )
    # By the key alone: a vkey's name would give one key as many votes as it has names. And by the name: two keys of one
    # witness are one vote.
    _require_distinct([node.key.body for node in witnesses.values()], f"{what}: witnesses")
    names = list({node.key.name for node in witnesses.values()})
    _require_distinct(names, f"{what}: witnesses", file.witnesses.quorum)
    return MeshTrust(
        {name: node for name, node in enrollers.items() if node.key_id not in revoked_keys},
        {name: node for name, node in verifiers.items() if node.key.key_id not in revoked_keys},
        file.verifiers.quorum,
        {name: node for name, node in witnesses.items() if witness_key_id(node.key) not in revoked_keys},
        file.witnesses.quorum,
        version=file.version,
        digest=hashlib.sha256(data).hexdigest(),
        handover=None if file.handover is None else parse_time(file.handover),
    )


def _enrollers(file: MeshFile, authorities: Authorities, what: str) -> dict[str, MeshEnroller]:
    known = {key.key_id for key in authorities.enroller_keys}
    for name, enroller in file.enrollers.items():
        if enroller.key_id not in known:
            raise VerificationError(
                f"{what}: enroller {name!r}: expected a key of authorities.json's enrollers, found {enroller.key_id}"
            )
    return {name: MeshEnroller(node.url, node.key_id) for name, node in file.enrollers.items()}


def witness_key_id(key: VerifierKey) -> str:
    """A witness's key as revocations name it: SHA-256 of its SubjectPublicKeyInfo, hex."""
    spki = key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def _verifier(node: _Verifier, what: str) -> MeshVerifier:
    key = PublicKey(decode_base64(node.key, what=what))
    if len(key.spki_der) not in _SPKI_BYTES:
        raise MalformedError(f"{what}: expected an Ed25519 or P-256 key")
    return MeshVerifier(node.url, key)


def _witness(node: _Witness, what: str) -> MeshWitness:
    key = parse_vkey(node.vkey)
    if key.algorithm not in (SignatureType.COSIGNATURE, SignatureType.MLDSA_COSIGNATURE):
        raise MalformedError(
            f"{what}: expected a key of cosignatures (type 04 or 06), found {key.body[:1].hex()}"
        )
    return MeshWitness(node.url, key)


def _require_distinct(keys: list[str] | list[bytes], what: str, quorum: int = 0) -> None:
    if len(set(keys)) != len(keys):
        raise MalformedError(f"{what}: the same key twice")
    if quorum > len(keys):
        raise MalformedError(f"{what}: a quorum of {quorum}, and {len(keys)} to reach it")
