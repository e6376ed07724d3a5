"""Signatures made by TPMs (TPM 2.0 Part 2, 11.3.4 TPMT_SIGNATURE) and their verification."""

import struct
from collections.abc import Callable
from functools import cache, partial
from typing import Final, TypeGuard

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from attestd.errors import MalformedError, VerificationError
from attestd.tcg._reader import Reader, sized
from attestd.tcg.algorithms import ALG_ECDSA, ALG_RSAPSS, ALG_RSASSA, HASH_IDS, HASH_NAMES, SIGNING_HASHES

__all__ = [
    "EcdsaSignature",
    "RsaSignature",
    "Signature",
    "VerifyingKey",
    "parse_signature",
]

VerifyingKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_HEAD: Final = struct.Struct(">HH")
_P256: Final = struct.Struct(">HHH32sH32s")
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}
_ECDSA: Final = {name: ec.ECDSA(algorithm) for name, algorithm in _HASHES.items()}
_CURVE_BYTES: Final = {256: 32, 384: 48}
_MAX_RSA_BYTES: Final = 512
_MIN_RSA_BITS: Final = 2048


class EcdsaSignature(msgspec.Struct, frozen=True, gc=False):
    """TPMS_SIGNATURE_ECDSA.

    Attributes:
        hash_alg: `sha256` or `sha384`.
        r: Big-endian, as the TPM wrote it: of the curve's size, or without its leading zeros.
        s: Likewise.
    """

    hash_alg: str
    r: bytes
    s: bytes

    def verify(self, public_key: VerifyingKey, message: bytes) -> None:
        """Verifies the signature over a message, which is hashed here.

        Raises:
            VerificationError: It does not verify, or the key is not ECC on P-256 or P-384.
        """
        try:
            self.prepare(public_key, message)()
        except InvalidSignature as error:
            raise VerificationError(f"the ECDSA-{self.hash_alg} signature does not verify") from error

    def prepare(self, public_key: VerifyingKey, message: bytes) -> Callable[[], None]:
        """All of `verify` but the computation.

        Returns:
            The computation. It raises `cryptography.exceptions.InvalidSignature` where the signature does not verify.

        Raises:
            VerificationError: The key is not ECC on P-256 or P-384.
        """
        if not _is_ecc(public_key):
            raise VerificationError("an ECDSA signature, but the key is not an ECC key")
        if max(len(self.r), len(self.s)) > _CURVE_BYTES.get(public_key.key_size, 0):
            raise VerificationError(f"an ECDSA signature larger than a {public_key.curve.name} key can make")
        return partial(public_key.verify, self.der(), message, _ECDSA[self.hash_alg])

    def der(self) -> bytes:
        """The signature as X.509 has it: a DER SEQUENCE of r and s."""
        r, s = _unsigned(self.r), _unsigned(self.s)
        return b"\x30%c\x02%c%b\x02%c%b" % (len(r) + len(s) + 4, len(r), r, len(s), s)

    def marshal(self) -> bytes:
        """The TPMT_SIGNATURE."""
        return _HEAD.pack(ALG_ECDSA, HASH_IDS[self.hash_alg]) + sized(self.r) + sized(self.s)


class RsaSignature(msgspec.Struct, frozen=True, gc=False):
    """TPMS_SIGNATURE_RSASSA or TPMS_SIGNATURE_RSAPSS.

    Attributes:
        hash_alg: `sha256` or `sha384`.
        pss: RSAPSS, else RSASSA (PKCS #1 v1.5).
        octets: The signature.
    """

    hash_alg: str
    pss: bool
    octets: bytes

    def verify(self, public_key: VerifyingKey, message: bytes) -> None:
        """Verifies the signature over a message, which is hashed here.

        Raises:
            VerificationError: It does not verify, or the key is not RSA of at least 2048 bits.
        """
        try:
            self.prepare(public_key, message)()
        except InvalidSignature as error:
            raise VerificationError(f"the RSA-{self.hash_alg} signature does not verify") from error

    def prepare(self, public_key: VerifyingKey, message: bytes) -> Callable[[], None]:
        """All of `verify` but the computation, as `EcdsaSignature.prepare`.

        Raises:
            VerificationError: The key is not RSA of at least 2048 bits.
        """
        if not isinstance(public_key, rsa.RSAPublicKey) or public_key.key_size < _MIN_RSA_BITS:
            raise VerificationError(
                f"an RSA signature, but the key is not RSA of {_MIN_RSA_BITS} bits or more"
            )
        algorithm = _HASHES[self.hash_alg]
        # TPMs differ in the salt's size (the digest's in FIPS mode, else the largest): the encoding tells it.
        pss = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=padding.PSS.AUTO)
        return partial(
            public_key.verify, self.octets, message, pss if self.pss else padding.PKCS1v15(), algorithm
        )


Signature = EcdsaSignature | RsaSignature


def _is_ecc(key: VerifyingKey) -> TypeGuard[ec.EllipticCurvePublicKey]:
    return _is_ecc_type(type(key))


@cache  # asking the abstract class about an instance takes a microsecond each time
def _is_ecc_type(kind: type[VerifyingKey]) -> bool:
    return issubclass(kind, ec.EllipticCurvePublicKey)


def parse_signature(data: bytes) -> Signature:
    """Parses a TPMT_SIGNATURE and nothing after it.

    Args:
        data: ECDSA, RSASSA or RSAPSS, with SHA-256 or SHA-384.

    Raises:
        MalformedError: Truncated, trailing bytes, another scheme or hash (SHA-1 among them), empty numbers.
    """
    if len(data) == _P256.size:  # nearly all that are ever seen
        scheme, hash_id, r_bytes, r, s_bytes, s = _P256.unpack(data)
        if (scheme, hash_id, r_bytes, s_bytes) == (ALG_ECDSA, HASH_IDS["sha256"], 32, 32):
            return EcdsaSignature("sha256", r, s)
    reader = Reader(data, "TPMT_SIGNATURE")
    scheme, hash_id = reader.unpack(_HEAD)
    hash_alg = HASH_NAMES.get(hash_id, "")
    if hash_alg not in SIGNING_HASHES:
        raise MalformedError(f"TPMT_SIGNATURE: hash {hash_id:#06x}, expected SHA-256 or SHA-384")
    signature: Signature
    if scheme == ALG_ECDSA:
        signature = EcdsaSignature(hash_alg, reader.sized(48), reader.sized(48))
        empty = not signature.r or not signature.s
    elif scheme in {ALG_RSASSA, ALG_RSAPSS}:
        signature = RsaSignature(hash_alg, scheme == ALG_RSAPSS, reader.sized(_MAX_RSA_BYTES))
        empty = not signature.octets
    else:
        raise MalformedError(f"TPMT_SIGNATURE: scheme {scheme:#06x}, expected ECDSA, RSASSA or RSAPSS")
    reader.end()
    if empty:
        raise MalformedError("TPMT_SIGNATURE: an empty signature")
    return signature


def _unsigned(value: bytes) -> bytes:
    """The contents of the DER INTEGER of a big-endian number (X.690, 8.3): minimal, and not to be read as negative."""
    minimal = value.lstrip(b"\0")
    return minimal if b"\0" < minimal < b"\x80" else b"\0" + minimal
