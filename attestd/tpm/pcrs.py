"""PCRs: read as they were at one moment, extended, quoted."""

import time
from collections.abc import Mapping, Sequence
from typing import Final

from attestd.errors import TpmError, TpmUnavailableError, UsageError
from attestd.tcg.algorithms import HASH_IDS
from attestd.tcg.pcr import PcrSelection, marshal_selections
from attestd.tpm._channel import Channel
from attestd.tpm._commands import Answer, Cc, password, sized, u16, u32
from attestd.tpm.keys import LoadedKey, signed_structure

__all__ = ["extend", "quote", "read"]

_READ_ATTEMPTS: Final = 8
_SCHEME_NULL: Final = u16(0x0010)


def quote(
    channel: Channel, key: LoadedKey, selections: Sequence[PcrSelection], extra_data: bytes
) -> tuple[bytes, bytes]:
    """TPM2_Quote (Part 3, 18.4): TPMS_ATTEST and TPMT_SIGNATURE."""
    answer = channel.run(
        Cc.QUOTE,
        handles=u32(key.handle),
        auth=password(key.auth_value),
        params=sized(extra_data) + _SCHEME_NULL + marshal_selections(tuple(selections)),
    )
    return signed_structure(answer)


def read(channel: Channel, selection: PcrSelection) -> dict[int, bytes]:
    """TPM2_PCR_Read (Part 3, 22.4), as often as it takes. See `Tpm.read_pcrs`."""
    for attempt in range(_READ_ATTEMPTS):
        values = _read_once(channel, selection)
        if values is not None:
            return values
        time.sleep(0.001 * 2**attempt)
    raise TpmUnavailableError(f"PCRs {selection} were extended during each of {_READ_ATTEMPTS} reads")


def extend(channel: Channel, pcr: int, digests: Mapping[str, bytes]) -> None:
    """TPM2_PCR_Extend (Part 3, 22.2). See `Tpm.extend`."""
    if not digests or not set(digests) <= set(HASH_IDS):
        raise UsageError(f"PCR banks {sorted(digests)}: expected some of {sorted(HASH_IDS)}")
    values = b"".join(u16(HASH_IDS[bank]) + value for bank, value in digests.items())
    channel.run(Cc.PCR_EXTEND, handles=u32(pcr), auth=password(), params=u32(len(digests)) + values)


def _read_once(channel: Channel, selection: PcrSelection) -> dict[int, bytes] | None:
    """The values; None: a PCR was extended in between."""
    values: dict[int, bytes] = {}
    counters: set[int] = set()
    while missing := tuple(pcr for pcr in selection.pcrs if pcr not in values):
        wanted = PcrSelection(selection.bank, missing)
        answer = channel.run(Cc.PCR_READ, params=wanted.marshal())
        counters.add(answer.number(4))  # pcrUpdateCounter
        if len(counters) > 1:
            return None
        bitmap = _bitmap(answer)
        count = answer.number(4)
        read = [pcr for pcr in missing if bitmap >> pcr & 1]
        if not read or count != len(read):
            raise TpmError(f"the TPM has no PCRs {wanted}")
        values.update((pcr, answer.sized()) for pcr in read)
    return values


def _bitmap(answer: Answer) -> int:
    """The PCRs of a TPML_PCR_SELECTION of one bank; none where the TPM does not have the bank."""
    bits = 0
    for _ in range(answer.number(4)):
        answer.take(2)
        bits |= int.from_bytes(answer.take(answer.number(1)), "little")
    return bits
