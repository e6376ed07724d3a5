"""Verification of a whole stored log, rebuilt from its rows.

The log is cut into segments at checkpoints. Each is verified from the state that the rows claim at its start
(`_Edge`); then each claim is compared with what verifying the segment before it gave. So segments need no order, and
several processes can share the work.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Literal

import msgspec

from attestd.audit.reader import parse_stored
from attestd.audit.rows import Carried
from attestd.audit.store import LogStore, StoredCheckpoint
from attestd.audit.stored import verify_stored_checkpoint, verify_stored_checkpoints
from attestd.errors import MalformedError, RollbackError, UsageError
from attestd.lineage.checkpoint import LogKeys, VerifiedCheckpoint
from attestd.lineage.entry import EntryType
from attestd.strict import parse_time
from attestd.tlog.checkpoint import BatchMode
from attestd.tlog.tree import Frontier

__all__ = ["LogReport", "verify_log"]

_SEGMENT: Final = 32_768
# In the canonical form of a decision about a delegated artifact. No text can hold it: quotes are escaped there.
_DELEGATED: Final = b'"artifact":{"chain":['


@dataclass(frozen=True, slots=True)
class _Edge:
    """What the log says up to a checkpoint: all that verifying what follows it depends on."""

    frontier: Frontier = Frontier()  # noqa: RUF009 - frozen
    time: str = ""
    counter: int = -1
    clock: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class LogReport:
    """A log that verified, up to `size`. Only `verify_log` makes one.

    Attributes:
        size: The number of leaves.
        root: The tree's root.
        checkpoints: How many there are.
        types: How many entries there are of each type.
        time: Of the last entry.
    """

    size: int
    root: bytes
    checkpoints: int
    types: Mapping[EntryType, int]
    time: str
    _edge: _Edge


@dataclass(frozen=True, slots=True)
class _Segment:
    start: _Edge
    end: _Edge
    checkpoints: int
    found: "_Found"


@dataclass(slots=True)
class _Found:
    """What entries there are.

    Attributes:
        types: How many of each type.
        attestations: Which are `attestation`: they hold what others signed.
    """

    types: Counter[EntryType] = field(default_factory=Counter)
    attestations: list[int] = field(default_factory=list)

    def add(self, types: Sequence[EntryType], start: int) -> None:
        self.types.update(types)
        if EntryType.ATTESTATION in types:
            numbered = enumerate(types, start)
            self.attestations += [seq for seq, type_ in numbered if type_ is EntryType.ATTESTATION]


def verify_log(
    path: str,
    keys: LogKeys,
    *,
    since: LogReport | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    attestations: Callable[[Sequence[int]], None] = lambda _: None,
) -> LogReport:
    """Verifies a log, in bounded memory. A running agent may append meanwhile: what it adds later is not read.

    1. Each checkpoint is this log's, its signatures verify, and its row says what its text says.
    2. Batches follow each other without gap or overlap; counters rise, by one unless the TPM was reset in between; the
       TPM's clock does not go back.
    3. Each leaf is an entry of a known type, at its own seq, not earlier than the one before.
    4. An allow is in a batch of mode `release`, and a use of its artifact was charged for it, and for nothing else.
    5. The leaves hash to the stored nodes, and these to the root that the checkpoint signs.
    6. No row is left over: no node, charge or spool mark that the leaves do not explain.

    Does not check: that the log is the newest (`recover` does, with the TPM; so do witnesses), the quoted PCRs,
    and that bodies are what their types define.

    Args:
        path: The log's file.
        keys: The keys that sealed it.
        since: An earlier report on this log, to go on from; None verifies it all.
        processes: How many processes share the work.
        progress: Called now and then with (leaves verified, leaves in all).
        attestations: Likewise with the seqs of `attestation` entries, in order: their results are verified elsewhere.

    Returns:
        What was verified.

    Raises:
        RollbackError: The first thing that does not hold.
        StoreError: The log cannot be read.
        UsageError: `since` is of another log, or `processes` below 1.
    """
    if processes < 1:
        raise UsageError(f"{processes} processes cannot verify a log")
    store = LogStore.open(path, readonly=True)
    try:
        if keys.origin != store.origin:
            raise UsageError(f"keys of {keys.origin} do not verify {store.origin}")
        edge = since._edge if since else _Edge()  # noqa: SLF001 - of the same module
        _require_same(_claimed_edge(store, keys, edge.frontier.size), edge)
        checkpoints = since.checkpoints if since else 0
        types = Counter(since.types) if since else Counter()
        size = store.tail().frontier.size
        for segment in _segments(path, keys, list(_cuts(store, edge.frontier.size, size)), processes):
            _require_same(segment.start, edge)
            edge, checkpoints = segment.end, checkpoints + segment.checkpoints
            types += segment.found.types
            attestations(segment.found.attestations)
            progress(edge.frontier.size, size)
        if stray := store.find_stray():  # 6
            raise RollbackError(f"the audit log has rows that its leaves do not explain: {stray}")
        _verify_carried(store, size)
        return LogReport(size, edge.frontier.root(), checkpoints, types, edge.time, edge)
    finally:
        store.close()


def _verify_carried(store: LogStore, size: int) -> None:
    """Check 6 of what the log took over from another: the first leaf has its digest."""
    previous = parse_stored(0, store.entry(0)).body.get("previous") if size else None
    signed = previous.get("carried") if isinstance(previous, dict) else Carried().digest()
    if store.carried().digest() != signed:
        raise RollbackError(
            "what the audit log took over from its predecessor is not what its first leaf says"
        )


def _require_same(claimed: _Edge, verified: _Edge) -> None:
    if claimed != verified:
        raise RollbackError(
            f"the stored tree, time or counter at size {verified.frontier.size} is not what the leaves before it give"
        )


def _cuts(store: LogStore, start: int, size: int) -> Iterator[tuple[int, int]]:
    while start < size:
        checkpoint = store.checkpoint_covering(min(start + _SEGMENT, size) - 1)
        stop = checkpoint.size if checkpoint else size
        yield start, stop
        start = stop


def _segments(path: str, keys: LogKeys, cuts: list[tuple[int, int]], processes: int) -> Iterator[_Segment]:
    if processes == 1 or len(cuts) < processes:
        yield from (_verify_segment(path, keys, start, stop) for start, stop in cuts)
        return
    # Imported here: the agent, which verifies in one process, would load them at each start.
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415
    from multiprocessing import get_context  # noqa: PLC0415

    # Not forked: the caller may have threads, and locks that they hold.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_verify_segment, path, keys, start, stop) for start, stop in cuts]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _verify_segment(path: str, keys: LogKeys, start: int, stop: int) -> _Segment:
    store = LogStore.open(path, readonly=True)
    try:
        before = edge = _claimed_edge(store, keys, start)
        count, found = 0, _Found()
        for stored, verified in verify_stored_checkpoints(keys, store.checkpoints(start, stop)):  # 1
            edge = _verify_batch(store, edge, stored, verified, found)
            count += 1
        return _Segment(before, edge, count, found)
    finally:
        store.close()


def _claimed_edge(store: LogStore, keys: LogKeys, size: int) -> _Edge:
    """What the rows say about the log of this size; whether it is true shows in the segment that ends here."""
    if size == 0:
        return _Edge()
    stored = store.checkpoint_covering(size - 1)
    if stored is None or stored.size != size:
        raise RollbackError(
            f"the audit log has no checkpoint of size {size}, of which an earlier report tells"
        )
    clock = verify_stored_checkpoint(keys, stored).clock.order
    time = parse_stored(size - 1, store.entry(size - 1)).time
    return _Edge(Frontier.load(size, store.node), time, stored.counter, clock)


def _verify_batch(
    store: LogStore,
    edge: _Edge,
    stored: StoredCheckpoint,
    verified: VerifiedCheckpoint,
    found: _Found,
) -> _Edge:
    what = f"the checkpoint of size {stored.size}"
    clock, frontier, time = verified.clock.order, edge.frontier, edge.time
    if stored.first != frontier.size:  # 2
        raise RollbackError(
            f"{what} seals from leaf {stored.first}, the one before it ends at {frontier.size}"
        )
    if stored.counter <= edge.counter:
        raise RollbackError(f"{what} has log counter {stored.counter}, the one before it {edge.counter}")
    if clock[:2] == edge.clock[:2] and stored.counter != edge.counter + 1 and edge.frontier.size:
        # Only a reset makes the TPM skip values: batches that were counted are not here, for they were cut off, or
        # sealed in another copy of this log.
        raise RollbackError(
            f"{what} has log counter {stored.counter}, the one before it {edge.counter}, and the TPM was not reset in"
            " between: batches are missing"
        )
    if clock < edge.clock:
        raise RollbackError(f"{what} was quoted at TPM clock {clock}, the one before it at {edge.clock}")
    while frontier.size < stored.size:
        start = frontier.size
        entries = store.entry_chunk(start, stored.size)
        time, types = _verify_entries(entries, start, time)  # 3
        found.add(types, start)
        if EntryType.DECISION_ALLOW in types and stored.mode is not BatchMode.RELEASE:  # 4
            raise RollbackError(f"{what} has mode {stored.mode}, but a decision.allow in its batch")
        _verify_charges(store, entries, start, types)
        frontier = _verify_nodes(store, frontier, entries)  # 5
    if frontier.root() != verified.checkpoint.root:
        raise RollbackError(
            f"{what} signs root {verified.checkpoint.root.hex()}, not the leaves' {frontier.root().hex()}"
        )
    return _Edge(frontier, time, stored.counter, clock)


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    """An entry but for its body, which may be anything: for speed, where `parse_entry` is for certainty."""

    body: msgspec.Raw
    boot: str
    seq: int
    time: str
    type: EntryType
    v: Literal[1]


_decode_head: Final = msgspec.json.Decoder(_Head).decode
_decode_raw: Final = msgspec.json.Decoder(msgspec.Raw).decode
_START: Final = b'{"body":{'
_BODY: Final = len(b'{"body":')


def _verify_entries(entries: list[bytes], start: int, time: str) -> tuple[str, list[EntryType]]:
    """Check 3, at the price of a hash or two a leaf; returns the last time, and each entry's type.

    An entry that differs from the one before in body and seq only, as most do, is compared as bytes: then all that is
    left to find out is that its body is one JSON object.
    """
    types: list[EntryType] = []
    before = after = b"?"
    for seq, entry in enumerate(entries, start):
        tail = b"%b%d%b" % (before, seq, after)
        if entry.endswith(tail) and entry.startswith(_START):
            try:
                _decode_raw(entry[_BODY : -len(tail)])
            except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
                raise RollbackError(f"entry {seq} is not an entry: {error}") from error
        else:
            head = _read_head(entry, seq)
            time = _later(seq, head.time, time)
            before = f',"boot":"{head.boot}","seq":'.encode()
            after = f',"time":"{time}","type":"{head.type}","v":1}}'.encode()
        types.append(head.type)
    return time, types


def _read_head(entry: bytes, seq: int) -> _Head:
    try:
        head = _decode_head(entry)
        end = f',"boot":"{head.boot}","seq":{head.seq},"time":"{head.time}","type":"{head.type}","v":1}}'
        # The canonical form has no other bytes than these. Where it does, as in a boot id with escapes, parse in full.
        body = bytes(head.body)
        if entry != b'{"body":' + body + end.encode() or not body.startswith(b"{"):
            parse_stored(seq, entry)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise RollbackError(f"entry {seq} is not an entry: {error}") from error
    if head.seq != seq:
        raise RollbackError(f"entry {seq} says that it is entry {head.seq}")
    return head


def _later(seq: int, found: str, time: str) -> str:
    if found < time:
        raise RollbackError(f"entry {seq} is of {found}, the one before it of {time}")
    if found != time:
        _require_time(seq, found)
    return found


def _require_time(seq: int, time: str) -> None:
    try:
        parse_time(time)
    except MalformedError as error:
        raise RollbackError(f"entry {seq}: {error}") from error
    if len(time) != len("2026-01-31T12:00:00.000000Z"):
        raise RollbackError(f"entry {seq}: time {time} has no six fractional digits")


def _verify_charges(store: LogStore, entries: list[bytes], start: int, types: list[EntryType]) -> None:
    allows = [seq for seq, type_ in enumerate(types, start) if type_ is EntryType.DECISION_ALLOW]
    charges = store.charges(start, start + len(entries))
    charged = [seq for seq, _, _ in charges]
    if charged != allows and list(dict.fromkeys(charged)) != allows:
        differing = min({seq for seq, _, _ in charges} ^ set(allows))
        raise RollbackError(
            f"entry {differing}: each decision.allow is charged to an artifact, and nothing else is"
        )
    for seq, artifact, _ in charges:
        if artifact.encode() not in entries[seq - start]:
            raise RollbackError(f"entry {seq} is charged to artifact {artifact}, which it does not name")
    shared = {seq for seq in allows if _DELEGATED in entries[seq - start]}
    if shared or len(charges) != len(allows):
        shared |= {seq for seq, count in Counter(charged).items() if count > 1}
        for seq in shared:
            _verify_shared(seq, entries[seq - start], [artifact for at, artifact, _ in charges if at == seq])


def _verify_shared(seq: int, entry: bytes, charged: list[str]) -> None:
    """A use of a delegated artifact is charged to it and to each above it: exactly those that the entry names."""
    named = parse_stored(seq, entry).body.get("artifact")
    chain = named.get("chain") if isinstance(named, dict) else None
    if not isinstance(chain, list) or sorted(charged) != sorted(map(str, chain)):
        raise RollbackError(f"entry {seq} is not charged once to each artifact of the chain that it names")


def _verify_nodes(store: LogStore, frontier: Frontier, entries: list[bytes]) -> Frontier:
    start, stop = frontier.size, frontier.size + len(entries)
    frontier, rows = frontier.grow(
        [sha256(b"\x00" + entry).digest() for entry in entries]
    )  # leaf_hash, inlined
    for level, index, hashes in rows:
        if not store.has_nodes(level, index, hashes):
            raise RollbackError(
                f"the stored tree is not that of the leaves from {start} to {stop}, at level {level}: rows were edited"
                " or deleted"
            )
    return frontier
