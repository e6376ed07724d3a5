"""Verification of what a TPM's attestation key signed: quotes, certified keys, certified NV contents.

That the key is an attestation key of a certain host is not decided here: it is the caller's trust anchor.
"""

import struct
from collections.abc import Mapping
from hmac import compare_digest
from typing import Final, TypeVar

import msgspec

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.tcg._reader import sized
from attestd.tcg.attest import (
    CertifyInfo,
    ClockInfo,
    NvCertifyInfo,
    QuoteInfo,
    UntrustedAttest,
    parse_attest,
)
from attestd.tcg.pcr import PcrSelection, composite
from attestd.tcg.signature import Signature, VerifyingKey, parse_signature

__all__ = [
    "UntrustedQuote",
    "VerifiedCertify",
    "VerifiedNvCertify",
    "VerifiedQuote",
    "join_quote",
    "parse_quote",
    "split_quote",
    "verify_certify",
    "verify_nv_certify",
    "verify_quote",
    "verify_quote_of_any_state",
]

_SIZE: Final = struct.Struct(">H")
_Body = TypeVar("_Body", QuoteInfo, CertifyInfo, NvCertifyInfo)


class VerifiedQuote(msgspec.Struct, frozen=True, gc=False):
    """A quote that verified. Only `verify_quote` and `verify_quote_of_any_state` make one.

    Attributes:
        attest: The TPMS_ATTEST that was signed.
        clock: The TPM's clock and reset counts at that moment.
        firmware_version: The vendor's number.
        selections: The quoted PCRs, by bank.
        pcr_digest: The composite of their values.
        hash_alg: The hash of the signature's scheme, with which the composite was computed.
    """

    attest: bytes
    clock: ClockInfo
    firmware_version: int
    selections: tuple[PcrSelection, ...]
    pcr_digest: bytes
    hash_alg: str


class UntrustedQuote(msgspec.Struct, frozen=True, gc=False):
    """A quote that was asked for, by what it says, and whose signature nobody has verified: `parse_quote`.

    Attributes:
        attest: What was quoted.
        body: Likewise: the PCRs and their composite.
        signature: Who says so.
    """

    attest: UntrustedAttest
    body: QuoteInfo
    signature: Signature

    def verify(self, ak_public_key: VerifyingKey) -> VerifiedQuote:
        """Verifies the signature over the attestation with the attestation key.

        Raises:
            VerificationError: It does not verify.
        """
        attest, body = self.attest, self.body
        self.signature.verify(ak_public_key, attest.raw)
        return VerifiedQuote(
            attest.raw,
            attest.clock,
            attest.firmware_version,
            body.selections,
            body.pcr_digest,
            self.signature.hash_alg,
        )


class VerifiedCertify(msgspec.Struct, frozen=True, gc=False):
    """A certification that verified: the object is in this TPM. Only `verify_certify` makes one."""

    attest: bytes
    clock: ClockInfo
    name: bytes
    qualified_name: bytes


class VerifiedNvCertify(msgspec.Struct, frozen=True, gc=False):
    """Certified contents of an NV index. Only `verify_nv_certify` makes one."""

    attest: bytes
    clock: ClockInfo
    index_name: bytes
    contents: bytes


