"""What the next version of governance will hold: plain target files, and drafts of metadata with their signatures."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from tuf.api.metadata import Targets

from attestd.distribution.published import read_file
from attestd.durable import make_directories, try_lock, write_atomic
from attestd.errors import StoreError, UsageError
from attestd.governance.metadata import MAX_TARGETS
from attestd.strict import canonical

__all__ = ["TEAM_PREFIX", "Staging", "require_name", "role_of", "role_of_draft", "team_role"]

TEAM_PREFIX: Final = "team-"
MAX_FILES: Final = MAX_TARGETS
_BASE: Final = "base.json"
_PART: Final = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"
_NAME: Final = re.compile(rf"\A{_PART}(/{_PART}){{0,3}}\Z")
_ROLE_FILE: Final = re.compile(r"\A([A-Za-z0-9_-][A-Za-z0-9._-]{0,63})\.json\Z")


def team_role(team: str) -> str:
    """The TUF role of a team."""
    return f"{TEAM_PREFIX}{team}"


def role_of(name: str) -> str:
    """Which role signs a target."""
    parts = name.split("/")
    return team_role(parts[1]) if parts[0] == "teams" and len(parts) > 2 else Targets.type


@dataclass(frozen=True)
class Staging:
    """The directory `staged` of a repository: `targets/<name>`, `metadata/<role>.json`, and `base.json`."""

    path: Path

    def files(self) -> dict[str, bytes]:
        """All target files by name. Names that begin with a dot are left out: an editor's, or of a write cut off.

        Raises:
            StoreError: They cannot be read, or there are too many.
            UsageError: A name that no target has.
        """
        top = self.path / "targets"
        found = {
            str(path.relative_to(top)): path
            for path in sorted(top.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(top).parts)
        }
        if len(found) > MAX_FILES:
            raise StoreError(f"{top}: more than {MAX_FILES} files")
        for name in found:
            require_name(name)
        return {name: read_file(path) for name, path in found.items()}

    def write(self, files: Mapping[str, bytes | None]) -> None:
        """Writes target files; None removes one.

        Raises:
            UsageError: A name that no target has.
            StoreError: It cannot be done.
        """
        for name, data in files.items():
            require_name(name)
            path = self.path / "targets" / name
            if data is None:
                _unlink(path)
                continue
            make_directories(path.parent, top=self.path / "targets", mode=0o700)
            write_atomic(path, data, mode=0o600)

    def drafts(self) -> dict[str, bytes]:
        """Drafts by role.

        Raises:
            StoreError: They cannot be read.
            UsageError: One is named for no role.
        """
        return {
            role_of_draft(path): read_file(path) for path in sorted((self.path / "metadata").glob("*.json"))
        }

    def write_drafts(self, drafts: Mapping[str, bytes]) -> None:
        """Makes these the drafts that there are.

        Raises:
            StoreError: They cannot be written.
        """
        top = self.path / "metadata"
        for role, data in drafts.items():
            path = top / f"{role}.json"
            if not path.exists() or read_file(path) != data:
                write_atomic(path, data, mode=0o600)
        for path in top.glob("*.json"):
            if path.stem not in drafts:
                _unlink(path)

    def base(self) -> dict[str, str]:
        """What the files go on from, by role (`attestd.distribution.base`); empty: from nothing that is published.

        What cannot be understood says nothing: then a stage that differs from what is published is refused, and can be reset.

        Raises:
            StoreError: It cannot be read.
        """
        path = self.path / _BASE
        if not path.exists():
            return {}
        try:
            return msgspec.json.decode(read_file(path), type=dict[str, str])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return {}

    def write_base(self, base: Mapping[str, str]) -> None:
        """Says what the files go on from.

        Raises:
            StoreError: As `base`; or it cannot be written.
        """
        if self.base() != base:
            write_atomic(self.path / _BASE, canonical(dict(base)), mode=0o600)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the repository: one process at a time changes it.

        Raises:
            UsageError: Another process does.
            StoreError: It cannot be used.
        """
        descriptor = try_lock(self.path / ".lock")
        if descriptor is None:
            raise UsageError(f"another process changes {self.path.parent} at this moment: try again")
        try:
            yield
        finally:
            os.close(descriptor)


def role_of_draft(path: Path) -> str:
    """The role that a draft's file is named for.

    Raises:
        UsageError: No role has such a name.
    """
    found = _ROLE_FILE.match(path.name)
    if found is None:
        raise UsageError(
            f"{path}: expected a draft such as targets.json, root.json or {TEAM_PREFIX}NAME.json"
        )
    return found[1]


def require_name(name: str) -> None:
    """Refuses what no target can be called.

    Raises:
        UsageError: It cannot.
    """
    if not _NAME.match(name):
        raise UsageError(
            f"target {name!r}: expected a relative name such as policy/exec.cedar, at most 4 parts"
        )


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
