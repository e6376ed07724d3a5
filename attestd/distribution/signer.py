"""Authority keys: generation, and signing through securesystemslib (files, HSMs, cloud key services).

Secrets (a file's passphrase, a token's PIN) are asked for through an `Ask`: they are in no argument, no message and no
log. securesystemslib costs 80 ms, so nothing that runs commands imports this module.
"""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)
from securesystemslib.exceptions import Error as SecureSystemsLibError
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey

from attestd.authorization.dsse import PublicKey
from attestd.distribution.pkcs8 import MAX_PASSPHRASE_BYTES, encrypt_pkcs8, is_encrypted
from attestd.durable import write_atomic
from attestd.errors import MalformedError, StoreError, UsageError

__all__ = [
    "KINDS",
    "Ask",
    "Authority",
    "generate",
    "generate_in_token",
    "import_from_token",
    "is_encrypted_file",
    "load_authority",
    "load_private_key",
    "load_public",
    "protect",
    "read_key_file",
]

# Asks a person, or a file that was named for it, for the secret that the argument describes.
Ask = Callable[[str], str]

MAX_KEY_BYTES: Final = 64 * 1024
KINDS: Final[dict[str, Callable[[], CryptoSigner]]] = {
    "ed25519": CryptoSigner.generate_ed25519,
    "p256": CryptoSigner.generate_ecdsa,
}


@dataclass(frozen=True)
class Authority:
    """A key that can sign. The private part stays inside the signer and is never printed.

    Attributes:
        public: The public key.
    """

    public: PublicKey
    _signer: Signer = field(repr=False)

    @property
    def held(self) -> PrivateKeyTypes | None:
        """The private key itself, for whoever signs a thousand times a second; None: it is in a token or a service."""
        if not isinstance(self._signer, CryptoSigner):
            return None
        return load_pem_private_key(self._signer.private_bytes, password=None)

    def sign(self, message: bytes) -> tuple[PublicKey, bytes]:
        """Signs a message: Ed25519, or ECDSA with the curve's hash, DER.

        Raises:
            StoreError: The key's device or service does not sign.
        """
        try:
            signature = self._signer.sign(message).signature
        except (SecureSystemsLibError, UnsupportedLibraryError, OSError, ValueError) as error:
            raise StoreError(f"key {self.public.key_id} does not sign: {error}") from error
        return self.public, bytes.fromhex(signature)


def generate(kind: str, path: Path, *, passphrase: str | None = None) -> Authority:
    """Makes a key pair: PEM PKCS#8 in `path` (mode 0600), the public key beside it with suffix `.pub`.

    Args:
        kind: `ed25519` or `p256`.
        path: Of the private key.
        passphrase: Encrypts it; None: whoever can read the file can sign.

    Raises:
        UsageError: Another kind, an unusable passphrase, or the file exists: keys are never overwritten.
        StoreError: It cannot be written.
    """
    _require_kind(kind)
    signer = KINDS[kind]()
    public = _public_pem(signer)
    _create(path, _private_pem(signer, passphrase), mode=0o600)
    _create(path.with_suffix(".pub"), public, mode=0o644)
    return Authority(PublicKey.from_pem(public), signer)


def generate_in_token(kind: str, uri: str, path: Path, *, ask: Ask) -> tuple[str, PublicKey]:
    """Makes a key pair inside a PKCS#11 token; only its public half comes out, as PEM in `path`.

    Args:
        kind: `ed25519` or `p256`.
        uri: `hsm:[ID][?label=TOKEN]`.
        path: Of the public key.
        ask: For the PIN.

    Returns:
        The URI by which it signs, and the public key.

    Raises:
        UsageError: As `generate`; no library for tokens; a wrong PIN; the token has a key of this ID.
        StoreError: The token fails, or the file cannot be written.
    """
    _require_kind(kind)
    if path.exists():
        raise UsageError(f"{path} exists: keys are never overwritten; choose another name")
    complete, public = _tokens().generate_hsm_key(kind, uri, ask=ask)
    _create(path, _spki_pem(public), mode=0o644)
    return complete, public


def import_from_token(uri: str, path: Path, *, ask: Ask) -> tuple[str, PublicKey]:
    """Writes the public half of a token's key to `path`, as PEM.

    Returns:
        The URI by which it signs, and the public key.

    Raises:
        UsageError, StoreError, MalformedError: As `attestd.distribution.hsm.find_hsm_key`, or `path` exists.
    """
    complete, public = _tokens().find_hsm_key(uri, ask=ask)
    _create(path, _spki_pem(public), mode=0o644)
    return complete, public


def protect(path: Path, *, ask: Ask, passphrase: str | None) -> Authority:
    """Encrypts a private key file, or changes its passphrase, in one step: at no time is there no key.

    What was on the disk before may still be found in free blocks: a key that others may have seen is to be replaced.

    Args:
        path: The private key.
        ask: For the present passphrase, if it has one.
        passphrase: The new one; None: it is stored in the clear.

    Raises:
        UsageError: A wrong or unusable passphrase, or others can read the file.
        StoreError, MalformedError: It cannot be read or written.
    """
    signer = _load_signer(path, ask)
    write_atomic(path, _private_pem(signer, passphrase), mode=0o600)
    return Authority(PublicKey.from_pem(_public_pem(signer)), signer)


