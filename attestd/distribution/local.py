"""Governance as it is on this host: read, verified, and read again when it changed."""

import math
import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from attestd.distribution.mirror import METADATA, ROOT, TARGETS, TIMESTAMP, Mirror, read_anchor
from attestd.errors import AttestdError, MalformedError, StoreError, VerificationError
from attestd.governance.floor import Floor
from attestd.governance.host_records import HOSTS
from attestd.governance.metadata import Metadata, Versions, target_path, verify_metadata
from attestd.governance.signed import MAX_BYTES
from attestd.governance.trust import Revocations, Trust, parse_trust, require_still_revoked
from attestd.paths import Layout, TrustSource, load_configuration

__all__ = [
    "TrustDirectory",
    "TrustSource",
    "load_mirror",
    "load_own_trust",
    "load_trust",
    "read_verified_files",
]

LOOK_S: Final = 0.02
# Two changes within one tick of the kernel's clock have the same ctime: what was younger than this is looked at again.
SETTLED_NS: Final = 100_000_000
# How often every file but host records is looked at, for what was edited where it lies; and what did not verify is tried again.
# With more files than can be looked at in `DEEP_COST_S` (some thousand), as much less often: a fiftieth of a core is enough.
DEEP_S: Final = 1.0
DEEP_COST_S: Final = 0.02
MAX_DEEP_S: Final = 60.0
MAX_FILES: Final = 65_536
# A publisher or a download goes on while it is read: what the timestamp names may be gone by then.
TRIES: Final = 3


def load_trust(source: TrustSource, *, floor: Versions | None = None) -> Trust:
    """Reads and verifies governance, from the root of trust down to each file.

    Args:
        source: Where.
        floor: Versions below which nothing is believed.

    Raises:
        StoreError: It cannot be read.
        VerificationError: Others than the anchor's owners can write to the anchor, or something does not verify.
        RollbackError: Something is older than the floor.
        MalformedError: Something does not parse.
    """
    return _load(source, read_anchor(source), floor)[0]


def load_mirror(mirror: Path, *, root: bytes) -> Trust:
    """Reads and verifies governance from a root of trust that is at hand.

    Whoever can write to the mirror cannot change what is believed, but chooses how old it is: no floor is known here, and that it
    has not expired is for the caller to see.

    Args:
        mirror: With `metadata/` and `targets/`, as they were published.
        root: The root of trust.

    Raises:
        StoreError, VerificationError, MalformedError: As `load_trust`.
    """
    return _load(TrustSource.at(mirror, owners=()), root, None)[0]


def load_own_trust(layout: Layout) -> Trust:
    """Governance of an installation, where its configuration says.

    Raises:
        UsageError: The configuration is not usable.
        StoreError, VerificationError, MalformedError: As `load_trust`.
    """
    return load_trust(layout.trust_source(load_configuration(layout.configuration, os.environ)))


def _load(
    source: TrustSource, root: bytes, floor: Versions | None, *, previous: Trust | None = None
) -> tuple[Trust, bytes | None]:
    """What is there, and the timestamp that names it."""
    for left in reversed(range(TRIES)):
        with Mirror.open(source.mirror) as mirror:
            before = mirror.metadata(TIMESTAMP, MAX_BYTES["timestamp"])
            given = {TIMESTAMP: before}
            fetch = partial(_metadata, mirror, given)
            try:
                metadata = verify_metadata(
                    fetch, root=root, floor=floor, previous=None if previous is None else previous.metadata
                )
                read = partial(_target, source.mirror, metadata)
                return parse_trust(read, metadata=metadata, previous=previous), before
            except AttestdError:
                if left and mirror.metadata(TIMESTAMP, MAX_BYTES["timestamp"]) != before:
                    continue  # published anew meanwhile
                raise
    raise StoreError(f"{source.mirror}: changes faster than it can be read")


def _target(mirror: Path, metadata: Metadata, name: str) -> bytes:
    """A target that metadata names, also long after that was read: where it is gone by then, the next set names another."""
    with Mirror.open(mirror) as opened:
        return opened.target(name, metadata.targets[name])


def _metadata(mirror: Mirror, given: Mapping[str, bytes | None], name: str, max_bytes: int) -> bytes | None:
    return given[name] if name in given else mirror.metadata(name, max_bytes)


def read_verified_files(source: TrustSource) -> dict[str, bytes]:
    """The files that governance consists of, verified, by their names below one directory: a copy of them verifies too.

    Raises:
        StoreError, VerificationError, MalformedError: As `load_trust`.
    """
    files = {ROOT: read_anchor(source)}
    with Mirror.open(source.mirror) as mirror:

        def fetch(name: str, max_bytes: int) -> bytes | None:
            data = mirror.metadata(name, max_bytes)
            if data is not None:
                files[f"{METADATA}/{name}"] = data
            return data

        targets = verify_metadata(fetch, root=files[ROOT], floor=None).targets
        for name, file in targets.items():
            if name.startswith(HOSTS) and not mirror.has(name, file):
                continue  # another host's
            files[f"{TARGETS}/{target_path(name, file.sha256)}"] = mirror.target(name, file)
    return files


class _Stamp(NamedTuple):
    """Changes with every change of what it is of: inode and ctime, which nobody can set."""

    path: str
    inode: int
    ctime_ns: int
    size: int


