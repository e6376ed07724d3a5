"""Authority keys: generation, and signing through securesystemslib (files, HSMs, cloud key services).

Only this module imports securesystemslib; it costs 80 ms, so nothing that runs commands imports this one.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)
from securesystemslib.exceptions import Error as SecureSystemsLibError
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey

from attestd.authorization.dsse import PublicKey
from attestd.errors import MalformedError, StoreError, UsageError

__all__ = ["KINDS", "Authority", "generate", "load_authority", "load_public"]

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
    _signer: Signer

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


def generate(kind: str, path: Path) -> Authority:
    """Makes a key pair: PEM PKCS#8 in `path` (mode 0600), the public key beside it with suffix `.pub`.

    Raises:
        UsageError: Another kind than `ed25519` or `p256`, or the file exists: keys are never overwritten.
        StoreError: It cannot be written.
    """
    if kind not in KINDS:
        raise UsageError(f"key kind {kind!r}: expected one of {', '.join(sorted(KINDS))}")
    signer = KINDS[kind]()
    pem = _public_pem(signer)
    _create(path, signer.private_bytes, mode=0o600)
    _create(path.with_suffix(".pub"), pem, mode=0o644)
    return Authority(PublicKey.from_pem(pem), signer)


def load_authority(uri: str, *, public_key: Path | None = None) -> Authority:
    """Opens a key for signing.

    Args:
        uri: `file:PATH` (or just a path), or a securesystemslib URI such as `hsm:2` or `awskms:ID`.
        public_key: PEM of the public key; needed for all but files.

    Raises:
        UsageError: A URI that is not known, or the public key is missing or another one.
        StoreError: The key cannot be read.
        MalformedError: What is there is no key.
    """
    scheme, separator, rest = uri.partition(":")
    if not separator or scheme == "file":
        return _load_file(Path(rest if separator else uri))
    if public_key is None:
        raise UsageError(f"key {scheme}: needs its public key (--public-key FILE)")
    public = load_public(public_key)
    key = SSlibKey.from_crypto(load_der_public_key(public.spki_der))
    try:
        signer = Signer.from_priv_key_uri(uri, key)
    except UnsupportedLibraryError as error:
        raise UsageError(f"key {scheme}: a library is missing: {error}") from error
    except (SecureSystemsLibError, ValueError, OSError) as error:
        raise UsageError(f"key {scheme}: {error}") from error
    return Authority(public, signer)


def load_public(path: Path) -> PublicKey:
    """Reads a PEM public key.

    Raises:
        StoreError: It cannot be read.
        MalformedError: Not a PEM public key of a supported kind.
    """
    return PublicKey.from_pem(_read(path))


def _load_file(path: Path) -> Authority:
    data = _read(path)
    if path.stat().st_mode & 0o077:
        raise UsageError(f"key {path}: others can read it: chmod 600 {path}")
    try:
        signer = CryptoSigner(load_pem_private_key(data, password=None))
    except (ValueError, TypeError, UnsupportedAlgorithm, SecureSystemsLibError) as error:
        raise MalformedError(f"key {path}: not an unencrypted PEM private key of a supported kind") from error
    return Authority(PublicKey.from_pem(_public_pem(signer)), signer)


def _public_pem(signer: CryptoSigner) -> bytes:
    private = load_pem_private_key(signer.private_bytes, password=None)
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _read(path: Path) -> bytes:
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
