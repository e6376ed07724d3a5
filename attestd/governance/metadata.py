"""Verifies governance metadata: the TUF client workflow, from a trusted root to the list of target files. Pure.

TUF specification 1.0, section 5 ("Detailed client workflow"), steps 5.3 to 5.6; the numbers in the code are its
numbers. Stricter than it where that makes the set easier to judge: delegations are a tree of path patterns, and no role
may sign what was not delegated to it. Bytes come from a `Fetch`; time is not judged here.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Final, TypeVar

import msgspec
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import DelegatedRole, MetaFile, Root, Snapshot, Targets, Timestamp

from attestd.authorization.dsse import PublicKey
from attestd.errors import GovernanceRollbackError, MalformedError, VerificationError
from attestd.governance.signed import (
    ISSUED,
    MAX_BYTES,
    MAX_SNAPSHOT_ROLES,
    RoleName,
    Version,
    parse_signed,
    public_key,
)
from attestd.governance.targets import TargetFile, TargetList, packed_length, parse_targets
from attestd.strict import Strict, convert, parse_time

__all__ = ["MAX_TARGETS", "Fetch", "Metadata", "Versions", "target_path", "verify_metadata", "verify_target"]

MAX_ROOTS: Final = 1024
MAX_ROLES: Final = 64
MAX_DEPTH: Final = 4
MAX_TARGETS: Final = 131_072
MAX_TOTAL_BYTES: Final = 512 << 20  # of all targets
MAX_PATTERNS: Final = 256
# Delegated targets times delegated patterns: each may be held against each, which takes microseconds.
MAX_MATCHES: Final = 1 << 18

Fetch = Callable[[str, int], bytes | None]
_T = TypeVar("_T", Snapshot, Targets)


class Versions(Strict, frozen=True):
    """The version of each role: of a verified set, or the least that is still acceptable (a floor).

    Attributes:
        targets: Of `targets` and every delegated role that the snapshot names.
    """

    root: Version
    timestamp: Version
    snapshot: Version
    targets: Annotated[dict[RoleName, Version], msgspec.Meta(max_length=MAX_SNAPSHOT_ROLES)]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, as it is kept in logs and records."""
        return dict(msgspec.to_builtins(self))

    @classmethod
    def from_json(cls, value: Any) -> "Versions":
        """Reads what `to_json` wrote.

        Raises:
            MalformedError: Anything else.
        """
        return convert(value, cls, what="governance versions")


@dataclass(frozen=True)
class Metadata:
    """A verified set of metadata.

    Attributes:
        versions: What it consists of.
        targets: Files by name.
        expires: When the first role of it expires, which is `expires_role`. Nothing here compared it with a clock.
        issued: When the timestamp was made, if its publisher says so.
    """

    versions: Versions
    targets: TargetList
    expires: datetime
    expires_role: str
    issued: datetime | None
    _roles: Mapping[str, "_Role"] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class _Role:
    """A verified targets role, and the delegations that lead to it.

    Attributes:
        signed: What it says, but for its targets.
        files: Those, packed.
        proof: The digest of its file, and whose signatures it was verified by: of the same the same comes again.
    """

    signed: Targets
    files: Mapping[str, bytes]
    way: tuple[DelegatedRole, ...]
    proof: tuple[bytes, int, frozenset[tuple[str, PublicKey]]]


def verify_metadata(
    fetch: Fetch, *, root: bytes, floor: Versions | None, previous: Metadata | None = None
) -> Metadata:
    """Verifies a published set of metadata, from an anchor that is trusted already.

    Args:
        fetch: Gives a metadata file by name (`3.root.json`, `timestamp.json`) and the most bytes it may have; None if
            there is no such file.
        root: The root metadata that the host was given: any version of it, the newest is found from there.
        floor: What was seen before; None: nothing.
        previous: What was verified before, of which roles that did not change are used again: with a hundred thousand
            hosts parsing them is nearly all of the work.

    Returns:
        The set. Whoever decides by it must compare `expires` with the time.

    Raises:
        MalformedError: A file is over its limit, or not what it must be.
        VerificationError: Too few signatures, a file that is missing or not the one that its parent names.
        GovernanceRollbackError: A version below the floor, or a role that is no longer there.
    """
    final, floor = _final_root(fetch, root, floor)
    timestamp = parse_signed(_fetch(fetch, "timestamp.json", "timestamp"), Timestamp, what="timestamp.json")
    timestamp.verify(final, "timestamp")  # 5.4.2
    _require_at_least("timestamp", timestamp.content.version, floor.timestamp if floor else 0)  # 5.4.3.1
    snapshot_meta = timestamp.content.snapshot_meta
    _require_at_least("snapshot", snapshot_meta.version, floor.snapshot if floor else 0)  # 5.4.3.2
    snapshot = _load_snapshot(fetch, snapshot_meta, final)  # 5.5.1 to 5.5.4
    versions = Versions(
        root=final.version,
        timestamp=timestamp.content.version,
        snapshot=snapshot.version,
        targets={name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()},
    )
    for role, least in floor.targets.items() if floor else ():  # 5.5.5
        if role not in versions.targets:
            raise GovernanceRollbackError(f"governance: the snapshot no longer names role {role!r}")
        _require_at_least(role, versions.targets[role], least)
    roles = _load_roles(fetch, snapshot, final, {} if previous is None else previous._roles)  # noqa: SLF001 - its own
    expiries = [
        ("root", final.expires),
        ("timestamp", timestamp.content.expires),
        ("snapshot", snapshot.expires),
        *((name, role.signed.expires) for name, role in roles.items()),
    ]
    expires_role, expires = min(expiries, key=lambda item: item[1])
    return Metadata(versions, _targets(roles), expires, expires_role, _issued(timestamp.content), roles)


