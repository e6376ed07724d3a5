"""What goes into a batch, and what comes out of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import msgspec
from msgspec.structs import force_setattr

from attestd.audit.sealing_tpm import QuoteEvidence
from attestd.audit.store import Spooled
from attestd.codes import Denial
from attestd.errors import MalformedError, UsageError
from attestd.lineage.entry import MAX_ENTRY_BYTES, EntryType
from attestd.strict import canonical
from attestd.tlog.checkpoint import Checkpoint
from attestd.tlog.proof import TlogProof, format_proof
from attestd.tlog.tree import Frontier, Node, inclusion_proof

__all__ = ["MAX_BODY_BYTES", "Charge", "Pending", "SealResult", "Sealed"]

# Leaves room for the entry's other members, and for the code, sentence and hint by which an allow becomes a denial.
MAX_BODY_BYTES: Final = MAX_ENTRY_BYTES - 4096


@dataclass(frozen=True, slots=True)
class Charge:
    """One use of an artifact, which may be used `max_uses` times (None: without limit), and of those above it.

    Attributes:
        above: (id, max_uses) of each artifact from which a delegated one follows.
    """

    artifact_id: str
    max_uses: int | None
    above: tuple[tuple[str, int | None], ...] = ()


def _no_denial(denial: Denial) -> Mapping[str, Any]:
    raise UsageError(f"only a decision.allow can become a denial, here with {denial.code}")


class Pending(msgspec.Struct, frozen=True, gc=False):  # a batch makes thousands
    """An entry that waits to be sealed.

    Attributes:
        type: What happened.
        body: What the type defines.
        charge: The use that a `decision.allow` costs; of no other type.
        to_denial: Gives the body of the `decision.deny` that a `decision.allow` becomes if its uses are exhausted
            or the TPM refuses. Must not raise.
        spooled: Where it was spooled, so that it is sealed once.
        encoded: The body's canonical bytes. Made here, whatever is given, by who asks, while the sealer waits for TPM
            and disk.
    """

    type: EntryType
    body: Mapping[str, Any]
    charge: Charge | None = None
    to_denial: Callable[[Denial], Mapping[str, Any]] = _no_denial
    spooled: Spooled | None = None
    encoded: bytes = b""

    def __post_init__(self) -> None:
        """Refuses what could not be sealed: here it concerns one request, in the batch it would concern all.

        Raises:
            UsageError: An allow without charge or `to_denial`, or another type with them.
            MalformedError: The body is larger than MAX_BODY_BYTES, or has no canonical form.
        """
        allow = self.type is EntryType.DECISION_ALLOW
        if (self.charge is not None) != allow or (self.to_denial is not _no_denial) != allow:
            raise UsageError(
                f"{self.type}: charge and to_denial belong to a decision.allow, and to nothing else"
            )
        try:
            encoded = canonical(dict(self.body))
        except MalformedError as error:
            raise MalformedError(f"the body of a {self.type}: {error}") from error
        if len(encoded) > MAX_BODY_BYTES:
            raise MalformedError(
                f"the body of a {self.type} has {len(encoded)} bytes, the limit is {MAX_BODY_BYTES}"
            )
        force_setattr(self, "encoded", encoded)


class Sealed(msgspec.Struct, frozen=True, gc=False):  # a batch makes thousands
    """What a pending entry became.

    Attributes:
        seq: The leaf index.
        type: As asked for, or `decision.deny` where a `decision.allow` could not be.
        entry: The leaf's exact bytes.
        leaf_hash: The id of a decision, as bytes.
        denial: Why an allow became a denial, else None.
    """

    seq: int
    type: EntryType
    entry: bytes
    leaf_hash: bytes
    denial: Denial | None


@dataclass(frozen=True)
class SealResult:
    """A sealed batch. To have one is to have passed step 4: receipts may be handed out.

    Attributes:
        sealed: One for each pending entry, in order.
        checkpoint: What was signed.
        note: The signed checkpoint.
        quote: The TPM's quote over it.
        unreleased: Allows of an earlier batch that was committed although sealing it raised: the caller released
            none of them, lets the runner burn them, and seals a `decision.void` for each.
    """

    sealed: tuple[Sealed, ...]
    checkpoint: Checkpoint
    note: bytes
    quote: QuoteEvidence
    unreleased: tuple[int, ...]
    _before: Frontier
    _added: Sequence[Node]

    def receipt(self, index: int, *, note: bytes | None = None) -> bytes:
        """The receipt of `sealed[index]`: a tlog-proof with this checkpoint.

        Args:
            index: Which.
            note: The checkpoint with what witnesses cosigned; None: as it was sealed.
        """
        sealed = self.sealed[index]
        proof = inclusion_proof(sealed.seq, self.checkpoint.size, lambda level, idx: self._nodes[level, idx])
        return format_proof(TlogProof(sealed.entry, sealed.seq, tuple(proof), note or self.note))

    @cached_property
    def _nodes(self) -> Mapping[tuple[int, int], bytes]:
        """The nodes that proofs in this tree may need; only for a batch of which receipts are asked."""
        return _frontier_nodes(self._before) | {(level, index): hash_ for level, index, hash_ in self._added}


def _frontier_nodes(frontier: Frontier) -> dict[tuple[int, int], bytes]:
    """The frontier's hashes by where they stand in the tree: level `l` for each 1 bit `l` of its size."""
    levels = [level for level in range(frontier.size.bit_length() - 1, -1, -1) if frontier.size >> level & 1]
    return {
        (level, (frontier.size >> level) - 1): hash_
        for level, hash_ in zip(levels, frontier.hashes, strict=True)
    }
