"""Keys that sign notes, and their C2SP vkey form `<name>+<key id>+<base64(type byte ‖ key)>`.

Sources: https://c2sp.org/signed-note (types 0x01, 0x02, 0xff), https://c2sp.org/tlog-cosignature (types 0x04, 0x06).
"""

from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from attestd.errors import MalformedError, VerificationError
from attestd.tlog._text import format_base64, parse_base64

__all__ = [
    "SignatureType",
    "VerifierKey",
    "cosignature_vkey",
    "ecdsa_vkey",
    "format_vkey",
    "mldsa_vkey",
    "parse_vkey",
    "tpm_quote_vkey",
]

KEY_ID_SIZE: Final = 4
TPM_QUOTE_TYPE: Final = b"attestd.tpm2-quote.v1"
_ECDSA: Final = ECDSA(SHA256())


class SignatureType(IntEnum):
    """The type bytes of signed-note that attestd knows."""

    ED25519 = 0x01
    ECDSA = 0x02
    COSIGNATURE = 0x04
    MLDSA_COSIGNATURE = 0x06
    TPM_QUOTE = 0xFF  # then TPM_QUOTE_TYPE: signed-note's way to name a type of one's own


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A key whose signatures a verifier accepts. There is none but of a valid name and key.

    Attributes:
        name: The key's name.
        body: Type byte, then the key: 32 bytes of Ed25519, 1312 of ML-DSA-44, or SubjectPublicKeyInfo (of a TPM quote's
            key after the type's name).
        algorithm: What the type byte says.
        key_id: 4 bytes, computed as the type says.
        public_key: The key, loaded; EC keys are P-256.
    """

    name: str
    body: bytes
    algorithm: SignatureType = field(init=False)
    key_id: bytes = field(init=False)
    public_key: Ed25519PublicKey | EllipticCurvePublicKey | MLDSA44PublicKey = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Computes what follows from name and body.

        Raises:
            MalformedError: Not a name, a type or a key.
        """
        if not is_key_name(self.name):
            raise MalformedError(f"vkey: {self.name[:80]!r} is not a key name")
        if self.body[:1] not in _TYPES:
            raise MalformedError(f"vkey {self.name}: unknown signature type {self.body[:1].hex() or 'none'}")
        algorithm = SignatureType(self.body[0])
        # Type 0x02 is older than the specification, hence its own rule.
        hashed = self.body[1:] if algorithm is SignatureType.ECDSA else self.name.encode() + b"\n" + self.body
        for attribute, value in (
            ("algorithm", algorithm),
            ("key_id", sha256(hashed).digest()[:KEY_ID_SIZE]),
            ("public_key", _load(self.name, algorithm, self.body[1:])),
        ):
            object.__setattr__(self, attribute, value)

    def verify(self, signature: bytes, message: bytes) -> None:
        """Verifies Ed25519, ML-DSA-44, or DER ECDSA over SHA-256. What the message has to be is the note's affair.

        Raises:
            VerificationError: The signature is wrong.
        """
        try:
            if isinstance(self.public_key, EllipticCurvePublicKey):
                self.public_key.verify(signature, message, _ECDSA)
            else:
                self.public_key.verify(signature, message)
        except InvalidSignature as error:
            raise VerificationError(f"the signature by {self.name}+{self.key_id.hex()} is wrong") from error


_TYPES: Final = frozenset(bytes([type_]) for type_ in SignatureType)


def cosignature_vkey(name: str, public_key: bytes) -> VerifierKey:
    """A witness's key, type 0x04, from its 32 bytes of Ed25519.

    Raises:
        MalformedError: Not a name or a key; so for the three below.
    """
    return VerifierKey(name, bytes([SignatureType.COSIGNATURE]) + public_key)


def mldsa_vkey(name: str, public_key: bytes) -> VerifierKey:
    """A witness's key, type 0x06, from its 1312 bytes of ML-DSA-44."""
    return VerifierKey(name, bytes([SignatureType.MLDSA_COSIGNATURE]) + public_key)


def ecdsa_vkey(name: str, spki: bytes) -> VerifierKey:
    """A key of type 0x02, from its DER SubjectPublicKeyInfo: the release key's kind."""
    return VerifierKey(name, bytes([SignatureType.ECDSA]) + spki)


def tpm_quote_vkey(name: str, spki: bytes) -> VerifierKey:
    """An attestation key that quotes note texts, from its DER SubjectPublicKeyInfo.

    Its key id is SHA-256(name ‖ 0x0A ‖ 0xff ‖ "attestd.tpm2-quote.v1" ‖ SPKI)[:4].
    """
    return VerifierKey(name, bytes([SignatureType.TPM_QUOTE]) + TPM_QUOTE_TYPE + spki)


def parse_vkey(text: str) -> VerifierKey:
    """Parses a vkey.

    Raises:
        MalformedError: Not a vkey, of an unknown type, or the key id is not that of this name and key.
    """
    name, _, rest = text.partition("+")
    key_id, plus, encoded = rest.partition("+")
    if not plus:
        raise MalformedError(f"vkey {text[:80]!r}: expected <name>+<key id>+<base64>")
    key = VerifierKey(name, parse_base64(encoded.encode("ascii", "replace"), what="vkey"))
    if key.key_id.hex() != key_id:
        raise MalformedError(f"vkey {name}: key id {key_id[:16]!r}, the key's is {key.key_id.hex()}")
    return key


def format_vkey(key: VerifierKey) -> str:
    """Writes a vkey."""
    return f"{key.name}+{key.key_id.hex()}+{format_base64(key.body)}"


def is_key_name(name: str) -> bool:
    """Whether signed-note allows a key name: not empty, no Unicode spaces, no plus; and nothing unprintable."""
    # To Python no space but the ASCII one is printable.
    return name.isprintable() and name != "" and " " not in name and "+" not in name


def _load(
    name: str, algorithm: SignatureType, key: bytes
) -> Ed25519PublicKey | EllipticCurvePublicKey | MLDSA44PublicKey:
    if algorithm is SignatureType.MLDSA_COSIGNATURE:
        try:
            return MLDSA44PublicKey.from_public_bytes(key)
        except ValueError as error:
            raise MalformedError(f"vkey {name}: not an ML-DSA-44 key: {error}") from error
    if algorithm in (SignatureType.ED25519, SignatureType.COSIGNATURE):
        try:
            return Ed25519PublicKey.from_public_bytes(key)
        except ValueError as error:
            raise MalformedError(f"vkey {name}: not an Ed25519 key: {error}") from error
    if algorithm is SignatureType.TPM_QUOTE:
        if not key.startswith(TPM_QUOTE_TYPE):
            raise MalformedError(f"vkey {name}: type 0xff, but not {TPM_QUOTE_TYPE.decode()}")
        key = key.removeprefix(TPM_QUOTE_TYPE)
    try:
        loaded = load_der_public_key(key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError(f"vkey {name}: not a SubjectPublicKeyInfo: {error}") from error
    # One key, one spelling: what else DER allows (compressed points, named parameters) has another key id.
    if (
        not isinstance(loaded, EllipticCurvePublicKey)
        or not isinstance(loaded.curve, SECP256R1)
        or loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != key
    ):
        raise MalformedError(f"vkey {name}: not a P-256 key in its usual form")
    return loaded
