"""Signatures in `security.ima`, as templates `ima-sig` and `ima-modsig` carry them (Linux, integrity/digsig_asymmetric.c)."""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from attestd.errors import MalformedError, VerificationError
from attestd.tcg.ima.entry import ImaEntry

__all__ = ["ImaKey", "UntrustedImaSignature", "parse_ima_signature", "verify_ima_signature"]

ImaKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_HEAD: Final = struct.Struct(">BBBIH")
_DIGSIG: Final = 0x03  # EVM_IMA_XATTR_DIGSIG: over the file's digest
_VERITY: Final = 0x06  # IMA_VERITY_DIGSIG: over the hash of ima_file_id, which names digest type and hash
_KIND_VERSION: Final = {_DIGSIG: 2, _VERITY: 3}
_DIGEST_TYPES: Final = {_DIGSIG: "ima", _VERITY: "verity"}
_MIN_RSA_BITS: Final = 2048
# enum hash_algo; SHA-1 and older are not accepted for signatures.
_HASHES: Final[dict[int, tuple[str, type[hashes.HashAlgorithm]]]] = {
    4: ("sha256", hashes.SHA256),
    5: ("sha384", hashes.SHA384),
    6: ("sha512", hashes.SHA512),
}


@dataclass(frozen=True)
class UntrustedImaSignature:
    """A signature_v2_hdr.

    Attributes:
        kind: 3: over the digest; 6: over the hash of the digest with its type.
        algorithm: Of the digest that is signed.
        key_id: The last four bytes of the key's SHA-1 id: a hint, chosen by who wrote the file.
    """

    kind: int
    algorithm: str
    key_id: int
    signature: bytes


def parse_ima_signature(data: bytes) -> UntrustedImaSignature:
    """Parses the `sig` field.

    Raises:
        MalformedError: Not a version 2 or 3 signature by SHA-256, SHA-384 or SHA-512, or other lengths than it says.
    """
    what = "IMA signature"
    try:
        kind, version, hash_, key_id, size = _HEAD.unpack_from(data)
    except struct.error as error:
        raise MalformedError(f"{what}: truncated") from error
    if _KIND_VERSION.get(kind) != version or hash_ not in _HASHES:
        raise MalformedError(
            f"{what}: type {kind}, version {version}, hash {hash_}: not one that is accepted"
        )
    if len(data) != _HEAD.size + size or not size:
        raise MalformedError(f"{what}: {len(data) - _HEAD.size} bytes, it says {size}")
    return UntrustedImaSignature(kind, _HASHES[hash_][0], key_id, data[_HEAD.size :])


def verify_ima_signature(entry: ImaEntry, *, keys: Iterable[ImaKey]) -> None:
    """Verifies that one of some keys signed an entry's file.

    Does not check whether that key may sign files of this path (`attestd.appraisal.ima`).

    Args:
        entry: Of a verified list.
        keys: RSA of 2048 bits or more, or ECC.

    Raises:
        MalformedError: As `parse_ima_signature`.
        VerificationError: There is no signature, it is over another hash than the entry's digest, or none of the keys
            made it.
    """
    if not entry.signature:
        raise VerificationError("no signature")
    signature = parse_ima_signature(entry.signature)
    if signature.algorithm != entry.algorithm:
        raise VerificationError(
            f"a signature over a {signature.algorithm} digest, but the digest is {entry.algorithm}"
        )
    if _DIGEST_TYPES[signature.kind] != entry.digest_type:
        raise VerificationError(
            f"a signature of type {signature.kind} over a digest of type {entry.digest_type}"
        )
    digest = entry.digest
    if signature.kind == _VERITY:  # struct ima_file_id: type, hash, digest
        number = next(number for number, (name, _) in _HASHES.items() if name == signature.algorithm)
        digest = hashlib.new(signature.algorithm, bytes([_VERITY, number]) + digest).digest()
    if not any(_verifies(key, signature, digest) for key in keys):
        raise VerificationError(
            f"none of the keys made the signature, which names key {signature.key_id:08x}"
        )


def _verifies(key: ImaKey, signature: UntrustedImaSignature, digest: bytes) -> bool:
    algorithm = next(kind for name, kind in _HASHES.values() if name == signature.algorithm)()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature.signature, digest, ec.ECDSA(Prehashed(algorithm)))
        elif key.key_size >= _MIN_RSA_BITS:
            key.verify(signature.signature, digest, padding.PKCS1v15(), Prehashed(algorithm))
        else:
            return False
    except InvalidSignature:
        return False
    return True
