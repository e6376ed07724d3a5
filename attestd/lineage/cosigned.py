"""Which witnesses of a fleet have cosigned a checkpoint."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from attestd.errors import VerificationError
from attestd.governance.mesh import MeshTrust
from attestd.tlog.cosignature import verify_cosignature
from attestd.tlog.note import MAX_SIGNATURES, UntrustedNote

__all__ = ["MAX_COSIGNATURES", "Line", "cosigned_by", "counting_lines"]

# The log's own lines are two: the release key's and the quote.
MAX_COSIGNATURES: Final = MAX_SIGNATURES - 2
_YEAR_9999: Final = 253_402_300_799

Line = tuple[str, bytes]
"""Whose line it is: the name of a key, and its key id."""


def cosigned_by(note: UntrustedNote, mesh: MeshTrust) -> Mapping[str, int]:
    """The witnesses that cosigned a checkpoint, by the keys of `mesh.json`; lines by anybody else are not looked at.

    A witness is its keys' name: with a key of each kind (0x04, 0x06) it counts once. A line of a time when the version was no
    longer in force counts for nothing: a witness that was replaced may still run, and sign what it is shown.

    Args:
        note: The checkpoint.
        mesh: Whose cosignatures count: of the version that is in force, or of the one that an entry names.

    Returns:
        By the witness's name, when it saw the checkpoint last, in seconds since the epoch. That this is not in the
        future is the caller's affair.

    Raises:
        VerificationError: One of their lines is wrong, there twice, or of a time after the year 9999.
        MalformedError: The text is no checkpoint.
    """
    times: dict[str, int] = {}
    for (name, _), time in counting_lines(note, mesh).items():
        times[name] = max(times.get(name, 0), time)
    return times


def counting_lines(note: UntrustedNote, mesh: MeshTrust) -> Mapping[Line, int]:
    """When the lines that `cosigned_by` counts say that the checkpoint was seen: of a witness with two keys perhaps one.

    Raises:
        VerificationError, MalformedError: As `cosigned_by`.
    """
    lines = {(line.name, line.key_id) for line in note.signatures}
    found: dict[Line, int] = {}
    for witness in mesh.witnesses.values():
        key = witness.key
        if (key.name, key.key_id) in lines:
            time = verify_cosignature(note, key)
            if time > _YEAR_9999:
                raise VerificationError(f"note: {key.name} cosigned at {time} s, after the year 9999")
            if mesh.counts_at(datetime.fromtimestamp(time, UTC)):
                found[key.name, key.key_id] = time
    return found
