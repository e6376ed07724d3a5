"""PE images taken apart: their Authenticode hash, which firmware measures, their sections, and who signed them.

Sources: Microsoft PE Format; Windows Authenticode Portable Executable Signature Format 1.0, "Calculating the PE Image
Hash" (firmware and shim measure by the same rules: PC Client Platform Firmware Profile, 10.2.3).
"""

import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import pkcs7

from attestd.errors import MalformedError
from attestd.tcg.eventlog.types import HASHES

__all__ = ["MAX_PE_BYTES", "PeImage", "PeSection", "certificates_of", "parse_pe"]

MAX_PE_BYTES: Final = 512 * 1024 * 1024
_MAX_SECTIONS: Final = 96
_COFF: Final = struct.Struct("<4sHH12xHH")
_SECTION: Final = struct.Struct("<8sIIII16x")
_U32: Final = struct.Struct("<I")
_DIRECTORY: Final = struct.Struct("<II")
_CERTIFICATE: Final = struct.Struct("<IHH")
_HEADER_POINTER: Final = 0x3C
_PKCS7: Final = 0x0002
# Where the optional header has its data directories, by its magic: PE32, PE32+ (Optional Header Data Directories).
_DIRECTORIES: Final = {0x010B: 96, 0x020B: 112}
_HEADERS_SIZE: Final = 60
_CHECKSUM: Final = 64
_CERTIFICATE_TABLE: Final = 4


@dataclass(frozen=True)
class PeSection:
    """A section.

    Attributes:
        name: As the header has it; longer names are not resolved.
        content: What of it is in the file.
        size: Its size in memory, `VirtualSize`: what is more than the content is zeros.
    """

    name: str
    content: bytes = field(repr=False)
    size: int


