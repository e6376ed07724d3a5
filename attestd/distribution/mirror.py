"""Reads governance from disk: the anchor, which only its owner may change; and the mirror, which nobody needs to trust.

Whoever can write the mirror may be broken into: so each file is read through a descriptor that was checked, no symbolic
link is followed, and nothing is read beyond what the metadata, verified before it, says that there is.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Self

from attestd.errors import MalformedError, StoreError, VerificationError
from attestd.governance.host_records import HOSTS
from attestd.governance.metadata import target_path, verify_target
from attestd.governance.signed import MAX_BYTES
from attestd.governance.targets import TargetFile
from attestd.paths import TrustSource

__all__ = ["METADATA", "ROOT", "TARGETS", "TIMESTAMP", "Mirror", "read_anchor"]

ROOT: Final = "root.json"
METADATA: Final = "metadata"
TARGETS: Final = "targets"
TIMESTAMP: Final = "timestamp.json"

# Whose record it is, and whether this is that host, is not known here.
_RECORDS: Final = (
    "attestd governance update downloads this host's; other hosts' are not kept on a host: for those give --trust with all of"
    " them, from where governance is published"
)
_PART: Final = re.compile(r"\A[A-Za-z0-9_@%+=,~-][A-Za-z0-9_.@%+=,~-]{0,250}\Z")


def read_anchor(source: TrustSource) -> bytes:
    """Reads `root.json`.

    Raises:
        StoreError: It cannot be read.
        VerificationError: A wrong owner, others can write to it or to its directory, a symbolic link.
        MalformedError: It is too large.
    """
    path = source.anchor / ROOT
    with _translated(
        source.anchor, "initialise the host with attestd init, or put the root of trust (1.root.json) there"
    ):
        directory = os.open(source.anchor, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _require_owned(os.fstat(directory), source.anchor, source.owners)
            descriptor = _open_file(ROOT, directory, path)
            try:
                _require_owned(os.fstat(descriptor), path, source.owners)
                return _read(descriptor, path, MAX_BYTES["root"])
            finally:
                os.close(descriptor)
        finally:
            os.close(directory)


class Mirror:
    """A mirror, opened to read. What it gives is not verified but for `target`."""

    def __init__(self, path: Path, metadata: int, targets: int) -> None:
        """Takes descriptors of the directories; use `open`."""
        self._path, self._metadata, self._targets = path, metadata, targets

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens a mirror.

        Raises:
            StoreError: There is none, or it cannot be read.
            VerificationError: A symbolic link.
        """
        with _translated(path, "see attestd doctor"), contextlib.ExitStack() as stack:
            top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, top)
            metadata = _open_directory(METADATA, top, path / METADATA)
            stack.callback(os.close, metadata)
            targets = _open_directory(TARGETS, top, path / TARGETS)
            stack.pop_all()
            os.close(top)
            return cls(path, metadata, targets)

    def close(self) -> None:
        """Closes it."""
        os.close(self._metadata)
        os.close(self._targets)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def metadata(self, name: str, max_bytes: int) -> bytes | None:
        """A metadata file, such as `3.root.json`; None: there is no such file.

        Raises:
            StoreError, VerificationError, MalformedError: It cannot be read, is no regular file, is too large.
        """
        path = self._path / METADATA / name
        _require_parts(name, path, most=1)
        with _translated(path, "see attestd doctor"):
            try:
                descriptor = _open_file(name, self._metadata, path)
            except FileNotFoundError:
                return None
            try:
                return _read(descriptor, path, max_bytes)
            finally:
                os.close(descriptor)

    def open_published(self, path: str) -> BinaryIO | None:
        """Opens any file by its path, such as `metadata/3.root.json` or `targets/platform/<sha256>.local.json`.

        Returns:
            The file, of which nothing is verified; None: there is no such file.

        Raises:
            MalformedError: Not the path of a published file.
            StoreError, VerificationError: It cannot be read, or is no regular file.
        """
        top, _, name = path.partition("/")
        where = self._path / METADATA / name
        directory = {METADATA: self._metadata, TARGETS: self._targets}.get(top)
        *parents, last = _require_parts(name, where, most=1 if top == METADATA else 4)
        if directory is None:
            return None
        with _translated(self._path / top / name, "see attestd doctor"), contextlib.ExitStack() as stack:
            try:
                for part in parents:
                    directory = _open_directory(part, directory, where)
                    stack.callback(os.close, directory)
                return os.fdopen(_open_file(last, directory, where), "rb")
            except FileNotFoundError:
                return None

    def has(self, name: str, file: TargetFile) -> bool:
        """Whether something lies where this target should: what it is, `target` says."""
        try:
            os.stat(target_path(name, file.sha256), dir_fd=self._targets, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def target(self, name: str, file: TargetFile) -> bytes:
        """A target, verified against what the metadata says of it.

        Raises:
            StoreError, VerificationError, MalformedError: It is not there, or is not what the metadata says.
        """
        relative = target_path(name, file.sha256)
        path = self._path / TARGETS / relative
        *parents, last = _require_parts(relative, path, most=4)
        hint = _RECORDS if name.startswith(HOSTS) else "see attestd doctor"
        with _translated(path, hint), contextlib.ExitStack() as stack:
            directory = self._targets
            for part in parents:
                directory = _open_directory(part, directory, path)
                stack.callback(os.close, directory)
            descriptor = _open_file(last, directory, path)
            stack.callback(os.close, descriptor)
            data = _read(descriptor, path, file.length)
        verify_target(name, file, data)
        return data


def _require_parts(name: str, path: Path, *, most: int) -> list[str]:
    parts = name.split("/")
    if len(parts) > most or not all(map(_PART.match, parts)):
        raise MalformedError(f"{path}: not a name of a published file")
    return parts


@contextlib.contextmanager
def _translated(path: Path, hint: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f"{path}: " if error.filename is None or os.fspath(error.filename) == os.fspath(path) else (
            f"{path} ({error.filename}): "
        )  # fmt: skip
        raise StoreError(f"{where}{error.strerror}; {hint}") from error


def _open_directory(name: str, directory: int, path: Path) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise VerificationError(f"{path}: {name}: not a directory, or a symbolic link") from error
        raise


def _open_file(name: str, directory: int, path: Path) -> int:
    try:
        # Non-blocking: a FIFO must not hang its reader.
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory
        )
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # ENXIO: a socket
            raise VerificationError(f"{path}: expected a regular file, found a link or socket") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise VerificationError(f"{path}: expected a regular file")
    return descriptor


def _require_owned(status: os.stat_result, path: Path, owners: frozenset[int]) -> None:
    if status.st_uid not in owners:
        allowed = " or ".join(str(uid) for uid in sorted(owners))
        raise VerificationError(f"{path}: owned by uid {status.st_uid}, expected {allowed}: chown it")
    if status.st_mode & 0o022:
        raise VerificationError(
            f"{path}: mode {stat.S_IMODE(status.st_mode):04o}: others can write: chmod go-w"
        )


def _read(descriptor: int, path: Path, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    left = max_bytes + 1
    while left and (part := os.read(descriptor, min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    if not left:
        raise MalformedError(f"{path}: over {max_bytes} bytes")
    return b"".join(parts)
