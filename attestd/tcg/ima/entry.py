"""Entries of an IMA list, and the fields of their templates (Linux, Documentation/security/IMA-templates.rst)."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from attestd.errors import MalformedError

__all__ = ["DIGEST_SIZES", "ImaEntry", "file_digest", "pack_field", "parse_fields"]

# What the kernel calls its hashes (crypto/hash_info.c), and their sizes.
DIGEST_SIZES: Final = {
    b"md5": 16,
    b"sha1": 20,
    b"sha224": 28,
    b"sha256": 32,
    b"sha384": 48,
    b"sha512": 64,
    b"sm3": 32,
    b"sha3-256": 32,
    b"sha3-384": 48,
    b"sha3-512": 64,
}
_TEMPLATES: Final[Mapping[bytes, tuple[bytes, ...]]] = {
    b"ima-ng": (b"d-ng", b"n-ng"),
    b"ima-ngv2": (b"d-ngv2", b"n-ng"),
    b"ima-sig": (b"d-ng", b"n-ng", b"sig"),
    b"ima-sigv2": (b"d-ngv2", b"n-ng", b"sig"),
    b"ima-buf": (b"d-ng", b"n-ng", b"buf"),
    b"ima-modsig": (b"d-ng", b"n-ng", b"sig", b"d-modsig", b"modsig"),
    b"evm-sig": (
        b"d-ng",
        b"n-ng",
        b"evmsig",
        b"xattrnames",
        b"xattrlengths",
        b"xattrvalues",
        b"iuid",
        b"igid",
        b"imode",
    ),
}
_FIELDS: Final = frozenset(name for fields in _TEMPLATES.values() for name in fields)
_U32: Final = struct.Struct("<I")
_NAME_SIZE: Final = 256
_SHA1_SIZE: Final = 20


@dataclass(frozen=True, slots=True)
class ImaEntry:
    """One entry, taken apart. That it was measured, `verify_list` has shown; nothing more.

    Attributes:
        number: Its place in the list, from 0.
        template: The template's name.
        path: The file as the kernel names it, or what a buffer is; any bytes but NUL.
        digest_type: `ima`, or `verity` for a digest by fs-verity.
        algorithm: Of the digest, as the kernel spells it.
        digest: Of the file or buffer.
        signature: The `security.ima` signature; empty: none.
        buffer: What was measured, of a buffer; empty otherwise.
        violation: The kernel could not measure it: the file was open for writing while it was read, or the reverse.
    """

    number: int
    template: str
    path: bytes
    digest_type: str
    algorithm: str
    digest: bytes
    signature: bytes = field(default=b"", repr=False)
    buffer: bytes = field(default=b"", repr=False)
    violation: bool = False


def pack_field(data: bytes) -> bytes:
    """A field of template data: its length and its bytes."""
    return _U32.pack(len(data)) + data


def file_digest(algorithm: str, digest: bytes) -> bytes:
    """The d-ng field's content for a digest."""
    return algorithm.encode() + b":\0" + digest


def parse_fields(number: int, template: bytes, data: bytes, *, violation: bool) -> ImaEntry:
    """Takes an entry's template data apart.

    Args:
        number: The entry's place, for errors.
        template: The template's name, or its format (`d-ng|n-ng|sig`).
        data: The template data, as the kernel hashed it; for template `ima`: digest and padded name.
        violation: Whether the list marks it as one.

    Raises:
        MalformedError: An unknown template or hash, lengths that do not add up, a name that does not end with its only
            NUL.
    """
    what = f"IMA entry {number}"
    if template == b"ima":
        path = data[_SHA1_SIZE:].rstrip(b"\0")
        if b"\0" in path:
            raise MalformedError(f"{what}: a name with a NUL in it")
        return ImaEntry(number, "ima", path, "ima", "sha1", data[:_SHA1_SIZE], violation=violation)
    names = _TEMPLATES.get(template) or tuple(template.split(b"|"))
    # A template's name is in no digest: if it could say which field is the digest, a signature could pass for one.
    in_place = names[0] in (b"d-ng", b"d-ngv2") and names[1:2] == (b"n-ng",)
    if not in_place or not set(names) <= _FIELDS or len(set(names)) != len(names):
        raise MalformedError(f"{what}: unknown template {template[:64]!r}")
    digest, path, *rest = _split(what, data, len(names))
    fields = dict(zip(names[2:], rest, strict=True))
    if not path.endswith(b"\0") or b"\0" in path[:-1]:
        raise MalformedError(f"{what}: expected a name that ends with its only NUL")
    kind, algorithm, value = _split_digest(what, digest, typed=names[0] == b"d-ngv2")
    return ImaEntry(
        number,
        template.decode(),
        path[:-1],
        kind,
        algorithm,
        value,
        signature=fields.get(b"sig", b""),
        buffer=fields.get(b"buf", b""),
        violation=violation,
    )


def ima_template_data(digest: bytes, name: bytes) -> bytes:
    """What the kernel hashes for the template `ima`: no lengths, and the name padded to its largest size."""
    return digest + name.ljust(_NAME_SIZE, b"\0")


def _split(what: str, data: bytes, count: int) -> list[bytes]:
    fields = []
    offset = 0
    for _ in range(count):
        if offset + 4 > len(data):
            raise MalformedError(f"{what}: its template data ends early")
        (size,) = _U32.unpack_from(data, offset)
        end = offset + 4 + size
        if end > len(data):
            raise MalformedError(f"{what}: a field of {size} bytes, {len(data) - offset - 4} follow")
        fields.append(data[offset + 4 : end])
        offset = end
    if offset != len(data):
        raise MalformedError(f"{what}: {len(data) - offset} bytes behind its fields")
    return fields


def _split_digest(what: str, data: bytes, *, typed: bool) -> tuple[str, str, bytes]:
    head, colon, value = data.partition(b":\0")
    kind, separator, algorithm = head.rpartition(b":")
    if bool(separator) is not typed or kind not in (b"", b"ima", b"verity"):
        raise MalformedError(f"{what}: a digest of the unknown type {head[:32]!r}")
    if not colon or DIGEST_SIZES.get(algorithm) != len(value):
        raise MalformedError(f"{what}: {len(value)} bytes as a digest by {algorithm[:32]!r}")
    return (kind or b"ima").decode(), algorithm.decode(), value
