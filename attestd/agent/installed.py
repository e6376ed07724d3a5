"""Installed artifacts: found by what is asked for, verified at each use like any other."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestd.authorization.artifact import MAX_ARTIFACT_BYTES, UntrustedArtifact, parse_artifact
from attestd.distribution.local import write_atomic
from attestd.errors import MalformedError, StoreError, UsageError

__all__ = ["InstalledArtifacts"]

SYSTEM: Final = "system"
MAX_PER_USER: Final = 256
SUFFIX: Final = ".auth.json"


@dataclass(frozen=True)
class _Installed:
    data: bytes
    artifact: UntrustedArtifact
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
            UsageError: The user has too many.
            StoreError: It cannot be written.
        """
        artifact = parse_artifact(data)
        directory = self._directory / (SYSTEM if uid is None else str(uid))
        path = directory / f"{artifact.id}{SUFFIX}"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            count = sum(1 for other in directory.iterdir() if other != path)
        except OSError as error:
            raise StoreError(f"{directory}: {error.strerror}") from error
        if count >= MAX_PER_USER:
            raise UsageError(
                f"{MAX_PER_USER} authorizations are installed already: remove some from {directory}"
            )
        write_atomic(path, data, mode=0o600)
        return artifact.id

    def candidates(self, *, uid: int, argv0: str, digest: str) -> list[bytes]:
        """Artifacts for a command: the user's, then those for all; by subject digest or argv[0]; newest first."""
        return [
            item.data
            for directory in (self._directory / str(uid), self._directory / SYSTEM)
            for item in self._load(directory)
            if _is_for(item.artifact, argv0=argv0, digest=digest)
        ]

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
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            # Files are replaced, never written over.
            if known is not None and (known.inode, known.installed_ns) == (status.st_ino, status.st_mtime_ns):
                return known
            data = file.read(MAX_ARTIFACT_BYTES + 1)
        return _Installed(data, parse_artifact(data), status.st_mtime_ns, status.st_ino)
    except (OSError, MalformedError):
        return None  # Not an artifact: it authorizes nothing, and must not keep the others from being found.


def _is_for(artifact: UntrustedArtifact, *, argv0: str, digest: str) -> bool:
    statement = artifact.statement
    return statement.subject[0].digest.sha256 == digest or statement.predicate.scope.argv[0] == argv0
