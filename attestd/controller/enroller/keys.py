"""The enroller's keys: what makes its challenges, and what signs host records."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestd.controller.configuration import ControllerConfiguration
from attestd.distribution.secrets import read_secret
from attestd.distribution.signer import Authority, load_authority
from attestd.durable import write_atomic
from attestd.errors import StoreError, UsageError

__all__ = ["SECRET_FILE", "EnrollerKeys", "create_secret", "load_enroller_keys"]

SECRET_FILE: Final = "enroller.secret"  # noqa: S105 - its name
_SECRET_BYTES: Final = 32


@dataclass(frozen=True)
class EnrollerKeys:
    """What an enroller needs to answer.

    Attributes:
        secret: From it challenges follow; each of its processes has the same.
        signer: Signs host records.
        epoch: Signs the first write of a TPM's epoch; None: somebody else has that key.
    """

    secret: bytes
    signer: Authority
    epoch: Authority | None


def create_secret(path: Path) -> bool:
    """Makes the secret, unless it is there.

    Returns:
        Whether it was made.

    Raises:
        StoreError: It cannot be written.
    """
    if os.path.lexists(path):
        return False
    write_atomic(path, os.urandom(_SECRET_BYTES), mode=0o600)
    return True


def load_enroller_keys(state: Path, configuration: ControllerConfiguration) -> EnrollerKeys:
    """Opens the keys.

    Args:
        state: Where the secret is.
        configuration: Which keys sign.

    Raises:
        UsageError: No key is named; a wrong passphrase; others can read a file.
        StoreError, MalformedError: One cannot be read.
    """
    path = state / SECRET_FILE
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}: attestd controller init makes it") from error
    if len(secret) != _SECRET_BYTES:
        raise UsageError(f"{path}: {len(secret)} bytes, expected {_SECRET_BYTES}: is it cut off?")
    if not configuration.enroller_key:
        raise UsageError("enroller_key: name the key that signs host records, a file or hsm:, awskms:, ...")

    def ask(what: str) -> str:
        if not configuration.enroller_passphrase_file:
            raise UsageError(f"enroller_passphrase_file: the {what} is needed: name the file that has it")
        return read_secret(Path(configuration.enroller_passphrase_file))

    def open_key(uri: str, public: str) -> Authority:
        return load_authority(uri, public_key=Path(public) if public else None, ask=ask)

    epoch = configuration.epoch_key
    return EnrollerKeys(
        secret=secret,
        signer=open_key(configuration.enroller_key, configuration.enroller_public_key),
        epoch=open_key(epoch, configuration.epoch_public_key) if epoch else None,
    )
