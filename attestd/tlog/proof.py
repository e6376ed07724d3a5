"""C2SP tlog-proof: a leaf's inclusion proof with the checkpoint it leads to, in one file that verifies offline.

Source: https://c2sp.org/tlog-proof. A receipt is one whose extra data is the entry itself.
"""

from dataclasses import dataclass
from typing import Final

from attestd.errors import MalformedError, UsageError
from attestd.tlog._text import MAX_SIZE, format_base64, parse_base64, parse_decimal
from attestd.tlog.tree import HASH_SIZE

__all__ = ["MAX_PROOF_BYTES", "TlogProof", "format_proof", "parse_proof"]

MAX_PROOF_BYTES: Final = 256 * 1024
MAX_PATH: Final = 63  # a tree has at most 2^63 - 1 leaves

_HEADER: Final = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A proof as parsed; nothing in it is verified.

    Attributes:
        extra: Opaque data, never authenticated by the proof's format; absent or not empty.
        index: The leaf's index.
        proof: The inclusion proof's hashes, the leaf's sibling first.
        checkpoint: The signed note, byte for byte.
    """

    extra: bytes | None
    index: int
    proof: tuple[bytes, ...]
    checkpoint: bytes


def parse_proof(data: bytes) -> TlogProof:
    """Parses a proof.

    Does not parse the checkpoint, hash the extra data, or verify anything: see `note.parse_note`,
    `checkpoint.parse_checkpoint`, `tree.verify_inclusion`.

    Args:
        data: The file, at most 256 KiB.

    Raises:
        MalformedError: Not a proof.
    """
    if len(data) > MAX_PROOF_BYTES:
        raise MalformedError(f"proof: {len(data)} bytes, the limit is {MAX_PROOF_BYTES}")
    head, _, checkpoint = data.partition(b"\n\n")
    lines = head.split(b"\n")
    if not checkpoint or lines.pop(0) != _HEADER.encode():
        raise MalformedError(f"proof: expected {_HEADER}, index, hashes, a blank line, and a checkpoint")
    extra = None
    if lines and lines[0].startswith(b"extra "):
        extra = parse_base64(lines.pop(0).removeprefix(b"extra "), what="proof extra data")
        if not extra:
            raise MalformedError("proof: an extra line without data")
    if not lines or not lines[0].startswith(b"index "):
        raise MalformedError("proof: no index line")
    index = parse_decimal(lines.pop(0).removeprefix(b"index "), what="proof index")
    if len(lines) > MAX_PATH:
        raise MalformedError(f"proof: {len(lines)} hashes, the limit is {MAX_PATH}")
    proof = tuple(parse_base64(line, what="proof hash") for line in lines)
    if any(len(value) != HASH_SIZE for value in proof):
        raise MalformedError(f"proof: a hash is not {HASH_SIZE} bytes")
    return TlogProof(extra=extra, index=index, proof=proof, checkpoint=checkpoint)


def format_proof(proof: TlogProof) -> bytes:
    """Writes a proof.

    Raises:
        UsageError: `parse_proof` would not give back just this.
    """
    extra = "" if proof.extra is None else f"extra {format_base64(proof.extra)}\n"
    hashes = "".join([f"{format_base64(value)}\n" for value in proof.proof])
    data = f"{_HEADER}\n{extra}index {proof.index}\n{hashes}\n".encode("ascii") + proof.checkpoint
    # What `parse_proof` asks for. Reading it back would double the cost of a release's receipt.
    readable = (
        proof.extra != b""
        and 0 <= proof.index <= MAX_SIZE
        and len(proof.proof) <= MAX_PATH
        and set(map(len, proof.proof)) <= {HASH_SIZE}
        and proof.checkpoint
        and len(data) <= MAX_PROOF_BYTES
    )
    if not readable:
        raise UsageError(f"not a proof that could be read again: {len(data)} bytes, index {proof.index}")
    return data
