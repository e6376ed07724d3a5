"""The request `add-checkpoint` of a C2SP witness, the rules by which one answers it, and what answers mean. Pure.

    old <size>
    <base64 hash>           a consistency proof from the old size, 0 to 63 lines

    <checkpoint>            a signed note

Source: https://c2sp.org/tlog-witness. Which keys are trusted for an origin, and the state, are the caller's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.tlog._text import format_base64, parse_base64, parse_decimal
from attestd.tlog.checkpoint import TreeHead
from attestd.tlog.cosignature import verify_cosignature
from attestd.tlog.note import (
    MAX_NOTE_BYTES,
    NoteSignature,
    UntrustedNote,
    format_signature_line,
    parse_signature_line,
)
from attestd.tlog.tree import EMPTY_ROOT, HASH_SIZE, verify_consistency
from attestd.tlog.vkey import VerifierKey

__all__ = [
    "MAX_ADD_CHECKPOINT_BYTES",
    "NOTHING_SEEN",
    "AddCheckpoint",
    "Conflict",
    "Latest",
    "Refusal",
    "RefusalStatus",
    "evaluate_conflict",
    "evaluate_growth",
    "format_add_checkpoint",
    "format_cosignatures",
    "parse_add_checkpoint",
    "parse_cosignatures",
    "parse_size",
    "verify_cosignatures",
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


def verify_cosignatures(
    data: bytes, *, text: bytes, keys: Sequence[VerifierKey], latest: int
) -> tuple[NoteSignature, ...]:
    """What a witness answered to a checkpoint: the lines by its own keys, verified; others are left out.

    Args:
        data: The body of the answer.
        text: The checkpoint's note text.
        keys: The witness's.
        latest: The last time that is not the future, in seconds since the epoch.

    Returns:
        At least one line.

    Raises:
        MalformedError: Not signature lines.
        VerificationError: None by its keys, one twice, one that is wrong or of the future.
    """
    lines = parse_cosignatures(data)
    note, known = UntrustedNote(text, lines), {(key.name, key.key_id): key for key in keys}
    own = tuple(line for line in lines if (line.name, line.key_id) in known)
    for line in own:
        time = verify_cosignature(note, known[line.name, line.key_id])
        if time > latest:
            raise VerificationError(
                f"cosignatures: {line.name} says that it is {time} s, which is in the future"
            )
    if not own:
        raise VerificationError("cosignatures: none by a key that is trusted to be this witness's")
    return own


def parse_size(data: bytes) -> int:
    """Parses the body of a conflict (409): the size of what the witness cosigned last.

    Raises:
        MalformedError: Not a number and a newline.
    """
    if not data.endswith(b"\n"):
        raise MalformedError("conflict: expected a size and a newline")
    return parse_decimal(data[:-1], what="conflict")


class Conflict(Enum):
    """What it means that a witness's last size is another than a log took it to be.

    Attributes:
        GO_ON: It is further than was known, or was never asked by this log: prove from there.
        PASSED: It is beyond the checkpoint, within the log: this one it cannot cosign any more.
        WENT_BACK: It is behind what it cosigned: its database was restored.
        AHEAD: It is beyond the log: the log was restored, or continued elsewhere; or the witness lies.
        NONSENSE: It is what it was taken to be.
    """

    GO_ON = "go on"
    PASSED = "passed"
    WENT_BACK = "went back"
    AHEAD = "ahead"
    NONSENSE = "nonsense"


def evaluate_conflict(told: int, *, old: int, cosigned: int, size: int, log_size: int) -> Conflict:
    """What a log makes of a conflict.

    Args:
        told: The size that the witness says it cosigned last.
        old: The old size that it was asked with.
        cosigned: The largest size of which the log holds its cosignature.
        size: The checkpoint's.
        log_size: The log's.
    """
    if told > log_size:
        return Conflict.AHEAD
    if told < cosigned:
        return Conflict.WENT_BACK
    if told == old:
        return Conflict.NONSENSE
    return Conflict.PASSED if told > size else Conflict.GO_ON
