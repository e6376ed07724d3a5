"""DSSE envelopes (DSSE v1.0.0) and thresholds of signatures over distinct public keys.

Key ids are SHA-256 of the DER SubjectPublicKeyInfo, always recomputed from a key we hold. The `keyid` in a file only
says which key to try.
"""

import hashlib
from base64 import b64encode
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Annotated, Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.plain import counted
from attestd.strict import Base64Bytes, Strict, canonical, convert, decode_base64, parse_json, parse_own_form

__all__ = [
    "MAX_ENVELOPE_BYTES",
    "PAYLOAD_TYPE",
    "EnvelopeSignature",
    "InsufficientApprovalsError",
    "PublicKey",
    "SignatureInvalidError",
    "UntrustedEnvelope",
    "format_envelope",
    "pae",
    "parse_envelope",
    "read_envelope",
    "verify_threshold",
    "write_envelope",
]

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
MAX_ENVELOPE_BYTES: Final = 262_144
_CACHED: Final = 64  # of at most 256 KiB each, signed by authorities
MAX_SIGNATURES: Final = 16
# How often a signature that names no key is tried with one: whoever may ask the agent may send what does not verify.
MAX_TRIES: Final = 64

_CURVE_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
}


class SignatureInvalidError(VerificationError):
    """A signature does not verify, or none is from a key that counts here."""


class InsufficientApprovalsError(VerificationError):
    """Fewer distinct keys signed than the threshold asks for."""


@dataclass(frozen=True)
class PublicKey:
    """A public key that may sign artifacts: Ed25519, ECDSA P-256 with SHA-256, or ECDSA P-384 with SHA-384.

    Equal if and only if the SPKI is: one key counts once, however often and under whatever id it appears.

    Attributes:
        spki_der: DER SubjectPublicKeyInfo, in the one form that we would write ourselves.

    Raises:
        MalformedError: Not a key, not of a supported kind, or a second encoding of a key.
    """

    spki_der: bytes
    _key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            key = serialization.load_der_public_key(self.spki_der)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise MalformedError(f"public key: not a DER SubjectPublicKeyInfo: {error}") from error
        if isinstance(key, ec.EllipticCurvePublicKey):
            if key.curve.name not in _CURVE_HASHES:
                raise MalformedError(f"public key: expected curve P-256 or P-384, found {key.curve.name}")
        elif not isinstance(key, ed25519.Ed25519PublicKey):
            raise MalformedError(f"public key: expected Ed25519 or ECDSA, found {type(key).__name__}")
        # A compressed point or BER would give the same key a second id, and so a second vote.
        if _spki(key) != self.spki_der:
            raise MalformedError("public key: not in its plain DER form (uncompressed point, named curve)")
        object.__setattr__(self, "_key", key)

    @classmethod
    def from_pem(cls, data: bytes) -> "PublicKey":
        """Reads a PEM `PUBLIC KEY`.

        Raises:
            MalformedError: As the class.
        """
        try:
            key = serialization.load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise MalformedError(f"public key: not a PEM public key: {error}") from error
        return cls(_spki(key))

    @cached_property
    def key_id(self) -> str:
        """SHA-256 of the SPKI DER, lower-case hex."""
        return hashlib.sha256(self.spki_der).hexdigest()

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey:
        """The key, loaded: for who verifies signatures of another form."""
        return self._key

    def verify(self, message: bytes, signature: bytes) -> None:
        """Verifies one signature; ECDSA signatures are DER.

        Raises:
            SignatureInvalidError: It is not this key's signature of this message.
        """
        try:
            if isinstance(self._key, ed25519.Ed25519PublicKey):
                self._key.verify(signature, message)
            else:
                self._key.verify(signature, message, ec.ECDSA(_CURVE_HASHES[self._key.curve.name]))
        except InvalidSignature as error:
            raise SignatureInvalidError(f"signature does not verify with key {self.key_id}") from error


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class EnvelopeSignature:
    """One signature of an envelope.

    Attributes:
        key_id: What the file says, or empty: a hint which key to try, never evidence.
        sig: The signature's bytes.
    """

    key_id: str
    sig: bytes


@dataclass(frozen=True, slots=True)
class UntrustedEnvelope:
    """A parsed envelope of which no signature has been verified."""

    payload_type: str
    payload: bytes
    signatures: tuple[EnvelopeSignature, ...]


class _SignatureJson(Strict, frozen=True):
    sig: Base64Bytes
    keyid: Annotated[str, msgspec.Meta(max_length=256)] = ""  # DSSE: optional, and "" is the same as absent.


