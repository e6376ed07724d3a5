"""Reads a local trust directory: `authorities.json`, `revocations.json`, `platform/…`, `hosts/…`."""

import contextlib
import errno
import math
import os
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from attestd.errors import MalformedError, StoreError, VerificationError
from attestd.governance.trust import Trust, parse_trust

__all__ = ["TrustDirectory", "load_trust", "read_trust_files", "write_atomic"]

MAX_FILES: Final = 4096
MAX_FILE_BYTES: Final = 16 << 20
MAX_DEPTH: Final = 2
LOOK_S: Final = 0.02
# Two changes within one tick of the kernel's clock have the same ctime: what was younger than this is read again.
SETTLED_NS: Final = 100_000_000


def load_trust(directory: Path, *, owners: Collection[int]) -> Trust:
    """Reads and verifies a trust directory.

    Args:
        directory: The directory; what anchors trust is who can write to it.
        owners: The only users that may own it and what is in it.

    Raises:
        StoreError: It cannot be read.
        VerificationError: Others than `owners` can write to it, or what is in it does not verify.
        MalformedError: What is in it does not parse.
    """
    return parse_trust(read_trust_files(directory, owners=owners))


class TrustDirectory:
    """A trust directory that is read again when something in it changed.

    Verifying everything takes some milliseconds, looking whether it changed a tenth of one: so each decision is
    against what was on disk at most `LOOK_S` ago.
    """

    def __init__(self, directory: Path, *, owners: Collection[int]) -> None:
        """Names the directory; nothing is read yet."""
        self.directory = directory
        self._owners = owners
        self._seen: tuple[_Entry, ...] | None = None
        self._trust: Trust | None = None
        self._looked_at = -math.inf

    def current(self) -> Trust:
        """What the directory says now.

        Raises:
            StoreError, VerificationError, MalformedError: As `load_trust`; what was trusted before is dropped.
        """
        now = time.monotonic()
        if self._trust is not None and now - self._looked_at < LOOK_S:
            return self._trust
        trust, self._trust = self._trust, None  # Nothing is trusted while it cannot be read.
        settled_ns = time.time_ns() - SETTLED_NS
        seen = _fingerprint(self.directory)
        if trust is None or seen != self._seen:
            trust = load_trust(self.directory, owners=self._owners)
        settled = all(entry.ctime_ns < settled_ns for entry in seen)
        self._trust, self._seen, self._looked_at = trust, seen if settled else None, now
        return trust


class _Entry(NamedTuple):
    path: str
    inode: int
    ctime_ns: int
    size: int


def _fingerprint(directory: Path) -> tuple[_Entry, ...]:
    """Changes with every change below a directory: inode and ctime, which nobody can set, of all there is."""
    found: list[_Entry] = []
    pending = [os.fspath(directory)]
    try:
        while pending and len(found) <= MAX_FILES:
            path = pending.pop()
            found.append(_entry(path, os.lstat(path)))
            with os.scandir(path) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        found.append(_entry(entry.path, entry.stat(follow_symlinks=False)))
    except OSError as error:
        raise StoreError(
            f"trust directory {directory}: {error.strerror}; initialise the host with attestd init"
        ) from error
    return tuple(found)


def _entry(path: str, status: os.stat_result) -> _Entry:
    return _Entry(path, status.st_ino, status.st_ctime_ns, status.st_size)


def read_trust_files(directory: Path, *, owners: Collection[int]) -> dict[str, bytes]:
    """The files of a trust directory by relative name, each read through a descriptor that was checked.

    Names that begin with a dot are left out: they are temporary files of an update that was cut off.

    Raises:
        StoreError: A directory or file cannot be read, or there are too many.
        VerificationError: A wrong owner, others can write, a symbolic link, not a regular file.
        MalformedError: A file over 16 MiB.
    """
    files: dict[str, bytes] = {}
    try:
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(
            f"trust directory {directory}: {error.strerror}; initialise the host with attestd init"
        ) from error
    try:
        for name, data in _walk(root, "", directory, owners, depth=0):
            files[name] = data
            if len(files) > MAX_FILES:
                raise StoreError(f"trust directory {directory}: more than {MAX_FILES} files")
    except OSError as error:
        raise StoreError(f"trust directory {directory}: {error}") from error
    finally:
        os.close(root)
    return files


def _walk(
    directory: int, prefix: str, top: Path, owners: Collection[int], *, depth: int
) -> Iterator[tuple[str, bytes]]:
    _require_safe(os.fstat(directory), top / prefix, owners)
    for name in sorted(os.listdir(directory)):
        if name.startswith("."):
            continue
        child = _open(name, directory, top / f"{prefix}{name}")
        try:
            status = os.fstat(child)
            relative = f"{prefix}{name}"
            if stat.S_ISDIR(status.st_mode) and depth < MAX_DEPTH:
                yield from _walk(child, f"{relative}/", top, owners, depth=depth + 1)
                continue
            _require_safe(status, top / relative, owners)
            if not stat.S_ISREG(status.st_mode):
                raise VerificationError(f"{top / relative}: expected a regular file")
            yield relative, _read(child, top / relative)
        finally:
            os.close(child)


def _open(name: str, directory: int, path: Path) -> int:
    try:
        # Non-blocking: a FIFO in the directory must not hang its reader.
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise VerificationError(f"{path}: a symbolic link, expected a regular file") from error
        raise


def _require_safe(status: os.stat_result, path: Path, owners: Collection[int]) -> None:
    if status.st_uid not in owners:
        allowed = " or ".join(str(uid) for uid in sorted(owners))
        raise VerificationError(f"{path}: owned by uid {status.st_uid}, expected {allowed}: chown it")
    if status.st_mode & 0o022:
        raise VerificationError(
            f"{path}: mode {stat.S_IMODE(status.st_mode):04o}: others can write: chmod go-w"
        )


def _read(descriptor: int, path: Path) -> bytes:
    parts: list[bytes] = []
    left = MAX_FILE_BYTES + 1
    while left and (part := os.read(descriptor, min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    if not left:
        raise MalformedError(f"{path}: over {MAX_FILE_BYTES} bytes")
    return b"".join(parts)


def write_atomic(path: Path, data: bytes, *, mode: int) -> None:
    """Writes a file so that a reader, or a crash, sees the old or the new one, whole and durable.

    Raises:
        StoreError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
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
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error
