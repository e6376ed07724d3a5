"""The repository of a host that stands alone: local keys sign it, and it is published into the host's trust directory."""

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from attestd.distribution.creation import create_repository
from attestd.distribution.repository import Repository, utc_now
from attestd.distribution.settings import FILE, STANDALONE_DAYS, STANDALONE_ONLINE, Expiry, Settings
from attestd.distribution.signer import Ask, Authority, generate, load_authority
from attestd.durable import write_atomic
from attestd.errors import UsageError
from attestd.governance.draft import RoleKeys

__all__ = ["LOCAL_KEYS", "local_repository", "open_local_repository", "publish_local"]

# Beside the keys that sign authorizations and platform states: one for each TUF role.
LOCAL_KEYS: Final = ("governance-root", "governance", "online")
DIRECTORY: Final = "governance"


def local_repository(authority: Path, *, trust: Path, clock: Callable[[], datetime] = utc_now) -> Repository:
    """Opens the local repository; makes it, and keys for it, if it is not there. Can be cut off and called again.

    Args:
        authority: The directory of local authorities' keys.
        trust: The trust directory that it publishes into.
        clock: The time.

    Raises:
        StoreError, UsageError, MalformedError: As `Repository`, `generate` and `load_authority`.
    """
    path = authority / DIRECTORY
    if os.path.exists(path / FILE):
        return Repository(path, clock=clock)
    root, targets, online = (_local_key(authority, name) for name in LOCAL_KEYS)
    days = STANDALONE_DAYS
    return create_repository(
        path,
        root=RoleKeys((root.public,)),
        targets=RoleKeys((targets.public,)),
        online=RoleKeys((online.public,)),
        settings=Settings(
            online=STANDALONE_ONLINE,
            publish_to=os.path.relpath(trust, path),
            expiry_days=Expiry(root=days, targets=days, snapshot=days, timestamp=days),
        ),
        clock=clock,
    )


def open_local_repository(authority: Path) -> Repository:
    """Opens the local repository.

    Raises:
        UsageError: This host has none: its governance comes from elsewhere.
        StoreError: It cannot be read.
    """
    path = authority / DIRECTORY
    if not os.path.exists(path / FILE):  # false also where this user may not look
        raise UsageError(
            f"{path} is no repository: this host's governance is signed elsewhere; name a repository with --repository"
        )
    return Repository(path)


def publish_local(
    repository: Repository, authority: Path, files: Mapping[str, bytes | None], *, ask: Ask | None = None
) -> None:
    """Stages files, signs them with the local keys, publishes. Can be cut off and called again.

    Args:
        repository: From `local_repository`.
        authority: The directory of its keys.
        files: As for `Repository.stage`; what is staged already stays.
        ask: For the keys' passphrases, if somebody gave them any.

    Raises:
        UsageError, StoreError, MalformedError, VerificationError: As `Repository`.
    """
    if files:
        repository.stage(files)
    for item in repository.status():
        if item.is_staged:
            name = "governance-root" if item.role == "root" else "governance"
            repository.sign(load_authority(str(authority / f"{name}.pem"), ask=ask))
    online = [load_authority(repository.online_key, ask=ask)]
    published = repository.publish(online, is_short_meant=True)  # The host takes it at once.
    anchor = (repository.export_path or repository.published_path) / "root.json"
    if not anchor.exists():
        write_atomic(anchor, published.roots[0].data, mode=0o644)


def _local_key(authority: Path, name: str) -> Authority:
    path = authority / f"{name}.pem"
    return load_authority(str(path)) if path.exists() else generate("ed25519", path)
