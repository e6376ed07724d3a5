"""What TPMs sign about themselves (TPM 2.0 Part 2, 10.12 TPMS_ATTEST): parsed, not yet believed.

The types are msgspec structs, not dataclasses: one is made in a sixth of the time, and a verifier makes five a quote.
"""

import struct
from typing import Final

import msgspec

from attestd.errors import MalformedError
from attestd.tcg._reader import Reader
from attestd.tcg.pcr import PcrSelection, read_selections

__all__ = ["CertifyInfo", "ClockInfo", "NvCertifyInfo", "QuoteInfo", "UntrustedAttest", "parse_attest"]

TPM_GENERATED: Final = 0xFF544347  # no key that a TPM restricts signs outside data that begins so
ST_ATTEST_NV: Final = 0x8014
ST_ATTEST_CERTIFY: Final = 0x8017
ST_ATTEST_QUOTE: Final = 0x8018

_HEAD: Final = struct.Struct(">IH")
_CLOCK_AND_FIRMWARE: Final = struct.Struct(">QIIBQ")
# Up to the firmware's version, as nearly all that is ever seen has it: a Name by SHA-256, and a digest as extraData.
_USUAL: Final = struct.Struct(">IHH34sH32sQIIBQ")
_NAME_SIZE: Final = b"\0\x22"
_EXTRA_SIZE: Final = b"\0\x20"
_WHAT: Final = "TPMS_ATTEST"
_MAX_NAME: Final = 66  # TPM2B_NAME and TPM2B_DATA: an algorithm and the largest digest
_MAX_DIGEST: Final = 64
_MAX_NV_BUFFER: Final = 2048


class ClockInfo(msgspec.Struct, frozen=True, gc=False):
    """TPMS_CLOCK_INFO. Two moments are ordered by `order`.

    Attributes:
        clock: Milliseconds that the TPM was powered, since it was last cleared.
        reset_count: TPM resets since then.
        restart_count: Restarts and resumes since the last reset.
        safe: False if `clock` may have been reported before with a greater value (after power loss).
    """

    clock: int
    reset_count: int
    restart_count: int
    safe: bool

    @property
    def order(self) -> tuple[int, int, int]:
        """What orders two moments of one TPM: resets, then restarts, then milliseconds."""
        return self.reset_count, self.restart_count, self.clock


class QuoteInfo(msgspec.Struct, frozen=True, gc=False):
    """TPMS_QUOTE_INFO: the selected PCRs and the digest over their values."""

    selections: tuple[PcrSelection, ...]
    pcr_digest: bytes


class CertifyInfo(msgspec.Struct, frozen=True, gc=False):
    """TPMS_CERTIFY_INFO: the Name and Qualified Name of an object that is loaded in the TPM."""

    name: bytes
    qualified_name: bytes


class NvCertifyInfo(msgspec.Struct, frozen=True, gc=False):
    """TPMS_NV_CERTIFY_INFO: what an NV index holds from an offset on."""

    index_name: bytes
    offset: int
    contents: bytes


class UntrustedAttest(msgspec.Struct, frozen=True, gc=False):
    """A parsed TPMS_ATTEST whose signature nobody has verified: see `quote`.

    Attributes:
        raw: The bytes that were parsed, which are those that were signed.
        qualified_signer: The Qualified Name of the signing key.
        extra_data: The caller's qualifying data.
        clock: The TPM's clock and reset counts.
        firmware_version: The vendor's number.
        body: What is attested; its type is the attestation's type.
    """

    raw: bytes
    qualified_signer: bytes
    extra_data: bytes
    clock: ClockInfo
    firmware_version: int
    body: QuoteInfo | CertifyInfo | NvCertifyInfo


def parse_attest(data: bytes) -> UntrustedAttest:
    """Parses a TPMS_ATTEST (without the TPM2B's size) and nothing after it.

    Args:
        data: A quote, a certification, or a certification of NV contents.

    Raises:
        MalformedError: No TPM_GENERATED magic, another type, truncated, trailing bytes, over limits, or
            a selection as `pcr.read_selections` refuses it.
    """
    if data[6:8] == _NAME_SIZE and data[42:44] == _EXTRA_SIZE and len(data) >= _USUAL.size:
        magic, attest_type, _, qualified_signer, _, extra_data, *times = _USUAL.unpack_from(data)
        _require_generated(magic)
        reader = Reader(data, _WHAT, _USUAL.size)
    else:
        reader = Reader(data, _WHAT)
        magic, attest_type = reader.unpack(_HEAD)
        _require_generated(magic)
        qualified_signer = reader.sized(_MAX_NAME)
        extra_data = reader.sized(_MAX_NAME)
        times = list(reader.unpack(_CLOCK_AND_FIRMWARE))
    clock, reset_count, restart_count, safe, firmware_version = times
    if safe > 1:
        raise MalformedError(f"TPMS_CLOCK_INFO: safe is {safe}, expected 0 or 1")
    clock_info = ClockInfo(clock, reset_count, restart_count, bool(safe))
    body: QuoteInfo | CertifyInfo | NvCertifyInfo
    if attest_type == ST_ATTEST_QUOTE:
        body = QuoteInfo(read_selections(reader), reader.sized(_MAX_DIGEST))
    elif attest_type == ST_ATTEST_CERTIFY:
        body = CertifyInfo(reader.sized(_MAX_NAME), reader.sized(_MAX_NAME))
    elif attest_type == ST_ATTEST_NV:
        body = NvCertifyInfo(reader.sized(_MAX_NAME), reader.u16(), reader.sized(_MAX_NV_BUFFER))
    else:
        raise MalformedError(f"TPMS_ATTEST: type {attest_type:#06x}: not a quote nor a certification")
    reader.end()
    return UntrustedAttest(data, qualified_signer, extra_data, clock_info, firmware_version, body)


def _require_generated(magic: int) -> None:
    if magic != TPM_GENERATED:
        raise MalformedError(f"{_WHAT}: magic {magic:#010x}: these bytes were not made by a TPM")
