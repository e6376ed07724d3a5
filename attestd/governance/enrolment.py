"""What host and enroller say to each other when a host is enrolled: the bodies of `/v1/enrollments`, strict and bounded.

An enroller keeps nothing between the two requests: the second one brings all of the first again, and the id that the
enroller gave in between is a MAC over it (`admission`). So whoever has no TPM costs it no memory.
"""

from base64 import b64encode
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec

from attestd.authorization.dsse import EnvelopeSignature, UntrustedEnvelope, format_envelope, parse_envelope
from attestd.errors import MalformedError, UsageError
from attestd.governance.host import (
    HOST_RECORD_TYPE,
    MAX_HOST_RECORD_BYTES,
    AttestationKey,
    Certification,
    ReleaseKey,
)
from attestd.governance.platform import Tier
from attestd.strict import Base64Bytes, HostId, Sha256Hex, Strict, Utc, convert, parse_json
from attestd.tcg.ek_anchors import MAX_CERTIFICATES
from attestd.tcg.ek_certificate import MAX_CERTIFICATE_BYTES
from attestd.tcg.nv import epoch_public, nv_name
from attestd.tcg.policy import REF_EPOCH_INIT, nv_write_cp_hash, signed_message

__all__ = [
    "Activation",
    "Challenge",
    "EnrolmentRequest",
    "EpochSignature",
    "Outcome",
    "Pending",
    "Signed",
    "draft_enrolment",
    "epoch_message",
    "join_host_records",
    "nonce_of_epoch_message",
    "parse_challenge",
    "parse_outcome",
]

MAX_ENROLMENT_BYTES: Final = 128 * 1024
MAX_ACTIVATION_BYTES: Final = 256 * 1024

