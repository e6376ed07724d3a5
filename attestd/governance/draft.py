"""Makes TUF metadata: unsigned drafts, signatures, in the form that `verify_metadata` and python-tuf read. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import load_der_public_key
from securesystemslib.signer import Signature, SSlibKey
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from attestd.authorization.dsse import PublicKey
from attestd.errors import MalformedError, UsageError
from attestd.governance.issue import Sign
from attestd.governance.signed import ISSUED, MAX_BYTES, parse_signed
from attestd.strict import format_time, parse_json

__all__ = [
    "Delegation",
    "RoleKeys",
    "add_signature",
    "draft_root",
    "draft_snapshot",
    "draft_targets",
    "draft_timestamp",
    "merge_signatures",
    "read_draft",
    "tuf_key",
]

_KINDS: Final[tuple[type[Any], ...]] = (Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True)
class RoleKeys:
    """Who signs for a role: `threshold` of these keys."""

    keys: tuple[PublicKey, ...]
    threshold: int = 1


@dataclass(frozen=True)
class Delegation:
    """A role that may sign the targets whose names match one of the patterns.

    Attributes:
        name: The role.
        keys: Who signs for it.
        paths: Patterns with `*` and `?`, which match within one part of a path.
        terminating: Names that match are looked for nowhere after it.
    """

    name: str
    keys: RoleKeys
    paths: tuple[str, ...]
    terminating: bool = False


def draft_root(
    *,
    version: int,
    expires: datetime,
    root: RoleKeys,
    timestamp: RoleKeys,
    snapshot: RoleKeys,
    targets: RoleKeys,
) -> bytes:
    """`<version>.root.json`, unsigned: the keys of the four top-level roles, with consistent snapshots."""
    roles = {"root": root, "timestamp": timestamp, "snapshot": snapshot, "targets": targets}
    keys = {key.keyid: key for role in roles.values() for key in map(tuf_key, role.keys)}
    return _draft(
        Root(
            version=version,
            expires=expires,
            keys=dict(keys),
            roles={name: Role(_key_ids(role), role.threshold) for name, role in roles.items()},
            consistent_snapshot=True,
        )
    )


def draft_targets(
    *,
    version: int,
    expires: datetime,
    targets: Mapping[str, bytes],
    delegations: Sequence[Delegation] = (),
) -> bytes:
    """`<version>.targets.json` or `<version>.<role>.json`, unsigned.

    Args:
        version: One more than the last.
        expires: When it ends.
        targets: Contents by name.
        delegations: In the order in which they are searched.

    Raises:
        UsageError: Two delegations to one role.
    """
    if len({role.name for role in delegations}) != len(delegations):
        raise UsageError("two delegations to one role")
    keys = {key.keyid: key for role in delegations for key in map(tuf_key, role.keys.keys)}
    roles = {
        role.name: DelegatedRole(
            role.name, _key_ids(role.keys), role.keys.threshold, role.terminating, paths=list(role.paths)
        )
        for role in delegations
    }
    return _draft(
        Targets(
            version=version,
            expires=expires,
            targets={name: TargetFile.from_data(name, data, ["sha256"]) for name, data in targets.items()},
            delegations=Delegations(dict(keys), roles) if roles else None,
        )
    )


def draft_snapshot(*, version: int, expires: datetime, roles: Mapping[str, bytes]) -> bytes:
    """`<version>.snapshot.json`, unsigned.

    Args:
        version: One more than the last.
        expires: When it ends.
        roles: The signed files of `targets` and of every delegated role, by role.

    Raises:
        MalformedError: One of them is no targets metadata.
    """
    meta = {
        f"{role}.json": MetaFile.from_data(
            parse_signed(data, Targets, what=f"role {role}").content.version, data, ["sha256"]
        )
        for role, data in roles.items()
    }
    return _draft(Snapshot(version=version, expires=expires, meta=meta))


def draft_timestamp(*, version: int, expires: datetime, issued: datetime, snapshot: bytes) -> bytes:
    """`timestamp.json`, unsigned.

    Args:
        version: One more than the last.
        expires: When it ends.
        issued: Now: hosts record how old the governance was by which they decided.
        snapshot: The signed snapshot that it names.

    Raises:
        MalformedError: That is no snapshot.
    """
    meta = MetaFile.from_data(
        parse_signed(snapshot, Snapshot, what="snapshot").content.version, snapshot, ["sha256"]
    )
    return _draft(
        Timestamp(
            version=version,
            expires=expires,
            snapshot_meta=meta,
            unrecognized_fields={ISSUED: format_time(issued)},
        )
    )


def add_signature(data: bytes, sign: Sign) -> bytes:
    """Signs a metadata file; a signature by the same key is replaced, those by others stay.

    Args:
        data: A draft, perhaps signed by others.
        sign: Signs with one key.

    Raises:
        MalformedError: Not a metadata file.
    """
    metadata = read_draft(data)
    key, signature = sign(metadata.signed_bytes)
    key_id = tuf_key(key).keyid
    metadata.signatures[key_id] = Signature(key_id, signature.hex())
    return metadata.to_bytes()


def merge_signatures(data: bytes, other: bytes) -> bytes:
    """The signatures of two copies of one draft, which were signed in different places.

    Raises:
        MalformedError: One is no metadata file.
        UsageError: They do not say the same.
    """
    metadata, more = read_draft(data), read_draft(other)
    if metadata.signed_bytes != more.signed_bytes:
        raise UsageError(
            f"two different drafts of {metadata.signed.type}: signatures of one say nothing of the other"
        )
    metadata.signatures.update(more.signatures)
    return metadata.to_bytes()


def read_draft(data: bytes) -> Metadata[Any]:
    """A metadata file as python-tuf's value, for those who make metadata; nobody's signature is verified.

    Raises:
        MalformedError: Not a metadata file.
    """
    value = parse_json(data, max_bytes=max(MAX_BYTES.values()), what="metadata")
    signed = value.get("signed") if isinstance(value, dict) else None
    type_ = signed.get("_type") if isinstance(signed, dict) else None
    kind = next((kind for kind in _KINDS if kind.type == type_), None)
    if kind is None:
        raise MalformedError("metadata: expected a TUF root, targets, snapshot or timestamp file")
    draft = parse_signed(data, kind, what=f"{kind.type} metadata")
    return Metadata(draft.content, dict(draft.signatures))


def tuf_key(key: PublicKey) -> SSlibKey:
    """A key in TUF's form, under TUF's own id (not the one by which authorities are known)."""
    return SSlibKey.from_crypto(load_der_public_key(key.spki_der))


def _key_ids(role: RoleKeys) -> list[str]:
    return [tuf_key(key).keyid for key in role.keys]


def _draft(signed: Any) -> bytes:
    return Metadata(signed).to_bytes()
