"""What a TPM tells about itself (TPM 2.0 Part 3, 30.2 TPM2_GetCapability, 29.1 TPM2_ReadClock)."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from attestd.errors import TpmError
from attestd.tpm._channel import Channel
from attestd.tpm._commands import Cc, u32

__all__ = ["TpmProperties", "handles", "nv_indices", "read_properties", "was_shut_down"]

_CAP_HANDLES: Final = 1
_CAP_PROPERTIES: Final = 6
_ALL: Final = 254

_NV_INDEX: Final = 0x01000000
LOADED_SESSIONS: Final = 0x02000000
SAVED_SESSIONS: Final = 0x03000000
TRANSIENT: Final = 0x80000000
_NUMBER: Final = 0x00FFFFFF  # of a handle; before it, its type

_FIXED: Final = 0x100
_VARIABLE: Final = 0x200
_MANUFACTURER, _VENDOR_STRINGS = 0x105, (0x106, 0x107, 0x108, 0x109)
_FIRMWARE_1, _FIRMWARE_2 = 0x10B, 0x10C
_PERMANENT, _LOADED_AVAIL, _TRANSIENT_AVAIL, _NV_COUNTERS_AVAIL = 0x200, 0x204, 0x207, 0x20B
_STARTUP_CLEAR: Final = 0x201
_LOCKOUT_COUNTER, _MAX_AUTH_FAIL, _LOCKOUT_INTERVAL = 0x20E, 0x20F, 0x210
_IN_LOCKOUT: Final = 1 << 9
_ORDERLY: Final = 1 << 31  # TPMA_STARTUP_CLEAR


@dataclass(frozen=True, slots=True)
class TpmProperties:
    """A TPM's identity and condition.

    Attributes:
        manufacturer: Four letters, for example `IBM` for swtpm.
        vendor: The vendor's string.
        firmware: The firmware version, 64 bits.
        lockout_counter: Failed authorizations so far.
        max_auth_fail: With how many the TPM goes into lockout.
        lockout_interval_s: After how many seconds one is forgiven.
        in_lockout: Whether it is there.
        transient_free: Slots for objects that are free.
        sessions_free: Slots for sessions that are free.
        nv_indices: How many NV indices are defined.
        nv_counters_free: How many counters can still be defined.
        clock_ms: TPM clock; never goes back but by a clear, or after a disorderly reset to a recent value.
        reset_count: Resets since the last clear.
        restart_count: Restarts and resumes since the last reset.
        safe: Whether `clock_ms` was never reported higher before a disorderly reset.
    """

    manufacturer: str
    vendor: str
    firmware: int
    lockout_counter: int
    max_auth_fail: int
    lockout_interval_s: int
    in_lockout: bool
    transient_free: int
    sessions_free: int
    nv_indices: int
    nv_counters_free: int
    clock_ms: int
    reset_count: int
    restart_count: int
    safe: bool


def read_properties(channel: Channel) -> TpmProperties:
    """Reads what `status` and `doctor` show. See `Tpm.properties`."""
    values = _tpm_properties(channel, _FIXED) | _tpm_properties(channel, _VARIABLE)
    clock = channel.run(Cc.READ_CLOCK)
    clock.take(8)  # milliseconds since power-on: of no use across resets
    return TpmProperties(
        manufacturer=_letters(values, _MANUFACTURER),
        vendor=_letters(values, *_VENDOR_STRINGS),
        firmware=values.get(_FIRMWARE_1, 0) << 32 | values.get(_FIRMWARE_2, 0),
        lockout_counter=values.get(_LOCKOUT_COUNTER, 0),
        max_auth_fail=values.get(_MAX_AUTH_FAIL, 0),
        lockout_interval_s=values.get(_LOCKOUT_INTERVAL, 0),
        in_lockout=bool(values.get(_PERMANENT, 0) & _IN_LOCKOUT),
        transient_free=values.get(_TRANSIENT_AVAIL, 0),
        sessions_free=values.get(_LOADED_AVAIL, 0),
        nv_indices=len(nv_indices(channel)),
        nv_counters_free=values.get(_NV_COUNTERS_AVAIL, 0),
        clock_ms=clock.number(8),
        reset_count=clock.number(4),
        restart_count=clock.number(4),
        safe=bool(clock.number(1)),
    )


def was_shut_down(channel: Channel) -> bool:
    """Whether TPM2_Shutdown came before the last TPM2_Startup (Part 2, 8.7 TPMA_STARTUP_CLEAR)."""
    return bool(_tpm_properties(channel, _VARIABLE).get(_STARTUP_CLEAR, 0) & _ORDERLY)


def handles(channel: Channel, first: int) -> tuple[int, ...]:
    """Handles of one kind, from `first` on; behind a resource manager, our own."""
    found: list[int] = []
    more = 1
    while more:
        params = u32(_CAP_HANDLES) + u32(first) + u32(_ALL)
        answer = channel.run(Cc.GET_CAPABILITY, params=params)
        more = answer.number(1)
        answer.take(4)
        page = [answer.number(4) for _ in range(answer.number(4))]
        if not page:
            break
        # They rise: what repeats them could be asked for ever. (Saved sessions are asked for by another type, 0x03, than
        # software TPMs tell them with, 0x02.)
        numbers = [first & _NUMBER, *(handle & _NUMBER for handle in page)]
        if numbers[1] < numbers[0] or any(this >= following for this, following in pairwise(numbers[1:])):
            raise TpmError("the TPM lists handles that do not rise")
        found += page
        first = (first & ~_NUMBER) + numbers[-1] + 1
        if numbers[-1] == _NUMBER:
            break
    return tuple(found)


def nv_indices(channel: Channel) -> tuple[int, ...]:
    """The NV indices that are defined, ascending."""
    return handles(channel, _NV_INDEX)


def _tpm_properties(channel: Channel, first: int) -> dict[int, int]:
    answer = channel.run(Cc.GET_CAPABILITY, params=u32(_CAP_PROPERTIES) + u32(first) + u32(_ALL))
    answer.take(5)
    return {answer.number(4): answer.number(4) for _ in range(answer.number(4))}


def _letters(values: dict[int, int], *properties: int) -> str:
    raw = b"".join(u32(values.get(number, 0)) for number in properties)
    return "".join(chr(octet) for octet in raw if 0x20 <= octet < 0x7F).strip()
