"""One TUF metadata file: strict JSON, exact types, signatures over what was read. Pure.

python-tuf's own types give the members their meaning and verify the signatures; before they see anything the JSON has
gone through `attestd.strict` and through the shapes below, for tuf itself takes duplicate members (the last one
counts), true for 1, and versions without end. TUF specification 1.0, section 4, "Document formats".
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import UNSET, UnsetType
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Key, Signature
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from attestd.authorization.dsse import PublicKey
from attestd.errors import MalformedError, VerificationError
from attestd.strict import Sha256Hex, canonical, convert, parse_json, parse_time

__all__ = [
    "ISSUED",
    "MAX_BYTES",
    "MAX_SNAPSHOT_ROLES",
    "MAX_TARGET_BYTES",
    "RoleName",
    "TargetName",
    "UntrustedSigned",
    "Version",
    "parse_signed",
    "public_key",
]

ISSUED: Final = "x-attestd-issued"
MAX_BYTES: Final = {"root": 512 << 10, "timestamp": 16 << 10, "snapshot": 2 << 20, "targets": 32 << 20}
MAX_TARGET_BYTES: Final = 32 << 20
MAX_SNAPSHOT_ROLES: Final = 128  # More than can be delegated at once: a role that ended stays listed.

# It becomes part of a file's name: no separator, no leading dot, and nothing that a URL would have to quote.
RoleName = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}\Z")]
Version = Annotated[int, msgspec.Meta(ge=1, le=2**31)]

_MetaName = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}\.json\Z")]
_TARGET_NAME: Final = r"\A[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}){0,3}\Z"
TargetName = Annotated[str, msgspec.Meta(pattern=_TARGET_NAME)]
# `?` and one `*` within a part of a path: with more it takes long to see that a name does not match. A set of characters
# in brackets nobody needs, and few read right.
_PART: Final = r"(?=[^/])[A-Za-z0-9._?-]{0,128}(\*[A-Za-z0-9._?-]{0,128})?"
_Pattern = Annotated[str, msgspec.Meta(pattern=rf"\A{_PART}(/{_PART}){{0,3}}\Z", max_length=512)]
_KeyId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Threshold = Annotated[int, msgspec.Meta(ge=1, le=16)]
_KeyIds = Annotated[list[_KeyId], msgspec.Meta(max_length=64)]
_Hex = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{2}){1,2048}\Z")]
_Hashes = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=32)], _Hex], msgspec.Meta(min_length=1, max_length=4)
]


class _Tolerant(msgspec.Struct, frozen=True, kw_only=True):
    """What is signed may have members that we do not know (TUF 4.1); those that we know are exact."""


class _Key(_Tolerant, frozen=True):
    class Value(_Tolerant, frozen=True):
        public: Annotated[str, msgspec.Meta(max_length=1024)]

    keytype: Literal["ed25519", "ecdsa"]
    scheme: Literal["ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384"]
    keyval: Value


_Keys = Annotated[dict[_KeyId, _Key], msgspec.Meta(max_length=256)]


class _Role(_Tolerant, frozen=True):
    keyids: _KeyIds
    threshold: _Threshold


class _Roles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    root: _Role
    timestamp: _Role
    snapshot: _Role
    targets: _Role


class _Common(_Tolerant, frozen=True):
    spec_version: Annotated[str, msgspec.Meta(pattern=r"\A1\.[0-9]{1,4}(\.[0-9]{1,4})?\Z")]
    version: Version
    expires: Annotated[
        str, msgspec.Meta(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")
    ]


class _Root(_Common, frozen=True):
    consistent_snapshot: bool
    keys: _Keys
    roles: _Roles


class _MetaFile(_Tolerant, frozen=True):
    version: Version
    length: Annotated[int, msgspec.Meta(ge=0)] | UnsetType = UNSET
    hashes: _Hashes | UnsetType = UNSET


class _TimestampMeta(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"snapshot": "snapshot.json"}
):
    snapshot: _MetaFile


class _Timestamp(_Common, frozen=True):
    meta: _TimestampMeta


class _Snapshot(_Common, frozen=True):
    meta: Annotated[dict[_MetaName, _MetaFile], msgspec.Meta(max_length=MAX_SNAPSHOT_ROLES)]


class _TargetFile(_Tolerant, frozen=True):
    class Hashes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        sha256: Sha256Hex

    length: Annotated[int, msgspec.Meta(ge=0, le=MAX_TARGET_BYTES)]
    hashes: Hashes


class _Delegation(_Role, frozen=True):
    name: RoleName
    terminating: bool
    # Only patterns: hash prefixes would hide from a reader what is delegated.
    paths: Annotated[list[_Pattern], msgspec.Meta(min_length=1)]
    path_hash_prefixes: UnsetType = UNSET


class _Delegations(_Tolerant, frozen=True):
    keys: _Keys
    roles: list[_Delegation]
    succinct_roles: UnsetType = UNSET


class _Targets(_Common, frozen=True):
    targets: dict[TargetName, _TargetFile]
    delegations: _Delegations | UnsetType = UNSET


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keyid: _KeyId
    sig: Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{2}){0,512}\Z")]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Outside of `signed` nothing is protected: unknown members there are errors."""

    signatures: Annotated[list[_Signature], msgspec.Meta(max_length=256)]
    signed: dict[str, Any]


