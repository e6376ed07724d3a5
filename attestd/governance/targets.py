"""The list of target files that a targets role signs: a hundred thousand of them in some megabytes. Pure.

Most targets of a fleet are host records. What the metadata says of one is kept in 36 bytes, and becomes a `TargetFile` when
somebody asks; a file of metadata in the form in which we write it is read without a Python object for each member.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType
from tuf.api.metadata import Targets

from attestd.governance.signed import (
    MAX_BYTES,
    MAX_TARGET_BYTES,
    TargetName,
    UntrustedSigned,
    Version,
    parse_signed,
)
from attestd.strict import Sha256Hex, canonical, parse_own_form

__all__ = ["TargetFile", "TargetList", "UntrustedTargets", "pack_target", "packed_length", "parse_targets"]

_LENGTH: Final = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class TargetFile:
    """A target file as its metadata describes it, `role` being the TUF role that signed it."""

    length: int
    sha256: str
    role: str


def pack_target(sha256: str, length: int) -> bytes:
    """What metadata says of a file, in 36 bytes: two files that have the same are the same file."""
    return bytes.fromhex(sha256) + _LENGTH.pack(length)


def packed_length(packed: bytes) -> int:
    """The length of a file, of `pack_target`."""
    length: int = _LENGTH.unpack_from(packed, 32)[0]
    return length


class TargetList(Mapping[str, TargetFile]):
    """All targets of a verified set, by name."""

    __slots__ = ("_files",)

    def __init__(self, files: Sequence[tuple[str, Mapping[str, bytes]]]) -> None:
        """Takes the files of each role, packed (`pack_target`), as it signs them; no name twice."""
        self._files = tuple(files)

    @classmethod
    def of(cls, files: Mapping[str, TargetFile]) -> "TargetList":
        """The list of files that are described one by one."""
        roles: dict[str, dict[str, bytes]] = {}
        for name, file in files.items():
            roles.setdefault(file.role, {})[name] = pack_target(file.sha256, file.length)
        return cls(list(roles.items()))

    def packed(self, name: str) -> bytes:
        """What the metadata says of a file, to be compared.

        Raises:
            KeyError: There is no such file.
        """
        for _, files in self._files:
            found = files.get(name)
            if found is not None:
                return found
        raise KeyError(name)

    def is_same(self, other: "TargetList") -> bool:
        """Whether it was made of the very lists that the other was made of; False says nothing."""
        mine, theirs = self._files, other._files  # noqa: SLF001 - its own
        return len(mine) == len(theirs) and all(
            role == their_role and files is their_files
            for (role, files), (their_role, their_files) in zip(mine, theirs, strict=True)
        )

    def __getitem__(self, name: str) -> TargetFile:
        for role, files in self._files:
            found = files.get(name)
            if found is not None:
                return TargetFile(packed_length(found), found[:32].hex(), role)
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(name in files for _, files in self._files)

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(files for _, files in self._files)

    def __len__(self) -> int:
        return sum(len(files) for _, files in self._files)


@dataclass(frozen=True)
class UntrustedTargets:
    """A targets file whose form is right and whose signatures nobody has verified.

    Attributes:
        signed: The file, but for its `content.targets`, which are empty: `files` has them.
        files: What it says of each target, packed.
    """

    signed: UntrustedSigned[Targets]
    files: Mapping[str, bytes]


class _Plain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One way to write everything, and nothing that a publisher of another make might add."""


class _Hashes(_Plain, frozen=True, gc=False):
    sha256: Sha256Hex


class _File(_Plain, frozen=True, gc=False):
    hashes: _Hashes
    length: Annotated[int, msgspec.Meta(ge=0, le=MAX_TARGET_BYTES)]


class _Key(_Plain, frozen=True):
    class Value(_Plain, frozen=True):
        public: str

    keytype: str
    keyval: Value
    scheme: str


class _Role(_Plain, frozen=True):
    keyids: list[str]
    name: str
    paths: list[str]
    terminating: bool
    threshold: Annotated[int, msgspec.Meta(ge=0, le=64)]


class _Delegations(_Plain, frozen=True):
    keys: dict[str, _Key]
    roles: list[_Role]


class _Signed(_Plain, frozen=True, kw_only=True):
    type_: Literal["targets"] = msgspec.field(name="_type")
    delegations: _Delegations | UnsetType = UNSET
    expires: str
    spec_version: str
    targets: dict[TargetName, _File]
    version: Version


class _Signature(_Plain, frozen=True):
    keyid: str
    sig: str


class _OwnTargets(_Plain, frozen=True):
    signatures: list[_Signature]
    signed: _Signed


def parse_targets(data: bytes, *, what: str, known: Mapping[str, bytes] | None = None) -> UntrustedTargets:
    """Parses a targets file; verifies no signature. As `parse_signed`, which has the last word on everything but the list.

    Args:
        data: From outside.
        what: Its name, for errors.
        known: What an earlier version of it said, of which equal parts are used again.

    Raises:
        MalformedError: As `parse_signed`.
    """
    own = parse_own_form(data, _OwnTargets, max_bytes=MAX_BYTES["targets"])
    # Without an escape in it, what TUF signs (OLPC canonical JSON) is what stands in the file (RFC 8785).
    if own is None or b"\\" in data:
        signed = parse_signed(data, Targets, what=what)
        listed, signed.content.targets = signed.content.targets, {}
        return UntrustedTargets(
            signed, {name: pack_target(file.hashes["sha256"], file.length) for name, file in listed.items()}
        )
    known = {} if known is None else known
    files: dict[str, bytes] = {}
    for name, file in own.signed.targets.items():
        packed = pack_target(file.hashes.sha256, file.length)
        before = known.get(name)
        files[name] = before if before == packed else packed
    head = b'{"signatures":' + canonical(own.signatures) + b',"signed":'
    bare = canonical(msgspec.structs.replace(own, signed=msgspec.structs.replace(own.signed, targets={})))
    return UntrustedTargets(
        replace(parse_signed(bare, Targets, what=what), payload=data[len(head) : -1]), files
    )
