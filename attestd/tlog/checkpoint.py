"""C2SP tlog-checkpoints: those of any log, and attestd's, whose one extension line names the batch that it seals.

    attestd/<host id>/<log id>
    <size>
    <base64 root>
    attestd.batch <first leaf> <release|record> <counter>

Source: https://c2sp.org/tlog-checkpoint. Each checkpoint has exactly one spelling.
"""

import re
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from attestd.errors import MalformedError, UsageError
from attestd.tlog._text import DECIMAL, MAX_SIZE, format_base64, parse_base64, parse_decimal
from attestd.tlog.tree import HASH_SIZE

__all__ = [
    "Batch",
    "BatchMode",
    "Checkpoint",
    "Origin",
    "TreeHead",
    "origin",
    "parse_checkpoint",
    "parse_origin",
    "parse_tree_head",
]

_ORIGIN: Final = re.compile(r"attestd/([0-9a-f]{64})/([0-9a-z][0-9a-z-]{0,63})\Z")
_TEXT: Final = re.compile(
    rb"(.+)\n%b\n(.+)\nattestd\.batch %b (release|record) ([0-9a-f]{16})\n\Z" % (DECIMAL, DECIMAL)
)


class Origin(NamedTuple):
    """Whose log, and which of its incarnations."""

    host_id: str
    log_id: str


class BatchMode(StrEnum):
    """What a batch was sealed for. Only `release` lets a `decision.allow` run."""

    RELEASE = "release"
    RECORD = "record"


_MODES: Final = {mode.encode(): mode for mode in BatchMode}


class Batch(msgspec.Struct, frozen=True, gc=False):
    """The leaves [first, the checkpoint's size).

    Attributes:
        first: The batch's first leaf.
        mode: What it was sealed for.
        counter: The TPM's log counter once this batch has been counted.
    """

    first: int
    mode: BatchMode
    counter: int


class TreeHead(msgspec.Struct, frozen=True, gc=False):
    """What any log's checkpoint says. Parsed from a note, it is only as good as the signatures that verified.

    Attributes:
        origin: The log's name, not empty.
        size: The number of leaves.
        root: The Merkle Tree Hash.
        extensions: Further lines, not empty, of which nobody but the log knows the meaning.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()


class Checkpoint(msgspec.Struct, frozen=True, gc=False):
    """A tree head and its batch. Parsed from a note, it is only as good as the signatures that verified.

    Attributes:
        origin: `attestd/<host id>/<log id>`.
        size: The number of leaves.
        root: The Merkle Tree Hash.
        batch: The leaves that this checkpoint sealed, at least one.
    """

    origin: str
    size: int
    root: bytes
    batch: Batch

    def __post_init__(self) -> None:
        """Refuses what has no text.

        Raises:
            UsageError: Not an origin, a root of another length, an empty batch, a number out of range.
        """
        _require_origin(self.origin)
        if len(self.root) != HASH_SIZE:
            raise UsageError(f"a root of {len(self.root)} bytes, {HASH_SIZE} expected")
        if not 0 <= self.batch.first < self.size <= MAX_SIZE:
            raise UsageError(f"no leaf in the batch [{self.batch.first}, {self.size})")
        if not 0 <= self.batch.counter < 2**64:
            raise UsageError(f"counter {self.batch.counter} is not of 64 bits")

    def text(self) -> bytes:
        """The note text: what is signed."""
        return (
            f"{self.origin}\n{self.size}\n{format_base64(self.root)}\n"
            f"attestd.batch {self.batch.first} {self.batch.mode} {self.batch.counter:016x}\n"
        ).encode("ascii")


def parse_checkpoint(text: bytes) -> Checkpoint:
    """Parses a note text.

    Args:
        text: The text of a note, final newline included.

    Raises:
        MalformedError: Anything but the four lines above, or a batch without leaves.
    """
    match = _TEXT.match(text)
    if not match:
        raise MalformedError(
            "checkpoint: expected origin, size, root, attestd.batch, each in its one spelling, and nothing else"
        )
    name, size, root, first, mode, counter = match.groups()
    try:
        return Checkpoint(
            name.decode("ascii"),
            int(size),
            parse_base64(root, what="checkpoint root"),
            Batch(int(first), _MODES[mode], int(counter, 16)),
        )
    except (UnicodeDecodeError, UsageError) as error:
        raise MalformedError(f"checkpoint: {error}") from error


def parse_tree_head(text: bytes) -> TreeHead:
    """Parses the note text of any log's checkpoint.

    Args:
        text: The text of a note, final newline included.

    Raises:
        MalformedError: Fewer than three lines, an empty one, or not a size and a root.
    """
    lines = text.split(b"\n")
    if lines.pop() or len(lines) < 3 or not all(lines):
        raise MalformedError("checkpoint: expected origin, size, root, and no empty line")
    root = parse_base64(lines[2], what="checkpoint root")
    if len(root) != HASH_SIZE:
        raise MalformedError(f"checkpoint: a root of {len(root)} bytes, {HASH_SIZE} expected")
    size = parse_decimal(lines[1], what="checkpoint size")
    try:
        return TreeHead(lines[0].decode(), size, root, tuple(line.decode() for line in lines[3:]))
    except UnicodeDecodeError as error:
        raise MalformedError(f"checkpoint: not UTF-8: {error}") from error


@lru_cache(maxsize=8)  # who verifies a log has one
def _require_origin(text: str) -> None:
    if not _ORIGIN.match(text):
        raise UsageError(f"origin {text[:160]!r}: expected attestd/<host id>/<log id>")


def origin(host_id: str, log_id: str) -> str:
    """The origin of a host's log.

    Args:
        host_id: 64 hex digits.
        log_id: The incarnation: 1 to 64 of a-z, 0-9 and dash, not starting with a dash.

    Raises:
        UsageError: Not such ids.
    """
    text = f"attestd/{host_id}/{log_id}"
    if not _ORIGIN.match(text):
        raise UsageError(f"no origin from host id {host_id[:80]!r} and log id {log_id[:80]!r}")
    return text


def parse_origin(text: str) -> Origin:
    """Takes an origin apart.

    Raises:
        MalformedError: Not an attestd origin.
    """
    match = _ORIGIN.match(text)
    if not match:
        raise MalformedError(f"origin {text[:160]!r}: expected attestd/<host id>/<log id>")
    return Origin(*match.groups())
