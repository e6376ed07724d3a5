"""Files whose bytes can no longer change between the check and the use."""

import fcntl
import os
import stat
from dataclasses import dataclass, replace
from typing import Final

from attestd.codes import Code, Denied
from attestd.observe import Observed, observe_file, sha256_of

__all__ = ["Held", "hold_file", "is_firm_path", "require_here"]

# One slow request must not stop signals and exit statuses of all others for long.
MAX_COPY_BYTES: Final = 256 << 20
_CHUNK: Final = 1 << 20
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MFD_EXEC: Final = 0x10  # Linux 6.3; not in Python 3.11
_HINT: Final = "run what is installed on this host, owned by root and writable by root only"


@dataclass(frozen=True, slots=True)
class Held:
    """A file as observed, and the descriptor to use it by."""

    observed: Observed
    descriptor: int


def hold_file(descriptor: int) -> Held:
    """Observes a file. What others than root can write is copied to sealed memory, and the copy is used.

    Args:
        descriptor: Open for reading; stays the caller's.

    Returns:
        The observation, with the original's path, and a new descriptor, close-on-exec, that the caller must close.

    Raises:
        Denied: `identity_mismatch`: as `observe_file` and `require_here`; too large; or it changed meanwhile.
        OSError: No memory, no descriptors.
    """
    # Before it is read: whoever has it open for writing may write, and close it, meanwhile.
    had_writer = _has_writer(descriptor)
    observed = observe_file(descriptor)
    require_here(observed.path, descriptor)
    # nosuid: a file system that a user mounted (FUSE, removable media) may show files as root's that are not.
    if had_writer or os.fstatvfs(descriptor).f_flag & os.ST_NOSUID:
        observed = replace(observed, writable=True)
    if not observed.writable:
        return Held(observed, os.dup(descriptor))
    copy = _sealed_copy(descriptor, observed.path)
    if sha256_of(copy) != observed.sha256:
        os.close(copy)
        raise _mismatch(f"{observed.path} changed while it was read")
    return Held(observed, copy)


def require_here(path: str, descriptor: int) -> None:
    """The path behind a descriptor is where the runner finds the same file or directory.

    Anyone can make a mount namespace, and mount a directory of their own there as /srv: a descriptor of it says "/srv"
    as well. What an authority signed means the paths of this host.

    Raises:
        Denied: `identity_mismatch`.
    """
    try:
        here, there = os.lstat(path), os.fstat(descriptor)
    except OSError as error:
        raise _mismatch(f"{path!r} cannot be found on this host: {error.strerror}") from error
    if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
        raise _mismatch(f"{path!r} is another file on this host than the one that was opened")


def is_firm_path(path: str) -> bool:
    """Whether a path will name the same file for whoever opens it later, unless root changes that.

    Args:
        path: Absolute, without symbolic links; `require_here` holds.
    """
    try:
        directory = path
        while directory != "/":
            directory = os.path.dirname(directory)
            status = os.lstat(directory)
            # In a sticky directory (/tmp) nobody but root can replace what is root's.
            if status.st_uid != 0 or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
                return False
    except OSError:
        return False
    return True


def _has_writer(descriptor: int) -> bool:
    """Whether somebody has the file open for writing, perhaps since it was theirs; chown and chmod take nothing back."""
    try:
        # A read lease is refused while there is a writer (fcntl(2), F_SETLEASE).
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:  # a file system without leases; or, without root, a file that is not ours
        return False
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _sealed_copy(descriptor: int, path: str) -> int:
    writer = _create_memfd(os.path.basename(path))
    try:
        position = 0
        while chunk := os.pread(descriptor, _CHUNK, position):
            position += len(chunk)
            if position > MAX_COPY_BYTES:
                raise _mismatch(f"{path} can be changed by others than root, and is too large to be copied")
            view = memoryview(chunk)
            while view:
                view = view[os.write(writer, view) :]
        os.fchmod(writer, 0o555)
        fcntl.fcntl(writer, fcntl.F_ADD_SEALS, _SEALS)
        # Read-only, and the writer closed below: while one is open, executing it is "text file busy".
        return os.open(f"/proc/self/fd/{writer}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writer)


def _create_memfd(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    name = name.encode()[:100].decode("utf-8", "ignore")
    try:
        return os.memfd_create(name, flags | _MFD_EXEC)
    except OSError:  # before Linux 6.3 the flag is unknown, and its effect the only one
        return os.memfd_create(name, flags)


def _mismatch(sentence: str) -> Denied:
    return Denied(Code.IDENTITY_MISMATCH, sentence, _HINT)