def target_path(name: str, sha256: str) -> str:
    """Where a target lies below `targets/`: `platform/local.json` at `platform/<sha256>.local.json` (TUF 6.2)."""
    directory, slash, base = name.rpartition("/")
    return f"{directory}{slash}{sha256}.{base}"


def verify_target(name: str, file: TargetFile, data: bytes) -> None:
    """Compares a target's bytes with what its metadata says (5.7.2).

    Raises:
        VerificationError: Another length or digest.
    """
    if len(data) != file.length:
        raise VerificationError(f"governance: target {name}: expected {file.length} bytes, found {len(data)}")
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        raise VerificationError(f"governance: target {name}: expected SHA-256 {file.sha256}, found {found}")


def _final_root(fetch: Fetch, anchor: bytes, floor: Versions | None) -> tuple[Root, Versions | None]:
    """5.3: each root signed by itself and by the one before, up to the newest; and the floor that then holds."""
    untrusted = parse_signed(anchor, Root, what="root.json")
    root = untrusted.verify(untrusted.content, "root")
    seen = [root]
    for _ in range(MAX_ROOTS):
        name = f"{root.version + 1}.root.json"
        data = fetch(name, MAX_BYTES["root"])
        if data is None:
            break
        untrusted = parse_signed(data, Root, what=name)
        untrusted.verify(root, "root")  # 5.3.4
        following = untrusted.verify(untrusted.content, "root")
        if following.version != root.version + 1:  # 5.3.5
            raise VerificationError(f"governance: {name} is version {following.version}")
        root = following
        if floor and root.version <= floor.root:
            seen.append(root)
    else:
        raise VerificationError(
            f"governance: {MAX_ROOTS} root versions after the anchor: give the host a newer root.json"
        )
    _require_at_least("root", root.version, floor.root if floor else 0)
    if floor and _is_rotated(seen, root):  # 5.3.11
        floor = Versions(root=floor.root, timestamp=1, snapshot=1, targets={})
    return root, floor


def _is_rotated(seen: Sequence[Root], new: Root) -> bool:
    """Whether so few keys of timestamp or snapshot are left that nothing which they signed verifies any more.

    Versions that they signed, however high, then bind nobody: else one leaked online key could end all updates. While
    enough of them are left, or came back, the floor holds: what is old verifies still.
    """
    return any(
        sum(any(key in _keys(root, name) for root in seen) for key in _keys(new, name))
        < new.roles[name].threshold
        for name in ("timestamp", "snapshot")
    )


def _keys(root: Root, role: str) -> set[PublicKey]:
    return {public_key(root.keys[key_id], role) for key_id in root.roles[role].keyids}


def _load_roles(fetch: Fetch, snapshot: Snapshot, root: Root, known: Mapping[str, _Role]) -> dict[str, _Role]:
    """5.6: `targets` and every role that it delegates to, in the order in which they are searched (5.6.7)."""
    roles: dict[str, _Role] = {}
    pending: list[tuple[str, Root | Targets, tuple[DelegatedRole, ...]]] = [("targets", root, ())]
    while pending:
        name, delegator, way = pending.pop()
        if name in roles:
            # A cycle, or two delegators: which of them a reader has in mind would be anybody's guess.
            raise VerificationError(f"governance: role {name!r} is delegated twice")
        if len(way) > MAX_DEPTH or len(roles) > MAX_ROLES:
            raise MalformedError(f"governance: more than {MAX_ROLES} delegated roles, or {MAX_DEPTH} levels")
        meta = snapshot.meta.get(f"{name}.json")
        if meta is None:
            raise VerificationError(f"governance: the snapshot does not name role {name!r}")
        role = roles[name] = replace(_load_role(fetch, name, meta, delegator, known.get(name)), way=way)
        pending += [(child.name, role.signed, (*way, child)) for child in reversed(_children(role.signed))]
    _require_bounded(roles)
    _require_delegated(roles)
    return roles


def _require_bounded(roles: Mapping[str, _Role]) -> None:
    if sum(len(role.files) for role in roles.values()) > MAX_TARGETS:
        raise MalformedError(f"governance: more than {MAX_TARGETS} targets")
    total = sum(packed_length(packed) for role in roles.values() for packed in role.files.values())
    if total > MAX_TOTAL_BYTES:
        raise MalformedError(f"governance: targets of {total} bytes, the limit is {MAX_TOTAL_BYTES}")
    patterns = sum(len(role.way[-1].paths or ()) for role in roles.values() if role.way)
    if patterns > MAX_PATTERNS:
        raise MalformedError(f"governance: more than {MAX_PATTERNS} delegated patterns")
    delegated = sum(len(role.files) for role in roles.values() if role.way)
    if delegated * patterns > MAX_MATCHES:
        raise MalformedError(
            f"governance: {delegated} delegated targets and {patterns} delegated patterns: their product is over"
            f" {MAX_MATCHES}"
        )


