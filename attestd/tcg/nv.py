"""The two NV indices of a host and their Names (TPM 2.0 Part 2, 13.5 TPMS_NV_PUBLIC; Part 1, 16 Names)."""

import hashlib
import struct
from enum import IntFlag
from typing import Final

from attestd.errors import UsageError
from attestd.tcg._reader import sized
from attestd.tcg.algorithms import HASH_IDS
from attestd.tcg.policy import REF_EPOCH_INIT, REF_EPOCH_SET, ZERO, policy_authorize, policy_or, policy_signed

__all__ = [
    "COUNTER_INDEX",
    "EPOCH_INDEX",
    "NvAttribute",
    "counter_public",
    "epoch_branches",
    "epoch_name",
    "epoch_public",
    "nv_name",
    "nv_public",
]

EPOCH_INDEX: Final = 0x01800AA0  # owner range, frozen
COUNTER_INDEX: Final = 0x01800AA1
NV_SIZE: Final = 8


class NvAttribute(IntFlag):
    """TPMA_NV (TPM 2.0 Part 2, 13.4), as far as attestd uses it. The type ORDINARY is 0."""

    AUTHWRITE = 1 << 2
    POLICYWRITE = 1 << 3
    NT_COUNTER = 1 << 4
    OWNERREAD = 1 << 17
    AUTHREAD = 1 << 18
    NO_DA = 1 << 25
    ORDERLY = 1 << 26
    WRITTEN = 1 << 29


_READABLE: Final = NvAttribute.AUTHREAD | NvAttribute.OWNERREAD | NvAttribute.NO_DA


def nv_public(index: int, *, attributes: int, auth_policy: bytes, size: int) -> bytes:
    """Marshals a TPMS_NV_PUBLIC with nameAlg SHA-256.

    Args:
        index: The NV handle, 0x01000000 to 0x01ffffff.
        attributes: TPMA_NV.
        auth_policy: A SHA-256 policy digest, or empty.
        size: Octets of data.

    Raises:
        UsageError: Not an NV handle, or not a policy digest.
    """
    if index >> 24 != 0x01 or len(auth_policy) not in {0, 32}:
        raise UsageError(f"NV index {index:#010x} with a policy of {len(auth_policy)} bytes")
    head = struct.pack(">IHI", index, HASH_IDS["sha256"], attributes)
    return head + sized(auth_policy) + struct.pack(">H", size)


def nv_name(public: bytes) -> bytes:
    """The Name of an index: SHA-256's identifier and the digest of its TPMS_NV_PUBLIC."""
    return struct.pack(">H", HASH_IDS["sha256"]) + hashlib.sha256(public).digest()


def epoch_branches(authority_name: bytes) -> tuple[bytes, bytes]:
    """The two ways to write the epoch, in the order of its PolicyOR: the first write, and a bump.

    The first write is signed over the session's nonce: after undefine and redefine an old one does not serve.

    Args:
        authority_name: The Name of the epoch authority's key.

    Raises:
        UsageError: Not a Name.
    """
    first_write = policy_signed(ZERO, authority_name=authority_name, policy_ref=REF_EPOCH_INIT)
    bump = policy_authorize(authority_name=authority_name, policy_ref=REF_EPOCH_SET)
    return first_write, bump


def epoch_public(authority_name: bytes, *, written: bool) -> bytes:
    """The TPMS_NV_PUBLIC of the epoch: an ordinary index that only its authority can write.

    Args:
        authority_name: The Name of the epoch authority's key.
        written: Whether the index has been written: the TPM then sets WRITTEN, which changes the Name.

    Raises:
        UsageError: Not a Name.
    """
    return nv_public(
        EPOCH_INDEX,
        attributes=_READABLE | NvAttribute.POLICYWRITE | _written(written),
        auth_policy=policy_or(epoch_branches(authority_name)),
        size=NV_SIZE,
    )


def epoch_name(authority_name: bytes) -> bytes:
    """The Name of the epoch once written: what approvals hold.

    Raises:
        UsageError: Not a Name.
    """
    return nv_name(epoch_public(authority_name, written=True))


def counter_public(*, written: bool) -> bytes:
    """The TPMS_NV_PUBLIC of the log counter: an orderly counter; the agent's secret is its auth value.

    Orderly: a step costs no flash write. After a disorderly reset the TPM makes it jump forwards, never back.

    Args:
        written: Whether it has been stepped: the TPM then sets WRITTEN, which changes the Name.
    """
    attributes = _READABLE | NvAttribute.AUTHWRITE | NvAttribute.NT_COUNTER | NvAttribute.ORDERLY
    return nv_public(COUNTER_INDEX, attributes=attributes | _written(written), auth_policy=b"", size=NV_SIZE)


def _written(written: bool) -> NvAttribute:
    return NvAttribute.WRITTEN if written else NvAttribute(0)
