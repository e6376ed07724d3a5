"""EK certificates as manufacturers ship them (TCG EK Credential Profile for TPM Family 2.0, 2.6, 3).

`cryptography` reads DER and nothing else. Some manufacturers' certificates are not DER, in ways that are known: they are read
from the DER that they should have been, and verified (`ek_chain`) as the bytes that their issuer signed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import HashAlgorithm

from attestd.errors import MalformedError

__all__ = ["MAX_CERTIFICATE_BYTES", "QUIRKS", "EkCertificate", "parse_ek_certificate", "split_certificates"]

MAX_CERTIFICATE_BYTES: Final = 8 * 1024

# Everything that is tolerated, and nothing else is.
QUIRKS: Final = {
    "padding": "an NV index longer than its certificate, filled up with 0x00 or 0xff (STMicroelectronics: 1600 bytes)",
    "octet-string": "the certificate inside of an OCTET STRING",
    "unsorted-set": "the attributes of one RDN not in DER's order (Nuvoton: a whole name in one RDN)",
    "default-encoded": "an extension that says `critical FALSE`, the default, which DER leaves out (Intel)",
}

_SEQUENCE, _SET, _OCTET_STRING, _EXTENSIONS = 0x30, 0x31, 0x04, 0xA3
_EXTENSION_ERRORS: Final = (x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_T = TypeVar("_T")
_NOT_CRITICAL: Final = b"\x01\x01\x00"
_ISSUER, _SUBJECT = 2, 4  # in a TBSCertificate, counted from the serial number (RFC 5280, 4.1)


@dataclass(frozen=True)
class EkCertificate:
    """A certificate that parsed; nobody has verified it.

    Attributes:
        der: As its issuer signed it, which may not be quite DER.
        fields: What it says.
        quirks: In what it differs from DER or from a certificate alone: names of `QUIRKS`.
    """

    der: bytes
    fields: x509.Certificate
    quirks: tuple[str, ...]

    @cached_property
    def subject(self) -> bytes:
        """Whose it is, in DER."""
        return self._read(lambda: self.fields.subject).public_bytes()

    @cached_property
    def issuer(self) -> bytes:
        """Who issued it, in DER."""
        return self._read(lambda: self.fields.issuer).public_bytes()

    def is_issuer_of(self, other: "EkCertificate") -> bool:
        """Whether the other one names it as its issuer, by name and key identifier; the signature is not looked at.

        Raises:
            MalformedError: The extensions of one do not parse.
        """
        if self.subject != other.issuer:
            return False
        wanted, own = other.extension(x509.AuthorityKeyIdentifier), self.extension(x509.SubjectKeyIdentifier)
        if wanted is None or wanted.key_identifier is None or own is None:
            return True
        return wanted.key_identifier == own.digest

    def public_key(self) -> CertificatePublicKeyTypes:
        """The key.

        Raises:
            MalformedError: It does not parse.
        """
        return self._read(self.fields.public_key)

    def signature_hash(self) -> HashAlgorithm | None:
        """The hash of its issuer's signature; None for a kind of signature that has none of its own.

        Raises:
            MalformedError: The kind of signature is not known.
        """
        return self._read(lambda: self.fields.signature_hash_algorithm)

    def extension(self, kind: type[_Extension]) -> _Extension | None:
        """One of its extensions; None if it has it not.

        Raises:
            MalformedError: The extensions do not parse.
        """
        extensions = self._read(lambda: self.fields.extensions)
        try:
            return extensions.get_extension_for_class(kind).value
        except x509.ExtensionNotFound:
            return None

    def _read(self, part: Callable[[], _T]) -> _T:
        # A certificate's parts are parsed when they are asked for. TypeError: an attribute of a name as BIT STRING.
        try:
            return part()
        except (ValueError, TypeError, UnsupportedAlgorithm, *_EXTENSION_ERRORS) as error:
            raise MalformedError(f"certificate: {error}") from error


def parse_ek_certificate(data: bytes) -> EkCertificate:
    """Parses a certificate as it is in an NV index, or alone.

    Raises:
        MalformedError: Over 8 KiB, not a certificate, or one that differs from DER in a way that is not among `QUIRKS`.
    """
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise MalformedError(f"certificate: {len(data)} bytes, the limit is {MAX_CERTIFICATE_BYTES}")
    quirks: list[str] = []
    if data[:1] == bytes([_OCTET_STRING]):
        data = _content(_unpadded(data, _OCTET_STRING, quirks), _OCTET_STRING)
        quirks.append("octet-string")
    der = _unpadded(data, _SEQUENCE, quirks)
    try:
        fields = x509.load_der_x509_certificate(der)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        strict, found = _as_der(der)
        if not found:
            raise MalformedError(f"certificate: not X.509 in DER: {error}") from error
        quirks += found
        fields = _load(strict)
    return EkCertificate(der, fields, tuple(quirks))


def split_certificates(data: bytes) -> tuple[bytes, ...]:
    """Takes certificates apart that stand one after the other, as a TPM holds those of its EK's issuers.

    Args:
        data: The contents of NV indices 0x01c00100 to 0x01c001ff, joined; what is no certificate ends them.

    Raises:
        MalformedError: The last one is truncated.
    """
    found: list[bytes] = []
    while data[:1] == bytes([_SEQUENCE]):
        size = _size(data)
        found.append(data[:size])
        data = data[size:]
    return tuple(found)


def _load(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise MalformedError(f"certificate: not X.509: {error}") from error


def _unpadded(data: bytes, tag: int, quirks: list[str]) -> bytes:
    """One element of that tag, without the padding after it."""
    if data[:1] != bytes([tag]):
        raise MalformedError(
            f"certificate: expected DER with tag {tag:#04x}, found {data[:4].hex() or 'nothing'}"
        )
    size = _size(data)
    rest = data[size:]
    if rest.strip(b"\x00") and rest.strip(b"\xff"):
        raise MalformedError(f"certificate: {len(rest)} bytes after it are no padding of 0x00 or 0xff")
    if rest:
        quirks.append("padding")
    return data[:size]


def _size(data: bytes) -> int:
    """Of the DER element at the start, header included."""
    if len(data) < 2:
        raise MalformedError("certificate: truncated")
    size = 2 + data[1]
    if data[1] >= 0x80:
        octets = data[1] & 0x7F
        value = int.from_bytes(data[2 : 2 + octets], "big")
        # A length in more octets than it takes, or none at all, is no DER; lengths over two octets are over our limit.
        if octets not in (1, 2) or value < (0x80, 0x100)[octets - 1]:
            raise MalformedError(f"certificate: a length that is not DER: {data[:4].hex()}")
        size = 2 + octets + value
    if size > len(data):
        raise MalformedError(f"certificate: truncated: {size} bytes expected, {len(data)} found")
    return size


def _content(element: bytes, tag: int) -> bytes:
    if element[:1] != bytes([tag]):
        raise MalformedError(f"certificate: expected tag {tag:#04x}, found {element[:1].hex() or 'nothing'}")
    return element[2 + (element[1] & 0x7F if element[1] >= 0x80 else 0) :]


def _children(element: bytes, tag: int) -> list[bytes]:
    content, found = _content(element, tag), []
    while content:
        size = _size(content)
        found.append(content[:size])
        content = content[size:]
    return found


def _element(tag: int, children: list[bytes]) -> bytes:
    content = b"".join(children)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = 1 if size < 0x100 else 2
    return bytes([tag, 0x80 | octets]) + size.to_bytes(octets, "big") + content


def _as_der(der: bytes) -> tuple[bytes, list[str]]:
    """The certificate with what `QUIRKS` names undone, and which of them that were."""
    certificate = _children(der, _SEQUENCE)
    tbs = _children(certificate[0], _SEQUENCE) if certificate else []
    first = 1 if tbs and tbs[0][0] == 0xA0 else 0  # the version stands before the serial number, but for v1
    if len(tbs) <= first + _SUBJECT:
        raise MalformedError("certificate: not a certificate")
    quirks = []
    names = [first + _ISSUER, first + _SUBJECT]
    sorted_names = [_sorted_name(tbs[place]) for place in names]
    if sorted_names != [tbs[place] for place in names]:
        quirks.append("unsorted-set")
    for place, name in zip(names, sorted_names, strict=True):
        tbs[place] = name
    if tbs[-1][0] == _EXTENSIONS:
        extensions = _element(
            _EXTENSIONS, [_without_default(part) for part in _children(tbs[-1], _EXTENSIONS)]
        )
        if extensions != tbs[-1]:
            quirks.append("default-encoded")
        tbs[-1] = extensions
    return _element(_SEQUENCE, [_element(_SEQUENCE, tbs), *certificate[1:]]), quirks


def _sorted_name(name: bytes) -> bytes:
    rdns = [_element(_SET, sorted(_children(rdn, _SET))) for rdn in _children(name, _SEQUENCE)]
    return _element(_SEQUENCE, rdns)


def _without_default(extensions: bytes) -> bytes:
    parts = [_children(extension, _SEQUENCE) for extension in _children(extensions, _SEQUENCE)]
    kept = [[part[0], *part[2:]] if len(part) == 3 and part[1] == _NOT_CRITICAL else part for part in parts]
    return _element(_SEQUENCE, [_element(_SEQUENCE, part) for part in kept])
