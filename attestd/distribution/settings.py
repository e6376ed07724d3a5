"""`settings.toml` of a repository: how long each role holds, who signs online, and where the files go."""

import json
import os
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from attestd.durable import write_atomic
from attestd.errors import StoreError, UsageError
from attestd.strict import Strict

__all__ = [
    "FILE",
    "STANDALONE_DAYS",
    "STANDALONE_ONLINE",
    "Expiry",
    "Settings",
    "load_settings",
    "save_settings",
]

MAX_SETTINGS_BYTES: Final = 8 * 1024
FILE: Final = "settings.toml"
# Nobody but root could freeze what lies on one host, and root could replace its anchor as well.
STANDALONE_DAYS: Final = 3650
STANDALONE_ONLINE: Final = "../online.pem"

_Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]


class Expiry(Strict, frozen=True):
    """For how many days a version of each role holds; `targets` is the teams' as well."""

    root: _Days = 365
    targets: _Days = 365
    snapshot: _Days = 30
    timestamp: _Days = 7

    def of(self, role: Literal["root", "targets", "snapshot", "timestamp"]) -> timedelta:
        """How long one role's metadata holds."""
        return timedelta(days=getattr(self, role))


class Settings(Strict, frozen=True):
    """All settings. Relative paths are relative to the repository's directory.

    Attributes:
        online: The key that signs snapshot and timestamp here: a file, or a securesystemslib URI; empty: none here.
        publish_to: Another directory to which the static files go, for example a web server's; empty: none.
        expiry_days: See `Expiry`.
    """

    online: str = ""
    publish_to: str = ""
    expiry_days: Expiry = Expiry()

    @property
    def is_standalone(self) -> bool:
        """Whether it is a host's own, which that host publishes into its own trust directory."""
        return self.online == STANDALONE_ONLINE and self.expiry_days.timestamp == STANDALONE_DAYS

    def online_key(self, directory: Path) -> str:
        """The online key, a file by its whole path."""
        scheme, colon, _ = self.online.partition(":")
        is_path = self.online and (not colon or "/" in scheme)
        return os.path.normpath(directory / self.online) if is_path else self.online

    def export_path(self, directory: Path) -> Path | None:
        """The directory to which static files go, by its whole path."""
        return Path(os.path.normpath(directory / self.publish_to)) if self.publish_to else None


def load_settings(directory: Path) -> Settings:
    """Reads the settings of a repository.

    Raises:
        UsageError: There are none: this is no repository. Not TOML, an unknown name, a value of the wrong type or out of range.
        StoreError: It cannot be read.
    """
    path = directory / FILE
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SETTINGS_BYTES + 1)
    except FileNotFoundError as error:
        raise UsageError(
            f"{directory} is no repository: {FILE} is missing; make one with attestd governance init {directory}"
        ) from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    if len(data) > MAX_SETTINGS_BYTES:
        raise UsageError(f"{path}: over {MAX_SETTINGS_BYTES} bytes")
    try:
        return msgspec.convert(tomllib.loads(data.decode("utf-8")), Settings, strict=True)
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from error


def save_settings(directory: Path, settings: Settings) -> None:
    """Writes the settings.

    Raises:
        StoreError: It cannot be written.
    """
    lines = [
        "# Settings of this repository; see docs/governance.md",
        f"online = {_quoted(settings.online)}",
        f"publish_to = {_quoted(settings.publish_to)}",
        "",
        "[expiry_days]",
        *(f"{name} = {getattr(settings.expiry_days, name)}" for name in Expiry.__struct_fields__),
    ]
    write_atomic(directory / FILE, "\n".join([*lines, ""]).encode(), mode=0o644)


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's escapes are TOML's."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