def verify_quote(
    *,
    ak_public_key: VerifyingKey,
    attest: bytes,
    signature: bytes,
    extra_data: bytes,
    selection: PcrSelection | tuple[PcrSelection, ...],
    values: Mapping[int, bytes] | None = None,
    pcr_digest: bytes | None = None,
) -> VerifiedQuote:
    """Verifies a quote (TPM 2.0 Part 3, 18.4 TPM2_Quote).

    1. The signature verifies over the attestation with the attestation key.
    2. The attestation was made by a TPM (magic) and is a quote (type).
    3. extraData is what was asked for: fresh, for this purpose and host.
    4. The selection is the one asked for: bank by bank, PCR by PCR, in order.
    5. The composite is that of the values, computed with the hash of the signature's scheme, or the digest given.

    Does not check: whose key it is, whether it is a restricted key (`public.require_attestation_key`), the TPM
    clock's order against earlier quotes, and whether the PCR values are good ones.

    Args:
        ak_public_key: The attestation key, loaded once for many quotes.
        attest: TPMS_ATTEST.
        signature: TPMT_SIGNATURE.
        extra_data: The whole of what must have been signed: `binding.extra_data`.
        selection: The PCRs that must have been quoted; several banks as a tuple, in the quote's order.
        values: The values of exactly these PCRs, of one bank. For several banks give
            `pcr.composite_of_banks` as `pcr_digest`.
        pcr_digest: The expected composite. Either this or `values`.

    Returns:
        What the TPM says, verified.

    Raises:
        MalformedError: Attestation, signature or values do not parse.
        VerificationError: One of the checks fails; the message says which, what was expected and found.
        UsageError: Empty `extra_data`, selection or digest; not exactly one of `values` and `pcr_digest`.
    """
    selections = selection if isinstance(selection, tuple) else (selection,)
    if not selections or (values is None) == (pcr_digest is None):
        raise UsageError("a quote is verified against a selection and either PCR values or their digest")
    quote = verify_quote_of_any_state(  # 1, 2, 3
        ak_public_key=ak_public_key, attest=attest, signature=signature, extra_data=extra_data
    )
    if quote.selections != selections:  # 4
        raise VerificationError(f"the quote is over {_show(quote.selections)}, expected {_show(selections)}")
    if values is not None:
        if len(selections) != 1:
            raise UsageError("PCR values of several banks: give their composite as pcr_digest")
        pcr_digest = composite(selections[0], values, hash_alg=quote.hash_alg)
    if not pcr_digest or not compare_digest(quote.pcr_digest, pcr_digest):  # 5
        expected = (pcr_digest or b"").hex()
        raise VerificationError(f"the quoted PCR composite is {quote.pcr_digest.hex()}, expected {expected}")
    return quote


def verify_quote_of_any_state(
    *, ak_public_key: VerifyingKey, attest: bytes, signature: bytes, extra_data: bytes
) -> VerifiedQuote:
    """Verifies who quoted, for what, and when: checks 1 to 3 of `verify_quote`, whatever the state was.

    For quotes that prove which state there was, such as that of a checkpoint in mode `record`. Whoever goes on to
    trust the state must compare `selections` and `pcr_digest` with an approval: nothing here did.

    Args:
        ak_public_key: The attestation key, loaded once for many quotes.
        attest: TPMS_ATTEST.
        signature: TPMT_SIGNATURE.
        extra_data: The whole of what must have been signed: `binding.extra_data`.

    Returns:
        What the TPM says, verified.

    Raises:
        MalformedError: Attestation or signature do not parse.
        VerificationError: Signature, type or extraData differ.
        UsageError: Empty `extra_data`.
    """
    return parse_quote(attest=attest, signature=signature, extra_data=extra_data).verify(ak_public_key)


def parse_quote(*, attest: bytes, signature: bytes, extra_data: bytes) -> UntrustedQuote:
    """All of `verify_quote_of_any_state` but the signature, for who verifies many quotes.

    To parse them all first, and verify the signatures after, is faster: the two do not push each other out of the caches.

    Args:
        attest: TPMS_ATTEST.
        signature: TPMT_SIGNATURE.
        extra_data: The whole of what must have been signed: `binding.extra_data`.

    Raises:
        MalformedError: Attestation or signature do not parse.
        VerificationError: Type or extraData differ.
        UsageError: Empty `extra_data`.
    """
    untrusted, parsed = _parse_signed(attest, signature, extra_data)
    return UntrustedQuote(untrusted, _body(untrusted, QuoteInfo), parsed)


def verify_certify(
    *, ak_public_key: VerifyingKey, attest: bytes, signature: bytes, extra_data: bytes, name: bytes
) -> VerifiedCertify:
    """Verifies that an object is loaded in the TPM of an attestation key (Part 3, 18.2 TPM2_Certify).

    The Name covers the whole public area: attributes, policy and key. Does not check what they are:
    `public.require_release_key` does.

    Args:
        ak_public_key: The attestation key.
        attest: TPMS_ATTEST.
        signature: TPMT_SIGNATURE.
        extra_data: The whole of what must have been signed: `binding.extra_data`.
        name: The object's Name, recomputed by the verifier from its public area.

    Raises:
        MalformedError: Attestation or signature do not parse.
        VerificationError: Signature, type, extraData or Name differ.
        UsageError: Empty `extra_data` or `name`.
    """
    if not name:
        raise UsageError("a certification is verified against a Name")
    untrusted = _verify_signed(ak_public_key, attest, signature, extra_data)
    body = _body(untrusted, CertifyInfo)
    if not compare_digest(body.name, name):
        raise VerificationError(f"the certified Name is {body.name.hex()}, expected {name.hex()}")
    return VerifiedCertify(attest, untrusted.clock, body.name, body.qualified_name)


