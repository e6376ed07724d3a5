"""A checkpoint as the log holds it, verified."""

from attestd.audit.rows import StoredCheckpoint
from attestd.errors import MalformedError, RollbackError, VerificationError
from attestd.lineage.checkpoint import LogKeys, VerifiedCheckpoint
from attestd.tlog.note import parse_note

__all__ = ["verify_stored_checkpoint"]


def verify_stored_checkpoint(keys: LogKeys, stored: StoredCheckpoint) -> VerifiedCheckpoint:
    """Verifies a stored checkpoint: its signatures, and that its row says what was signed.

    Raises:
        RollbackError: It is not so.
    """
    try:
        verified = keys.verify(parse_note(stored.note))
    except (MalformedError, VerificationError) as error:
        raise RollbackError(f"the checkpoint of size {stored.size} does not verify: {error}") from error
    signed = verified.checkpoint
    row = (stored.size, stored.first, stored.mode, stored.counter)
    if row != (signed.size, signed.batch.first, signed.batch.mode, signed.batch.counter):
        raise RollbackError(
            f"the checkpoint of size {stored.size} signs other values than its row has: {row}"
        )
    return verified
