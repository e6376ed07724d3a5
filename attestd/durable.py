"""Files and directories that are there after a power cut, and whole at every moment."""

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

from attestd.errors import StoreError

__all__ = ["make_directories", "make_directory", "sync_directory", "try_lock", "write_atomic"]


def write_atomic(path: Path, data: bytes, *, mode: int) -> None:
    """Writes a file so that a reader, or a crash, sees the old or the new one, whole and durable.

    Raises:
        StoreError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            os.fchmod(descriptor, mode)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Makes durable what was made, renamed or removed in a directory.

    Raises:
        OSError: It cannot be opened, or the disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path, mode: int) -> bool:
    """Makes a directory with exactly this mode, whatever the umask; one that is there stays as it is.

    Returns:
        Whether it was made.

    Raises:
        StoreError: It cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode)
        path.chmod(mode)
        sync_directory(path.parent)
    except OSError as error:
        if isinstance(error, FileExistsError) and path.is_dir():
            return False
        raise StoreError(f"{path}: {error.strerror}") from error
    return True


def make_directories(path: Path, *, top: Path, mode: int) -> None:
    """Makes the directories from `top` down to `path`, each with this mode, where they are not there yet.

    Raises:
        StoreError: They cannot be made.
    """
    if path != top:
        make_directories(path.parent, top=top, mode=mode)
    make_directory(path, mode)


def try_lock(path: Path) -> int | None:
    """Takes a lock file, which the kernel gives back, at the latest with the process; made where there is none.

    Returns:
        The descriptor that holds it, to be closed; None: another process has it.

    Raises:
        StoreError: The file cannot be used.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
