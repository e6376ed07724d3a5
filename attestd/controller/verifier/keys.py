"""The verifier's keys: what makes its challenges, and what signs its results."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256

from attestd.appraisal.result import is_result_key
from attestd.authorization.dsse import PublicKey
from attestd.controller.configuration import ControllerConfiguration
from attestd.controller.keys import create_secret, load_secret, open_key
from attestd.distribution.signer import generate
from attestd.errors import UsageError

__all__ = ["VerifierKeys", "create_verifier_keys", "load_verifier_keys"]

KEY_FILE: Final = "verifier.pem"
SECRET_FILE: Final = "verifier.secret"  # noqa: S105 - its name


@dataclass(frozen=True)
class VerifierKeys:
    """What a verifier needs to answer.

    Attributes:
        secret: From it challenges follow; each of its processes has the same.
        public: Of the key that signs results, as `mesh.json` names it.
        sign: Signs a message: Ed25519, or ECDSA with SHA-256 in DER.
        is_here: Whether it signs in microseconds; a token or a service takes its time.
    """

    secret: bytes
    public: PublicKey
    sign: Callable[[bytes], bytes]
    is_here: bool


def create_verifier_keys(state: Path, configuration: ControllerConfiguration, *, join: bool) -> bool:
    """Makes the secret, and the key where the configuration names no other, unless they are there.

    Args:
        state: Where.
        configuration: Which key signs.
        join: Others use this database already, so theirs are to be here.

    Returns:
        Whether something was made.

    Raises:
        UsageError: They are not here, though others use the database already.
        StoreError: They cannot be written.
    """
    secret, key = state / SECRET_FILE, state / KEY_FILE
    missing = [
        path
        for path in (secret, *(() if configuration.verifier_key else (key,)))
        if not os.path.lexists(path)
    ]
    if missing and join:
        raise UsageError(
            f"{missing[0]}: not there: a process that joins others signs with their key; copy the file from one of them"
        )
    made = create_secret(secret)
    if key in missing:
        generate("p256", key)
        made = True
    return made


def _uri(state: Path, configuration: ControllerConfiguration) -> str:
    """What names the key that signs results: a path, or a URI."""
    return configuration.verifier_key or str(state / KEY_FILE)


def load_verifier_keys(state: Path, configuration: ControllerConfiguration) -> VerifierKeys:
    """Opens the keys.

    Raises:
        UsageError: A wrong passphrase; others can read a file; a key that signs no results.
        StoreError, MalformedError: One cannot be read.
    """
    uri = _uri(state, configuration)
    authority = open_key(
        uri,
        public=configuration.verifier_public_key,
        passphrase_file=configuration.verifier_passphrase_file,
    )
    if not is_result_key(authority.public):
        raise UsageError(f"verifier_key {uri}: expected an Ed25519 or P-256 key: no other signs results")
    key = authority.held
    sign: Callable[[bytes], bytes] = lambda message: authority.sign(message)[1]  # noqa: E731 - typed
    if isinstance(key, ed25519.Ed25519PrivateKey):
        sign = key.sign
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        sign = partial(key.sign, signature_algorithm=ec.ECDSA(SHA256()))
    return VerifierKeys(load_secret(state / SECRET_FILE), authority.public, sign, is_here=key is not None)
