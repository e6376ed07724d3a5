"""One host record after another: the one before ends when the new one begins, and goes to the history. Pure; keys come as values.

When it ends follows from the new record alone, so that enrollers who know nothing of each other sign the same end.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from attestd.authorization.dsse import (
    EnvelopeSignature,
    UntrustedEnvelope,
    format_envelope,
    pae,
    parse_envelope,
)
from attestd.errors import VerificationError
from attestd.governance.authorities import Authorities
from attestd.governance.host import (
    HOST_RECORD_TYPE,
    MAX_HOST_RECORD_BYTES,
    HostRecord,
    VerifiedHost,
    parse_host_record,
)
from attestd.governance.issue import Sign
from attestd.plain import counted
from attestd.strict import canonical, decode_base64, format_time, parse_canonical, parse_time
from attestd.tcg.public import parse_public

__all__ = [
    "HANDOVER",
    "LATE",
    "draft_ended_record",
    "ended_keys",
    "ends_late",
    "past_name",
    "place_host_record",
    "replace_host_record",
    "retire_host_record",
    "verify_ended_record",
    "warn_of_succession",
]

# A record begins that long before it is drafted, for the clocks of a fleet differ: what the keys before sealed until then is
# theirs.
HANDOVER: Final = timedelta(minutes=5)
# A record that begins longer ago than this waited for somebody: whoever signs it now is told what has passed since.
LATE: Final = timedelta(hours=24)


def draft_ended_record(previous: bytes, *, successor: bytes) -> bytes | None:
    """What enrollers sign of the record before, when they sign a new one.

    Args:
        previous: The host's present record, in its envelope, verified.
        successor: The new record's payload.

    Returns:
        The payload: the record before, which ends `HANDOVER` after the new one begins. None: it is the same record.

    Raises:
        MalformedError: One is no host record.
    """
    payload = _payload(previous)
    if payload == successor:
        return None
    return _ending(payload, _handed_over(_record(successor)))


def warn_of_succession(
    successor: bytes, *, present: VerifiedHost | None, seen: datetime | None, now: datetime
) -> tuple[str, ...]:
    """What somebody has to know before a record is signed that does not begin now, or that takes the place of other keys.

    Args:
        successor: The record's payload.
        present: The host's present record; None: it has none.
        seen: When the host last attested; None: not that anybody here knows.
        now: The time.

    Returns:
        What is so, in words; empty: it begins now, and ends nothing.

    Raises:
        MalformedError: It is no host record.
    """
    record = _record(successor)
    words: list[str] = []
    age = now - parse_time(record.not_before)
    if age >= LATE:
        words.append(
            f"it waited: it begins at {record.not_before}, {counted(age.days, 'day')} ago, and holds from then on, not from now"
        )
    ended = ended_keys(successor, present=present)
    if ended and seen is not None and seen > _handed_over(record):
        # Not when: what is confirmed is these words, and a host that is in use attests every few minutes.
        return (*words, *ended, "the host has attested since")
    return (*words, *ended)


def ended_keys(successor: bytes, *, present: VerifiedHost | None) -> tuple[str, ...]:
    """Which keys end where a record is signed, in words that say the same as long as it does the same.

    Args:
        successor: The record's payload.
        present: The host's present record; None: it has none.

    Returns:
        Empty: it has the same keys, or they ended before.

    Raises:
        MalformedError: It is no host record.
    """
    record = _record(successor)
    end = _handed_over(record)
    if present is None or not _has_other_keys(record, present) or present.not_after <= end:
        return ()
    words = (
        f"the keys before (ak {present.ak_name.hex()}) end at {format_time(end)}: nothing that they sealed since then"
        " will verify, receipts of what ran included"
    )
    return (words,)


def ends_late(successor: bytes, *, present: VerifiedHost | None, now: datetime) -> bool:
    """Whether a record that waited takes the place of other keys: who had it signed looked at it lately, or looks again.

    Args:
        successor: The record's payload.
        present: The host's present record; None: it has none.
        now: The time.

    Raises:
        MalformedError: It is no host record.
    """
    record = _record(successor)
    return (
        present is not None
        and _has_other_keys(record, present)
        and now - parse_time(record.not_before) >= LATE
    )


def verify_ended_record(
    data: bytes, *, previous: bytes, authorities: Authorities, revoked_keys: Collection[str]
) -> VerifiedHost:
    """Verifies what enrollers signed of the record before: it says the same, and ends.

    Args:
        data: In its envelope.
        previous: The host's present record, in its envelope, verified.
        authorities: Whose enrollers, and how many.
        revoked_keys: Signatures by these count for nothing.

    Raises:
        MalformedError: Not a host record.
        VerificationError: Too few enrollers signed it, or it is not the record before.
    """
    ended = parse_host_record(data, authorities=authorities, revoked_keys=revoked_keys)
    if _ending(_payload(previous), ended.not_after) != _payload(data):
        raise VerificationError(
            f"host record: what ends is not the present record of host {ended.host}: expected that with an earlier"
            " not_after, and nothing else changed"
        )
    return ended


def place_host_record(
    files: Mapping[str, bytes], record: bytes, *, host: str, ended: bytes | None
) -> dict[str, bytes]:
    """A host's new record in its place, and the one before in the history.

    Args:
        files: The targets as they are.
        record: The new record, signed.
        host: Whose it is.
        ended: The one before, as enrollers ended it; None: there is none, or none that ever counted.

    Returns:
        The targets that change.
    """
    past = {} if ended is None else {past_name(files, host): ended}
    return {f"hosts/{host}.json": record, **past}


def replace_host_record(
    files: Mapping[str, bytes], record: bytes, *, host: str, now: datetime, signers: Sequence[Sign]
) -> dict[str, bytes]:
    """As `place_host_record`, where the enrollers' keys are at hand: the record before ends now.

    Args:
        files: The targets as they are.
        record: The new record, signed.
        host: Whose it is.
        now: The moment.
        signers: Enrollers, as many as the threshold asks for.
    """
    present = files.get(f"hosts/{host}.json")
    ended = None if present is None else retire_host_record(present, not_after=now, signers=signers)
    return place_host_record(files, record, host=host, ended=ended)


def retire_host_record(data: bytes, *, not_after: datetime, signers: Sequence[Sign]) -> bytes:
    """A host record that ended: what was sealed before goes on verifying.

    Args:
        data: The record, verified.
        not_after: Its end; an earlier one that it has stays.
        signers: Enrollers, as many as the threshold asks for.
    """
    payload = _ending(_payload(data), not_after)
    message = pae(HOST_RECORD_TYPE, payload)
    signed = [sign(message) for sign in signers]
    signatures = tuple(EnvelopeSignature(key.key_id, signature) for key, signature in signed)
    return format_envelope(UntrustedEnvelope(HOST_RECORD_TYPE, payload, signatures))


def past_name(files: Mapping[str, bytes | None], host: str) -> str:
    """Where the next record of a host goes that ended."""
    number = 1
    while (past := f"hosts/history/{host}-{number}.json") in files:
        number += 1
    return past


def _handed_over(record: HostRecord) -> datetime:
    """When the record before ends."""
    return parse_time(record.not_before) + HANDOVER


def _has_other_keys(record: HostRecord, present: VerifiedHost) -> bool:
    names = tuple(_key_name(key.public) for key in (record.ak, record.release_key))
    return (present.ak_name, present.release_name) != names


def _key_name(public: str) -> bytes:
    return parse_public(decode_base64(public, what="host record")).name


def _ending(payload: bytes, not_after: datetime) -> bytes:
    record = _record(payload)
    end = min(parse_time(record.not_after), not_after)
    return canonical(msgspec.structs.replace(record, not_after=format_time(end)))


def _payload(data: bytes) -> bytes:
    return parse_envelope(data, payload_type=HOST_RECORD_TYPE, max_bytes=MAX_HOST_RECORD_BYTES).payload


def _record(payload: bytes) -> HostRecord:
    return parse_canonical(payload, HostRecord, max_bytes=MAX_HOST_RECORD_BYTES, what="host record")
