"""Replays event logs: the PCR values that a log stands for, and whether they are the quoted ones.

What a replay proves is the *digests*, and only of the PCRs that were quoted. Data is bound to digests by `covered`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from attestd.errors import UsageError, VerificationError
from attestd.tcg.eventlog.parse import UntrustedEvent, UntrustedEventLog
from attestd.tcg.eventlog.types import HASHES

__all__ = ["VerifiedEvents", "initial_value", "replay", "verify_events"]

_DRTM: Final = range(17, 23)


@dataclass(frozen=True)
class VerifiedEvents:
    """Events whose digests are proved by PCR values. Only `verify_events` makes one.

    Attributes:
        bank: The bank in which they are.
        pcrs: The PCRs for which that holds; events of others are not here.
        events: The events of these PCRs, in the log's order, up to the moment of the quote.
        later: How many events of these PCRs the log has beyond it: nothing is known of them.
        log: The whole log, unverified.
    """

    bank: str
    pcrs: tuple[int, ...]
    events: tuple[UntrustedEvent, ...]
    later: int
    log: UntrustedEventLog


def initial_value(bank: str, pcr: int, *, locality: int = 0) -> bytes:
    """What a PCR holds that nothing has extended (PC Client Platform TPM Profile, 3.6.2).

    Args:
        bank: The bank.
        pcr: The PCR.
        locality: Of TPM2_Startup: 3, or 4 with an H-CRTM, is the last byte from which PCR 0 starts.
    """
    size: int = HASHES[bank](b"").digest_size
    if pcr in _DRTM:
        return b"\xff" * size
    return bytes(size - 1) + bytes([locality if pcr == 0 else 0])


def replay(log: UntrustedEventLog, bank: str) -> dict[int, bytes]:
    """The values of the PCRs that a log extends, of one bank.

    Raises:
        UsageError: The log has no such bank.
        VerificationError: An event that extends a PCR has no digest for the bank.
    """
    _require_bank(log, bank)
    hash_ = HASHES[bank]
    values: dict[int, bytes] = {}
    for event in log.events:
        if not event.extends:
            continue
        pcr = event.pcr
        value = values.get(pcr) or _start(log, bank, pcr)
        values[pcr] = hash_(value + _digest(event, bank)).digest()
    return values


def verify_events(log: UntrustedEventLog, *, bank: str, values: Mapping[int, bytes]) -> VerifiedEvents:
    """Finds the part of a log that quoted PCR values prove: its longest prefix that replays to all of them.

    Quote first, read the log after: the log may have grown in between, never shrunk. So the log may hold more than the
    quote shows; what lies beyond the prefix is left out.

    Does not check whether data is what was measured (`covered`), nor whether it is good (`attestd.appraisal.boot`).

    Args:
        log: Parsed.
        bank: The bank of the values.
        values: Quoted values by PCR, at least one. Those of PCRs that the log does not name have to be initial ones.

    Raises:
        UsageError: No values; the log has no such bank.
        VerificationError: No prefix replays to the values; the message names the PCRs.
    """
    _require_bank(log, bank)
    if not values:
        raise UsageError("event log: verified against no PCR values, anything would do")
    hash_ = HASHES[bank]
    events = [event for event in log.events if event.extends and event.pcr in values]
    extended = {event.pcr for event in events}
    current = {
        pcr: _start(log, bank, pcr) if pcr in extended else initial_value(bank, pcr, locality=log.locality)
        for pcr in values
    }
    differing = {pcr for pcr, value in values.items() if current[pcr] != value}
    length = None if differing else 0
    for count, event in enumerate(events, start=1):
        pcr = event.pcr
        value = hash_(current[pcr] + _digest(event, bank)).digest()
        current[pcr] = value
        (differing.discard if value == values[pcr] else differing.add)(pcr)
        if not differing:
            length = count
    if length is None:
        raise VerificationError(_difference(bank, values, current))
    return VerifiedEvents(bank, tuple(sorted(values)), tuple(events[:length]), len(events) - length, log)


def _start(log: UntrustedEventLog, bank: str, pcr: int) -> bytes:
    """What the first event in a PCR extends: only a dynamic launch can extend 17 to 22, and it resets them first."""
    value = initial_value(bank, pcr, locality=log.locality)
    return bytes(len(value)) if pcr in _DRTM else value


def _require_bank(log: UntrustedEventLog, bank: str) -> None:
    if bank not in log.banks:
        raise UsageError(f"event log: no bank {bank!r}, expected one of {', '.join(log.banks) or 'none'}")


def _digest(event: UntrustedEvent, bank: str) -> bytes:
    digest = event.digests.get(bank)
    if digest is None:
        raise VerificationError(f"event log: {event} has no {bank} digest: this bank cannot be replayed")
    return digest


def _difference(bank: str, values: Mapping[int, bytes], replayed: Mapping[int, bytes]) -> str:
    wrong: Iterable[int] = [pcr for pcr in sorted(values) if replayed[pcr] != values[pcr]] or sorted(values)
    words = "; ".join(
        f"PCR {pcr} ({bank}): quoted {values[pcr].hex()}, the log replays to {replayed[pcr].hex()}"
        for pcr in wrong
    )
    return f"event log: it is not the log of this quote: {words}"