@dataclass(frozen=True)
class PeImage:
    """A PE image that parses.

    Attributes:
        sections: In the order of their headers.
        signatures: The PKCS #7 signatures in it, DER, unverified.
        hashed: The parts of the file that its hash covers, in order.
    """

    sections: tuple[PeSection, ...]
    signatures: tuple[bytes, ...] = field(repr=False)
    hashed: tuple[memoryview, ...] = field(repr=False)

    def digest(self, bank: str) -> bytes:
        """The Authenticode hash: what firmware extends for the image."""
        found = HASHES[bank](b"")
        for part in self.hashed:
            found.update(part)
        return bytes(found.digest())

    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The certificates that its signatures carry: claims, for no signature is verified here.

        Raises:
            MalformedError: A signature is no PKCS #7.
        """
        return tuple(
            certificate for signature in self.signatures for certificate in certificates_of(signature)
        )


def certificates_of(signature: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in a PKCS #7 signature.

    Raises:
        MalformedError: It is none in DER.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the library would go on to guess at BER
            return tuple(pkcs7.load_der_pkcs7_certificates(signature))
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, UserWarning) as error:
        raise MalformedError("PE image: a signature that is no PKCS #7 in DER") from error


def parse_pe(data: bytes, *, what: str = "PE image") -> PeImage:
    """Parses a PE image (PE32, PE32+).

    Args:
        data: The whole file.
        what: What to call it in errors.

    Raises:
        MalformedError: No PE image, over 512 MiB or 96 sections, truncated, sections that overlap, gaps between them
            that firmwares hash in different ways, certificates anywhere but at the end.
    """
    if len(data) > MAX_PE_BYTES:
        raise MalformedError(f"{what}: {len(data)} bytes, the limit is {MAX_PE_BYTES}")
    try:
        return _parse(data, what)
    except struct.error as error:
        raise MalformedError(f"{what}: truncated in its headers") from error


def _parse(data: bytes, what: str) -> PeImage:
    (start,) = _U32.unpack_from(data, _HEADER_POINTER)
    magic, _machine, count, size, _flags = _COFF.unpack_from(data, start)
    optional = start + _COFF.size
    directories = _DIRECTORIES.get(int.from_bytes(data[optional : optional + 2], "little"))
    if not data.startswith(b"MZ") or magic != b"PE\0\0" or directories is None:
        raise MalformedError(f"{what}: no PE image: expected MZ, PE and the magic of PE32 or PE32+")
    if not 1 <= count <= _MAX_SECTIONS:
        raise MalformedError(f"{what}: {count} sections, expected 1 to {_MAX_SECTIONS}")
    (headers,) = _U32.unpack_from(data, optional + _HEADERS_SIZE)
    (entries,) = _U32.unpack_from(data, optional + directories - 4)
    table = optional + directories + _DIRECTORY.size * _CERTIFICATE_TABLE
    sections = [_SECTION.unpack_from(data, optional + size + _SECTION.size * index) for index in range(count)]
    if entries <= _CERTIFICATE_TABLE or table + _DIRECTORY.size > optional + size:
        raise MalformedError(f"{what}: no entry for certificates in its headers")
    if not optional + size + _SECTION.size * count <= headers <= len(data):
        raise MalformedError(
            f"{what}: headers of {headers} bytes, expected them to hold {count} sections, in the file"
        )
    at, length = _DIRECTORY.unpack_from(data, table)
    end = len(data) - length
    if length and at != end:
        raise MalformedError(f"{what}: certificates at byte {at}, expected them at the end, at byte {end}")
    fixed = (optional + _CHECKSUM, table, headers)
    # First, for it refuses overlaps: 96 sections, each of the whole file, would be copied before.
    hashed = tuple(_hashed(memoryview(data)[:end], fixed, sections, what))
    return PeImage(
        sections=tuple(_sections(data, sections)),
        signatures=tuple(_signatures(data[end:], what)),
        hashed=hashed,
    )


_Header = tuple[bytes, int, int, int, int]


def _hashed(
    data: memoryview, fixed: tuple[int, int, int], sections: list[_Header], what: str
) -> Iterator[memoryview]:
    """All before the certificates, but the checksum and the entry for certificates."""
    checksum, table, place = fixed
    yield data[:checksum]
    yield data[checksum + _U32.size : table]
    yield data[table + _DIRECTORY.size : place]
    for start, size in sorted((start, size) for _, _, _, size, start in sections if size):
        # The specification sums up sizes and takes what follows for the rest: that fits if nothing lies between.
        if start != place:
            raise MalformedError(
                f"{what}: a section at byte {start} of the file, expected it at byte {place}"
            )
        place = start + size
        yield data[start:place]
    if place > len(data):
        raise MalformedError(f"{what}: sections end at byte {place}, expected {len(data)} or before")
    yield data[place:]


def _sections(data: bytes, sections: list[_Header]) -> Iterator[PeSection]:
    for name, virtual, _address, size, start in sections:
        content = data[start : start + min(size, virtual)]
        yield PeSection(name.rstrip(b"\0").decode("latin-1"), content, virtual)


def _signatures(table: bytes, what: str) -> Iterator[bytes]:
    """WIN_CERTIFICATE structures, each at a multiple of 8 bytes."""
    offset = 0
    while offset < len(table):
        if offset + _CERTIFICATE.size > len(table):
            raise MalformedError(f"{what}: certificates end in the middle of one")
        length, _revision, kind = _CERTIFICATE.unpack_from(table, offset)
        if not _CERTIFICATE.size < length <= len(table) - offset:
            raise MalformedError(
                f"{what}: a certificate says {length} bytes, {len(table) - offset} are left for it"
            )
        if kind == _PKCS7:
            yield _der(table[offset + _CERTIFICATE.size : offset + length])
        offset += -(-length // 8) * 8


def _der(data: bytes) -> bytes:
    """Without the padding: signers fill up to 8 bytes, and count them."""
    octets = data[1] & 0x7F if len(data) > 1 and data[1] > 0x80 else 0
    return data[: 2 + octets + int.from_bytes(data[2 : 2 + octets] or data[1:2], "big")]
