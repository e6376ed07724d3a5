"""The closed logs beside a log: found, and verified as one chain."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from attestd.audit.offline import VerifiedLog, verify_stored
from attestd.audit.reader import parse_stored
from attestd.audit.rotate import previous_of, shard_path
from attestd.audit.store import LogStore
from attestd.errors import MalformedError, RollbackError
from attestd.governance.trust import Trust
from attestd.plain import counted
from attestd.tlog.checkpoint import parse_origin

__all__ = ["Predecessor", "find_in_shards", "predecessors", "verify_shards"]

_NO_PROGRESS: Final = lambda _done, _total: None  # noqa: E731


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A log that another continues.

    Attributes:
        path: Where it is kept; None: it is not beside the log.
        says: What the first leaf of the log that continues it says about it.
    """

    path: Path | None
    origin: str
    size: int
    says: dict[str, Any]


def predecessors(log: Path) -> Iterator[Predecessor]:
    """The logs before a log, newest first, as far as they are kept beside it.

    Raises:
        StoreError: One cannot be read.
        RollbackError: One was edited.
    """
    path: Path | None = log
    while path is not None:
        store = LogStore.open(str(path), readonly=True)
        try:
            says = parse_stored(0, store.entry(0)).body.get("previous") if store.size else None
        finally:
            store.close()
        if not isinstance(says, dict):
            return
        try:
            name = str(says["origin"])
            kept = shard_path(log, parse_origin(name).log_id)
            path = kept if kept.exists() else None
            yield Predecessor(path, name, int(says["size"]), says)
        except (KeyError, TypeError, ValueError, MalformedError) as error:
            raise RollbackError(
                f"the first leaf of {path} does not say what it continues: {error}"
            ) from error


def verify_shards(
    log: Path,
    *,
    trust: Trust,
    processes: int = 1,
    progress: Callable[[int, int], None] = _NO_PROGRESS,
) -> list[tuple[Predecessor, VerifiedLog | None]]:
    """Verifies each log before a log, and that it is the one that is continued: size, root, counter and uses.

    Returns:
        Newest first; None for one that is not kept here: then nothing is known of those before it.

    Raises:
        RollbackError, VerificationError, MalformedError, StoreError: As `verify_stored`.
    """
    found: list[tuple[Predecessor, VerifiedLog | None]] = []
    for before in predecessors(log):
        if before.path is None:
            found.append((before, None))
            continue
        verified = verify_stored(before.path, trust=trust, processes=processes, progress=progress)
        store = LogStore.open(str(before.path), readonly=True)
        try:
            actual = previous_of(store)
        finally:
            store.close()
        if actual != before.says:
            raise RollbackError(
                f"{before.path} is not the log that is continued: {counted(verified.size, 'entry')} with root"
                f" {verified.root.hex()}, expected {before.says.get('size')} with {before.says.get('root')}"
            )
        found.append((before, verified))
    return found


def find_in_shards(log: Path, leaf: bytes) -> tuple[Path, int] | None:
    """The closed log that has an entry with this leaf hash, and its number there.

    Raises:
        StoreError, RollbackError: As `predecessors`.
    """
    for before in predecessors(log):
        if before.path is None:
            return None
        store = LogStore.open(str(before.path), readonly=True)
        try:
            seq = store.find(leaf)
        finally:
            store.close()
        if seq is not None:
            return before.path, seq
    return None
