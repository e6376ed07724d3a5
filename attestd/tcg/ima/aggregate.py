"""boot_aggregate: the first entry of an IMA list ties it to the boot (Linux, ima_crypto.c, ima_calc_boot_aggregate)."""

import hashlib
from collections.abc import Mapping

from attestd.tcg.eventlog.types import HASHES

__all__ = ["boot_aggregates"]


def boot_aggregates(bank: str, values: Mapping[int, bytes]) -> frozenset[bytes]:
    """What the digest of `boot_aggregate` may be, for PCR values of one bank.

    The kernel hashes PCRs 0 to 9 with the bank's hash; 0 to 7 in the SHA-1 bank, and before Linux 5.8.

    Args:
        bank: The bank, and with it the hash.
        values: PCR values by index, at the time when IMA started: PCRs 0 to 9 do not change later.

    Returns:
        Up to two digests; none, if PCRs are missing.
    """
    spans = (8,) if bank == "sha1" else (8, 10)
    return frozenset(
        hashlib.new(bank, b"".join(values[index] for index in range(span))).digest()
        for span in spans
        if bank in HASHES and all(index in values for index in range(span))
    )