class TrustDirectory:
    """Governance that is read again when it changed, and never goes back.

    Looking takes some microseconds, verifying everything up to a second: so each decision is against what was on disk
    at most `LOOK_S` ago. What was verified stays in memory until something newer verifies; while what is on disk does
    not verify, is older, or is gone, nothing is trusted. Nor while it takes a revocation back.

    Attributes:
        source: Where.
        floor: The highest versions seen.
        revoked: What was revoked when it was read last.
    """

    def __init__(
        self, source: TrustSource, *, floor: Floor | None = None, revoked: Revocations | None = None
    ) -> None:
        """Names the places; nothing is read yet.

        Args:
            source: Where.
            floor: What was seen before.
            revoked: What was revoked then; None: unknown.
        """
        self.source = source
        self.floor = floor
        self.revoked = revoked
        self._stamps: tuple[_Stamp, ...] | None = None
        self._deep: tuple[_Stamp, ...] | None = None
        self._found: tuple[bytes, bytes | None] = b"", None
        self._trust: Trust | None = None
        self._problem: AttestdError | None = None
        self._looked_at = self._deep_at = -math.inf
        self._deep_cost_s = 0.0

    def current(self) -> Trust:
        """What is trusted now.

        Raises:
            StoreError, VerificationError, RollbackError, MalformedError: As `load_trust`.
        """
        now = time.monotonic()
        if now - self._looked_at >= LOOK_S or self._trust is None or self._problem is not None:
            self._look(now)
        if self._problem is not None:
            raise type(self._problem)(*self._problem.args) from self._problem
        if self._trust is None:
            raise StoreError(f"{self.source.anchor}: nothing was read yet")
        return self._trust

    def look(self) -> Trust:
        """As `current`, but by what is on disk now, not `LOOK_S` ago.

        Raises:
            StoreError, VerificationError, RollbackError, MalformedError: As `load_trust`.
        """
        self._looked_at = -math.inf
        return self.current()

    def _look(self, now: float) -> None:
        settled_ns = time.time_ns() - SETTLED_NS
        try:
            stamps = self._stamp()
            edited = now - self._deep_at >= self._deep_s() and self._is_edited(now)
            if stamps != self._stamps or edited:
                self._stamps = stamps
                self._read(edited=edited)
                self._problem = None
                if any(stamp.ctime_ns >= settled_ns for stamp in stamps):
                    self._stamps = None
        except (StoreError, VerificationError, MalformedError) as error:
            self._problem = error
        except Exception:
            self._problem = StoreError(f"{self.source.mirror}: an unforeseen error: see the journal")
            raise
        self._looked_at = now

    def _deep_s(self) -> float:
        return min(DEEP_S * max(1.0, self._deep_cost_s / DEEP_COST_S), MAX_DEEP_S)

    def _stamp(self) -> tuple[_Stamp, ...]:
        # All that is added to a mirror is renamed into its directory, by which the directory changes.
        metadata = self.source.mirror / METADATA
        return tuple(
            map(_stamp_of, (self.source.anchor / ROOT, self.source.anchor, metadata, metadata / TIMESTAMP))
        )

    def _is_edited(self, now: float) -> bool:
        self._deep_at, began = now, time.thread_time()
        deep = _stamps_below(self.source.mirror)
        self._deep_cost_s = time.thread_time() - began
        changed, self._deep = deep != self._deep, deep
        # Where whole directories change places, what was read may be of another than what was looked at.
        return changed or self._problem is not None or self._timestamp() != self._found[1]

    def _read(self, *, edited: bool) -> None:
        root = read_anchor(self.source)
        versions = self._trust.versions if self._trust is not None else None
        if (
            not edited
            and self._problem is None
            and versions is not None
            and (root, self._timestamp()) == self._found
            and not self._has(f"{versions.root + 1}.root.json")
        ):
            return  # What is named by a timestamp, which names everything, cannot have changed.
        if not edited:
            self._deep, self._deep_at = _stamps_below(self.source.mirror), time.monotonic()
        floor = self.floor.versions_for(root) if self.floor is not None else None
        trust, timestamp = _load(self.source, root, floor, previous=self._trust)
        if floor is not None and self.revoked is not None:  # Under another root nothing was revoked yet.
            require_still_revoked(self.revoked, trust.revocations)
        self.revoked = trust.revocations
        self._trust, self._found, self.floor = trust, (root, timestamp), Floor.of(trust, root=root)

    def _timestamp(self) -> bytes | None:
        with Mirror.open(self.source.mirror) as mirror:
            return mirror.metadata(TIMESTAMP, MAX_BYTES["timestamp"])

    def _has(self, name: str) -> bool:
        return os.path.lexists(self.source.mirror / METADATA / name)


def _stamp_of(path: Path) -> _Stamp:
    try:
        status = os.lstat(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; initialise the host with attestd init") from error
    return _Stamp(os.fspath(path), status.st_ino, status.st_ctime_ns, status.st_size)


def _stamps_below(mirror: Path) -> tuple[_Stamp, ...]:
    """Of what was read when governance was. Host records are not: whoever reads one compares it with the metadata."""
    found: list[_Stamp] = []
    pending, hosts = [mirror / METADATA, mirror / TARGETS], os.fspath(mirror / TARGETS / HOSTS)
    try:
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.path == hosts:
                        continue
                    status = entry.stat(follow_symlinks=False)
                    found.append(_Stamp(entry.path, status.st_ino, status.st_ctime_ns, status.st_size))
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
                    if len(found) > MAX_FILES:
                        raise StoreError(
                            f"{mirror}: more than {MAX_FILES} files: remove what was not published"
                        )
    except OSError as error:
        raise StoreError(f"{mirror}: {error.strerror}; initialise the host with attestd init") from error
    return tuple(sorted(found))
