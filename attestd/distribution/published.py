"""The static files of a repository: read as they were published, written so that a reader always sees a whole set."""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from attestd.distribution.documents import Document, delegations_of, digests, parse_document
from attestd.durable import make_directories, write_atomic
from attestd.errors import StoreError, VerificationError
from attestd.governance.metadata import target_path, verify_metadata
from attestd.governance.signed import MAX_TARGET_BYTES

__all__ = [
    "METADATA",
    "TIMESTAMP_FILE",
    "Published",
    "publish_files",
    "read_file",
    "read_published",
]

METADATA: Final = "metadata"
TARGETS: Final = "targets"
TIMESTAMP_FILE: Final = f"{METADATA}/timestamp.json"
_ROOT_FILE: Final = re.compile(r"\A([1-9][0-9]{0,5})\.root\.json\Z")


@dataclass(frozen=True)
class Published:
    """What a directory of static files holds.

    Attributes:
        roots: All versions of the root, oldest first.
        timestamp: With `snapshot` and `roles` what is published; None: only roots are, so far.
        roles: The targets role, and every role that it delegates to, or did once, by name.
        files: Contents of all targets by name.
    """

    roots: tuple[Document[Root], ...]
    timestamp: Document[Timestamp] | None
    snapshot: Document[Snapshot] | None
    roles: Mapping[str, Document[Targets]]
    files: Mapping[str, bytes]

    @property
    def root(self) -> Document[Root] | None:
        """The newest."""
        return self.roots[-1] if self.roots else None

    def verify(self) -> None:
        """Verifies it as any host does, from the first root on.

        Raises:
            VerificationError, MalformedError: It does not verify.
        """
        files = self.static()
        verify_metadata(lambda name, _: files.get(f"{METADATA}/{name}"), root=self.roots[0].data, floor=None)

    def static(self) -> dict[str, bytes]:
        """All of it as static files, by relative path."""
        found = {f"{METADATA}/{root.version}.root.json": root.data for root in self.roots}
        if self.timestamp is None or self.snapshot is None:
            return found
        found[TIMESTAMP_FILE] = self.timestamp.data
        found[f"{METADATA}/{self.snapshot.version}.snapshot.json"] = self.snapshot.data
        found |= {f"{METADATA}/{role.version}.{name}.json": role.data for name, role in self.roles.items()}
        sha256 = digests(self.files)
        return found | {
            f"{TARGETS}/{target_path(name, sha256[name])}": data for name, data in self.files.items()
        }


def read_published(directory: Path) -> Published:
    """Reads what was published: hashes hold from the timestamp down, signatures are the readers' to verify.

    A publication that was cut off between a new root and its timestamp is not signed as that root asks: it must be
    readable here, for publishing again is what completes it.

    Raises:
        StoreError: Something cannot be read.
        MalformedError: Something does not parse.
        VerificationError: A file is not the one that is named for it.
    """
    roots = tuple(_roots(directory))
    path = directory / TIMESTAMP_FILE
    if not path.exists():
        return Published(roots, None, None, {}, {})
    timestamp = parse_document(read_file(path), Timestamp, what="timestamp.json")
    meta = timestamp.content.snapshot_meta
    name = f"{meta.version}.snapshot.json"
    snapshot = parse_document(_named(directory / METADATA / name, meta.hashes), Snapshot, what=name)
    roles: dict[str, Document[Targets]] = {}
    for file, found in snapshot.content.meta.items():
        name = f"{found.version}.{file}"
        data = _named(directory / METADATA / name, found.hashes)
        roles[file.removesuffix(".json")] = parse_document(data, Targets, what=name)
    current = {"targets", *delegations_of(roles["targets"].content)} if "targets" in roles else set()
    files = {
        name: _named(directory / TARGETS / target_path(name, file.hashes["sha256"]), file.hashes)
        for role in current & roles.keys()
        for name, file in roles[role].content.targets.items()
    }
    return Published(roots, timestamp, snapshot, roles, files)


def publish_files(directory: Path, files: Mapping[str, bytes], *, keep: Iterable[str]) -> None:
    """Writes a set of static files: targets first, then metadata, roots, and the timestamp last.

    Each file is whole and durable before the next one is begun: whoever reads, at any moment, also after a crash,
    finds the old set or the new one. (Between a root that takes keys away and the timestamp, one write, readers find
    the old set signed by those keys: they keep what they have, and publishing again completes it.)

    Args:
        directory: Where; made if it is not there.
        files: Contents by relative path.
        keep: Paths that readers of an earlier set may still ask for; others that are not in `files` are removed.

    Raises:
        StoreError: It cannot be written.
    """
    for path, data in sorted(files.items(), key=lambda item: _order(item[0])):
        _write(directory / path, data, top=directory)
    wanted = {*files, *keep}
    for found in _listing(directory):
        if found not in wanted and not _ROOT_FILE.match(found.removeprefix(f"{METADATA}/")):
            _remove(directory / found)


def read_file(path: Path) -> bytes:
    """A file of the repository, bounded. No symbolic link: what a copy from elsewhere names is not to be read here.

    Raises:
        StoreError: It cannot be read, is no regular file, or is over 16 MiB.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StoreError(f"{path}: expected a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_TARGET_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = "a symbolic link, expected a file" if error.errno == errno.ELOOP else error.strerror
        raise StoreError(f"{path}: {reason}") from error
    if len(data) > MAX_TARGET_BYTES:
        raise StoreError(f"{path}: over {MAX_TARGET_BYTES} bytes")
    return data


def _order(path: str) -> tuple[int, int, str]:
    if path == TIMESTAMP_FILE:
        return (3, 0, path)
    if found := _ROOT_FILE.match(path.removeprefix(f"{METADATA}/")):
        return (2, int(found[1]), path)
    return (int(path.startswith(f"{METADATA}/")), 0, path)


def _write(path: Path, data: bytes, *, top: Path) -> None:
    try:
        if path.exists() and path.read_bytes() == data:
            return
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    make_directories(path.parent, top=top, mode=0o755)
    write_atomic(path, data, mode=0o644)


def _roots(directory: Path) -> Iterable[Document[Root]]:
    version = 1
    while (path := directory / METADATA / f"{version}.root.json").exists():
        yield parse_document(read_file(path), Root, what=path.name)
        version += 1


def _named(path: Path, hashes: Mapping[str, str] | None) -> bytes:
    data = read_file(path)
    if hashes is None or hashlib.sha256(data).hexdigest() != hashes.get("sha256"):
        raise VerificationError(
            f"{path}: not the file that the metadata names: restore it from what is published"
        )
    return data


def _listing(directory: Path) -> list[str]:
    return [
        str(path.relative_to(directory))
        for top in (directory / METADATA, directory / TARGETS)
        for path in top.rglob("*")
        if path.is_file()
    ]


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
