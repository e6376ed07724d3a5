"""The endorsement key and its certificates (TCG EK Credential Profile for TPM Family 2.0, 2.6)."""

from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.errors import MalformedError, TpmError
from attestd.tcg.public import parse_public
from attestd.tpm._channel import Channel
from attestd.tpm._commands import Hierarchy, sized
from attestd.tpm.capabilities import nv_indices
from attestd.tpm.keys import primary
from attestd.tpm.nv import read_whole

__all__ = ["EndorsementKey", "endorsement_key"]

_CHAIN_FIRST: Final = 0x01C00100
_CHAIN_LAST: Final = 0x01C001FF

# fixedTPM fixedParent sensitiveDataOrigin adminWithPolicy restricted decrypt; PolicyA: PolicySecret(endorsement).
_HEAD: Final = bytes.fromhex(
    "000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
)
_AES_128_CFB: Final = bytes.fromhex("000600800043")


@dataclass(frozen=True, slots=True)
class _Kind:
    """One of the profile's templates: L-1 or L-2, with where its certificate, nonce and own template may be."""

    certificate: int
    template: bytes
    unique_size: int
    unique_count: int

    @property
    def nonce(self) -> int:
        return self.certificate + 1

    @property
    def own_template(self) -> int:
        return self.certificate + 2


_RSA_2048: Final = _Kind(
    0x01C00002, b"\x00\x01" + _HEAD + _AES_128_CFB + bytes.fromhex("0010080000000000"), 256, 1
)
_P256: Final = _Kind(0x01C0000A, b"\x00\x23" + _HEAD + _AES_128_CFB + bytes.fromhex("001000030010"), 32, 2)


@dataclass(frozen=True, slots=True)
class EndorsementKey:
    """The TPM's identity.

    Attributes:
        public: TPMT_PUBLIC; its SHA-256 is the host id.
        certificate_chain: DER certificates, the EK's own first, then what the TPM holds of its issuers; empty
            where the TPM has none. Not verified here: that is the verifier's part.
    """

    public: bytes
    certificate_chain: tuple[bytes, ...]


def endorsement_key(channel: Channel) -> EndorsementKey:
    """The EK that a certificate speaks of: P-256 before RSA; P-256 where there is none."""
    for kind in (_P256, _RSA_2048):
        certificate = read_whole(channel, kind.certificate)
        if certificate is not None:
            chain = (_first_der(certificate), *_issuers(channel))
            return EndorsementKey(_certified(_public(channel, kind), chain[0]), chain)
    return EndorsementKey(_public(channel, _P256), ())


def _public(channel: Channel, kind: _Kind) -> bytes:
    template = read_whole(channel, kind.own_template)
    if template is None:
        # The manufacturer may have made the EK with a nonce in `unique` (profile, 2.2.1.3); else it is all zero.
        nonce = (read_whole(channel, kind.nonce) or b"").ljust(kind.unique_size, b"\0")
        uniques = (nonce, *[bytes(kind.unique_size)] * (kind.unique_count - 1))
        template = kind.template + b"".join(map(sized, uniques))
    with primary(channel, Hierarchy.ENDORSEMENT, template) as (_, answer):
        return answer.sized()


def _certified(public: bytes, certificate: bytes) -> bytes:
    """Checks that certificate and key belong together: else enrolment fails far away, and nobody knows why."""
    try:
        certified = x509.load_der_x509_certificate(certificate).public_key()
        made = parse_public(public).public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, MalformedError) as error:
        raise TpmError(f"the TPM's EK certificate, or its EK, does not parse: {error}") from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if certified.public_bytes(*form) != made.public_bytes(*form):
        raise TpmError(
            "the TPM's EK certificate is for another key than its template makes: re-provision the TPM"
        )
    return public


def _issuers(channel: Channel) -> tuple[bytes, ...]:
    """The certificates that the profile lets a TPM hold, one after the other, over consecutive indices."""
    data = b"".join(
        read_whole(channel, index) or b""
        for index in nv_indices(channel)
        if _CHAIN_FIRST <= index <= _CHAIN_LAST
    )
    found: list[bytes] = []
    while data[:1] == b"\x30":
        found.append(_first_der(data))
        data = data[len(found[-1]) :]
    return tuple(found)


def _first_der(data: bytes) -> bytes:
    """The DER SEQUENCE at the start: indices are often longer than the certificate in them."""
    if len(data) < 4 or data[:2] not in {b"\x30\x81", b"\x30\x82"}:
        raise TpmError(f"the TPM's EK certificate is not DER: {data[:16].hex()}")
    octets = data[1] & 0x0F
    size = 2 + octets + int.from_bytes(data[2 : 2 + octets], "big")
    if size > len(data):
        raise TpmError(f"the TPM's EK certificate is truncated: {len(data)} bytes of {size}")
    return data[:size]
