"""UEFI structures inside events: variables, signature lists, load options, device paths.

Sources: UEFI 2.10 (32.4.1 EFI_SIGNATURE_LIST, 3.1.3 EFI_LOAD_OPTION, 10.3 device paths), Platform Firmware Profile
(10.2.3 UEFI_IMAGE_LOAD_EVENT, 10.2.6 UEFI_VARIABLE_DATA). What does not parse is None or left out: these words explain,
and what they explain is covered by a digest or said not to be.
"""

import hashlib
import struct
import uuid
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from attestd.tcg.eventlog.covered import split_variable

__all__ = [
    "GLOBAL_VARIABLE",
    "IMAGE_SECURITY_DATABASE",
    "SHIM_LOCK",
    "Signature",
    "Variable",
    "boot_option_name",
    "certificate_of",
    "image_path",
    "parse_signature_lists",
    "parse_variable",
    "subject_of",
]

GLOBAL_VARIABLE: Final = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY_DATABASE: Final = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
SHIM_LOCK: Final = uuid.UUID("605dab50-e046-4300-abb6-3dd810dd8b23")

_X509: Final = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
_SHA256: Final = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328")
_LIST: Final = struct.Struct("<16sIII")
_OPTION: Final = struct.Struct("<IH")
_NODE: Final = struct.Struct("<BBH")
_IMAGE: Final = struct.Struct("<QQQQ")
_MEDIA_FILE_PATH: Final = (0x04, 0x04)
_MAX_SIGNATURES: Final = 16_384


@dataclass(frozen=True)
class Variable:
    """A UEFI variable."""

    guid: uuid.UUID
    name: str
    value: bytes


@dataclass(frozen=True)
class Signature:
    """One entry of a signature database.

    Attributes:
        kind: `certificate`, `sha256`, or the GUID of another type.
        owner: Who put it there.
        digest: SHA-256 of the certificate, or the hash that is listed.
        data: The certificate's DER, or the bytes of the entry.
    """

    kind: str
    owner: uuid.UUID
    digest: str
    data: bytes


def parse_variable(data: bytes) -> Variable | None:
    """A UEFI_VARIABLE_DATA; None if it is none."""
    parts = split_variable(data)
    if parts is None:
        return None
    guid, name, value = parts
    return Variable(uuid.UUID(bytes_le=guid), name.decode("utf-16-le", "replace"), value)


def parse_signature_lists(data: bytes) -> tuple[Signature, ...] | None:
    """The entries of a signature database; None if lengths do not add up or there are more than 16,384."""
    found: list[Signature] = []
    offset = 0
    while offset < len(data):
        if offset + _LIST.size > len(data):
            return None
        kind, size, header, each = _LIST.unpack_from(data, offset)
        start, end = offset + _LIST.size + header, offset + size
        if end > len(data) or start > end or each <= 16 or (end - start) % each:
            return None
        if len(found) + (end - start) // each > _MAX_SIGNATURES:
            return None
        found += [
            _signature(uuid.UUID(bytes_le=kind), data[at : at + each]) for at in range(start, end, each)
        ]
        offset = end
    return tuple(found)


def _signature(kind: uuid.UUID, entry: bytes) -> Signature:
    owner, data = uuid.UUID(bytes_le=entry[:16]), entry[16:]
    if kind == _SHA256:
        return Signature("sha256", owner, data.hex(), data)
    name = "certificate" if kind == _X509 else str(kind)
    return Signature(name, owner, hashlib.sha256(data).hexdigest(), data)


def subject_of(certificate: bytes) -> str | None:
    """The subject of a certificate in DER, RFC 4514; None if it does not parse."""
    try:
        return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()
    except (ValueError, x509.InvalidVersion):
        return None


def certificate_of(value: bytes) -> bytes | None:
    """The certificate in what verified an image: behind its owner's GUID, or alone (`Quirk.WITHOUT_OWNER`)."""
    return next((der for der in (value[16:], value) if subject_of(der) is not None), None)


def boot_option_name(value: bytes) -> str | None:
    """The description in an EFI_LOAD_OPTION."""
    if len(value) < _OPTION.size:
        return None
    text, end, _ = value[_OPTION.size :].decode("utf-16-le", "replace").partition("\0")
    return text if end else None


def image_path(data: bytes) -> str | None:
    """The file's path in a UEFI_IMAGE_LOAD_EVENT; None if it names none (from memory, or from firmware)."""
    if len(data) < _IMAGE.size:
        return None
    *_, length = _IMAGE.unpack_from(data)
    path = data[_IMAGE.size : _IMAGE.size + length]
    names, offset = [], 0
    while offset + _NODE.size <= len(path):
        kind, subtype, size = _NODE.unpack_from(path, offset)
        if size < _NODE.size or offset + size > len(path):
            return None
        if (kind, subtype) == _MEDIA_FILE_PATH:
            names.append(
                path[offset + _NODE.size : offset + size].decode("utf-16-le", "replace").rstrip("\0")
            )
        offset += size
    return "\\".join(names) or None