# Base64 of as many bytes, no more: each part is bounded before it is decoded.
_Certificate = Annotated[Base64Bytes, msgspec.Meta(max_length=4 * -(-MAX_CERTIFICATE_BYTES // 3))]
_Small = Annotated[Base64Bytes, msgspec.Meta(max_length=2048)]
_Nonce = Annotated[Base64Bytes, msgspec.Meta(min_length=24, max_length=88)]  # 16 to 64 bytes
_Id = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{112}\Z")]
_MIN_NONCE, _MAX_NONCE = 16, 64


class EkMember(Strict, frozen=True):
    """The endorsement key: its TPMT_PUBLIC, and certificates in DER, its own first; none where the TPM has none."""

    public: _Small
    certificates: Annotated[tuple[_Certificate, ...], msgspec.Meta(max_length=MAX_CERTIFICATES)]


class EnrolmentRequest(Strict, frozen=True):
    """The body of `POST /v1/enrollments`: which keys a host has."""

    v: Literal[1]
    ek: EkMember
    ak: AttestationKey
    release_key: ReleaseKey


class CredentialMember(Strict, frozen=True):
    """A credential for the EK's TPM: TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET."""

    id_object: _Small
    encrypted_secret: _Small


class Challenge(Strict, frozen=True):
    """The answer: what only the EK's TPM can open, and only while the attestation key is in it.

    Attributes:
        id: Names this enrolment in the next request.
        expires: Until when.
        host: The host-id.
        tier: What the enroller takes the host's evidence to be rooted in: what its record must say.
        credential: Holds the secret that the next request shows.
    """

    v: Literal[1]
    id: _Id
    expires: Utc
    host: HostId
    tier: Tier
    credential: CredentialMember


class Activation(Strict, frozen=True):
    """The body of `POST /v1/enrollments/{id}/activation`.

    Attributes:
        enrolment: The first request again.
        secret: What was in the credential.
        record: The host record to sign, in its canonical form: the same for each enroller.
        epoch_nonce: The TPM's nonce for the epoch's first write; null where none is needed, or another signs it.
    """

    v: Literal[1]
    enrolment: EnrolmentRequest
    secret: _Small
    record: Annotated[Base64Bytes, msgspec.Meta(max_length=4 * -(-MAX_HOST_RECORD_BYTES // 3))]
    epoch_nonce: _Nonce | None


class EpochSignature(Strict, frozen=True):
    """The epoch authority's signature that lets one TPM write its epoch for the first time: DER."""

    epoch: Annotated[int, msgspec.Meta(ge=0)]
    sig: _Small


class Signed(Strict, frozen=True, tag_field="state", tag="signed"):
    """The answer where the enroller admits the host.

    Attributes:
        record: The host record in its envelope, as signed by this enroller alone; base64.
        ended: The host's record before, as it ends (`succession.draft_ended_record`), signed likewise; null where there is none.
        ak_certificate: Of the attestation key, in PEM; null where the enroller issues none.
        epoch: If a nonce was sent, and this enroller has the epoch authority's key.
    """

    v: Literal[1]
    record: Annotated[Base64Bytes, msgspec.Meta(max_length=4 * -(-MAX_HOST_RECORD_BYTES // 3))]
    ended: Annotated[Base64Bytes, msgspec.Meta(max_length=4 * -(-MAX_HOST_RECORD_BYTES // 3))] | None
    ak_certificate: Annotated[str, msgspec.Meta(max_length=16384)] | None
    epoch: EpochSignature | None


class Pending(Strict, frozen=True, tag_field="state", tag="pending"):
    """The answer where a person decides first; the same request later tells how.

    Attributes:
        digest: SHA-256 of the record that waits: what the operator sees, and approves.
        reasons: What there is to decide, in words.
    """

    v: Literal[1]
    digest: Sha256Hex
    reasons: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=512)], ...], msgspec.Meta(max_length=16)]


Outcome = Signed | Pending


def parse_challenge(data: bytes) -> Challenge:
    """Reads an enroller's first answer.

    Raises:
        MalformedError: It is not of that form.
    """
    return convert(_json(data, "challenge", MAX_ENROLMENT_BYTES), Challenge, what="challenge")


def parse_outcome(data: bytes) -> Outcome:
    """Reads an enroller's second answer.

    Raises:
        MalformedError: It is not of that form.
    """
    value = _json(data, "outcome", MAX_ACTIVATION_BYTES)
    found: Outcome = convert(value, Outcome, what="outcome")  # type: ignore[arg-type] # a union is no class
    return found


def _json(data: bytes, what: str, max_bytes: int) -> object:
    return parse_json(data, max_bytes=max_bytes, what=what)


def draft_enrolment(
    *,
    ek_public: bytes,
    certificates: Sequence[bytes],
    ak_public: bytes,
    release_public: bytes,
    certify: tuple[bytes, bytes],
) -> EnrolmentRequest:
    """What a host says first.

    Args:
        ek_public: TPMT_PUBLIC of the endorsement key; `ak_public`, `release_public` likewise.
        certificates: The EK's certificates, its own first.
        certify: TPMS_ATTEST and TPMT_SIGNATURE of the release key's certification by the AK.
    """
    attest, signature = map(_base64, certify)
    return EnrolmentRequest(
        v=1,
        ek=EkMember(public=_base64(ek_public), certificates=tuple(map(_base64, certificates))),
        ak=AttestationKey(public=_base64(ak_public)),
        release_key=ReleaseKey(
            public=_base64(release_public), certify=Certification(attest=attest, signature=signature)
        ),
    )


def join_host_records(records: Sequence[bytes]) -> bytes:
    """One `hosts/<host-id>.json` of those that each enroller signed alone.

    Does not verify signatures: `parse_host_record` does.

    Raises:
        MalformedError: One is no host record in an envelope.
        UsageError: None, or they are not of the same record: an enroller signed something else.
    """
    envelopes = [
        parse_envelope(record, payload_type=HOST_RECORD_TYPE, max_bytes=MAX_HOST_RECORD_BYTES)
        for record in records
    ]
    payloads = {envelope.payload for envelope in envelopes}
    if len(payloads) != 1:
        raise UsageError(f"host records to join: expected one record, signed by each, found {len(payloads)}")
    by_key: dict[tuple[str, bytes], EnvelopeSignature] = {
        (signature.key_id, signature.sig): signature
        for envelope in envelopes
        for signature in envelope.signatures
    }
    [payload] = payloads
    return format_envelope(UntrustedEnvelope(HOST_RECORD_TYPE, payload, tuple(by_key.values())))


def epoch_message(authority_name: bytes, *, epoch: int, nonce: bytes) -> bytes:
    """What the epoch authority signs so that one TPM, in one session, writes its epoch for the first time.

    Args:
        authority_name: The Name of the epoch authority's key.
        epoch: The epoch to start with.
        nonce: The TPM's, of the session.

    Raises:
        UsageError: The nonce is of no size that a TPM's nonces have.
    """
    if not _MIN_NONCE <= len(nonce) <= _MAX_NONCE:
        raise UsageError(f"a TPM's nonce of {len(nonce)} bytes: expected {_MIN_NONCE} to {_MAX_NONCE}")
    return signed_message(
        nonce_tpm=nonce,
        expiration=0,
        cp_hash=nv_write_cp_hash(
            nv_name=nv_name(epoch_public(authority_name, written=False)), data=epoch.to_bytes(8, "big")
        ),
        policy_ref=REF_EPOCH_INIT,
    )


def nonce_of_epoch_message(message: bytes) -> bytes:
    """The nonce in the message that `Tpm.init_epoch` wants signed: what is sent to whoever has the key.

    Raises:
        MalformedError: It is no such message.
    """
    rest = 4 + 32 + len(REF_EPOCH_INIT)  # expiration, cpHash
    nonce = message[:-rest]
    if not message.endswith(REF_EPOCH_INIT) or not _MIN_NONCE <= len(nonce) <= _MAX_NONCE:
        raise MalformedError("not what an epoch's first write is signed by")
    return nonce


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")