class _EnvelopeJson(Strict, frozen=True, rename="camel"):
    payload: Base64Bytes
    payload_type: str
    signatures: Annotated[tuple[_SignatureJson, ...], msgspec.Meta(min_length=1, max_length=MAX_SIGNATURES)]


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding (DSSE protocol, "Signature Definition")."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def parse_envelope(
    data: bytes, *, payload_type: str, max_bytes: int = MAX_ENVELOPE_BYTES
) -> UntrustedEnvelope:
    """Parses an envelope; verifies nothing.

    Stricter than DSSE: unknown members are errors and only the standard base64 alphabet, padded, is read, so that
    there is one way to write a payload.

    Args:
        data: The file.
        payload_type: The only type accepted, checked before anyone looks into the payload.
        max_bytes: The limit for the file.

    Raises:
        MalformedError: Not such an envelope.
    """
    file = parse_own_form(data, _EnvelopeJson, max_bytes=max_bytes)
    if file is None:
        file = convert(parse_json(data, max_bytes=max_bytes, what="envelope"), _EnvelopeJson, what="envelope")
    return _envelope(file, payload_type=payload_type, what="envelope")


def read_envelope(value: Any, *, payload_type: str, what: str) -> UntrustedEnvelope:
    """The envelope that a parsed JSON value is; see `parse_envelope`.

    Args:
        value: From `parse_json`.
        payload_type: The only type accepted.
        what: Names it in errors.

    Raises:
        MalformedError: Not such an envelope.
    """
    return _envelope(convert(value, _EnvelopeJson, what=what), payload_type=payload_type, what=what)


def _envelope(file: _EnvelopeJson, *, payload_type: str, what: str) -> UntrustedEnvelope:
    if file.payload_type != payload_type:
        raise MalformedError(
            f"{what}: expected payloadType {payload_type!r}, found {file.payload_type[:80]!r}"
        )
    return UntrustedEnvelope(
        payload_type=file.payload_type,
        payload=decode_base64(file.payload, what=what),
        signatures=tuple(
            EnvelopeSignature(entry.keyid, decode_base64(entry.sig, what=what)) for entry in file.signatures
        ),
    )


def format_envelope(envelope: UntrustedEnvelope) -> bytes:
    """The file of an envelope: what `parse_envelope` reads back to an equal value."""
    return canonical(write_envelope(envelope))


def write_envelope(envelope: UntrustedEnvelope) -> Strict:
    """The JSON value of an envelope: what `read_envelope` reads back to an equal value."""
    return _EnvelopeJson(
        payload_type=envelope.payload_type,
        payload=b64encode(envelope.payload).decode(),
        signatures=tuple(
            _SignatureJson(keyid=entry.key_id, sig=b64encode(entry.sig).decode())
            for entry in envelope.signatures
        ),
    )


def verify_threshold(
    envelope: UntrustedEnvelope, *, keys: Collection[PublicKey], threshold: int
) -> tuple[str, ...]:
    """Verifies that enough distinct keys signed the envelope.

    A signature that names one of the keys must verify with it: a damaged signature of an authority is never skipped
    over. One that names no key is tried with every key, within `MAX_TRIES`. One that names a key we do not know is a stranger's and does
    not count. Whether the keys are authorities for what the payload says is the caller's to know.

    Args:
        envelope: Parsed, with the payload type that the caller expects.
        keys: Every key that may count.
        threshold: How many distinct keys must have signed, at least 1.

    Returns:
        The key ids that signed, each once, sorted.

    Raises:
        SignatureInvalidError: A signature that names a known key fails, or none is from a known key.
        InsufficientApprovalsError: Some keys signed, but fewer than the threshold.
        UsageError: No keys, or a threshold below 1: nothing empty means pass.
    """
    if not keys or threshold < 1:
        raise UsageError(f"a threshold of {threshold} over {counted(len(keys), 'key')} would verify nothing")
    return _signers(envelope, tuple(keys), threshold)


@lru_cache(maxsize=_CACHED)
def _signers(envelope: UntrustedEnvelope, keys: tuple[PublicKey, ...], threshold: int) -> tuple[str, ...]:
    """`verify_threshold`; the same artifact comes again and again. What does not verify is verified each time."""
    known = {key.key_id: key for key in keys}
    message = pae(envelope.payload_type, envelope.payload)
    signed: set[str] = set()
    unnamed = sum(not signature.key_id for signature in envelope.signatures)
    if unnamed * len(known) > MAX_TRIES:
        raise SignatureInvalidError(
            f"{unnamed} signatures name no key, and {len(known)} keys count here: with more than {MAX_TRIES} tries each"
            " must name its key"
        )
    for signature in envelope.signatures:
        if signature.key_id in known:
            known[signature.key_id].verify(message, signature.sig)
            signed.add(signature.key_id)
        elif not signature.key_id:
            signed.update(key.key_id for key in known.values() if _verifies(key, message, signature.sig))
    if not signed:
        raise SignatureInvalidError(
            f"none of the signatures ({len(envelope.signatures)}) is from one of the keys that count here ({len(known)})"
        )
    if len(signed) < threshold:
        raise InsufficientApprovalsError(
            f"expected signatures of {counted(threshold, 'distinct key')}, found {len(signed)}: {', '.join(sorted(signed))}"
        )
    return tuple(sorted(signed))


def _verifies(key: PublicKey, message: bytes, signature: bytes) -> bool:
    try:
        key.verify(message, signature)
    except SignatureInvalidError:
        return False
    return True
