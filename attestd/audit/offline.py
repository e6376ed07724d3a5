"""Verification of a log with nothing but its files, a `log.db` or an export, and a trust directory."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestd.audit.reader import parse_stored
from attestd.audit.results import ResultCheck
from attestd.audit.schema import APPLICATION_ID
from attestd.audit.store import LogStore
from attestd.audit.verify import verify_log
from attestd.errors import MalformedError, StoreError, VerificationError
from attestd.governance.trust import Trust
from attestd.lineage.checkpoint import LogKeys
from attestd.lineage.entry import EntryType, parse_entry
from attestd.lineage.receipt import sealed_by
from attestd.tlog.checkpoint import parse_checkpoint, parse_origin
from attestd.tlog.note import UntrustedNote, parse_note
from attestd.tlog.tiles import Tile, parse_bundle, tiles
from attestd.tlog.tree import Frontier, leaf_hash

__all__ = ["VerifiedLog", "log_keys", "verify_stored"]

MAX_CHECKPOINT_BYTES: Final = 64 * 1024
MAX_TILE_BYTES: Final = 256 * (65_535 + 2)
_PROGRESS: Final = 64  # tiles
# https://www.sqlite.org/fileformat.html#the_database_header
_MAGIC: Final = b"SQLite format 3\0"
_HEAD_BYTES: Final = 100


@dataclass(frozen=True, slots=True)
class VerifiedLog:
    """A log that verified. Only `verify_stored` makes one.

    Attributes:
        origin: Whose log it is.
        size: The number of leaves, `root` the tree's root.
        checkpoints: How many signed checkpoints it has.
        types: How many entries there are of each type.
        time: Of the last entry.
        results: What became of the attestation results in it.
    """

    origin: str
    size: int
    root: bytes
    checkpoints: int
    types: Mapping[EntryType, int]
    time: str
    results: ResultCheck


def log_keys(origin: str, trust: Trust, *, last: UntrustedNote | None = None) -> LogKeys:
    """The keys of a log, from a record of the host that it says it is of.

    Args:
        origin: The log's.
        trust: Verified governance.
        last: Its last checkpoint: which of the host's records, present or earlier, says the key id of its quote. None:
            the present one.

    Raises:
        VerificationError: There is no record of that host.
        MalformedError: Not an origin.
    """
    host_id = parse_origin(origin).host_id
    records = trust.records(host_id) if last is not None else tuple(filter(None, [trust.hosts.get(host_id)]))
    if not records:
        raise VerificationError(
            f"governance has no record of host {host_id}, whose log this says it is: has an enroller admitted it"
            f" (attestd governance enroll)?{trust.why_none(host_id)}"
        )
    host = records[0] if last is None else sealed_by(last, trust=trust)[0]
    return LogKeys(origin, host.release_spki, host.ak_spki)


def verify_stored(
    path: Path, *, trust: Trust, processes: int, progress: Callable[[int, int], None]
) -> VerifiedLog:
    """Verifies a log with the keys of its host.

    A file: everything, as `verify_log` says, also for what it does not check. An export has one checkpoint, the newest:
    its signatures, that the entries hash to its root, that the tiles are theirs, that entries are in order. It does not
    show in which batch an entry was sealed. Of either also the attestation results in it (`ResultCheck.take`).

    Args:
        path: A `log.db`, or a directory that `export_log` wrote.
        trust: Verified governance.
        processes: How many processes share the work.
        progress: Called now and then with (leaves verified, leaves in all).

    Raises:
        RollbackError, VerificationError, MalformedError: It does not verify; the first thing that does not hold.
        StoreError: It cannot be read.
    """
    if os.path.isdir(path):
        return _verify_export(path, trust, progress)
    _require_log(path)
    store = LogStore.open(str(path), readonly=True)
    try:
        last = store.last_checkpoint()
        keys = log_keys(store.origin, trust, last=None if last is None else parse_note(last.note))
        results = ResultCheck(trust, keys.host_id)

        def check(attestations: Sequence[int]) -> None:
            for seq in attestations:
                results.take(parse_stored(seq, store.entry(seq)))

        report = verify_log(str(path), keys, processes=processes, progress=progress, attestations=check)
    finally:
        store.close()
    return VerifiedLog(
        keys.origin, report.size, report.root, report.checkpoints, report.types, report.time, results
    )


def _require_log(path: Path) -> None:
    """What is no log at all is malformed; one that cannot be opened is another matter."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    if not head.startswith(_MAGIC) or int.from_bytes(head[68:72], "big") != APPLICATION_ID:
        raise MalformedError(f"{path} is not an attestd audit log")


def _verify_export(directory: Path, trust: Trust, progress: Callable[[int, int], None]) -> VerifiedLog:
    note = parse_note(_read(directory / "checkpoint", MAX_CHECKPOINT_BYTES))
    keys = log_keys(parse_checkpoint(note.text).origin, trust, last=note)
    checkpoint = keys.verify(note).checkpoint
    walk = _Walk(directory, ResultCheck(trust, keys.host_id))
    for number, tile in enumerate(tiles(checkpoint.size)):
        walk.take(tile)
        if number % _PROGRESS == 0:
            progress(walk.frontier.size, checkpoint.size)
    if walk.frontier.root() != checkpoint.root:
        raise VerificationError(
            f"the checkpoint signs root {checkpoint.root.hex()}, the entries hash to {walk.frontier.root().hex()}"
        )
    return VerifiedLog(keys.origin, checkpoint.size, checkpoint.root, 1, walk.types, walk.time, walk.results)


class _Walk:
    """The tiles of an export in their order, level 0 first: rebuilt from the entries, compared with what is there."""

    def __init__(self, directory: Path, results: ResultCheck) -> None:
        self.directory, self.results = directory, results
        self.frontier = Frontier()
        self.types: Counter[EntryType] = Counter()
        self.time = ""
        # Only one in 256 nodes of a level is on the next: little to keep, however large the log.
        self._computed: dict[int, bytearray] = {}

    def take(self, tile: Tile) -> None:
        if tile.level == 0:
            self._take_entries(tile)
        start = tile.index * 256 * 32 if tile.level else 0
        computed = self._computed.get(tile.level, bytearray())[start : start + tile.width * 32]
        if _read(self.directory / tile.path, MAX_TILE_BYTES) != computed:
            raise VerificationError(f"{tile.path} does not hold the hashes of the entries below it")

    def _take_entries(self, tile: Tile) -> None:
        entries = parse_bundle(_read(self.directory / tile.bundle_path, MAX_TILE_BYTES))
        if len(entries) != tile.width:
            raise MalformedError(f"{tile.bundle_path}: {len(entries)} entries, expected {tile.width}")
        for seq, data in enumerate(entries, tile.span.start):
            entry = parse_entry(data)
            if entry.seq != seq or entry.time < self.time:
                raise VerificationError(f"entry {seq} says that it is entry {entry.seq} of {entry.time}")
            self.time = entry.time
            self.types[entry.type] += 1
            if entry.type is EntryType.ATTESTATION:
                self.results.take(entry)
        self.frontier, nodes = self.frontier.append([leaf_hash(data) for data in entries])
        self._computed[0] = bytearray()
        for node in nodes:
            if node.level % 8 == 0:
                self._computed.setdefault(node.level // 8, bytearray()).extend(node.hash)


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError as error:
        raise MalformedError(f"{path} is missing: this is no whole export of a log") from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    if len(data) > most:
        raise MalformedError(f"{path}: over {most} bytes")
    return data
