"""Public areas of TPM keys and their Names (TPM 2.0 Part 2, 12.2 TPMT_PUBLIC; Part 1, 16 Names).

A Name is the hash of the whole public area: whoever compares Names, or whole areas, has compared type,
attributes, policy and key at once.
"""

import hashlib
import struct
from dataclasses import dataclass
from enum import IntFlag
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.tcg._reader import Reader, sized
from attestd.tcg.algorithms import (
    ALG_AES,
    ALG_ECC,
    ALG_ECDSA,
    ALG_NULL,
    ALG_OAEP,
    ALG_RSA,
    ALG_RSAES,
    ALG_RSAPSS,
    ALG_RSASSA,
    HASH_IDS,
    HASH_NAMES,
    HASH_SIZES,
    SIGNING_HASHES,
    digest,
)

__all__ = [
    "Attribute",
    "Public",
    "attestation_key_template",
    "authority_name",
    "authority_public",
    "host_id",
    "parse_public",
    "release_key_template",
    "require_attestation_key",
    "require_release_key",
]

_CURVES: Final[dict[int, type[ec.EllipticCurve]]] = {0x0003: ec.SECP256R1, 0x0004: ec.SECP384R1}
_CURVE_BYTES: Final = {0x0003: 32, 0x0004: 48}
_RSA_BITS: Final = frozenset({2048, 3072, 4096})
_RSA_EXPONENT: Final = 65537

_HEAD: Final = struct.Struct(">HHI")
_TWO_U16: Final = struct.Struct(">HH")
_RSA_KEY: Final = struct.Struct(">HI")