def _require_delegated(roles: Mapping[str, _Role]) -> None:
    for name, role in roles.items():
        for path in role.files if role.way else ():
            if not all(_is_delegated(delegation, path) for delegation in role.way):
                raise VerificationError(
                    f"governance: role {name!r} signs {path!r}, which is not delegated to it"
                )


def _is_delegated(delegation: DelegatedRole, path: str) -> bool:
    """As python-tuf's `is_delegated_path`, without compiling each pattern anew when there are many."""
    return _any_of(tuple(delegation.paths or ())).match(path) is not None


@lru_cache(maxsize=MAX_ROLES)
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    within = {"*": "[^/]*", "?": "[^/]"}
    each = ("".join(within.get(char) or re.escape(char) for char in pattern) for pattern in patterns)
    return re.compile(rf"\A(?:{'|'.join(each)})\Z", re.ASCII)


def _children(signed: Targets) -> list[DelegatedRole]:
    return list((signed.delegations.roles or {}).values()) if signed.delegations else []


def _targets(roles: Mapping[str, _Role]) -> TargetList:
    """Every file that a search for its name finds, as the role that it finds first describes it."""
    return TargetList(
        [
            (name, role.files if name == "targets" else _found(name, role.files, roles))
            for name, role in roles.items()
        ]
    )


def _found(name: str, files: Mapping[str, bytes], roles: Mapping[str, _Role]) -> Mapping[str, bytes]:
    found = {path: packed for path, packed in files.items() if _search(path, roles) == name}
    return files if len(found) == len(files) else found


def _search(path: str, roles: Mapping[str, _Role]) -> str | None:
    """5.6.7: preorder, and behind a terminating delegation nothing more is looked at."""
    pending = ["targets"]
    while pending:
        name = pending.pop()
        signed = roles[name].signed
        if path in roles[name].files:
            return name
        matching: list[str] = []
        for child in _children(signed):
            if _is_delegated(child, path):
                matching.append(child.name)
                if child.terminating:
                    pending.clear()
                    break
        pending += reversed(matching)
    return None


def _load_snapshot(fetch: Fetch, meta: MetaFile, root: Root) -> Snapshot:
    name, data = _named(fetch, "snapshot", meta, Snapshot.type)
    return _of_version(parse_signed(data, Snapshot, what=name).verify(root, "snapshot"), meta, name)


def _load_role(
    fetch: Fetch, role: str, meta: MetaFile, delegator: Root | Targets, known: _Role | None
) -> _Role:
    name, data = _named(fetch, role, meta, Targets.type)
    signers = delegator.get_delegated_role(role)
    keys = frozenset((key_id, public_key(delegator.get_key(key_id), role)) for key_id in signers.keyids)
    proof = hashlib.sha256(data).digest(), signers.threshold, keys
    if known is not None and known.proof == proof:
        return replace(known, signed=_of_version(known.signed, meta, name))
    untrusted = parse_targets(data, what=name, known=None if known is None else known.files)
    signed = _of_version(untrusted.signed.verify(delegator, role), meta, name)
    return _Role(signed, untrusted.files, (), proof)


def _of_version(signed: _T, meta: MetaFile, name: str) -> _T:
    if signed.version != meta.version:
        raise VerificationError(f"governance: {name} is version {signed.version}")
    return signed


def _named(fetch: Fetch, role: str, meta: MetaFile, kind: str) -> tuple[str, bytes]:
    """A file that another one names by version, and perhaps by length and hashes: of one set, never a mixture."""
    name = f"{meta.version}.{role}.json"
    data = _fetch(fetch, name, kind, length=meta.length)
    try:
        meta.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        raise VerificationError(f"governance: {name}: {error}") from error
    return name, data


def _fetch(fetch: Fetch, name: str, kind: str, *, length: int | None = None) -> bytes:
    limit = MAX_BYTES[kind] if length is None else min(length, MAX_BYTES[kind])
    data = fetch(name, limit)
    if data is None:
        raise VerificationError(f"governance: {name} is missing")
    if len(data) > limit:
        raise MalformedError(f"governance: {name}: {len(data)} bytes, the limit is {limit}")
    return data


def _require_at_least(role: str, version: int, least: int) -> None:
    if version < least:
        raise GovernanceRollbackError(
            f"governance: {role} version {version}, but version {least} was seen before: an old copy was put in its place"
        )


def _issued(timestamp: Timestamp) -> datetime | None:
    value = timestamp.unrecognized_fields.get(ISSUED)
    if value is None:
        return None
    if not isinstance(value, str):
        raise MalformedError(f"governance: timestamp.json: {ISSUED}: expected a time")
    return parse_time(value)
