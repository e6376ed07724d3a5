"""`attestd backup`: a consistent copy of what cannot be made again, in one file."""

import io
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from attestd.account import acting_as, agent_account
from attestd.audit.files import copy_log, open_log_readonly
from attestd.audit.store import LogStore
from attestd.authorization.artifact import MAX_ARTIFACT_BYTES
from attestd.distribution.local import read_verified_files
from attestd.errors import StoreError, UsageError
from attestd.paths import Layout, load_configuration

__all__ = ["Backup", "write_backup"]

_MODE: Final = 0o600


@dataclass(frozen=True)
class Backup:
    """What went into a backup.

    Attributes:
        origin: The log's; `size` its entries.
        files: The names in the archive.
    """

    origin: str
    size: int
    files: tuple[str, ...]


def write_backup(layout: Layout, path: Path) -> Backup:
    """Writes log, trust, installed authorizations and configuration to a tar file; the agent may be running.

    The file appears whole or not at all, mode 0600. Not in it: TPM key blobs and auth values (another TPM cannot use
    them, and on this one they are secret), authority keys (the most secret: keep them apart), the runner's claims.

    Args:
        layout: The installation.
        path: Where; must not exist.

    Raises:
        UsageError: It exists.
        StoreError: Something cannot be read or written.
        VerificationError, MalformedError: The trust directory cannot be read as one.
        RollbackError: The log's schema was edited.
    """
    if path.exists():
        raise UsageError(f"{path} exists: name a file that does not")
    try:
        with tempfile.TemporaryDirectory(prefix=".attestd-backup-", dir=path.absolute().parent) as draft:
            copy = Path(draft) / "log.db"
            with acting_as(agent_account(layout)):
                connection = open_log_readonly(str(layout.log))
            try:
                copy_log(connection, str(copy))
            finally:
                connection.close()
            store = LogStore.open(str(copy), readonly=True)
            try:
                store.tail()
                origin, size = store.origin, store.size
            finally:
                store.close()
            files = list(_files(layout))
            archive = Path(draft) / "backup"
            with _create(archive) as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                    tar.add(copy, "log.db", filter=_plain)
                    for name, data in files:
                        member = _plain(tarfile.TarInfo(name))
                        member.size, member.mtime = len(data), int(time.time())
                        tar.addfile(member, io.BytesIO(data))
                file.flush()
                os.fsync(file.fileno())
            os.link(archive, path)  # unlike rename: fails if a file is there
    except OSError as error:
        raise StoreError(f"the backup cannot be written: {error}") from error
    return Backup(origin, size, ("log.db", *(name for name, _ in files)))


def _files(layout: Layout) -> Iterator[tuple[str, bytes]]:
    configuration = load_configuration(layout.configuration, os.environ)
    for name, data in read_verified_files(layout.trust_source(configuration)).items():
        yield f"trust/{name}", data
    with suppress(FileNotFoundError):
        yield "attestd.toml", layout.configuration.read_bytes()
    with suppress(FileNotFoundError):
        yield "runner/host.json", layout.host.read_bytes()
    # The agent's directory is no place for root; and what is linked from there is not what was installed.
    with acting_as(agent_account(layout)):
        found = sorted(layout.authorizations.glob("*/*.auth.json"))
        artifacts = [(path, _read(path)) for path in found]
    for path, data in artifacts:
        yield f"authorizations/{path.parent.name}/{path.name}", data


def _read(path: Path) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read(MAX_ARTIFACT_BYTES)


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE), "wb")


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nothing about the users of this host."""
    member.mode, member.uid, member.gid, member.uname, member.gname = _MODE, 0, 0, "", ""
    return member
