"""Challenges that a verifier does not have to keep: each is a MAC over what it is for, and says itself when it is over.

That one is used twice is excluded elsewhere: by the TPM's clock, which the verifier keeps for each host (`compare_clocks`).
"""

import hmac
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.strict import decode_base64url, encode_base64url, format_time
from attestd.tcg.attest import ClockInfo

__all__ = ["CHALLENGE_PATTERN", "ClockMove", "compare_clocks", "make_challenge", "verify_challenge"]

# 75 characters: RFC 9711, 4.1 gives an eat_nonce 8 to 88.
CHALLENGE_PATTERN: Final = r"\A[A-Za-z0-9_-]{75}\Z"

_DOMAIN: Final = b"attestd/evidence-challenge/v1\0"
_MIN_KEY_BYTES: Final = 32
_TIME_BYTES: Final = 8
_NONCE_BYTES: Final = 16
_HEAD_BYTES: Final = _TIME_BYTES + _NONCE_BYTES
_BYTES: Final = _HEAD_BYTES + 32
_WHAT: Final = "challenge"


class ClockMove(StrEnum):
    """From the last accepted quote of a TPM to the present one.

    Attributes:
        FORWARD: It is later.
        REPLAYED: It is the same moment: the very quote that was accepted.
        BACK: It is earlier since the last reset: an older quote that comes late, or a TPM state restored from a copy.
        CLEARED: There were more resets before: the TPM was cleared, or its state is a copy from before them.
    """

    FORWARD = "forward"
    REPLAYED = "replayed"
    BACK = "back"
    CLEARED = "cleared"


def make_challenge(
    *, host: str, platform: str, key: bytes, expires: datetime, random: Callable[[int], bytes]
) -> str:
    """Makes a challenge for one host's evidence under one platform policy.

    Args:
        host: The host-id.
        platform: The platform policy's name.
        key: The verifier's secret, at least 32 bytes, the same in each of its processes, and no other verifier's.
        expires: When it is over.
        random: Gives as many unpredictable bytes as asked for.

    Raises:
        UsageError: The key is too short.
    """
    head = int(expires.timestamp()).to_bytes(_TIME_BYTES, "big") + random(_NONCE_BYTES)
    return encode_base64url(head + _mac(key, head, host, platform))


def verify_challenge(challenge: str, *, host: str, platform: str, key: bytes, now: datetime) -> bytes:
    """Verifies that this verifier asked this, of this host, and not too long ago.

    Does not exclude that it is used twice: that is `compare_clocks`.

    Args:
        challenge: As the host sends it back.
        host: The host-id that the evidence names.
        platform: The platform policy that the evidence names.
        key: As for `make_challenge`.
        now: The time.

    Returns:
        The bytes that the quote is over.

    Raises:
        MalformedError: It is not of that form.
        VerificationError: It is another verifier's, another host's or policy's, changed, or over.
        UsageError: The key is too short.
    """
    data = decode_base64url(challenge, what=_WHAT)
    if len(data) != _BYTES:
        raise MalformedError(f"{_WHAT}: {len(data)} bytes, expected {_BYTES}")
    head = data[:_HEAD_BYTES]
    if not hmac.compare_digest(_mac(key, head, host, platform), data[_HEAD_BYTES:]):
        raise VerificationError(
            f"{_WHAT}: this verifier did not make it for host {host} and platform policy {platform!r}: ask for one"
        )
    second = int.from_bytes(head[:_TIME_BYTES], "big")
    if now.timestamp() >= second:
        over = format_time(datetime.fromtimestamp(second, UTC))
        raise VerificationError(
            f"{_WHAT}: it was over at {over}, and it is {format_time(now)}: ask for another"
        )
    return data


def compare_clocks(last: ClockInfo, now: ClockInfo) -> ClockMove:
    """How a TPM's clock moved since the quote that was accepted last: only `FORWARD` is accepted."""
    if now.order > last.order:
        return ClockMove.FORWARD
    if now.order == last.order:
        return ClockMove.REPLAYED
    return ClockMove.CLEARED if now.reset_count < last.reset_count else ClockMove.BACK


def _mac(key: bytes, head: bytes, host: str, platform: str) -> bytes:
    if len(key) < _MIN_KEY_BYTES:
        raise UsageError(f"a key of {len(key)} bytes for challenges: expected at least {_MIN_KEY_BYTES}")
    # Neither a host-id nor a policy's name has a zero in it.
    named = f"{host}\0{platform}\0".encode()
    return hmac.digest(key, _DOMAIN + named + head, "sha256")
