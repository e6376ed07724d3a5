"""What must hold between log and TPM before an agent serves: "Sealing", step 6.

The log counter and the TPM's clock cannot be taken back with the disk: they are what a restored copy betrays itself by.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from attestd.audit.reader import parse_stored
from attestd.audit.sealing_tpm import SealingTpm
from attestd.audit.store import LogStore
from attestd.audit.stored import verify_stored_checkpoint
from attestd.errors import RollbackError
from attestd.lineage.checkpoint import LogKeys, VerifiedCheckpoint
from attestd.lineage.entry import EntryType
from attestd.plain import counted
from attestd.tcg.attest import ClockInfo
from attestd.tlog.tree import leaf_hash

__all__ = [
    "MAX_COUNTER_JUMP",
    "Recovery",
    "is_reset_jump",
    "recover",
    "settle_counter",
    "unsettled_allows",
    "void_body",
]

# TPM 2.0 Part 1, 37.2.7 (orderly NV counters): after a disorderly reset the TPM skips to the end of the interval.
MAX_COUNTER_JUMP: Final = 255

# What says that an allow ran, or never will; the body's `leaf` names the allow.
_SETTLING: Final = (
    EntryType.DECISION_VOID,
    EntryType.EXECUTION_START,
    EntryType.EXECUTION_EXIT,
    EntryType.EXECUTION_TERMINATED,
)
# How the canonical form of such an entry ends.
_SETTLING_ENDS: Final = tuple(f'"type":"{type_}","v":1}}'.encode() for type_ in _SETTLING)

_REMEDY: Final = "keep this directory as evidence, and start a new log: docs/operations.md, 'The agent refuses to serve', says how"


@dataclass(frozen=True, slots=True)
class Recovery:
    """What `recover` found; all of it is good to go on with.

    Attributes:
        counter: The TPM's log counter, from which the sealer goes on.
        voids: Allows that were sealed but never released, for their counter step was missing: the caller lets the
            runner burn them, and seals a `decision.void` for each (`void_body`).
        notes: What an auditor should read in the log, for the body of `agent.start`.
        resets: The TPM's reset and restart count that `counter` is of.
    """

    counter: int
    voids: tuple[int, ...]
    notes: tuple[str, ...]
    resets: tuple[int, int]


def recover(store: LogStore, tpm: SealingTpm, keys: LogKeys, *, clock: ClockInfo) -> Recovery:
    """Checks a stored log against its TPM, and finishes what a crash interrupted.

    1. The log ends with a checkpoint, whose row, text and tree agree.
    2. The last checkpoint's signatures verify.
    3. The TPM's clock is not before that checkpoint's quote, by (resetCount, restartCount, clock) in this order.
    4. The log counter equals the checkpoint's; or is one below: a crash after the commit, so it is stepped once
       and the batch's allows are void; or is ahead by at most one orderly interval after a TPM reset or restart
       that was not orderly (`is_reset_jump`).

    Does not read the leaves before the last batch: `verify_log` does, in the background. Does not know what the
    runner ran of the last batches: see `unsettled_allows`.

    Args:
        store: The log, opened to append.
        tpm: Its TPM.
        keys: The keys of that TPM.
        clock: The TPM's clock now.

    Raises:
        RollbackError: One of the checks fails; says what was found, and the remedy.
        StoreError: The log cannot be read.
        TpmError: The TPM does not answer as it should.
    """
    last = _verified_end(store, keys)  # 1, 2
    notes = _check_clock(last.clock, clock)  # 3
    recorded, actual = last.checkpoint.batch.counter, tpm.read_counter()  # 4
    was_reset = clock.order[:2] != last.clock.order[:2]
    if was_reset and is_reset_jump(tpm, recorded=recorded, actual=actual):
        notes.append(f"log counter went from {recorded} to {actual} in a TPM reset without orderly shutdown")
        return Recovery(actual, (), tuple(notes), clock.order[:2])
    settle_counter(tpm, recorded=recorded)
    if actual == recorded:
        return Recovery(recorded, (), tuple(notes), clock.order[:2])
    batch = last.checkpoint.batch
    notes.append(
        f"batch [{batch.first}, {last.checkpoint.size}) was committed but not counted: its allows are void"
    )
    voids = tuple(_allows(store, batch.first, last.checkpoint.size))
    return Recovery(recorded, voids, tuple(notes), clock.order[:2])


def is_reset_jump(tpm: SealingTpm, *, recorded: int, actual: int) -> bool:
    """Whether a reset without orderly shutdown explains a counter that is ahead of the last checkpoint.

    Such a reset sets the counter to the last value of its interval. If the TPM was shut down in order before its
    last start, one before that start may have come without; then the counter stands exactly there, or one further.
    Any other value is a log that was rolled back while the host was off.
    """
    if not 0 < actual - recorded <= MAX_COUNTER_JUMP:
        return False
    return not tpm.was_shut_down() or actual & MAX_COUNTER_JUMP in (MAX_COUNTER_JUMP, 0)


def settle_counter(tpm: SealingTpm, *, recorded: int) -> int:
    """Brings the log counter to the value of the last checkpoint, which it may be one short of.

    Raises:
        RollbackError: It has any other value.
    """
    actual = tpm.read_counter()
    if actual == recorded - 1:
        actual = tpm.step_counter()
    if actual != recorded:
        what = (
            "rolled back, or another copy of it is in use" if actual > recorded else "not of this TPM counter"
        )
        raise RollbackError(
            f"the last checkpoint says log counter {recorded}, the TPM says {actual}: the log was {what}; {_REMEDY}"
        )
    return actual


def unsettled_allows(store: LogStore, *, since: str) -> list[int]:
    """Allows of which the log does not say whether they ran: a crash may have come between sealing and release.

    The caller asks the runner about each (it burns what has not run), and seals a `decision.void` for the burned.

    Args:
        store: The log.
        since: Log time (six fractional digits) before which no receipt can still be accepted by the runner.

    Raises:
        StoreError: The log cannot be read.
    """
    size = store.size
    # Times never decrease along the log.
    start = bisect_left(range(size), since, key=lambda seq: parse_stored(seq, store.entry(seq)).time)
    # Ten minutes may be a million entries. Allows alone are charged, and nothing settles one that comes before it.
    allows = {store.node(0, seq).hex(): seq for seq, _, _ in store.charges(start, size)}
    for seq, data in store.entries(min(allows.values(), default=size), size):
        if data.endswith(_SETTLING_ENDS):
            allows.pop(str(parse_stored(seq, data).body.get("leaf")), None)
    return list(allows.values())


def void_body(store: LogStore, seq: int, *, reason: str) -> Mapping[str, Any]:
    """The body of the `decision.void` for an allow: its seq, its id, and why it was not released."""
    return {"seq": seq, "leaf": leaf_hash(store.entry(seq)).hex(), "reason": reason}


def _verified_end(store: LogStore, keys: LogKeys) -> VerifiedCheckpoint:
    frontier, stored = store.tail().frontier, store.last_checkpoint()
    if stored is None:
        raise RollbackError(
            f"the audit log is empty, but `init` seals its first entry: it was truncated; {_REMEDY}"
        )
    last = verify_stored_checkpoint(keys, stored)
    checkpoint = last.checkpoint
    if frontier.root() != checkpoint.root:
        raise RollbackError(
            f"the stored tree of {counted(frontier.size, 'leaf')} has root {frontier.root().hex()}, the last checkpoint "
            f"signs {checkpoint.root.hex()}: nodes were edited; {_REMEDY}"
        )
    return last


def _check_clock(then: ClockInfo, now: ClockInfo) -> list[str]:
    if now.reset_count < then.reset_count:
        raise RollbackError(
            f"the TPM's reset count went from {then.reset_count} to {now.reset_count}: the TPM was cleared, "
            "its keys are gone: attestd rekey --lost makes new ones"
        )
    if now.order < then.order:
        raise RollbackError(
            f"the TPM's (resets, restarts, clock) went back from {then.order} to {now.order}: "
            f"the TPM's state was restored from a copy; {_REMEDY}"
        )
    return (
        []
        if now.safe
        else ["the TPM does not vouch for its clock (safe = 0): it lost power without shutdown"]
    )


def _allows(store: LogStore, start: int, stop: int) -> list[int]:
    return [
        seq
        for seq, data in store.entries(start, stop)
        if parse_stored(seq, data).type is EntryType.DECISION_ALLOW
    ]
