"""Keys in PKCS#11 tokens (HSMs, smart cards, SoftHSM): `hsm:[ID][?label=TOKEN]`, the URI that securesystemslib defines.

Its own signer knows ECDSA alone, and says little when a token fails; this one takes the same URIs. Which PKCS#11 library
is used says the environment variable PYKCS11LIB, there as here. A token's PIN is asked for when it is needed, and kept
as long as this process.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

import pkcs11
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11.exceptions import PinIncorrect, PinLenRange, PinLocked, PKCS11Error
from pkcs11.util.ec import encode_ec_public_key, encode_ecdsa_signature, encode_named_curve_parameters
from securesystemslib.signer import Key, SecretsHandler, Signature, Signer, SSlibKey

from attestd.authorization.dsse import PublicKey
from attestd.errors import MalformedError, StoreError, UsageError

__all__ = ["HsmSigner", "find_hsm_key", "generate_hsm_key"]

Ask = Callable[[str], str]

_LIBRARY: Final = "PYKCS11LIB"
_DEFAULT_ID: Final = 2  # PIV's slot 9c, as securesystemslib has it
_MAX_ID: Final = 2**64
_ED25519_OID: Final = bytes.fromhex("06032b6570")  # RFC 8410, 3


class HsmSigner(Signer):
    """Signs with a token's key: ECDSA P-256 and P-384 with their hash, or Ed25519."""

    def __init__(self, uri: str, public_key: SSlibKey, ask: Ask) -> None:
        """Names the key; the token is not looked at before it signs."""
        self._id, self._label = _parse_uri(uri)
        self._public_key, self._ask = public_key, ask
        self._pin: str | None = None

    @property
    def public_key(self) -> SSlibKey:
        """The public half."""
        return self._public_key

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> "HsmSigner":
        """As securesystemslib's interface asks.

        Raises:
            UsageError: Not such a URI, another kind of key, or nobody to ask for the PIN.
        """
        if not isinstance(public_key, SSlibKey) or secrets_handler is None:
            raise UsageError(f"{priv_key_uri}: needs its public key and somebody to ask for the PIN")
        return cls(priv_key_uri, public_key, secrets_handler)

    def sign(self, payload: bytes) -> Signature:
        """Signs a message.

        Raises:
            UsageError: A wrong PIN.
            StoreError: No such token or key, or it does not sign.
        """
        token = _token(self._label)
        if self._pin is None:
            self._pin = self._ask(_pin_of(token))
        with _translated(self._label), token.open(user_pin=self._pin) as session:
            key = session.get_key(pkcs11.ObjectClass.PRIVATE_KEY, id=_id_bytes(self._id))
            if not isinstance(key, pkcs11.SignMixin):
                raise StoreError(f"key {self._id} of the token cannot sign")
            if self._public_key.scheme == "ed25519":
                signature = key.sign(payload, mechanism=pkcs11.Mechanism.EDDSA)
            else:
                digest = hashlib.new(f"sha{self._public_key.scheme[-3:]}", payload).digest()
                signature = encode_ecdsa_signature(key.sign(digest, mechanism=pkcs11.Mechanism.ECDSA))
        return Signature(self._public_key.keyid, signature.hex())


def generate_hsm_key(kind: str, uri: str, *, ask: Ask) -> tuple[str, PublicKey]:
    """Makes a key pair inside a token, from which the private half cannot be taken.

    Args:
        kind: `ed25519` or `p256`.
        uri: `hsm:[ID][?label=TOKEN]`.
        ask: Asks a person, or a file, for the secret that is named.

    Returns:
        The complete URI, and the public key.

    Raises:
        UsageError: Not such a URI, no library, a wrong PIN, or the token has a key of this ID: none is overwritten.
        StoreError: No such token, or it makes no such key.
    """
    key_id, label = _parse_uri(uri)
    token = _token(label)
    pin = ask(_pin_of(token))
    with _translated(label), token.open(rw=True, user_pin=pin) as session:
        if next(iter(session.get_objects({pkcs11.Attribute.ID: _id_bytes(key_id)})), None) is not None:
            raise UsageError(
                f"token {token.label!r} has a key {key_id}: keys are never overwritten; choose another ID"
            )
        edwards = kind == "ed25519"
        made = session.create_domain_parameters(
            pkcs11.KeyType.EC_EDWARDS if edwards else pkcs11.KeyType.EC,
            {
                pkcs11.Attribute.EC_PARAMS: _ED25519_OID
                if edwards
                else encode_named_curve_parameters("secp256r1")
            },
            local=True,
        ).generate_keypair(
            store=True,
            id=_id_bytes(key_id),
            label=f"attestd-{key_id}",
            capabilities=pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
            mechanism=pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN
            if edwards
            else pkcs11.Mechanism.EC_KEY_PAIR_GEN,
        )
        public = _public(made[0])
    return _format_uri(key_id, token), public


