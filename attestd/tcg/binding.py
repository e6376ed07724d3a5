"""What the attestation key signs for us: domain-separated `extraData` (formats.md).

The AK never signs bytes that a caller chose: a raw challenge could be the hash of a forged checkpoint.
"""

import hashlib
import re
from enum import StrEnum
from functools import lru_cache
from typing import Final

from attestd.errors import UsageError

__all__ = ["Purpose", "extra_data"]

_HOST_ID: Final = re.compile(r"\A[0-9a-f]{64}\Z")


class Purpose(StrEnum):
    """What a signature of the attestation key is for."""

    CHECKPOINT = "checkpoint"
    EVIDENCE = "evidence"
    ENROLL = "enroll"
    QUOTE = "quote"


def extra_data(purpose: Purpose, *, host_id: str, data: bytes) -> bytes:
    """The `extraData` (qualifyingData) of a signature by the attestation key.

    Args:
        purpose: Keeps a signature made for one purpose from serving another.
        host_id: The host whose AK signs, 64 lower-case hex digits; also keeps hosts apart.
        data: The full note text for `checkpoint`, the challenge for the others.

    Returns:
        32 bytes: `SHA-256("attestd/<purpose>/v1" ‖ 0x00 ‖ host-id ‖ 0x00 ‖ data)`.

    Raises:
        UsageError: No data (an empty challenge proves no freshness), or not a host id.
    """
    if not data:
        raise UsageError(f"no data to bind to: a {purpose} signature would prove no freshness")
    return hashlib.sha256(_domain(purpose, host_id) + data).digest()


@lru_cache(maxsize=64)  # who verifies a log has one host
def _domain(purpose: Purpose, host_id: str) -> bytes:
    if not _HOST_ID.match(host_id):
        raise UsageError(f"host id {host_id[:80]!r}: expected 64 lower-case hex digits")
    return f"attestd/{purpose}/v1\0{host_id}\0".encode("ascii")
