"""`salt.key`: the key from which the salts of secret values are derived. Mode 0600, the agent's alone."""

import os
import secrets
from pathlib import Path

from attestd.account import acting_as, agent_account
from attestd.durable import write_atomic
from attestd.errors import StoreError, UsageError
from attestd.gate.concealment import SALT_BYTES, derive_salt
from attestd.lineage.entry import Entry
from attestd.paths import Layout

__all__ = ["decision_salt", "ensure_salt_key", "load_salt_key"]


def ensure_salt_key(path: Path) -> bytes:
    """The key; drawn when there is none.

    Raises:
        StoreError: It cannot be read or written, or is none.
    """
    if not os.path.lexists(path):
        write_atomic(path, secrets.token_bytes(SALT_BYTES), mode=0o600)
    return load_salt_key(path)


def load_salt_key(path: Path) -> bytes:
    """Reads the key.

    Raises:
        StoreError: It is not there, cannot be read by this user, can be read by others, or is none.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            mode, data = os.fstat(file.fileno()).st_mode, file.read(SALT_BYTES + 1)
    except OSError as error:
        raise StoreError(
            f"{path}: {error.strerror}: it is the agent's, to be read by it and by root"
        ) from error
    if mode & 0o077:
        raise StoreError(f"{path}: others can read it: chmod 600 {path}")
    if len(data) != SALT_BYTES:
        raise StoreError(f"{path}: expected {SALT_BYTES} bytes, found {len(data)}: it is no salt key")
    return data


def decision_salt(layout: Layout, entry: Entry) -> bytes:
    """The salt of a decision of this host, for root and the agent's user.

    Raises:
        StoreError: The key cannot be read.
        UsageError: The entry is no decision.
    """
    request_id = entry.body.get("id")
    if not isinstance(request_id, str):
        raise UsageError(f"entry {entry.seq} is a {entry.type.value}, which has no request id")
    with acting_as(agent_account(layout)):
        return derive_salt(load_salt_key(layout.salt_key), request_id)
