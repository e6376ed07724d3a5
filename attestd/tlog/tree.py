"""The Merkle tree of RFC 6962: append, root, inclusion and consistency proofs.

Only roots of complete subtrees are ever stored, each written once: `Node(level, index, hash)` covers the leaves
[index·2^level, (index+1)·2^level). From these any root and any proof of any size is put together.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from itertools import count, repeat
from typing import Final, NamedTuple, Self

from attestd.errors import UsageError, VerificationError

__all__ = [
    "EMPTY_ROOT",
    "Frontier",
    "Node",
    "NodeSource",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "verify_consistency",
    "verify_inclusion",
]

HASH_SIZE: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()

NodeSource = Callable[[int, int], bytes]
"""Gives the stored hash at (level, index)."""


class Node(NamedTuple):  # a tuple, not a dataclass: a batch makes thousands, and SQLite takes it as a row
    """The root of a complete subtree; level 0 is the leaf hashes."""

    level: int
    index: int  # type: ignore[assignment]  # hides tuple.index(), which says nothing about a node
    hash: bytes


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf (RFC 6962 §2.1)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node (RFC 6962 §2.1)."""
    return sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """A tree in the least form that can still grow.

    Attributes:
        size: The number of leaves.
        hashes: The roots of its complete subtrees, largest (leftmost) first: one for each 1 bit of `size`.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.hashes) != self.size.bit_count():
            raise UsageError(f"a frontier of {len(self.hashes)} hashes cannot be of {self.size} leaves")

    @classmethod
    def load(cls, size: int, node: NodeSource) -> Self:
        """Reads the frontier of a stored tree.

        Raises:
            UsageError: `size` is negative.
            Exception: Whatever `node` raises.
        """
        return cls(size, tuple(_subtrees(0, size, node)))

    def append(self, leaf_hashes: Iterable[bytes]) -> tuple["Frontier", list[Node]]:
        """Adds leaves: one hash computation a leaf, amortised, and no look at stored nodes.

        Args:
            leaf_hashes: What `leaf_hash` gives for each new entry, in order.

        Returns:
            The new frontier, and each node that became complete, the new leaves included, by level then index.
        """
        frontier, rows = self.grow(leaf_hashes)
        nodes: list[Node] = []
        for level, index, row in rows:
            # Made without a Python call each, which would cost as much as their hashes.
            nodes += map(tuple.__new__, repeat(Node), zip(repeat(level), count(index), row, strict=False))
        return frontier, nodes

    def grow(self, leaf_hashes: Iterable[bytes]) -> tuple["Frontier", list[tuple[int, int, list[bytes]]]]:
        """Adds leaves, as `append`.

        Returns:
            The new frontier, and for each level the hashes that became complete, with the index of the first.
        """
        rows: list[tuple[int, int, list[bytes]]] = []
        complete = list(self.hashes)  # what the new leaves have not merged with yet, smallest last
        right: list[bytes] = []  # the new frontier's smaller subtrees, smallest first
        row, index, level = list(leaf_hashes), self.size, 0
        size = index + len(row)
        while row:
            rows.append((level, index, row))
            left = [complete.pop(), *row] if index & 1 else row
            if len(left) & 1:
                right.append(left[-1])
            # node_hash, inlined: this line is the cost of appending and of verifying a log.
            row = [sha256(b"\x01" + a + b).digest() for a, b in zip(left[::2], left[1::2], strict=False)]
            index, level = index >> 1, level + 1
        return Frontier(size, (*complete, *reversed(right))), rows

    def root(self) -> bytes:
        """The Merkle Tree Hash (RFC 6962 §2.1)."""
        return _fold(self.hashes) if self.hashes else EMPTY_ROOT


def inclusion_proof(index: int, size: int, node: NodeSource) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 §2.1.1.

    Args:
        index: The leaf, from 0.
        size: The size of the tree to prove it in.
        node: The stored nodes of that tree or of a larger one.

    Returns:
        The sibling hashes, the leaf's first.

    Raises:
        UsageError: There is no such leaf.
        Exception: Whatever `node` raises.
    """
    if not 0 <= index < size:
        raise UsageError(f"no leaf {index} in a tree of {size}")
    proof: list[bytes] = []
    for level in range((size - 1).bit_length()):
        sibling = (index >> level) ^ 1
        start = sibling << level
        if start + (1 << level) <= size:
            proof.append(node(level, sibling))
        elif start < size:  # The tree's right border runs through it.
            proof.append(_range_root(start, size, node))
    return proof


def consistency_proof(old_size: int, new_size: int, node: NodeSource) -> list[bytes]:
    """PROOF(old_size, D[new_size]) of RFC 6962 §2.1.2; empty if the old tree is empty or the whole.

    Args:
        old_size: The size of the earlier tree.
        new_size: The size of the later tree.
        node: The stored nodes of the later tree or of a larger one.

    Raises:
        UsageError: The old tree is larger than the new.
        Exception: Whatever `node` raises.
    """
    if not 0 <= old_size <= new_size:
        raise UsageError(f"a tree of {new_size} does not continue one of {old_size}")
    proof: list[bytes] = []
    start, end = 0, new_size
    while start < old_size < end:
        middle = start + _split(end - start)
        if old_size <= middle:
            proof.append(_range_root(middle, end, node))
            end = middle
        else:
            proof.append(_range_root(start, middle, node))
            start = middle
    if start:  # Otherwise [start, end) is the old tree itself, whose root the verifier knows.
        proof.append(_range_root(start, end, node))
    return proof[::-1]


