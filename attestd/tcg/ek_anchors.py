"""What chains of EK certificates may end in: manufacturers' roots, and what leads there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestd.errors import VerificationError
from attestd.tcg.ek_certificate import EkCertificate

__all__ = ["MAX_CERTIFICATES", "EkAnchors", "require_authority"]

MAX_CERTIFICATES: Final = 8  # that a host may show; of manufacturers' chains none is longer than four
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_MIN_RSA_BITS: Final = 2048


@dataclass(frozen=True)
class EkAnchors:
    """What is believed, and what helps to get there.

    Attributes:
        roots: Self-issued certificates that are believed, by a name of ours.
        intermediates: Certificates that are believed only as far as a root vouches for them.
    """

    roots: Mapping[str, tuple[EkCertificate, ...]]
    intermediates: tuple[EkCertificate, ...]

    @cached_property
    def all_roots(self) -> tuple[EkCertificate, ...]:
        """Whatever their name."""
        return tuple(root for roots in self.roots.values() for root in roots)

    @cached_property
    def _by_subject(self) -> Mapping[bytes, tuple[EkCertificate, ...]]:
        found: dict[bytes, tuple[EkCertificate, ...]] = {}
        for certificate in self.intermediates:
            found[certificate.subject] = (*found.get(certificate.subject, ()), certificate)
        return found

    def between(self, shown: Sequence[EkCertificate]) -> tuple[EkCertificate, ...]:
        """The intermediates that may lead from certificates that a host showed to a root: of hundreds, two."""
        found: dict[bytes, EkCertificate] = {}
        waiting = list(shown)
        while waiting and len(found) < MAX_CERTIFICATES:
            issued = waiting.pop(0)
            for certificate in self._by_subject.get(issued.issuer, ()):
                if certificate.der not in found and certificate.is_issuer_of(issued):
                    found[certificate.der] = certificate
                    waiting.append(certificate)
        return tuple(found.values())[:MAX_CERTIFICATES]


def require_authority(certificate: EkCertificate, what: str) -> None:
    """Checks that a certificate is one of a CA, with a key that is strong enough.

    Args:
        certificate: The issuer's.
        what: Names it in errors.

    Raises:
        MalformedError: Its key or extensions do not parse.
        VerificationError: It is not.
    """
    constraints, usage = certificate.extension(x509.BasicConstraints), certificate.extension(x509.KeyUsage)
    if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
        raise VerificationError(f"{what} is not a CA's: basicConstraints or key usage do not let it issue")
    key = certificate.public_key()
    if not (
        (isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS)
        or (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES))
    ):
        raise VerificationError(f"{what}: its key is weak: expected RSA of 2048 bits, or P-256, P-384, P-521")