def verify_nv_certify(
    *,
    ak_public_key: VerifyingKey,
    attest: bytes,
    signature: bytes,
    extra_data: bytes,
    index_name: bytes,
    size: int,
) -> VerifiedNvCertify:
    """Verifies what an NV index holds (Part 3, 31.16 TPM2_NV_Certify), from its first byte on.

    Args:
        ak_public_key: The attestation key.
        attest: TPMS_ATTEST.
        signature: TPMT_SIGNATURE.
        extra_data: The whole of what must have been signed: `binding.extra_data`.
        index_name: The Name of the index, recomputed by the verifier (`nv.nv_name`), with WRITTEN set.
        size: How many bytes the index holds: all must be certified, for a part could be taken for the whole.

    Raises:
        MalformedError: Attestation or signature do not parse.
        VerificationError: Signature, type, extraData, Name or range differ.
        UsageError: Empty `extra_data` or `index_name`, or a size below 1.
    """
    if not index_name or size < 1:
        raise UsageError("NV contents are verified against a Name and a size")
    untrusted = _verify_signed(ak_public_key, attest, signature, extra_data)
    body = _body(untrusted, NvCertifyInfo)
    if not compare_digest(body.index_name, index_name):
        raise VerificationError(
            f"the certified index is {body.index_name.hex()}, expected {index_name.hex()}"
        )
    if body.offset != 0 or len(body.contents) != size:
        raise VerificationError(
            f"{len(body.contents)} bytes from offset {body.offset} are certified, expected {size} from 0"
        )
    return VerifiedNvCertify(attest, untrusted.clock, body.index_name, body.contents)


def join_quote(attest: bytes, signature: bytes) -> bytes:
    """The payload of a checkpoint's quote line: `TPM2B_ATTEST ‖ TPMT_SIGNATURE` (formats.md)."""
    return sized(attest) + signature


def split_quote(payload: bytes) -> tuple[bytes, bytes]:
    """Splits the payload of a quote line into TPMS_ATTEST and TPMT_SIGNATURE, neither parsed yet.

    Raises:
        MalformedError: Truncated: there must be something of both.
    """
    end = _SIZE.size + int.from_bytes(payload[: _SIZE.size], "big")
    if len(payload) <= end or end == _SIZE.size:
        raise MalformedError(f"quote line: {len(payload)} bytes do not hold an attestation and a signature")
    return payload[_SIZE.size : end], payload[end:]


def _verify_signed(
    ak_public_key: VerifyingKey, attest: bytes, signature: bytes, extra_data: bytes
) -> UntrustedAttest:
    """The checks that all attestations share."""
    untrusted, parsed = _parse_signed(attest, signature, extra_data)
    parsed.verify(ak_public_key, attest)
    return untrusted


def _parse_signed(attest: bytes, signature: bytes, extra_data: bytes) -> tuple[UntrustedAttest, Signature]:
    """All of them but the signature."""
    if not extra_data:
        raise UsageError("empty extraData: the attestation would prove no freshness")
    parsed, untrusted = parse_signature(signature), parse_attest(attest)
    if not compare_digest(untrusted.extra_data, extra_data):
        raise VerificationError(f"extraData is {untrusted.extra_data.hex()}, expected {extra_data.hex()}")
    return untrusted, parsed


def _body(untrusted: UntrustedAttest, wanted: type[_Body]) -> _Body:
    if not isinstance(untrusted.body, wanted):
        raise VerificationError(
            f"a TPM attestation of {type(untrusted.body).__name__}, expected {wanted.__name__}"
        )
    return untrusted.body


def _show(selections: tuple[PcrSelection, ...]) -> str:
    return "+".join(map(str, selections))