def load_authority(uri: str, *, public_key: Path | None = None, ask: Ask | None = None) -> Authority:
    """Opens a key for signing.

    Args:
        uri: `file:PATH` (or just a path), or a securesystemslib URI such as `hsm:2` or `awskms:ID`.
        public_key: PEM of the public key; needed for all but files, and tokens that show it.
        ask: For a passphrase or PIN; None: keys that need one are refused.

    Raises:
        UsageError: A URI that is not known, the public key is missing or another one, a wrong passphrase, or nobody
            to ask for it.
        StoreError: The key cannot be read.
        MalformedError: What is there is no key.
    """
    scheme, separator, rest = uri.partition(":")
    if not separator or scheme == "file":
        held = _load_signer(Path(rest if separator else uri), ask)
        return Authority(PublicKey.from_pem(_public_pem(held)), held)
    if public_key is not None:
        public = load_public(public_key)
    elif scheme == "hsm":
        _, public = _tokens().find_hsm_key(uri, ask=ask or _nobody)
    else:
        raise UsageError(f"key {scheme}: needs its public key (--public-key FILE)")
    key = SSlibKey.from_crypto(load_der_public_key(public.spki_der))
    if scheme == "hsm":
        return Authority(public, _tokens().HsmSigner(uri, key, ask or _nobody))
    try:
        signer = Signer.from_priv_key_uri(uri, key, ask or _nobody)
    except UnsupportedLibraryError as error:
        raise UsageError(f"key {scheme}: a library is missing: {error}") from error
    except (SecureSystemsLibError, ValueError, OSError) as error:
        raise UsageError(f"key {scheme}: {error}") from error
    return Authority(public, signer)


def is_encrypted_file(path: Path) -> bool:
    """Whether a private key file is encrypted.

    Raises:
        StoreError, MalformedError: It cannot be read.
    """
    return is_encrypted(read_key_file(path))


def load_public(path: Path) -> PublicKey:
    """Reads a PEM public key.

    Raises:
        StoreError: It cannot be read.
        MalformedError: Not a PEM public key of a supported kind.
    """
    return PublicKey.from_pem(read_key_file(path))


def load_private_key(path: Path, *, ask: Ask | None = None) -> PrivateKeyTypes:
    """Reads a private key from its PEM file, for those who need more of it than a signature.

    Args:
        path: The file.
        ask: For its passphrase; None: a key that has one is refused.

    Raises:
        UsageError: A public key, others can read the file, a wrong passphrase, or nobody to ask for it.
        StoreError, MalformedError: It cannot be read, or is no key.
    """
    data = read_key_file(path)
    if b"PUBLIC KEY-----" in data:
        raise UsageError(f"key {path}: a public key, expected the private one, which signs")
    if path.stat().st_mode & 0o077:
        raise UsageError(f"key {path}: others can read it: chmod 600 {path}")
    encrypted = is_encrypted(data)
    passphrase = _bytes((ask or _nobody)(f"passphrase of key {path}")) if encrypted else None
    try:
        return load_pem_private_key(data, password=passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            raise UsageError(f"key {path}: wrong passphrase, or not a key of a supported kind") from error
        raise MalformedError(f"key {path}: not a PEM private key of a supported kind") from error


def _load_signer(path: Path, ask: Ask | None) -> CryptoSigner:
    try:
        return CryptoSigner(load_private_key(path, ask=ask))
    except (ValueError, SecureSystemsLibError) as error:
        raise MalformedError(f"key {path}: not a PEM private key of a supported kind") from error


def _nobody(what: str) -> str:
    raise UsageError(f"the {what} is needed, and nobody is there to ask: name a file that holds it")


def _require_kind(kind: str) -> None:
    if kind not in KINDS:
        raise UsageError(f"key kind {kind!r}: expected one of {', '.join(sorted(KINDS))}")


def _tokens() -> ModuleType:
    try:
        return importlib.import_module("attestd.distribution.hsm")
    except ImportError as error:
        raise UsageError(
            "keys in tokens (hsm:) need the Python package python-pkcs11: pip install 'attestd[hsm]'"
        ) from error


def _bytes(passphrase: str) -> bytes:
    data = passphrase.encode("utf-8", "surrogateescape")
    if not data or len(data) > MAX_PASSPHRASE_BYTES:
        raise UsageError(f"a passphrase has 1 to {MAX_PASSPHRASE_BYTES} bytes, found {len(data)}")
    return data


def _private_pem(signer: CryptoSigner, passphrase: str | None) -> bytes:
    if passphrase is None:
        return signer.private_bytes
    private = load_pem_private_key(signer.private_bytes, password=None)
    der = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return encrypt_pkcs8(der, _bytes(passphrase))


def _spki_pem(public: PublicKey) -> bytes:
    key = load_der_public_key(public.spki_der)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _public_pem(signer: CryptoSigner) -> bytes:
    private = load_pem_private_key(signer.private_bytes, password=None)
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_key_file(path: Path) -> bytes:
    """The bytes of a key's file.

    Raises:
        StoreError: It cannot be read.
        MalformedError: It is over 64 KiB.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise StoreError(f"key {path}: {error.strerror}") from error
    if len(data) > MAX_KEY_BYTES:
        raise MalformedError(f"key {path}: over {MAX_KEY_BYTES} bytes")
    return data


def _create(path: Path, data: bytes, *, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise UsageError(f"{path} exists: keys are never overwritten; choose another name") from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)  # Half a key would stand in the way of a whole one.
        raise StoreError(f"{path}: {error.strerror}") from error
