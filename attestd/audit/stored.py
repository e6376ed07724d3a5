"""Checkpoints as the log holds them, verified."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from attestd.audit.rows import StoredCheckpoint
from attestd.errors import MalformedError, RollbackError, VerificationError
from attestd.lineage.checkpoint import LogKeys, UntrustedCheckpoint, VerifiedCheckpoint, verify_checkpoints
from attestd.tlog.note import parse_note

__all__ = ["verify_stored_checkpoint", "verify_stored_checkpoints"]

# So many are parsed before their signatures are verified: neither pushes the other out of the processor's caches.
_AT_A_TIME: Final = 256


def verify_stored_checkpoint(keys: LogKeys, stored: StoredCheckpoint) -> VerifiedCheckpoint:
    """Verifies a stored checkpoint: its signatures, and that its row says what was signed.

    Raises:
        RollbackError: It is not so.
    """
    return _verify(_parse(keys, stored))


def verify_stored_checkpoints(
    keys: LogKeys, checkpoints: Iterable[StoredCheckpoint]
) -> Iterator[tuple[StoredCheckpoint, VerifiedCheckpoint]]:
    """Verifies stored checkpoints, each as `verify_stored_checkpoint` does, in less time than one by one.

    Raises:
        RollbackError: At the first that does not verify, of up to 256 that are looked at together.
    """
    rest = iter(checkpoints)
    while some := list(islice(rest, _AT_A_TIME)):
        parsed = [_parse(keys, stored) for stored in some]
        try:
            verified = verify_checkpoints(parsed)
        except VerificationError:
            verified = list(map(_verify, parsed))  # Which it is.
        yield from zip(some, verified, strict=True)


def _parse(keys: LogKeys, stored: StoredCheckpoint) -> UntrustedCheckpoint:
    try:
        parsed = keys.parse(parse_note(stored.note))
    except (MalformedError, VerificationError) as error:
        raise _wrong(stored.size, error) from error
    signed = parsed.checkpoint
    row = (stored.size, stored.first, stored.mode, stored.counter)
    if row != (signed.size, signed.batch.first, signed.batch.mode, signed.batch.counter):
        raise RollbackError(
            f"the checkpoint of size {stored.size} signs other values than its row has: {row}"
        )
    return parsed


def _verify(parsed: UntrustedCheckpoint) -> VerifiedCheckpoint:
    try:
        return parsed.verify()
    except VerificationError as error:
        raise _wrong(parsed.checkpoint.size, error) from error


def _wrong(size: int, error: Exception) -> RollbackError:
    return RollbackError(f"the checkpoint of size {size} does not verify: {error}")
