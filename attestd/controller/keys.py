"""What roles that ask and sign have alike: a secret that challenges are made from, and keys wherever they are."""

import os
from pathlib import Path
from typing import Final

from attestd.distribution.secrets import read_secret
from attestd.distribution.signer import Ask, Authority, load_authority
from attestd.durable import write_atomic
from attestd.errors import StoreError, UsageError

__all__ = ["asking", "create_secret", "load_secret", "open_key"]

_BYTES: Final = 32


def create_secret(path: Path) -> bool:
    """Makes a secret, unless it is there.

    Returns:
        Whether it was made.

    Raises:
        StoreError: It cannot be written.
    """
    if os.path.lexists(path):
        return False
    write_atomic(path, os.urandom(_BYTES), mode=0o600)
    return True


def load_secret(path: Path) -> bytes:
    """Reads a secret.

    Raises:
        UsageError: It is not one, or others can read it.
        StoreError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read(_BYTES + 1)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}: attestd controller init makes it") from error
    if mode & 0o077:
        raise UsageError(f"{path}: others can read it: chmod 600")
    if len(secret) != _BYTES:
        raise UsageError(f"{path}: {len(secret)} bytes, expected {_BYTES}: is it cut off?")
    return secret


def open_key(uri: str, *, public: str, passphrase_file: str) -> Authority:
    """Opens a key that signs.

    Args:
        uri: A file, or a URI such as `hsm:2` or `awskms:ID`.
        public: PEM file of its public half, for keys that are no files; empty: none.
        passphrase_file: A file with its passphrase, or the token's PIN; empty: none.

    Raises:
        UsageError: A wrong passphrase, or none; others can read a file.
        StoreError, MalformedError: It cannot be read.
    """
    return load_authority(uri, public_key=Path(public) if public else None, ask=asking(passphrase_file))


def asking(passphrase_file: str) -> Ask:
    """Answers with what stands in a file that the configuration names; empty: it names none."""

    def ask(what: str) -> str:
        if not passphrase_file:
            raise UsageError(f"the {what} is needed: name a passphrase_file that has it")
        return read_secret(Path(passphrase_file))

    return ask
