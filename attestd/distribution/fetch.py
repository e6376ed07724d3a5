"""Downloads a published repository into a mirror: metadata is verified, then come the targets, then it is switched."""

import contextlib
import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from attestd.distribution.mirror import METADATA, TARGETS, TIMESTAMP, Mirror
from attestd.distribution.remote import Remote
from attestd.durable import make_directories, make_directory, write_atomic
from attestd.errors import AttestdError, MalformedError, VerificationError
from attestd.governance.host_records import HOSTS
from attestd.governance.metadata import (
    Metadata,
    Versions,
    target_path,
    verify_metadata,
    verify_target,
)
from attestd.governance.signed import MAX_BYTES
from attestd.governance.targets import TargetFile

__all__ = ["Wanted", "add_targets", "everything", "of_host", "update_mirror"]

Wanted = Callable[[str], bool]


def everything(_: str) -> bool:
    """Wants all targets: for who knows many hosts, as controllers and auditors do."""
    return True


def of_host(host: str | None) -> Wanted:
    """Wants what a host goes by: no other host's records, of which there may be a hundred thousand.

    Args:
        host: The host-id; None: it is not known yet.
    """
    own = (f"hosts/{host}.json", f"hosts/history/{host}-")
    return lambda name: not name.startswith(HOSTS) or (host is not None and name.startswith(own))


def update_mirror(
    remote: Remote, mirror: Path, *, root: bytes, floor: Versions | None, wanted: Wanted
) -> Metadata:
    """Brings a mirror up to date. Cut off at any moment, it holds the set of before or the new one, whole.

    (But for a new root under which the timestamp of before does not verify: then the next call repairs it.)

    Metadata is kept in memory until it is verified, so nothing that does not verify is ever written. Targets come
    next: under the names of their digests they disturb nobody. Then metadata is written, and `timestamp.json`, by which
    a reader finds everything, last. What the new set does not name is then removed: whoever was reading it sees that
    the timestamp changed, and reads again.

    Args:
        remote: Where from.
        mirror: Where to; made if it is not there.
        root: The root of trust.
        floor: Versions below which nothing is accepted.
        wanted: Which targets to keep there, by name: `everything`, or `of_host`. What is there besides is removed.

    Returns:
        The verified metadata of what is in the mirror now.

    Raises:
        StoreError: Something cannot be read or written.
        VerificationError, MalformedError: What is published does not verify; the mirror is as it was.
        GovernanceRollbackError: It is older than the floor.
    """
    for path in (mirror, mirror / METADATA, mirror / TARGETS):
        make_directory(path, 0o755)
    damaged = False
    with Mirror.open(mirror) as present:
        try:
            fetched = _Fetched(remote, present)
            metadata = verify_metadata(fetched, root=root, floor=floor)
        except (VerificationError, MalformedError):
            # What is in the mirror already may be damaged: then all of it is downloaded again.
            damaged, fetched = True, _Fetched(remote, None)
            metadata = verify_metadata(fetched, root=root, floor=floor)
        before = _timestamp(present)
        targets = {name: metadata.targets[name] for name in metadata.targets if wanted(name)}
        missing = [(name, file) for name, file in targets.items() if not _is_present(present, name, file)]
    for name, file in missing:
        _download(remote, mirror, name, file)
    timestamp = fetched.new.pop(TIMESTAMP)
    for name, data in fetched.new.items():
        write_atomic(mirror / METADATA / name, data, mode=0o644)
    if timestamp != before:
        write_atomic(mirror / METADATA / TIMESTAMP, timestamp, mode=0o644)  # From here on it is the new set.
    if timestamp != before or damaged:
        _remove_others(mirror / METADATA, {*fetched.names, TIMESTAMP})
        _remove_others(mirror / TARGETS, {target_path(name, file.sha256) for name, file in targets.items()})
    return metadata


def add_targets(remote: Remote, mirror: Path, metadata: Metadata, names: Iterable[str]) -> None:
    """Downloads further targets of what is in a mirror; the next set may remove them.

    Args:
        remote: Where from.
        mirror: Where to.
        metadata: Verified.
        names: Of targets that it names.

    Raises:
        StoreError: Something cannot be read or written.
        VerificationError, MalformedError: What is published there is another file.
    """
    for name in names:
        _download(remote, mirror, name, metadata.targets[name])


class _Fetched:
    """Gives metadata to its verification: what has a version in its name, from the mirror if it is there."""

    def __init__(self, remote: Remote, present: Mirror | None) -> None:
        self._remote, self._present = remote, present
        self.new: dict[str, bytes] = {}
        self.names: set[str] = set()

    def __call__(self, name: str, max_bytes: int) -> bytes | None:
        data = None
        if self._present is not None and name != TIMESTAMP:
            data = self._present.metadata(name, max_bytes)
        if data is None:
            data = self._remote.get(f"{METADATA}/{name}", max_bytes)
            if data is not None:
                self.new[name] = data
        if data is not None:
            self.names.add(name)
        return data


def _is_present(mirror: Mirror, name: str, file: TargetFile) -> bool:
    try:
        mirror.target(name, file)
    except AttestdError:
        return False
    return True


def _download(remote: Remote, mirror: Path, name: str, file: TargetFile) -> None:
    relative = target_path(name, file.sha256)
    data = remote.get(f"{TARGETS}/{relative}", file.length)
    if data is None:
        raise VerificationError(f"{TARGETS}/{relative} is published by name, but is not there")
    verify_target(name, file, data)
    path = mirror / TARGETS / relative
    make_directories(path.parent, top=mirror / TARGETS, mode=0o755)
    write_atomic(path, data, mode=0o644)


def _timestamp(mirror: Mirror) -> bytes | None:
    try:
        return mirror.metadata(TIMESTAMP, MAX_BYTES["timestamp"])
    except AttestdError:
        return None  # It is damaged, and replaced.


def _remove_others(top: Path, keep: Collection[str]) -> None:
    """Also what a crash left of `write_atomic`. What cannot be removed stays: it disturbs nobody."""
    for directory, _, files in os.walk(top):
        for file in files:
            path = Path(directory, file)
            if str(path.relative_to(top)) not in keep:
                with contextlib.suppress(OSError):
                    path.unlink()
