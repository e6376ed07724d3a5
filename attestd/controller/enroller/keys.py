"""The enroller's keys: what makes its challenges, and what signs host records and certificates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestd.controller.configuration import ControllerConfiguration
from attestd.controller.enroller.ak_authority import AkAuthority, create_ak_authority, load_ak_authority
from attestd.controller.keys import asking, create_secret, load_secret, open_key
from attestd.distribution.signer import Authority
from attestd.errors import UsageError

__all__ = ["EnrollerKeys", "create_enroller_files", "load_enroller_keys"]

SECRET_FILE: Final = "enroller.secret"  # noqa: S105 - its name


@dataclass(frozen=True)
class EnrollerKeys:
    """What an enroller needs to answer.

    Attributes:
        secret: From it challenges follow; each of its processes has the same.
        signer: Signs host records.
        epoch: Signs the first write of a TPM's epoch; None: somebody else has that key.
        certifier: Issues certificates of attestation keys; None: nobody does here.
    """

    secret: bytes
    signer: Authority
    epoch: Authority | None
    certifier: AkAuthority | None


def create_enroller_files(state: Path, configuration: ControllerConfiguration) -> Path | None:
    """Makes the secret and the authority for attestation keys, as far as they are wanted and not there.

    Returns:
        Where the authority's certificate is; None: none are issued.

    Raises:
        UsageError, StoreError, MalformedError: One cannot be made, or what is there is not usable.
    """
    create_secret(state / SECRET_FILE)
    return create_ak_authority(state, configuration, ask=asking(configuration.enroller_passphrase_file))


def load_enroller_keys(state: Path, configuration: ControllerConfiguration) -> EnrollerKeys:
    """Opens the keys.

    Args:
        state: Where the secret is.
        configuration: Which keys sign.

    Raises:
        UsageError: No key is named; a wrong passphrase; others can read a file.
        StoreError, MalformedError: One cannot be read.
    """
    if not configuration.enroller_key:
        raise UsageError("enroller_key: name the key that signs host records, a file or hsm:, awskms:, ...")
    passphrase, epoch = configuration.enroller_passphrase_file, configuration.epoch_key
    return EnrollerKeys(
        secret=load_secret(state / SECRET_FILE),
        signer=open_key(
            configuration.enroller_key, public=configuration.enroller_public_key, passphrase_file=passphrase
        ),
        epoch=open_key(epoch, public=configuration.epoch_public_key, passphrase_file=passphrase)
        if epoch
        else None,
        certifier=load_ak_authority(state, configuration, ask=asking(passphrase)),
    )
