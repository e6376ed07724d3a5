"""The request `add-checkpoint` of a C2SP witness, and the rules by which one answers it. Pure.

    old <size>
    <base64 hash>           a consistency proof from the old size, 0 to 63 lines

    <checkpoint>            a signed note

Source: https://c2sp.org/tlog-witness. Which keys are trusted for an origin, and the state, are the caller's.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.tlog._text import format_base64, parse_base64, parse_decimal
from attestd.tlog.checkpoint import TreeHead
from attestd.tlog.note import MAX_NOTE_BYTES, NoteSignature, format_signature_line, parse_signature_line
from attestd.tlog.tree import EMPTY_ROOT, HASH_SIZE, verify_consistency

__all__ = [
    "MAX_ADD_CHECKPOINT_BYTES",
    "NOTHING_SEEN",
    "AddCheckpoint",
    "Latest",
    "Refusal",
    "RefusalStatus",
    "evaluate_growth",
    "format_add_checkpoint",
    "format_cosignatures",
    "parse_add_checkpoint",
    "parse_cosignatures",
]

MAX_PROOF_LINES: Final = 63
# The old size, 63 hashes of 44 characters, their newlines, the empty line.
MAX_ADD_CHECKPOINT_BYTES: Final = MAX_NOTE_BYTES + len("old ") + 19 + 2 + MAX_PROOF_LINES * 45
MAX_COSIGNATURES: Final = 16


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request as parsed; nothing in it is verified.

    Attributes:
        old_size: From which size the proof leads to the checkpoint.
        proof: Its hashes.
        checkpoint: The signed note, byte for byte.
    """

    old_size: int
    proof: tuple[bytes, ...]
    checkpoint: bytes


@dataclass(frozen=True, slots=True)
class Latest:
    """What a witness cosigned last of a log.

    Attributes:
        size: The number of leaves.
        root: The root.
    """

    size: int
    root: bytes


NOTHING_SEEN: Final = Latest(0, EMPTY_ROOT)
"""Of a log of which nothing was cosigned."""


class RefusalStatus(IntEnum):
    """The HTTP statuses of refusals."""

    BAD_REQUEST = 400
    FORBIDDEN = 403
    NOT_FOUND = 404
    CONFLICT = 409
    UNPROCESSABLE = 422


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing is cosigned.

    Attributes:
        status: As the protocol says.
        sentence: What was expected and what was found.
    """

    status: RefusalStatus
    sentence: str


def parse_add_checkpoint(data: bytes) -> AddCheckpoint:
    """Parses the body of a request. Does not parse the checkpoint: see `note.parse_note`.

    Args:
        data: The body, at most `MAX_ADD_CHECKPOINT_BYTES`.

    Raises:
        MalformedError: Not a request.
    """
    if len(data) > MAX_ADD_CHECKPOINT_BYTES:
        raise MalformedError(f"add-checkpoint: {len(data)} bytes, the limit is {MAX_ADD_CHECKPOINT_BYTES}")
    head, blank, checkpoint = data.partition(b"\n\n")
    old, *proof = head.split(b"\n")
    if not blank or not checkpoint or not old.startswith(b"old "):
        raise MalformedError("add-checkpoint: expected `old <size>`, hashes, an empty line, and a checkpoint")
    if len(proof) > MAX_PROOF_LINES:
        raise MalformedError(f"add-checkpoint: {len(proof)} hashes, the limit is {MAX_PROOF_LINES}")
    hashes = tuple(parse_base64(line, what="add-checkpoint") for line in proof)
    if any(len(value) != HASH_SIZE for value in hashes):
        raise MalformedError(f"add-checkpoint: a hash is not {HASH_SIZE} bytes")
    return AddCheckpoint(parse_decimal(old.removeprefix(b"old "), what="old size"), hashes, checkpoint)


def format_add_checkpoint(request: AddCheckpoint) -> bytes:
    """Writes the body of a request.

    Raises:
        UsageError: `parse_add_checkpoint` would refuse it.
    """
    lines = [f"old {request.old_size}\n", *(f"{format_base64(value)}\n" for value in request.proof), "\n"]
    data = "".join(lines).encode("ascii") + request.checkpoint
    try:
        parse_add_checkpoint(data)
    except MalformedError as error:
        raise UsageError(f"not a request that could be read: {error}") from error
    return data


def evaluate_growth(request: AddCheckpoint, head: TreeHead, latest: Latest) -> Refusal | None:
    """Whether a witness may cosign a checkpoint, after what it cosigned before.

    Once a trusted key's signature on the checkpoint has verified, which this does not check:

    1. The old size is not above the checkpoint's.
    2. The old size is that of the latest checkpoint.
    3. An empty tree has the root of the empty tree.
    4. The proof leads from the latest root to the checkpoint's; none is needed, or accepted, from an empty tree or
       where the size stays, when the roots must be the same.

    Returns:
        None: it may; else the refusal of the first that does not hold.
    """
    if request.old_size > head.size:  # 1
        return Refusal(
            RefusalStatus.BAD_REQUEST, f"old size {request.old_size} is above the checkpoint's, {head.size}"
        )
    if request.old_size != latest.size:  # 2
        return Refusal(
            RefusalStatus.CONFLICT,
            f"old size {request.old_size}, but the latest checkpoint cosigned has {latest.size}",
        )
    if head.size == 0 and head.root != EMPTY_ROOT:  # 3
        return Refusal(
            RefusalStatus.UNPROCESSABLE, f"an empty tree of root {head.root.hex()}, not {EMPTY_ROOT.hex()}"
        )
    try:
        verify_consistency(  # 4
            old_size=latest.size,
            old_root=latest.root,
            new_size=head.size,
            new_root=head.root,
            proof=request.proof,
        )
    except VerificationError as error:
        return Refusal(RefusalStatus.UNPROCESSABLE, str(error))
    return None


def format_cosignatures(lines: tuple[NoteSignature, ...]) -> bytes:
    """Writes the body of an answer: signature lines."""
    return "".join(map(format_signature_line, lines)).encode()


def parse_cosignatures(data: bytes) -> tuple[NoteSignature, ...]:
    """Parses the body of an answer; add the lines to the note and verify them with `verify_cosignature`.

    Raises:
        MalformedError: Not 1 to 16 signature lines.
    """
    if len(data) > MAX_NOTE_BYTES:
        raise MalformedError(f"cosignatures: {len(data)} bytes, the limit is {MAX_NOTE_BYTES}")
    lines = data.split(b"\n")
    if lines.pop() or not 0 < len(lines) <= MAX_COSIGNATURES:
        raise MalformedError(
            f"cosignatures: expected 1 to {MAX_COSIGNATURES} signature lines that end in newlines"
        )
    return tuple(map(parse_signature_line, lines))