def verify_inclusion(*, leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Verifies that a tree has a leaf at an index (RFC 6962 §2.1.1).

    Does not check where `root` and `size` come from: take them from a checkpoint whose signatures verified.

    Args:
        leaf: The leaf's hash, computed by the caller from the entry.
        index: The leaf's index.
        size: The size of the tree.
        proof: The sibling hashes, the leaf's first.
        root: The tree's root.

    Raises:
        VerificationError: The proof does not lead from this leaf at this index to this root.
    """
    if not 0 <= index < size:
        raise VerificationError(f"inclusion: no leaf {index} in a tree of {size}")
    inner, border = _path_shape(index, size)
    _require_hashes("inclusion", inner + border, proof, leaf, root)
    found = _chain(leaf, index, proof[:inner])
    found = _fold((*reversed(proof[inner:]), found))
    if not compare_digest(found, root):
        raise VerificationError(f"inclusion: the proof gives root {found.hex()}, not {root.hex()}")


def verify_consistency(
    *, old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Verifies that one tree continues another (RFC 6962 §2.1.2).

    Does not check where roots and sizes come from: take them from checkpoints whose signatures verified. An empty
    old tree is continued by every tree, so this then says nothing about the new root.

    Raises:
        VerificationError: The new tree is smaller, or the proof does not lead to both roots.
    """
    if not 0 <= old_size <= new_size:
        raise VerificationError(f"consistency: a tree of {new_size} does not continue one of {old_size}")
    if old_size in (0, new_size):
        _require_hashes("consistency", 0, proof, old_root, new_root)
        if not compare_digest(old_root, new_root if old_size else EMPTY_ROOT):
            raise VerificationError(f"consistency: two roots for one tree of {old_size} leaves")
        return
    # The path starts at the last complete subtree of the old tree; its hash is given, unless it is the old root.
    shift = (old_size & -old_size).bit_length() - 1
    inner, border = _path_shape(old_size - 1, new_size)
    inner -= shift
    whole = old_size == 1 << shift
    _require_hashes("consistency", inner + border + (not whole), proof, old_root, new_root)
    seed, path = (old_root, proof) if whole else (proof[0], proof[1:])
    index = (old_size - 1) >> shift
    lefts = [sibling for level, sibling in enumerate(path[:inner]) if index >> level & 1]
    border_hashes = tuple(reversed(path[inner:]))
    old_found = _fold((*border_hashes, *reversed(lefts), seed))
    new_found = _fold((*border_hashes, _chain(seed, index, path[:inner])))
    if not compare_digest(old_found, old_root):
        raise VerificationError(
            f"consistency: the proof gives old root {old_found.hex()}, not {old_root.hex()}"
        )
    if not compare_digest(new_found, new_root):
        raise VerificationError(
            f"consistency: the proof gives new root {new_found.hex()}, not {new_root.hex()}"
        )


def _split(width: int) -> int:
    """The largest power of two below `width`, which is at least 2."""
    return 1 << (width - 1).bit_length() - 1


def _subtrees(start: int, end: int, node: NodeSource) -> list[bytes]:
    """The roots of the complete subtrees that make up [start, end), leftmost first.

    `start` is a multiple of the largest of their widths: so are the ranges of RFC 6962's recursions.
    """
    hashes: list[bytes] = []
    while start < end:
        level = ((end - start) & (start - end)).bit_length() - 1
        hashes.append(node(level, (end >> level) - 1))
        end -= 1 << level
    return hashes[::-1]


def _range_root(start: int, end: int, node: NodeSource) -> bytes:
    return _fold(_subtrees(start, end, node))


def _fold(hashes: Sequence[bytes]) -> bytes:
    """The root over subtree roots that shrink from left to right."""
    root = hashes[-1]
    for left in hashes[-2::-1]:
        root = node_hash(left, root)
    return root


def _chain(seed: bytes, index: int, siblings: Sequence[bytes]) -> bytes:
    """Climbs from node `index`; its bits say on which side each sibling stands."""
    for level, sibling in enumerate(siblings):
        seed = node_hash(sibling, seed) if index >> level & 1 else node_hash(seed, sibling)
    return seed


def _path_shape(index: int, size: int) -> tuple[int, int]:
    """How many hashes a leaf's path has below and above the point where it meets the tree's right border.

    Above it every sibling stands on the left.
    """
    inner = (index ^ (size - 1)).bit_length()
    return inner, (index >> inner).bit_count()


def _require_hashes(what: str, length: int, proof: Sequence[bytes], *others: bytes) -> None:
    """A proof of another length, or one with hashes of another size, could be read in two ways."""
    if len(proof) != length:
        raise VerificationError(f"{what}: {len(proof)} hashes in the proof, {length} expected")
    if any(len(value) != HASH_SIZE for value in (*proof, *others)):
        raise VerificationError(f"{what}: a hash is not {HASH_SIZE} bytes")
