"""Event logs taken apart: SHA-1 logs (TCG_PCR_EVENT) and crypto-agile ones (TCG_PCR_EVENT2).

Source: TCG PC Client Platform Firmware Profile 1.06, section 10. Little-endian. Nothing here is verified: `replay`
binds digests to PCR values, `covered` binds data to digests.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from attestd.errors import MalformedError
from attestd.tcg.eventlog.quirks import Quirk
from attestd.tcg.eventlog.types import BANKS, EventType, type_name

__all__ = ["MAX_EVENTLOG_BYTES", "MAX_EVENTS", "UntrustedEvent", "UntrustedEventLog", "parse_event_log"]

MAX_EVENTLOG_BYTES: Final = 4 * 1024 * 1024
MAX_EVENTS: Final = 32_768
NO_PCR: Final = 0xFFFFFFFF
PCR_COUNT: Final = 24

_WHAT: Final = "event log"
_HEAD: Final = struct.Struct("<II")
_U32: Final = struct.Struct("<I")
_ALG: Final = struct.Struct("<HH")
_U16: Final = struct.Struct("<H")
_SHA1_EVENT: Final = struct.Struct("<II20sI")
_SPEC_ID: Final = struct.Struct("<16sIBBBBI")
_AGILE: Final = b"Spec ID Event03\0"
_SPEC_IDS: Final = b"Spec ID Event"
_LOCALITY: Final = b"StartupLocality\0"
_MAX_ALGORITHMS: Final = 16
_MAX_DIGEST: Final = 128
_NO_DIGESTS: Final[Mapping[str, bytes]] = {}


@dataclass(frozen=True, slots=True)
class UntrustedEvent:
    """One event, as whoever wrote the log wants it read.

    Attributes:
        number: Its place in the log, from 0; the header of a crypto-agile log is event 0.
        pcr: 0 to 23; or 0xFFFFFFFF, for events that extend nothing.
        type: TCG_EVENTTYPE; no digest covers it.
        digests: What was extended, by bank.
        data: What is said to have been measured.
    """

    number: int
    pcr: int
    type: int
    digests: Mapping[str, bytes]
    data: bytes = field(repr=False)

    @property
    def extends(self) -> bool:
        """Whether the event changed its PCR: if the log lies here, the replay differs from the PCR."""
        return self.type != EventType.NO_ACTION

    def __str__(self) -> str:
        return f"event {self.number} ({type_name(self.type)}, PCR {self.pcr})"


@dataclass(frozen=True)
class UntrustedEventLog:
    """A log that parses.

    Attributes:
        agile: Crypto-agile, with a digest for each bank; else SHA-1.
        banks: Banks that can be replayed.
        skipped: TPM_ALG_IDs that the log declares and attestd does not replay.
        locality: The locality of TPM2_Startup, from which PCR 0 starts; 0 unless the log says otherwise.
        quirks: How the log departs from the specification.
    """

    agile: bool
    banks: tuple[str, ...]
    skipped: tuple[int, ...]
    events: tuple[UntrustedEvent, ...]
    locality: int
    quirks: tuple[Quirk, ...]


def parse_event_log(data: bytes) -> UntrustedEventLog:
    """Parses an event log: `binary_bios_measurements` as the kernel hands it out.

    Args:
        data: The whole log.

    Raises:
        MalformedError: Empty, over 4 MiB or 32,768 events, truncated, a length beyond the end, an undeclared or
            repeated hash, a known hash with another size, a PCR beyond 23, a second Spec ID event, a second or
            misplaced StartupLocality event.
    """
    if not data:
        raise MalformedError(f"{_WHAT}: empty")
    if len(data) > MAX_EVENTLOG_BYTES:
        raise MalformedError(f"{_WHAT}: {len(data)} bytes, the limit is {MAX_EVENTLOG_BYTES}")
    first, offset = _sha1_event(data, 0, 0)
    agile = first.type == EventType.NO_ACTION and first.data.startswith(_AGILE)
    sizes = _parse_spec_id(first.data) if agile else {0x0004: 20}
    if agile:
        first = UntrustedEvent(0, first.pcr, first.type, _NO_DIGESTS, first.data)
    events = [first]
    quirks: list[Quirk] = []
    padding, padding_start = _padding(data)
    while offset < len(data):
        if offset >= padding_start:
            quirks.append(padding)
            break
        if len(events) == MAX_EVENTS:
            raise MalformedError(f"{_WHAT}: more than {MAX_EVENTS} events")
        if agile:
            event, offset = _agile_event(data, offset, len(events), sizes)
        else:
            event, offset = _sha1_event(data, offset, len(events))
        events.append(event)
    return UntrustedEventLog(
        agile=agile,
        banks=tuple(BANKS[alg][0] for alg in sizes if alg in BANKS),
        skipped=tuple(alg for alg in sizes if alg not in BANKS),
        events=tuple(events),
        locality=_locality(events),
        quirks=tuple(quirks),
    )


def _truncated(number: int, offset: int) -> MalformedError:
    return MalformedError(f"{_WHAT}: truncated in event {number}, which starts at byte {offset}")


def _sha1_event(data: bytes, start: int, number: int) -> tuple[UntrustedEvent, int]:
    """TCG_PCR_EVENT (10.2.1)."""
    try:
        pcr, kind, digest, size = _SHA1_EVENT.unpack_from(data, start)
    except struct.error as error:
        raise _truncated(number, start) from error
    body, end = _body(data, start + _SHA1_EVENT.size, size, number, start)
    _check_place(pcr, kind, number)
    return UntrustedEvent(number, pcr, kind, {"sha1": digest}, body), end


def _agile_event(
    data: bytes, start: int, number: int, sizes: Mapping[int, int]
) -> tuple[UntrustedEvent, int]:
    """TCG_PCR_EVENT2 (10.2.2). Windows leaves digests out: a bank without one cannot be replayed, that is all."""
    offset = start + 12
    try:
        pcr, kind = _HEAD.unpack_from(data, start)
        (count,) = _U32.unpack_from(data, start + 8)
        if count > len(sizes):
            raise MalformedError(f"{_WHAT}: event {number} has {count} digests, expected up to {len(sizes)}")
        digests: dict[str, bytes] = {}
        seen = set()
        for _ in range(count):
            (alg,) = _U16.unpack_from(data, offset)
            if alg not in sizes or alg in seen:
                raise MalformedError(
                    f"{_WHAT}: event {number} has a digest of hash {alg:#06x}, expected each hash of the Spec ID"
                    f" event once: {', '.join(f'{known:#06x}' for known in sizes)}"
                )
            seen.add(alg)
            end = offset + 2 + sizes[alg]
            if alg in BANKS:
                digests[BANKS[alg][0]] = data[offset + 2 : end]
            offset = end
        (size,) = _U32.unpack_from(data, offset)
    except struct.error as error:
        raise _truncated(number, start) from error
    body, end = _body(data, offset + 4, size, number, start)
    _check_place(pcr, kind, number)
    return UntrustedEvent(number, pcr, kind, digests, body), end


def _body(data: bytes, offset: int, size: int, number: int, start: int) -> tuple[bytes, int]:
    end = offset + size
    if end > len(data):
        raise MalformedError(
            f"{_WHAT}: event {number}, which starts at byte {start}, says {size} bytes of data,"
            f" {max(len(data) - offset, 0)} follow"
        )
    return data[offset:end], end


def _check_place(pcr: int, kind: int, number: int) -> None:
    if pcr >= PCR_COUNT and not (pcr == NO_PCR and kind == EventType.NO_ACTION):
        raise MalformedError(f"{_WHAT}: event {number} names PCR {pcr}, expected 0 to {PCR_COUNT - 1}")


def _parse_spec_id(data: bytes) -> dict[int, int]:
    """TCG_EfiSpecIDEvent (10.4.5.1): hash algorithms and digest sizes, in the order of the log."""
    what = f"{_WHAT}: Spec ID event"
    try:
        count = _SPEC_ID.unpack_from(data)[-1]
        if not 1 <= count <= _MAX_ALGORITHMS:
            raise MalformedError(f"{what}: {count} hash algorithms, expected 1 to {_MAX_ALGORITHMS}")
        pairs = [_ALG.unpack_from(data, _SPEC_ID.size + 4 * index) for index in range(count)]
        vendor = data[_SPEC_ID.size + 4 * count]
    except (struct.error, IndexError) as error:
        raise MalformedError(f"{what}: truncated") from error
    length = _SPEC_ID.size + 4 * count + 1 + vendor
    if length != len(data):
        raise MalformedError(f"{what}: {len(data)} bytes, its members need {length}")
    for alg, size in pairs:
        known = BANKS.get(alg, (None, size))[1]
        if size != known or not 1 <= size <= _MAX_DIGEST:
            raise MalformedError(f"{what}: hash {alg:#06x} with digests of {size} bytes")
    if len(dict(pairs)) != count:
        raise MalformedError(f"{what}: the same hash algorithm twice")
    return dict(pairs)


def _padding(data: bytes) -> tuple[Quirk, int]:
    """Where what is only padding starts: an event that starts there or later is none. Looked for once, not an event."""
    if data[-1] == 0xFF:
        return Quirk.FF_PADDING, len(data.rstrip(b"\xff"))
    return Quirk.ZERO_PADDING, len(data.rstrip(b"\0"))


def _locality(events: list[UntrustedEvent]) -> int:
    """What TCG_EfiStartupLocalityEvent (10.4.5.3) says; and that special events are where they belong."""
    found: int | None = None
    extended = False
    for event in events:
        if event.type != EventType.NO_ACTION:
            extended = extended or event.pcr == 0
        elif event.number and event.data.startswith(_SPEC_IDS):
            raise MalformedError(f"{_WHAT}: event {event.number} is a second Spec ID event")
        elif event.data.startswith(_LOCALITY):
            if found is not None or extended or event.pcr != 0 or len(event.data) != len(_LOCALITY) + 1:
                raise MalformedError(
                    f"{_WHAT}: event {event.number}: a StartupLocality event that is not the only one, in PCR 0,"
                    " before anything is measured there, with one byte"
                )
            found = event.data[-1]
    return found or 0