_SHAPES: Final[dict[type, type[_Common]]] = {
    Root: _Root,
    Timestamp: _Timestamp,
    Snapshot: _Snapshot,
    Targets: _Targets,
}
_T = TypeVar("_T", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True)
class UntrustedSigned(Generic[_T]):
    """A metadata file whose form is right and whose signatures nobody has verified.

    Attributes:
        content: What it says, for whoever must know it in order to verify it: a root verifies itself.
        payload: The bytes that the signatures are over: the OLPC canonical JSON of exactly what was read.
        signatures: By key id.
        what: Names it in errors.
    """

    content: _T
    payload: bytes
    signatures: dict[str, Signature]
    what: str

    def verify(self, delegator: Root | Targets, role: str) -> _T:
        """Verifies that enough keys of a role signed it, as the delegator says.

        Distinct key ids are distinct keys: `parse_signed` refused a delegator that has one key under two.

        Raises:
            VerificationError: Fewer than the threshold did.
        """
        try:
            delegator.verify_delegate(role, self.payload, self.signatures)
        except (UnsignedMetadataError, ValueError) as error:
            raise VerificationError(f"governance: {self.what}: {error}") from error
        return self.content


def parse_signed(data: bytes, kind: type[_T], *, what: str) -> UntrustedSigned[_T]:
    """Parses one metadata file; verifies no signature.

    Args:
        data: From outside.
        kind: What it must be: `Root`, `Timestamp`, `Snapshot` or `Targets`.
        what: Its name, for errors.

    Raises:
        MalformedError: Over the limit of its kind, not such a file, a specification version other than 1.x, a key
            of a kind that is not supported, one key under two ids, a role that names an unknown key.
    """
    where = f"governance: {what}"
    value = parse_json(data, max_bytes=MAX_BYTES[kind.type], what=where)
    file = convert(value, _File, what=where)
    if file.signed.get("_type") != kind.type:
        raise MalformedError(f"{where}: expected metadata of type {kind.type!r}")
    shape = convert(file.signed, _SHAPES[kind], what=where)
    parse_time(shape.expires)
    payload = _payload(data, file.signed)
    try:
        # It empties the value that it is given, which nobody needs any more.
        metadata: Metadata[_T] = Metadata.from_dict(value)
    except (ValueError, KeyError, TypeError) as error:
        raise MalformedError(f"{where}: {error}") from error
    _require_sound(metadata.signed, where)
    return UntrustedSigned(metadata.signed, payload, metadata.signatures, what)


def _payload(data: bytes, signed: dict[str, Any]) -> bytes:
    """OLPC canonical JSON; where nothing in a file had to be escaped, that is RFC 8785's, which is made much faster."""
    if data.isascii() and b"\\" not in data:
        return canonical(signed)
    return str(encode_canonical(signed)).encode()


def _require_sound(signed: Root | Timestamp | Snapshot | Targets, where: str) -> None:
    if isinstance(signed, Root):
        if not signed.consistent_snapshot:
            raise MalformedError(f"{where}: consistent_snapshot must be true")
        _require_keys(signed.keys, [role.keyids for role in signed.roles.values()], where)
    elif isinstance(signed, Targets) and signed.delegations is not None:
        roles = signed.delegations.roles or {}
        _require_keys(signed.delegations.keys, [role.keyids for role in roles.values()], where)


def _require_keys(keys: dict[str, Key], roles: list[list[str]], where: str) -> None:
    """Each key under one id, each id of a role a key: else one person could sign as two."""
    seen: dict[PublicKey, str] = {}
    for key_id, key in keys.items():
        public = public_key(key, where)
        if public in seen:
            raise MalformedError(f"{where}: one key under two ids, {seen[public]} and {key_id}")
        seen[public] = key_id
    unknown = sorted({key_id for ids in roles for key_id in ids} - set(keys))
    if unknown:
        raise MalformedError(f"{where}: a role names the unknown key {unknown[0]}")


def public_key(key: Key, where: str) -> PublicKey:
    """The key itself, whatever its id and however it is written.

    Raises:
        MalformedError: Not a public key of a supported kind.
    """
    public = str(key.keyval["public"])
    if key.keytype != "ed25519":
        return PublicKey.from_pem(public.encode())
    try:
        loaded = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    except ValueError as error:
        raise MalformedError(f"{where}: key {key.keyid}: not an Ed25519 public key in hex") from error
    return PublicKey(loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