class Attribute(IntFlag):
    """TPMA_OBJECT (TPM 2.0 Part 2, 8.3)."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    NO_DA = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18
    X509_SIGN = 1 << 19


_ALL_ATTRIBUTES: Final = sum(Attribute)
_CREATED_INSIDE: Final = Attribute.FIXED_TPM | Attribute.FIXED_PARENT | Attribute.SENSITIVE_DATA_ORIGIN
_RELEASE_KEY: Final = _CREATED_INSIDE | Attribute.SIGN | Attribute.NO_DA
_ATTESTATION_KEY: Final = _RELEASE_KEY | Attribute.USER_WITH_AUTH | Attribute.RESTRICTED
_AUTHORITY: Final = Attribute.USER_WITH_AUTH | Attribute.SIGN

# TPMS_ECC_PARMS: symmetric NULL, scheme, curve P-256, kdf NULL.
_P256_ECDSA_SHA256: Final = struct.pack(">HHHHH", ALG_NULL, ALG_ECDSA, HASH_IDS["sha256"], 0x0003, ALG_NULL)
_P256_ANY_SCHEME: Final = struct.pack(">HHHH", ALG_NULL, ALG_NULL, 0x0003, ALG_NULL)


@dataclass(frozen=True, slots=True)
class Public:
    """A parsed TPMT_PUBLIC. What it says of the key is believed only once its Name is certified.

    Attributes:
        raw: The bytes that were parsed; the Name is computed over them.
        key_type: TPM_ALG_RSA or TPM_ALG_ECC.
        name_alg: The hash of the Name: `sha256` or `sha384`.
        attributes: TPMA_OBJECT.
        auth_policy: The policy digest, or empty.
        parameters: TPMU_PUBLIC_PARMS as marshalled: symmetric, scheme, curve and kdf, or key bits and exponent.
        unique: The ECC point (x, y) or the RSA modulus (n,), big-endian.
    """

    raw: bytes
    key_type: int
    name_alg: str
    attributes: Attribute
    auth_policy: bytes
    parameters: bytes
    unique: tuple[bytes, ...]

    @property
    def name(self) -> bytes:
        """The Name: nameAlg and the digest of the public area."""
        return struct.pack(">H", HASH_IDS[self.name_alg]) + digest(self.name_alg, self.raw)

    @property
    def identity(self) -> tuple[int, ...]:
        """Which key it is, whatever else the area says of it and however its numbers are padded."""
        return self.key_type, *(int.from_bytes(number, "big") for number in self.unique)

    def public_key(self) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
        """Loads the key; do it once for many verifications.

        Raises:
            MalformedError: The point is not on its curve.
        """
        numbers = [int.from_bytes(number, "big") for number in self.unique]
        try:
            if self.key_type == ALG_RSA:
                return rsa.RSAPublicNumbers(_RSA_EXPONENT, numbers[0]).public_key()
            curve = _CURVES[_curve_id(self.parameters)]()
            return ec.EllipticCurvePublicNumbers(numbers[0], numbers[1], curve).public_key()
        except ValueError as error:
            raise MalformedError(f"TPMT_PUBLIC: not a public key: {error}") from error


def _curve_id(parameters: bytes) -> int:
    return int.from_bytes(parameters[-4:-2], "big")  # the kdf, after it, is NULL: `_read_ecc` checked


def parse_public(data: bytes) -> Public:
    """Parses a TPMT_PUBLIC (without the TPM2B's size) and nothing after it.

    Args:
        data: ECC on P-256 or P-384, or RSA with 2048, 3072 or 4096 bits and exponent 65537.

    Raises:
        MalformedError: Truncated, trailing bytes, another type, curve, size or exponent, an unknown or SHA-1
            nameAlg, unknown attributes, a policy that is not a digest. That the point lies on its curve
            is checked by `Public.public_key`.
    """
    reader = Reader(data, "TPMT_PUBLIC")
    key_type, name_alg_id, attributes = reader.unpack(_HEAD)
    if key_type not in _READERS:
        raise MalformedError(f"TPMT_PUBLIC: type {key_type:#06x}, expected an ECC or RSA key")
    name_alg = HASH_NAMES.get(name_alg_id, "")
    if name_alg not in SIGNING_HASHES:
        raise MalformedError(f"TPMT_PUBLIC: nameAlg {name_alg_id:#06x}, expected SHA-256 or SHA-384")
    if attributes & ~_ALL_ATTRIBUTES:
        raise MalformedError(f"TPMT_PUBLIC: attributes {attributes:#010x} with reserved bits")
    auth_policy = reader.sized(HASH_SIZES[name_alg])
    if len(auth_policy) not in {0, HASH_SIZES[name_alg]}:
        raise MalformedError(
            f"TPMT_PUBLIC: authPolicy of {len(auth_policy)} bytes is not a {name_alg} digest"
        )
    start = reader.offset
    end, unique = _READERS[key_type](reader)
    reader.end()
    return Public(data, key_type, name_alg, Attribute(attributes), auth_policy, data[start:end], unique)


def _read_ecc(reader: Reader) -> tuple[int, tuple[bytes, ...]]:
    _read_symmetric(reader)
    _read_scheme(reader, with_hash=frozenset({ALG_ECDSA}))
    curve, kdf = reader.unpack(_TWO_U16)
    if curve not in _CURVES or kdf != ALG_NULL:
        raise MalformedError(
            f"TPMT_PUBLIC: curve {curve:#06x}, kdf {kdf:#06x}: expected P-256 or P-384, no kdf"
        )
    end = reader.offset
    return end, (reader.sized(_CURVE_BYTES[curve]), reader.sized(_CURVE_BYTES[curve]))


def _read_rsa(reader: Reader) -> tuple[int, tuple[bytes, ...]]:
    _read_symmetric(reader)
    _read_scheme(reader, with_hash=frozenset({ALG_RSASSA, ALG_RSAPSS, ALG_OAEP}), without=ALG_RSAES)
    bits, exponent = reader.unpack(_RSA_KEY)
    if bits not in _RSA_BITS or exponent not in {0, _RSA_EXPONENT}:  # 0 stands for the default, 65537
        raise MalformedError(f"TPMT_PUBLIC: RSA with {bits} bits, exponent {exponent}")
    end = reader.offset
    modulus = reader.sized(bits // 8)
    if len(modulus) != bits // 8 or not modulus[0] & 0x80 or not modulus[-1] & 1:
        raise MalformedError(f"TPMT_PUBLIC: the modulus is not an odd number of {bits} bits")
    return end, (modulus,)


def _read_symmetric(reader: Reader) -> None:
    """TPMT_SYM_DEF_OBJECT: storage keys (EKs) have AES, signing keys none."""
    algorithm = reader.u16()
    if algorithm == ALG_AES:
        reader.unpack(_TWO_U16)  # key bits and mode: bound by the Name, of no consequence to a verifier
    elif algorithm != ALG_NULL:
        raise MalformedError(f"TPMT_PUBLIC: symmetric algorithm {algorithm:#06x}, expected AES or none")


def _read_scheme(reader: Reader, *, with_hash: frozenset[int], without: int = ALG_NULL) -> None:
    scheme = reader.u16()
    if scheme in with_hash:
        hash_id = reader.u16()
        if HASH_NAMES.get(hash_id) not in SIGNING_HASHES:
            raise MalformedError(f"TPMT_PUBLIC: scheme hash {hash_id:#06x}, expected SHA-256 or SHA-384")
    elif scheme not in {ALG_NULL, without}:
        raise MalformedError(f"TPMT_PUBLIC: scheme {scheme:#06x} is not one of this key type")


_READERS: Final = {ALG_ECC: _read_ecc, ALG_RSA: _read_rsa}


def host_id(ek_public: bytes) -> str:
    """A host's identity: SHA-256 of its EK's public area, in hex; never chosen.

    Does not check that the area is the one that the TPM made: credential activation proves the key alone, and an
    area with another policy around the same key is another id. An enroller compares the area with the templates
    it knows, and admits a key (SPKI) once.

    Args:
        ek_public: TPMT_PUBLIC; a TPM2B_PUBLIC does not parse.

    Raises:
        MalformedError: As `parse_public`.
    """
    return hashlib.sha256(parse_public(ek_public).raw).hexdigest()


def authority_public(key: ec.EllipticCurvePublicKey) -> bytes:
    """The TPMT_PUBLIC under which a TPM knows an authority (TPM2_LoadExternal).

    nameAlg SHA-256, `userWithAuth|sign`, scheme, symmetric and kdf NULL: frozen, for its Name is in policies.

    Raises:
        UsageError: Not a P-256 key.
    """
    if not isinstance(key.curve, ec.SECP256R1):
        raise UsageError(f"an authority on {key.curve.name}: TPMs verify P-256 everywhere, nothing better")
    point = key.public_numbers()
    unique = sized(point.x.to_bytes(32, "big")) + sized(point.y.to_bytes(32, "big"))
    return _ecc_head(_AUTHORITY, b"", _P256_ANY_SCHEME) + unique


def authority_name(key: ec.EllipticCurvePublicKey) -> bytes:
    """The Name of an authority's key, as policies hold it.

    Raises:
        UsageError: Not a P-256 key.
    """
    return parse_public(authority_public(key)).name


def attestation_key_template() -> bytes:
    """The TPMT_PUBLIC, with an empty point, that an attestation key is created from."""
    return _ecc_head(_ATTESTATION_KEY, b"", _P256_ECDSA_SHA256) + sized(b"") * 2


def release_key_template(auth_policy: bytes) -> bytes:
    """The TPMT_PUBLIC, with an empty point, that a release key is created from.

    `userWithAuth` is clear: the policy is the only way to sign. Certifying it takes its auth value.

    Args:
        auth_policy: `policy.release_policy` of the root authority, 32 bytes.

    Raises:
        UsageError: Not a SHA-256 digest.
    """
    if len(auth_policy) != 32:
        raise UsageError(f"authPolicy of {len(auth_policy)} bytes: a release key has a SHA-256 policy")
    return _ecc_head(_RELEASE_KEY, auth_policy, _P256_ECDSA_SHA256) + sized(b"") * 2


def require_attestation_key(public: Public) -> None:
    """Checks that a key is an attestation key: restricted, so that it signs only what the TPM itself made.

    Does not check that the key lives in a TPM: that is credential activation, or a certification.

    Raises:
        VerificationError: Anything but the point differs from `attestation_key_template`.
    """
    _require(public, attestation_key_template(), "attestation key")


def require_release_key(public: Public, *, auth_policy: bytes) -> None:
    """Checks that a key is a release key under this policy: it signs in approved states, and else not at all.

    Does not check that the key lives in a TPM: verify the certification of its Name by an attestation key.

    Args:
        public: The key's public area.
        auth_policy: `policy.release_policy` of the root authority.

    Raises:
        VerificationError: Anything but the point differs from `release_key_template`.
        UsageError: `auth_policy` is not a SHA-256 digest.
    """
    _require(public, release_key_template(auth_policy), "release key")


def _ecc_head(attributes: Attribute, auth_policy: bytes, parameters: bytes) -> bytes:
    return _HEAD.pack(ALG_ECC, HASH_IDS["sha256"], attributes) + sized(auth_policy) + parameters


@lru_cache(maxsize=8)
def _template(data: bytes) -> Public:
    return parse_public(data)


def _require(public: Public, template: bytes, what: str) -> None:
    expected = _template(template)
    for field in ("key_type", "name_alg", "attributes", "auth_policy", "parameters"):
        found, wanted = getattr(public, field), getattr(expected, field)
        if found != wanted:
            raise VerificationError(
                f"not an acceptable {what}: {field} {_show(found)}, expected {_show(wanted)}"
            )


def _show(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex() or "empty"
    return f"{value:#010x}" if isinstance(value, int) else str(value)
