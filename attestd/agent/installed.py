"""Installed artifacts: found by what is asked for, verified at each use like any other."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from attestd.authorization.artifact import MAX_ARTIFACT_BYTES, parse_artifact
from attestd.durable import write_atomic
from attestd.errors import MalformedError, StoreError, UsageError

__all__ = ["InstalledArtifacts"]

SYSTEM: Final = "system"
MAX_PER_USER: Final = 256
# All of a user's are read after the agent's start: that must not take long, for others wait.
MAX_BYTES_PER_USER: Final = 4 << 20
SUFFIX: Final = ".auth.json"


@dataclass(frozen=True, slots=True)
class _Installed:
    """What an artifact is found by. No more is kept in memory: a user may have many, and there may be many users."""

    path: Path
    argv0: str | None
    digest: str
    installed_ns: int
    inode: int


@dataclass(frozen=True)
class _Directory:
    """What a directory held when it had this modification time: by path, and newest first."""

    changed_ns: int
    files: Mapping[Path, _Installed]
    newest: tuple[_Installed, ...]


class InstalledArtifacts:
    """A directory a user and one for all, kept by the agent: only it can read users' and serve all users."""

    def __init__(self, directory: Path) -> None:
        """Names the directory."""
        self._directory = directory
        self._seen: dict[Path, _Directory] = {}

    def install(self, data: bytes, *, uid: int | None) -> str:
        """Stores an artifact; its signatures are verified when it is used.

        Args:
            data: The `.auth.json` bytes.
            uid: For which user; None: for all.

        Returns:
            Its id.

        Raises:
            MalformedError: Not an artifact.
            UsageError: The user has too many, or they take too much room.
            StoreError: It cannot be written.
        """
        artifact = parse_artifact(data)
        directory = self._directory / (SYSTEM if uid is None else str(uid))
        path = directory / f"{artifact.id}{SUFFIX}"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sizes = [other.stat().st_size for other in directory.iterdir() if other != path]
        except OSError as error:
            raise StoreError(f"{directory}: {error.strerror}") from error
        if len(sizes) >= MAX_PER_USER or (uid is not None and sum(sizes) + len(data) > MAX_BYTES_PER_USER):
            raise UsageError(
                f"{len(sizes)} authorizations of {sum(sizes)} bytes are installed already, the limits are {MAX_PER_USER}"
                f" and {MAX_BYTES_PER_USER}: remove some from {directory}"
            )
        write_atomic(path, data, mode=0o600)
        return artifact.id

    def candidates(self, *, uid: int, argv0: str, digest: str) -> Iterator[bytes]:
        """Artifacts for a command: the user's, then those for all; by subject digest or argv[0]; newest first."""
        for directory in (self._directory / str(uid), self._directory / SYSTEM):
            for item in self._load(directory):
                if item.digest == digest or item.argv0 == argv0:
                    try:
                        with _opened(item.path) as file:
                            data = file.read(MAX_ARTIFACT_BYTES + 1)
                    except OSError:  # removed since
                        continue
                    yield data

    def _load(self, directory: Path) -> tuple[_Installed, ...]:
        try:
            changed_ns = directory.stat().st_mtime_ns
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StoreError(f"{directory}: {error.strerror}") from error
        seen = self._seen.get(directory)
        if seen is None or seen.changed_ns != changed_ns:
            seen = self._seen[directory] = _look(directory, changed_ns, seen.files if seen else {})
        return seen.newest


def _look(directory: Path, changed_ns: int, known: Mapping[Path, _Installed]) -> _Directory:
    """Reads what is new: whoever installs one artifact must not have hundreds parsed again, while others wait."""
    found = {path: _read(path, known.get(path)) for path in directory.glob(f"*{SUFFIX}")}
    files = {path: item for path, item in found.items() if item is not None}
    newest = sorted(files.values(), key=lambda item: item.installed_ns, reverse=True)
    return _Directory(changed_ns, files, tuple(newest))


def _read(path: Path, known: _Installed | None) -> _Installed | None:
    try:
        with _opened(path) as file:
            status = os.fstat(file.fileno())
            # Files are replaced, never written over.
            if known is not None and (known.inode, known.installed_ns) == (status.st_ino, status.st_mtime_ns):
                return known
            statement = parse_artifact(file.read(MAX_ARTIFACT_BYTES + 1)).statement
    except (OSError, MalformedError):
        return None  # Not an artifact: it authorizes nothing, and must not keep the others from being found.
    argv0 = statement.predicate.scope.argv[0]
    return _Installed(
        path=path,
        argv0=argv0 if isinstance(argv0, str) else None,
        digest=statement.subject[0].digest.sha256,
        installed_ns=status.st_mtime_ns,
        inode=status.st_ino,
    )


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
