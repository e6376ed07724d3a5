"""Passphrases and PINs that stand in files."""

import os
import stat
from pathlib import Path
from typing import Final

from attestd.errors import StoreError, UsageError

__all__ = ["read_secret"]

_MAX_SECRET_BYTES: Final = 4096


def read_secret(path: Path) -> str:
    """The first line of a file that only its owner can read.

    Raises:
        UsageError: Others can read it, it is empty, or over 4 KiB.
        StoreError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(_MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        raise UsageError(f"{path}: others can read it: chmod 600 {path}")
    line = data.partition(b"\n")[0].removesuffix(b"\r")
    if not line or len(data) > _MAX_SECRET_BYTES:
        raise UsageError(f"{path}: expected a secret in its first line, in a file of at most 4 KiB")
    return line.decode("utf-8", "surrogateescape")
