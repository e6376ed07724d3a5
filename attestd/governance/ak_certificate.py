"""X.509 certificates of attestation keys, for relying parties that know X.509 and no host records. Pure; keys come as values.

A host's name is a SPIFFE ID: `spiffe://<trust domain>/host/<host-id>`. What such a certificate says is what the enroller saw: EK
and attestation key in one TPM. Revocation, tier and validity in full stand in governance, where attestd itself looks.
"""

import re
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from attestd.errors import MalformedError, UsageError, VerificationError

__all__ = [
    "IssuerKey",
    "host_uri",
    "issue_ak_authority",
    "issue_ak_certificate",
    "parse_ak_certificate",
    "require_issuer",
]

IssuerKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

# SPIFFE ID, 2.1: of these letters, at most 255 bytes.
_TRUST_DOMAIN: Final = re.compile(r"\A[a-z0-9._-]{1,255}\Z")
_HOST: Final = re.compile(r"\A[0-9a-f]{64}\Z")
_AK_CERTIFICATE: Final = x509.ObjectIdentifier("2.23.133.8.3")  # tcg-kp-AIKCertificate
_SERIAL_BYTES: Final = 16


def host_uri(trust_domain: str, host: str) -> str:
    """A host's SPIFFE ID.

    Raises:
        UsageError: Not a trust domain, or not a host-id.
    """
    if not _TRUST_DOMAIN.match(trust_domain):
        raise UsageError(
            f"trust domain {trust_domain[:80]!r}: expected a name of a-z 0-9 . _ -, for example example.com"
        )
    if not _HOST.match(host):
        raise UsageError(f"host id {host[:80]!r}: expected 64 lower-case hex digits")
    return f"spiffe://{trust_domain}/host/{host}"


def issue_ak_authority(
    key: IssuerKey, *, trust_domain: str, serial: bytes, not_before: datetime, not_after: datetime
) -> bytes:
    """The self-signed certificate of an authority for attestation keys: in PEM, for relying parties.

    Args:
        key: Its own: P-256, P-384 or Ed25519.
        trust_domain: Whose hosts it names; no certificate of hosts elsewhere verifies under it.
        serial: 16 random bytes.
        not_before: Validity.
        not_after: Validity.

    Raises:
        UsageError: Not a trust domain, or the key or serial is of another kind.
    """
    host_uri(trust_domain, "0" * 64)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"attestd {trust_domain}"[:64])])
    public = key.public_key()
    builder = x509.CertificateBuilder(name, name, public, _serial(serial), not_before, not_after)
    domain = x509.UniformResourceIdentifier(
        trust_domain
    )  # RFC 5280, 4.2.1.10: of a URI, its host is constrained
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_usage(signs_certificates=True), True),
        (x509.NameConstraints([domain], None), True),
        (x509.SubjectKeyIdentifier.from_public_key(public), False),
    ]
    return _sign(builder, extensions, key)


def issue_ak_certificate(
    ak: ec.EllipticCurvePublicKey,
    *,
    host: str,
    trust_domain: str,
    authority: x509.Certificate,
    key: IssuerKey,
    serial: bytes,
    not_before: datetime,
    not_after: datetime,
) -> bytes:
    """The certificate of a host's attestation key, in PEM.

    Args:
        ak: The key, shown to be in the host's TPM.
        host: The host-id.
        trust_domain: Of the authority.
        authority: Its certificate (`issue_ak_authority`).
        key: Its key.
        serial: 16 random bytes.
        not_before: Validity: the authority's at the longest.
        not_after: Likewise.

    Raises:
        UsageError: The key is not the authority's, or the names or the serial are of another kind.
    """
    require_issuer(authority, key)
    uri = x509.UniformResourceIdentifier(host_uri(trust_domain, host))
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    starts = max(not_before, authority.not_valid_before_utc)
    ends = min(not_after, authority.not_valid_after_utc)
    if ends <= starts:
        raise UsageError(f"the AK authority's certificate ended at {ends.isoformat()}: make it a new one")
    builder = x509.CertificateBuilder(authority.subject, subject, ak, _serial(serial), starts, ends)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage([_AK_CERTIFICATE]), False),
        (x509.SubjectAlternativeName([uri]), False),
        (x509.SubjectKeyIdentifier.from_public_key(ak), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False),
    ]
    return _sign(builder, extensions, key)


def parse_ak_certificate(pem: str, *, ak: PublicKeyTypes, host: str) -> x509.Certificate:
    """Reads a certificate that an enroller sent: of this attestation key, in the name of this host.

    Does not verify its signature: whether to believe its authority is for relying parties.

    Raises:
        MalformedError: It is no certificate.
        VerificationError: It is of another key or another host.
    """
    what = "certificate of the attestation key"
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
        key = certificate.public_key()
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
        raise MalformedError(f"{what}: {error}") from error
    if key != ak:
        raise VerificationError(f"{what}: it is of another key than this host's")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or not (uris[0].startswith("spiffe://") and uris[0].endswith(f"/host/{host}")):
        raise VerificationError(f"{what}: it names {', '.join(uris) or 'nobody'}, this is host {host}")
    return certificate


def require_issuer(authority: x509.Certificate, key: IssuerKey) -> None:
    """Checks that a key is that of an authority's certificate.

    Raises:
        UsageError: It is another one.
        MalformedError: The certificate's key does not parse.
    """
    try:
        certified = authority.public_key()
    except ValueError as error:
        raise MalformedError(f"the AK authority's certificate: {error}") from error
    if certified != key.public_key():
        raise UsageError("the AK authority's key and certificate do not belong together")


def _serial(octets: bytes) -> int:
    if len(octets) != _SERIAL_BYTES:
        raise UsageError(f"a serial number of {len(octets)} bytes, expected {_SERIAL_BYTES}")
    return 1 + int.from_bytes(octets, "big")


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(
    builder: x509.CertificateBuilder, extensions: list[tuple[x509.ExtensionType, bool]], key: IssuerKey
) -> bytes:
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    algorithm: SHA256 | SHA384 | None = None  # Ed25519 has its own
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = SHA384() if key.key_size > 256 else SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)
