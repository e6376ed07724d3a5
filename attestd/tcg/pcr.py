"""PCR selections and composites (TPM 2.0 Part 2, 10.6.2 TPMS_PCR_SELECTION, 10.9.7 TPML_PCR_SELECTION)."""

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from attestd.errors import MalformedError, UsageError
from attestd.tcg._reader import Reader
from attestd.tcg.algorithms import HASH_IDS, HASH_NAMES, HASH_SIZES, digest

__all__ = [
    "PcrSelection",
    "composite",
    "composite_of_banks",
    "marshal_selections",
    "read_selections",
    "selection_from_text",
]

PCR_COUNT: Final = 24
_LIST: Final = struct.Struct(">I")
_SELECTION: Final = struct.Struct(">HB3s")
_TEXT: Final = re.compile(r"\A(?:(?P<bank>[a-z0-9]{1,8}):)?(?P<pcrs>\d{1,2}(?:,\d{1,2}){0,23})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class PcrSelection:
    """Some PCRs of one bank; at least one, for a selection of nothing would match every platform.

    Attributes:
        bank: The bank's hash: `sha1`, `sha256` or `sha384`.
        pcrs: Indices, sorted, distinct, 0 to 23.

    Raises:
        UsageError: Anything else.
    """

    bank: str
    pcrs: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.bank not in HASH_IDS:
            raise UsageError(f"PCR bank {self.bank!r}: expected one of {sorted(HASH_IDS)}")
        if not self.pcrs or list(self.pcrs) != sorted(set(self.pcrs)):
            raise UsageError(f"PCRs {list(self.pcrs)}: expected at least one, sorted, each once")
        if self.pcrs[0] < 0 or self.pcrs[-1] >= PCR_COUNT:
            raise UsageError(f"PCRs {list(self.pcrs)}: expected indices 0 to {PCR_COUNT - 1}")

    def __str__(self) -> str:
        return f"{self.bank}:{','.join(map(str, self.pcrs))}"

    def marshal(self) -> bytes:
        """The TPML_PCR_SELECTION that holds this selection alone."""
        return marshal_selections((self,))


def marshal_selections(selections: Sequence[PcrSelection]) -> bytes:
    """The TPML_PCR_SELECTION of selections, in their order; three octets of bitmap each, as every TPM writes."""
    parts = [_LIST.pack(len(selections))]
    for selection in selections:
        bits = sum(1 << pcr for pcr in selection.pcrs)
        parts.append(_SELECTION.pack(HASH_IDS[selection.bank], 3, bits.to_bytes(3, "little")))
    return b"".join(parts)


def read_selections(reader: Reader) -> tuple[PcrSelection, ...]:
    """Reads a TPML_PCR_SELECTION: one or more banks, each once, each with a PCR.

    Raises:
        MalformedError: Truncated, no bank, an unknown or repeated bank, a bitmap that is not of three octets,
            a bank without PCRs.
    """
    (count,) = reader.unpack(_LIST)
    if not 1 <= count <= len(HASH_IDS):
        raise MalformedError(f"TPML_PCR_SELECTION: {count} banks, expected 1 to {len(HASH_IDS)}")
    return _selections(reader.take(count * _SELECTION.size))


@lru_cache(maxsize=256)  # a fleet quotes few selections; without it this is half the cost of parsing a quote
def _selections(banks: bytes) -> tuple[PcrSelection, ...]:
    selections = tuple(_selection(*fields) for fields in _SELECTION.iter_unpack(banks))
    if len({selection.bank for selection in selections}) != len(selections):
        raise MalformedError("TPML_PCR_SELECTION: the same bank twice")
    return selections


def _selection(algorithm: int, size: int, bitmap: bytes) -> PcrSelection:
    bits = int.from_bytes(bitmap, "little")
    if algorithm not in HASH_NAMES or size != 3 or not bits:
        raise MalformedError(
            f"TPMS_PCR_SELECTION: hash {algorithm:#06x}, {size} octets, bitmap {bitmap.hex()}: "
            "expected a known hash, 3 octets and at least one PCR"
        )
    return PcrSelection(HASH_NAMES[algorithm], tuple(pcr for pcr in range(PCR_COUNT) if bits >> pcr & 1))


def selection_from_text(text: str) -> PcrSelection:
    """Parses what people write: `0,2,4,7` (of the sha256 bank) or `sha384:0,2,4`, in any order.

    Raises:
        UsageError: Another form, a PCR twice, or as `PcrSelection`.
    """
    match = _TEXT.match(text)
    if match is None:
        raise UsageError(f"PCRs {text[:80]!r}: expected a form like 0,2,4,7 or sha256:0,2,4,7")
    return PcrSelection(match["bank"] or "sha256", tuple(sorted(map(int, match["pcrs"].split(",")))))


def composite(selection: PcrSelection, values: Mapping[int, bytes], *, hash_alg: str = "sha256") -> bytes:
    """The pcrDigest that TPM2_Quote and TPM2_PolicyPCR compute (TPM 2.0 Part 1, 17.6), of one bank.

    Args:
        selection: The PCRs.
        values: The values of exactly these PCRs. A value that is not selected is an error: it would look
            attested and is not.
        hash_alg: The hash of the signing key's scheme, or of the policy session: not that of the bank.

    Returns:
        The digest over the values, ascending by PCR.

    Raises:
        MalformedError: Values are missing, not selected, or not of the bank's digest size.
        UsageError: `hash_alg` is not `sha256` or `sha384`.
    """
    return digest(hash_alg, _values_of(selection, values))


def composite_of_banks(
    banks: Sequence[tuple[PcrSelection, Mapping[int, bytes]]], *, hash_alg: str = "sha256"
) -> bytes:
    """The pcrDigest of several banks: as `composite`, bank after bank in the order of the quote.

    Raises:
        MalformedError: As `composite`.
        UsageError: As `composite`; no banks.
    """
    if not banks:
        raise UsageError("a PCR composite of nothing would match every platform")
    return digest(hash_alg, b"".join(_values_of(selection, values) for selection, values in banks))


def _values_of(selection: PcrSelection, values: Mapping[int, bytes]) -> bytes:
    try:
        of_bank = [values[pcr] for pcr in selection.pcrs]
    except KeyError as error:
        raise MalformedError(f"PCR {error} of {selection} has no value") from error
    if len(values) != len(of_bank):
        raise MalformedError(f"PCR values of {sorted(values)}, expected only those of {selection}")
    if set(map(len, of_bank)) != {HASH_SIZES[selection.bank]}:
        raise MalformedError(f"PCR values of {selection} that are not {selection.bank} digests")
    return b"".join(of_bank)
