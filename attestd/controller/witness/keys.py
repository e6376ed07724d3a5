"""The witness's own keys: one file of seeds, made once by `attestd controller init`."""

import os
import secrets
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from attestd.durable import write_atomic
from attestd.errors import MalformedError, StoreError, UsageError, VerificationError
from attestd.strict import Strict, canonical, parse_canonical
from attestd.tlog.cosignature import Cosigner, cosigner

__all__ = ["create_keys", "load_cosigners"]

_MAX_BYTES: Final = 4096
_SEED: Final = 32
_MAX_NAME_BYTES: Final = 255  # tlog-cosignature, ML-DSA-44 signed message

_Seed = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class _File(Strict, frozen=True):
    v: Literal[1]
    name: str
    ed25519: _Seed
    ml_dsa_44: _Seed


def create_keys(path: Path, name: str) -> bool:
    """Makes the keys, unless they are there.

    Returns:
        Whether they were made.

    Raises:
        UsageError: Not a name for a key, or the keys there have another name.
        StoreError, MalformedError, VerificationError: The file cannot be read or written, or is not ours.
    """
    if os.path.lexists(path):
        load_cosigners(path, name, mldsa=True)
        return False
    seeds = [secrets.token_bytes(_SEED).hex() for _ in range(2)]
    _cosigners(_File(v=1, name=name, ed25519=seeds[0], ml_dsa_44=seeds[1]), mldsa=True)
    write_atomic(path, canonical(_File(v=1, name=name, ed25519=seeds[0], ml_dsa_44=seeds[1])), mode=0o600)
    return True


def load_cosigners(path: Path, name: str, *, mldsa: bool) -> tuple[Cosigner, ...]:
    """Reads the keys.

    Args:
        path: The file.
        name: The witness's name, as the configuration says: in others' policies it goes with the keys.
        mldsa: Whether ML-DSA-44 is wanted beside Ed25519.

    Raises:
        UsageError: Not a name for a key, or the keys have another name.
        StoreError: The file cannot be read.
        VerificationError: Others can read it.
        MalformedError: It is not what `create_keys` writes.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise StoreError(
            f"{path}: {error.strerror}: attestd controller init makes the witness's keys"
        ) from error
    if status.st_mode & 0o077:
        raise VerificationError(f"{path}: others can read the witness's keys: chmod 600")
    found = parse_canonical(data, _File, max_bytes=_MAX_BYTES, what=str(path))
    if found.name != name:
        raise UsageError(
            f"witness_name {name!r}: the keys in {path} are those of {found.name!r}: a witness keeps its name"
        )
    return _cosigners(found, mldsa=mldsa)


def _cosigners(file: _File, *, mldsa: bool) -> tuple[Cosigner, ...]:
    if len(file.name.encode()) > _MAX_NAME_BYTES:
        raise UsageError(f"witness_name: over {_MAX_NAME_BYTES} bytes")
    try:
        ed25519 = cosigner(file.name, Ed25519PrivateKey.from_private_bytes(bytes.fromhex(file.ed25519)))
    except MalformedError as error:
        raise UsageError(
            f"witness_name {file.name!r}: expected a name such as witness.example/1, without spaces or plus"
        ) from error
    if not mldsa:
        return (ed25519,)
    return ed25519, cosigner(file.name, MLDSA44PrivateKey.from_seed_bytes(bytes.fromhex(file.ml_dsa_44)))
