"""What a descriptor is: path, kind, bytes. Agent and runner see for themselves; neither believes a name."""

import hashlib
import os
import stat
from dataclasses import dataclass
from typing import Final

from attestd.codes import Code, Denied

__all__ = ["MAX_FILE_BYTES", "Observed", "observe_directory", "observe_file", "read_start", "sha256_of"]

# What hashing one file may cost whoever looks at it.
MAX_FILE_BYTES: Final = 1 << 30
_CHUNK: Final = 1 << 20
_SHEBANG_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Observed:
    """A regular file behind a descriptor.

    Attributes:
        path: As the kernel names it now (`/proc/self/fd`).
        sha256: Of the bytes read from the descriptor, hex.
        writable: Others than root can change it.
    """

    path: str
    sha256: str
    writable: bool


def observe_file(descriptor: int) -> Observed:
    """Looks at a regular file: path, digest, who can write.

    Raises:
        Denied: `identity_mismatch`: not a regular file, deleted, a path that is not UTF-8, unreadable, or over 1 GiB.
    """
    status = _status(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise _denied(f"descriptor of {_path(descriptor)!r}: expected a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise _denied(f"{_path(descriptor)!r} has {status.st_size} bytes, the limit is {MAX_FILE_BYTES}")
    path = _real_path(descriptor, status)
    return Observed(path, sha256_of(descriptor), others_can_write(status))


def observe_directory(descriptor: int) -> str:
    """The path of a directory.

    Raises:
        Denied: `identity_mismatch`: not a directory, deleted, or a path that is not UTF-8.
    """
    status = _status(descriptor)
    if not stat.S_ISDIR(status.st_mode):
        raise _denied(f"descriptor of {_path(descriptor)!r}: expected a directory")
    return _real_path(descriptor, status)


def others_can_write(status: os.stat_result) -> bool:
    """Whether anybody but root can change a file: as its owner, or by its mode (ACL masks show in the group bits)."""
    return status.st_uid != 0 or bool(status.st_mode & 0o022)


def read_start(descriptor: int) -> bytes:
    """The first bytes of a file: enough for the kernel to tell a script.

    Raises:
        Denied: `identity_mismatch`: unreadable.
    """
    try:
        return os.pread(descriptor, _SHEBANG_BYTES, 0)
    except OSError as error:
        raise _denied(f"{_path(descriptor)!r}: {error.strerror}") from error


def sha256_of(descriptor: int) -> str:
    """SHA-256 of all bytes behind a descriptor, hex; its offset does not move.

    Raises:
        Denied: `identity_mismatch`: unreadable.
    """
    digest = hashlib.sha256()
    offset = 0
    try:
        while part := os.pread(descriptor, _CHUNK, offset):
            digest.update(part)
            offset += len(part)
            if offset > MAX_FILE_BYTES:
                raise _denied(f"{_path(descriptor)!r} grows while it is read")
    except OSError as error:
        raise _denied(f"{_path(descriptor)!r}: {error.strerror}") from error
    return digest.hexdigest()


def _status(descriptor: int) -> os.stat_result:
    try:
        return os.fstat(descriptor)
    except OSError as error:
        raise _denied(f"descriptor: {error.strerror}") from error


def _path(descriptor: int) -> bytes:
    try:
        return os.readlink(b"/proc/self/fd/%d" % descriptor)
    except OSError as error:
        raise _denied(f"descriptor without a path: {error.strerror}") from error


def _real_path(descriptor: int, status: os.stat_result) -> str:
    path = _path(descriptor)
    # A file whose name ends in " (deleted)" is not a deleted one: its link count tells.
    if status.st_nlink == 0 or not path.startswith(b"/"):
        raise _denied(f"{path!r}: expected a file with a name, it was deleted or never had one")
    try:
        return path.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _denied(f"{path!r}: a path that is not UTF-8 cannot be authorized") from error


def _denied(sentence: str) -> Denied:
    return Denied(Code.IDENTITY_MISMATCH, sentence, "run a file that exists under its authorized path")
