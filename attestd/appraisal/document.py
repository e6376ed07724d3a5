"""The document that `attestd quote` writes: a quote over a challenge, with the PCR values behind it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.governance.host import VerifiedHost
from attestd.governance.trust import Trust
from attestd.strict import Base64Bytes, HostId, PcrName, Strict, canonical, convert, decode_base64, parse_json
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.pcr import PcrSelection
from attestd.tcg.quote import VerifiedQuote, verify_quote

__all__ = [
    "MAX_QUOTE_BYTES",
    "UntrustedQuoteDocument",
    "VerifiedQuoteDocument",
    "parse_quote",
    "verify_document",
]

MAX_QUOTE_BYTES: Final = 64 * 1024

_Value = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{96})\Z")]


class UntrustedQuoteDocument(Strict, frozen=True):
    """The document's exact shape. Nothing in it is verified.

    Attributes:
        challenge: What the quote should be over, with the host-id and the purpose `quote`.
        attest, signature: TPMS_ATTEST, TPMT_SIGNATURE.
        pcrs: Values by bank and index; one bank.
    """

    v: Literal[1]
    host: HostId
    challenge: Base64Bytes
    attest: Base64Bytes
    signature: Base64Bytes
    pcrs: Annotated[
        dict[Literal["sha1", "sha256", "sha384"], dict[PcrName, _Value]],
        msgspec.Meta(min_length=1, max_length=1),
    ]

    def to_bytes(self) -> bytes:
        """The file: canonical JSON and a newline."""
        return canonical(self) + b"\n"


@dataclass(frozen=True)
class VerifiedQuoteDocument:
    """A quote of an enrolled host's TPM, and the PCR values that it proves. Only `verify_document` makes one.

    Attributes:
        challenge: What it is over; that it is a fresh one, only who chose it knows.
    """

    host: VerifiedHost
    challenge: bytes
    quote: VerifiedQuote
    selection: PcrSelection
    values: Mapping[int, bytes]


def parse_quote(data: bytes) -> UntrustedQuoteDocument:
    """Parses the document.

    Raises:
        MalformedError: Not such a document.
    """
    return convert(
        parse_json(data, max_bytes=MAX_QUOTE_BYTES, what="quote"), UntrustedQuoteDocument, what="quote"
    )


def verify_document(
    document: UntrustedQuoteDocument, *, trust: Trust, challenge: bytes | None
) -> VerifiedQuoteDocument:
    """Verifies a quote document offline.

    1. The host it names is enrolled, and not revoked.
    2. The quote is by that host's attestation key, over the challenge, for this purpose and host.
    3. The PCR values are those that were quoted.

    Does not check whether the values are good ones (`appraise_quote`), nor the host record's validity in time.

    Args:
        document: Parsed.
        trust: Verified governance.
        challenge: What it must be over; None: what it says itself, which shows no freshness.

    Raises:
        MalformedError: Attestation, signature or values do not parse.
        VerificationError: One of the above does not hold.
    """
    what = "quote"
    host = trust.hosts.get(document.host)
    if host is None:  # 1
        raise VerificationError(
            f"{what}: the trust directory has no record of host {document.host}{trust.why_none(document.host)}"
        )
    if host.host in trust.revocations.hosts:
        raise VerificationError(f"{what}: host {host.host} is revoked")
    said = decode_base64(document.challenge, what=what)
    if not said:
        raise MalformedError(f"{what}: an empty challenge shows no freshness")
    if challenge is not None and challenge != said:
        raise VerificationError(f"{what}: it is over the challenge {said.hex()}, expected {challenge.hex()}")
    [(bank, pcrs)] = document.pcrs.items()
    values = {index: bytes.fromhex(pcrs[str(index)]) for index in sorted(map(int, pcrs))}
    try:
        selection = PcrSelection(bank, tuple(sorted(values)))
    except UsageError as error:
        raise MalformedError(f"{what}: {error}") from error
    quote = verify_quote(  # 2, 3
        ak_public_key=host.ak,
        attest=decode_base64(document.attest, what=what),
        signature=decode_base64(document.signature, what=what),
        extra_data=extra_data(Purpose.QUOTE, host_id=host.host, data=said),
        selection=selection,
        values=values,
    )
    return VerifiedQuoteDocument(host, said, quote, selection, values)