def find_hsm_key(uri: str, *, ask: Ask) -> tuple[str, PublicKey]:
    """Reads the public half of a token's key; without its PIN where the token allows that.

    Returns:
        The complete URI, and the public key.

    Raises:
        UsageError: Not such a URI, no library, or a wrong PIN.
        StoreError: No such token or key.
        MalformedError: A key of another kind.
    """
    key_id, label = _parse_uri(uri)
    token = _token(label)
    with _translated(label):
        with token.open() as session:
            found = _public_objects(session, key_id)
            public = _public(found[0]) if found else None
        if public is None:  # CKA_PRIVATE: not even its public half is shown to everybody
            with token.open(user_pin=ask(_pin_of(token))) as session:
                found = _public_objects(session, key_id)
                public = _public(found[0]) if found else None
    if public is None:
        raise StoreError(
            f"token {token.label!r} has no key {key_id}: attestd authority keygen --hsm makes one"
        )
    return _format_uri(key_id, token), public


def _public_objects(session: pkcs11.Session, key_id: int) -> list[pkcs11.PublicKey]:
    wanted = {
        pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PUBLIC_KEY,
        pkcs11.Attribute.ID: _id_bytes(key_id),
    }
    return [item for item in session.get_objects(wanted) if isinstance(item, pkcs11.PublicKey)]


def _public(key: pkcs11.PublicKey) -> PublicKey:
    if key.key_type is pkcs11.KeyType.EC_EDWARDS:
        point = bytes(key[pkcs11.Attribute.EC_POINT]).removeprefix(b"\x04\x20")
        if len(point) != 32:
            raise MalformedError("the token's key is an Edwards key, but not Ed25519")
        loaded = Ed25519PublicKey.from_public_bytes(point)
        return PublicKey(loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    if key.key_type is pkcs11.KeyType.EC:
        return PublicKey(encode_ec_public_key(key))
    raise MalformedError(f"the token's key is of kind {key.key_type.name}, expected ECDSA or Ed25519")


def _parse_uri(uri: str) -> tuple[int, str | None]:
    parts = urlsplit(uri)
    number, query = parts.path or str(_DEFAULT_ID), parse_qs(parts.query)
    if (
        parts.scheme != "hsm"
        or not (number.isascii() and number.isdigit() and len(number) < 20 and int(number) < _MAX_ID)
        or query.keys() - {"label"}
    ):
        raise UsageError(f"key {uri}: expected hsm:[ID][?label=TOKEN], for example hsm:2?label=attestd")
    return int(number), query.get("label", [None])[-1]


def _format_uri(key_id: int, token: pkcs11.Token) -> str:
    return f"hsm:{key_id}?label={quote(token.label)}"


def _id_bytes(key_id: int) -> bytes:
    return key_id.to_bytes(max(1, (key_id.bit_length() + 7) // 8), "big")


def _pin_of(token: pkcs11.Token) -> str:
    return f"PIN of token {token.label!r}"


def _token(label: str | None) -> pkcs11.Token:
    library = os.environ.get(_LIBRARY)
    if not library:
        raise UsageError(
            f"{_LIBRARY} must name the PKCS#11 library of the token, for example /usr/lib/softhsm/libsofthsm2.so"
        )
    with _translated(label):
        return pkcs11.lib(library).get_token(
            token_label=label, token_flags=pkcs11.TokenFlag.TOKEN_INITIALIZED
        )


@contextmanager
def _translated(label: str | None) -> Iterator[None]:
    what = "the token" if label is None else f"token {label!r}"
    try:
        yield
    except (PinIncorrect, PinLenRange) as error:
        raise UsageError(f"{what}: wrong PIN; after some more of them it locks itself") from error
    except PinLocked as error:
        raise StoreError(f"{what}: its PIN is locked: the security officer unlocks it") from error
    except PKCS11Error as error:
        words = f"{type(error).__name__} {error}".strip()
        raise StoreError(f"{what}: {words} (library {os.environ[_LIBRARY]})") from error
