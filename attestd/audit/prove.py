"""Proofs about a stored log that are no receipts: that it only grew, and what was appended last."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from attestd.audit.store import LogStore
from attestd.errors import UsageError
from attestd.tlog.tree import Frontier, consistency_proof, verify_consistency

__all__ = ["Consistency", "newest_entries", "prove_consistency"]

_POLL_S: Final = 0.3


@dataclass(frozen=True)
class Consistency:
    """That a log of one size is a prefix of the same log of another (RFC 6962 §2.1.2).

    Attributes:
        proof: The nodes, verified before they are handed out.
        checkpoint: The signed checkpoint of the new size; None: none has exactly that size.
    """

    origin: str
    old_size: int
    old_root: bytes
    new_size: int
    new_root: bytes
    proof: tuple[bytes, ...]
    checkpoint: bytes | None


def prove_consistency(store: LogStore, *, old_size: int, new_size: int) -> Consistency:
    """Proves that a log only grew.

    Raises:
        UsageError: Not 1 <= old <= new <= the log's size.
        StoreError: The log cannot be read.
        VerificationError: The stored tree is damaged.
    """
    size = store.size
    if not 1 <= old_size <= new_size <= size:
        raise UsageError(
            f"expected 1 <= OLD <= NEW <= {size}, the size of the log; found {old_size}, {new_size}"
        )
    old_root = Frontier.load(old_size, store.node).root()
    new_root = Frontier.load(new_size, store.node).root()
    proof = tuple(consistency_proof(old_size, new_size, store.node))
    verify_consistency(
        old_size=old_size, old_root=old_root, new_size=new_size, new_root=new_root, proof=proof
    )
    covering = store.checkpoint_covering(new_size - 1)
    note = covering.note if covering and covering.size == new_size else None
    return Consistency(store.origin, old_size, old_root, new_size, new_root, proof, note)


def newest_entries(store: LogStore, *, count: int, follow: bool) -> Iterator[tuple[int, bytes]]:
    """The last entries with their numbers; then, if asked, whatever is appended, without end.

    Raises:
        StoreError: The log cannot be read.
    """
    size = store.size
    yield from store.entries(max(0, size - count), size)
    while follow:
        time.sleep(_POLL_S)
        start, size = size, store.size
        yield from store.entries(start, size)
