"""Verification of an endorsement key's certificate chain (RFC 5280, 6; TCG EK Credential Profile for TPM Family 2.0, 2.6, 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from OpenSSL import crypto

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.tcg.ek_anchors import MAX_CERTIFICATES, EkAnchors, require_authority
from attestd.tcg.ek_certificate import EkCertificate, parse_ek_certificate
from attestd.tcg.public import Public

__all__ = ["VerifiedEkChain", "verify_ek_chain"]

_EK_CERTIFICATE: Final = x509.ObjectIdentifier("2.23.133.8.1")  # tcg-kp-EKCertificate
_HASHES: Final = (SHA256, SHA384, SHA512)


@dataclass(frozen=True)
class VerifiedEkChain:
    """A chain that verified. Only `verify_ek_chain` makes one.

    Attributes:
        root: The name of the root that vouches for it.
        path: The certificates from the EK's to the root's, as their issuers signed them.
        quirks: In what they differ from DER: names of `ek_certificate.QUIRKS`.
    """

    root: str
    path: tuple[bytes, ...]
    quirks: tuple[str, ...]


def verify_ek_chain(
    certificates: Sequence[bytes], *, ek: Public, anchors: EkAnchors, now: datetime
) -> VerifiedEkChain:
    """Verifies that a manufacturer, or a platform's operator, vouches for an endorsement key.

    1. At most eight certificates, each of which parses, the EK's own first.
    2. The first one is for the key in this public area.
    3. It is an EK certificate: version 3, no CA, extended key usage 2.23.133.8.1, key usage as its kind of key is used.
    4. There is a path of valid signatures from it to one of the roots, each certificate in time, each issuer a CA that may issue
       so far down, no unknown critical extension (OpenSSL's `X509_verify_cert`).
    5. Each issuer is a CA by its basicConstraints and signs certificates by its key usage; no signature by SHA-1, no key
       below RSA 2048 or P-256.

    Does not check revocation by the issuer (nothing is fetched), nor what subjectAltName says of the TPM's model.

    Args:
        certificates: As the host showed them: the EK's, then issuers in any order.
        ek: The EK's public area.
        anchors: Roots and intermediates that governance names.
        now: At which time the certificates are judged.

    Raises:
        MalformedError: A certificate does not parse, or there are too many.
        VerificationError: One of the checks fails; the message says which certificate and why.
        UsageError: There is no root, or the time is naive.
    """
    if not anchors.roots:
        raise UsageError("no root to verify EK certificates by: governance names none in ek-roots/index.json")
    if now.tzinfo is None:
        raise UsageError(f"time {now.isoformat()}: expected an aware time")
    if not certificates:
        raise VerificationError("the EK has no certificate")
    if len(certificates) > MAX_CERTIFICATES:
        raise MalformedError(f"{len(certificates)} certificates, the limit is {MAX_CERTIFICATES}")
    shown = [parse_ek_certificate(data) for data in certificates]  # 1
    leaf = shown[0]
    _require_key(leaf, ek)  # 2
    _require_ek_certificate(leaf)  # 3
    path = _path(leaf, [*shown[1:], *anchors.between(shown)], anchors, now)  # 4
    for number, certificate in enumerate(path):  # 5
        if number:
            require_authority(certificate, f"certificate {number}")
        if number < len(path) - 1:  # the root's signature on itself says nothing
            _require_strong_signature(certificate, f"certificate {number}")
    name = next(name for name, roots in anchors.roots.items() if path[-1].der in [root.der for root in roots])
    quirks = dict.fromkeys(quirk for certificate in (*shown, *path) for quirk in certificate.quirks)
    return VerifiedEkChain(name, tuple(certificate.der for certificate in path), tuple(quirks))


def _require_key(leaf: EkCertificate, ek: Public) -> None:
    certified, key = leaf.public_key(), ek.public_key()
    if type(certified) is not type(key):
        kinds = type(certified).__name__, type(key).__name__
        raise VerificationError(
            f"the EK's certificate is for a key of another kind: {kinds[0]}, the EK is {kinds[1]}"
        )
    if certified != key:
        raise VerificationError("the EK's certificate is for another key than the EK")


def _require_ek_certificate(leaf: EkCertificate) -> None:
    what = "the EK's certificate"
    if leaf.fields.version is not x509.Version.v3:
        raise VerificationError(f"{what} is of version {leaf.fields.version.name}, expected v3")
    constraints = leaf.extension(x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise VerificationError(f"{what} is a CA's")
    purposes = leaf.extension(x509.ExtendedKeyUsage)
    if purposes is None or _EK_CERTIFICATE not in list(purposes):
        raise VerificationError(f"{what} is for no endorsement key: no extended key usage 2.23.133.8.1")
    usage = leaf.extension(x509.KeyUsage)
    is_rsa = isinstance(leaf.public_key(), rsa.RSAPublicKey)
    wanted = "key_encipherment" if is_rsa else "key_agreement"
    if usage is None or not getattr(usage, wanted):
        raise VerificationError(f"{what}: expected key usage {wanted.replace('_', ' ')}")
    if usage.key_cert_sign:
        raise VerificationError(f"{what}: its key usage lets the key issue certificates")


def _path(
    leaf: EkCertificate, others: Sequence[EkCertificate], anchors: EkAnchors, now: datetime
) -> list[EkCertificate]:
    # Of two roots of one name, OpenSSL takes the first: it gets the one that the key identifiers mean.
    issued = (leaf, *others)
    store = crypto.X509Store()
    store.set_time(now.astimezone(UTC))
    for root in anchors.all_roots:
        if any(map(root.is_issuer_of, issued)):
            store.add_cert(_openssl(root))
    context = crypto.X509StoreContext(store, _openssl(leaf), list(map(_openssl, others)))
    try:
        found = context.get_verified_chain()
    except crypto.X509StoreContextError as error:
        _, depth, message = error.errors
        which = f"certificate {depth}" if depth else "the EK's own"
        raise VerificationError(
            f"the EK's certificate chain does not verify at {now:%Y-%m-%d}: {which}: {message}"
        ) from error
    return [parse_ek_certificate(crypto.dump_certificate(crypto.FILETYPE_ASN1, one)) for one in found]


def _openssl(certificate: EkCertificate) -> crypto.X509:
    try:
        return crypto.load_certificate(crypto.FILETYPE_ASN1, certificate.der)
    except crypto.Error as error:
        raise MalformedError(f"certificate: OpenSSL does not read it: {error}") from error


def _require_strong_signature(certificate: EkCertificate, what: str) -> None:
    algorithm = certificate.signature_hash()
    if not isinstance(algorithm, _HASHES):
        found = "no hash of its own" if algorithm is None else algorithm.name
        raise VerificationError(f"{what} is signed with {found}: expected SHA-256, SHA-384 or SHA-512")
