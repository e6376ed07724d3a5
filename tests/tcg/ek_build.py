"""A manufacturer for tests: CAs, EK certificates, and certificates that are not quite DER, as some are shipped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from tests.tcg import build

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FROM, UNTIL = datetime(2020, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)
EK_PURPOSE = x509.ObjectIdentifier("2.23.133.8.1")
USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip

Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
P256, RSA = build.key(31), rsa.generate_private_key(65537, 2048)


def usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in names for name in USAGES})


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


# What a CA and an EK certificate have; a test leaves one out, or puts another there.
CA_EXTENSIONS: dict[str, tuple[x509.ExtensionType, bool]] = {
    "constraints": (x509.BasicConstraints(ca=True, path_length=None), True),
    "usage": (usage("key_cert_sign", "crl_sign"), True),
}
TPM_NAME = x509.Name(
    [
        x509.NameAttribute(x509.ObjectIdentifier(f"2.23.133.2.{number}"), text)
        for number, text in ((1, "id:00001014"), (2, "model"), (3, "id:00000001"))
    ]
)
EK_EXTENSIONS: dict[str, tuple[x509.ExtensionType, bool]] = {
    "constraints": (x509.BasicConstraints(ca=False, path_length=None), True),
    "purpose": (x509.ExtendedKeyUsage([EK_PURPOSE]), False),
    "name": (x509.SubjectAlternativeName([x509.DirectoryName(TPM_NAME)]), True),
}
EK_USAGE = {
    ec.SECP256R1: usage("key_agreement"),
    rsa.RSAPrivateKey: usage("key_encipherment"),
}


@dataclass(frozen=True)
class Authority:
    """A CA with its certificate."""

    name: x509.Name
    key: Private
    certificate: bytes

    @classmethod
    def root(cls, name: str | x509.Name = "root", key: Private | None = None, **changes: Any) -> "Authority":
        key = key or build.key(1 + sum(str(name).encode()))
        subject = named(name) if isinstance(name, str) else name
        return cls(subject, key, issue(subject, key, subject, key, CA_EXTENSIONS, **changes))

    def authority(self, name: str, key: Private | None = None, **changes: Any) -> "Authority":
        """One below it."""
        key = key or build.key(1 + sum(name.encode()))
        return Authority(
            named(name), key, issue(named(name), key, self.name, self.key, CA_EXTENSIONS, **changes)
        )

    def ek(self, key: Private = P256, *, subject: x509.Name | None = None, **changes: Any) -> bytes:
        """An EK certificate."""
        wanted = usage("key_encipherment" if isinstance(key, rsa.RSAPrivateKey) else "key_agreement")
        extensions = EK_EXTENSIONS | {"usage": (wanted, True)}
        return issue(subject or x509.Name([]), key, self.name, self.key, extensions, **changes)


def issue(
    subject: x509.Name,
    key: Any,
    issuer: x509.Name,
    by: Private,
    extensions: dict[str, tuple[x509.ExtensionType, bool]],
    *,
    start: datetime = FROM,
    end: datetime = UNTIL,
    hash_alg: HashAlgorithm | None = None,
    without: Sequence[str] = (),
    with_: dict[str, tuple[x509.ExtensionType, bool]] | None = None,
) -> bytes:
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), 4711, start, end)
    identifiers: dict[str, tuple[x509.ExtensionType, bool]] = {
        "key id": (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        "issuer's key id": (x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), False),
    }
    for name, (extension, critical) in (identifiers | extensions | (with_ or {})).items():
        if name not in without:
            builder = builder.add_extension(extension, critical)
    return builder.sign(by, hash_alg or SHA256()).public_bytes(Encoding.DER)


# --- not quite DER -------------------------------------------------------------------------------------------------


def der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def parts(element: bytes) -> list[bytes]:
    """What a constructed element is made of."""
    content, found = element[header(element) :], []
    while content:
        size = header(content) + length(content)
        found.append(content[:size])
        content = content[size:]
    return found


def header(element: bytes) -> int:
    return 2 + (element[1] & 0x7F if element[1] & 0x80 else 0)


def length(element: bytes) -> int:
    return int.from_bytes(element[2 : header(element)], "big") if element[1] & 0x80 else element[1]


def resigned(certificate: bytes, by: Private, edit: Callable[[list[bytes]], None]) -> bytes:
    """The certificate with its TBSCertificate's parts edited, and signed as it is then."""
    tbs, algorithm, _ = parts(certificate)
    fields = parts(tbs)
    edit(fields)
    tbs = der(0x30, *fields)
    scheme: Any = (
        (ec.ECDSA(SHA256()),)
        if isinstance(by, ec.EllipticCurvePrivateKey)
        else (padding.PKCS1v15(), SHA256())
    )
    return der(0x30, tbs, algorithm, der(0x03, b"\0", by.sign(tbs, *scheme)))


def one_rdn(text: str) -> x509.Name:
    """A name all in one RDN, as Nuvoton's."""
    return x509.Name(
        [
            x509.RelativeDistinguishedName(
                [
                    x509.NameAttribute(x509.NameOID.COMMON_NAME, text),
                    x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Maker"),
                    x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "TW"),
                ]
            )
        ]
    )


def unsorted(name: bytes) -> bytes:
    """Its attributes in the wrong order."""
    return der(0x30, *(der(0x31, *reversed(parts(rdn))) for rdn in parts(name)))


def unsort_names(fields: list[bytes]) -> None:
    fields[3], fields[5] = unsorted(fields[3]), unsorted(fields[5])


def say_not_critical(fields: list[bytes]) -> None:
    """Each extension that is not critical says so."""
    [sequence] = parts(fields[-1])
    extensions = [parts(extension) for extension in parts(sequence)]
    said = [[part[0], b"\1\1\0", part[1]] if len(part) == 2 else part for part in extensions]
    fields[-1] = der(0xA3, der(0x30, *(der(0x30, *part) for part in said)))
