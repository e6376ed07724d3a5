"""Makes a repository of governance: its directory, and a first root that waits to be signed."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from attestd.distribution.documents import require_keys
from attestd.distribution.drafting import ONLINE
from attestd.distribution.repository import Repository, utc_now
from attestd.distribution.settings import Settings, save_settings
from attestd.distribution.staging import Staging
from attestd.durable import make_directories
from attestd.errors import StoreError, UsageError
from attestd.governance.draft import RoleKeys, draft_root

__all__ = ["create_repository"]


def create_repository(
    path: Path,
    *,
    root: RoleKeys,
    targets: RoleKeys,
    online: RoleKeys,
    settings: Settings,
    clock: Callable[[], datetime] = utc_now,
) -> Repository:
    """Makes a repository whose first root waits to be signed.

    Args:
        path: A new directory, or an empty one.
        root: Who may change all keys; kept offline.
        targets: Who signs what hosts believe.
        online: Who signs snapshot and timestamp.
        settings: Expiries, where the online key is, where the files go.
        clock: The time.

    Raises:
        UsageError: The directory is in use, or a role cannot be signed.
        StoreError: It cannot be written.
    """
    for role, keys in (("root", root), ("targets", targets), (ONLINE, online)):
        require_keys(keys, role=role)
    _require_unused(path)
    for directory in (path / "staged" / "targets", path / "staged" / "metadata", path / "published"):
        make_directories(directory, top=path, mode=0o700)
    draft = draft_root(
        version=1,
        expires=clock() + settings.expiry_days.of("root"),
        root=root,
        targets=targets,
        snapshot=online,
        timestamp=online,
    )
    Staging(path / "staged").write_drafts({"root": draft})
    save_settings(path, settings)
    return Repository(path, clock=clock)


def _require_unused(path: Path) -> None:
    """Settings are written last: without them, what lies there is a creation that was cut off, and is begun again."""
    try:
        found = {item.name for item in path.iterdir()} if path.exists() else set()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    if not found <= {"staged", "published"}:
        raise UsageError(f"{path} is not empty: a repository is made in a new directory")
