"""Installed artifacts: found by what is asked for, verified at each use like any other."""

import os
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


class InstalledArtifacts:
    """A directory a user and one for all, kept by the agent: only it can read users' and serve all users."""

    def __init__(self, directory: Path) -> None:
        """Names the directory."""
        self._directory = directory
        self._cache: dict[Path, tuple[int, tuple[_Installed, ...]]] = {}

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
            changed = directory.stat().st_mtime_ns
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StoreError(f"{directory}: {error.strerror}") from error
        cached = self._cache.get(directory)
        if cached is None or cached[0] != changed:
            found = [item for path in directory.glob(f"*{SUFFIX}") if (item := _read(path)) is not None]
            found.sort(key=lambda item: item.installed_ns, reverse=True)
            cached = (changed, tuple(found))
            self._cache[directory] = cached
        return cached[1]


def _read(path: Path) -> _Installed | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(MAX_ARTIFACT_BYTES + 1)
            installed_ns = os.fstat(file.fileno()).st_mtime_ns
        return _Installed(data, parse_artifact(data), installed_ns)
    except (OSError, MalformedError):
        return None  # Not an artifact: it authorizes nothing, and must not keep the others from being found.


def _is_for(artifact: UntrustedArtifact, *, argv0: str, digest: str) -> bool:
    statement = artifact.statement
    return statement.subject[0].digest.sha256 == digest or statement.predicate.scope.argv[0] == argv0
