"""`keys.json`: the TPM key blobs and the secrets that go with them. Mode 0600, read by the agent alone."""

import os
from base64 import b64encode
from pathlib import Path
from typing import Final, Literal

from attestd.durable import write_atomic
from attestd.errors import StoreError, UsageError
from attestd.strict import Base64Bytes, Strict, canonical, decode_base64, parse_canonical
from attestd.tpm.keys import AuthValues, KeyBlobs

__all__ = ["load_keys", "save_keys"]

MAX_KEYS_BYTES: Final = 64 * 1024


class _Key(Strict, frozen=True):
    public: Base64Bytes
    private: Base64Bytes


class _Auth(Strict, frozen=True):
    ak: Base64Bytes
    release: Base64Bytes
    counter: Base64Bytes


class _KeysFile(Strict, frozen=True):
    v: Literal[1]
    ak: _Key
    release: _Key
    auth: _Auth


def save_keys(path: Path, blobs: KeyBlobs, auth: AuthValues) -> None:
    """Writes the file.

    Raises:
        StoreError: It cannot be written.
    """
    file = _KeysFile(
        v=1,
        ak=_Key(public=_text(blobs.ak_public), private=_text(blobs.ak_private)),
        release=_Key(public=_text(blobs.release_public), private=_text(blobs.release_private)),
        auth=_Auth(ak=_text(auth.ak), release=_text(auth.release), counter=_text(auth.counter)),
    )
    write_atomic(path, canonical(file), mode=0o600)


def load_keys(path: Path) -> tuple[KeyBlobs, AuthValues]:
    """Reads the file.

    Raises:
        StoreError: It is not there or cannot be read.
        UsageError: Others can read it.
        MalformedError: Not such a file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise StoreError(f"{path} does not exist: initialise this host with attestd init") from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as handle:
        if os.fstat(descriptor).st_mode & 0o077:
            raise UsageError(f"{path}: others can read it: chmod 600 {path}")
        data = handle.read(MAX_KEYS_BYTES + 1)
    file = parse_canonical(data, _KeysFile, max_bytes=MAX_KEYS_BYTES, what="keys.json")
    blobs = KeyBlobs(
        ak_public=_bytes(file.ak.public),
        ak_private=_bytes(file.ak.private),
        release_public=_bytes(file.release.public),
        release_private=_bytes(file.release.private),
    )
    auth = AuthValues(
        ak=_bytes(file.auth.ak), release=_bytes(file.auth.release), counter=_bytes(file.auth.counter)
    )
    return blobs, auth


def _text(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return decode_base64(text, what="keys.json")
