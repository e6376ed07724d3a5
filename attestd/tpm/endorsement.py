"""The endorsement key, its certificates, and what only its TPM can do (TCG EK Credential Profile for TPM Family 2.0, 2.6)."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.errors import MalformedError, TpmError
from attestd.tcg.ek_certificate import parse_ek_certificate, split_certificates
from attestd.tcg.endorsement import TEMPLATES, EkTemplate, require_endorsement_key
from attestd.tcg.public import parse_public
from attestd.tpm._channel import Channel
from attestd.tpm._codes import Rc
from attestd.tpm._commands import Cc, Hierarchy, password, sized, u32
from attestd.tpm.capabilities import nv_indices
from attestd.tpm.keys import LoadedKey, primary
from attestd.tpm.nv import read_whole

__all__ = ["EndorsementKey", "activate_credential", "endorsement_key"]

_CHAIN_FIRST: Final = 0x01C00100
_CHAIN_LAST: Final = 0x01C001FF
_PASSWORD_RESPONSE: Final = 5  # TPMS_AUTH_RESPONSE: an empty nonce, attributes, an empty HMAC

# For another key, for an object of another Name, changed on its way, or nothing that was made for an EK of this kind.
_REFUSALS: Final = frozenset({Rc.VALUE, Rc.SIZE, Rc.INTEGRITY, Rc.INSUFFICIENT, Rc.ECC_POINT})


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
    """The EK that a certificate speaks of, by the order of `TEMPLATES`; P-256 (L-2) where there is none."""
    for template in TEMPLATES:
        data = read_whole(channel, template.certificate)
        if data is not None:
            public = _public(channel, template)
            try:
                return EndorsementKey(public, (_certified(public, data), *_issuers(channel)))
            except MalformedError as error:
                raise TpmError(
                    f"the TPM's EK certificate at {template.certificate:#010x}: {error}"
                ) from error
    return EndorsementKey(_public(channel, TEMPLATES[0]), ())


def activate_credential(
    channel: Channel, ak: LoadedKey, *, ek_public: bytes, id_object: bytes, encrypted_secret: bytes
) -> bytes:
    """TPM2_ActivateCredential (Part 3, 12.5). See `Tpm.activate_credential`."""
    wanted = parse_public(ek_public)
    template = require_endorsement_key(wanted)
    with _loaded(channel, template) as (handle, public):
        if public != ek_public:
            raise TpmError(
                f"this TPM's EK of template {template.name} is another one: it was cleared, or replaced"
            )
        params = id_object + encrypted_secret
        handles = u32(ak.handle) + u32(handle)
        auth = password(ak.auth_value)
        if not template.is_low:
            answer = channel.run(
                Cc.ACTIVATE_CREDENTIAL,
                handles=handles, auth=auth + password(), params=params, refusals=_REFUSALS,
            )  # fmt: skip
            return answer.sized()
        cp_hash = hashlib.sha256(u32(Cc.ACTIVATE_CREDENTIAL) + ak.name + wanted.name + params).digest()
        with channel.session(policy=True) as session:
            # PolicyA. No nonce, cpHash or reference, and no expiration: what authorizes is the hierarchy's own auth value.
            channel.run(
                Cc.POLICY_SECRET,
                handles=u32(Hierarchy.ENDORSEMENT) + u32(session.handle),
                auth=password(),
                params=sized(b"") * 3 + u32(0),
            )
            answer = channel.run(
                Cc.ACTIVATE_CREDENTIAL,
                handles=handles,
                auth=auth + session.authorize(cp_hash, b""),
                params=params,
                refusals=_REFUSALS,
            )
            secret = answer.sized()
            answer.take(_PASSWORD_RESPONSE)
            session.accept(Cc.ACTIVATE_CREDENTIAL, answer, sized(secret), b"")
            return secret


@contextmanager
def _loaded(channel: Channel, kind: EkTemplate) -> Iterator[tuple[int, bytes]]:
    """The EK, for the block: its handle and its TPMT_PUBLIC."""
    template = read_whole(channel, kind.certificate + 2) if kind.is_low else None
    if template is None:
        # The manufacturer may have made the EK with a nonce in `unique` (profile, 2.2.1.3); else it is all zero.
        nonce = read_whole(channel, kind.certificate + 1) if kind.is_low else None
        template = kind.public(nonce or b"")
    with primary(channel, Hierarchy.ENDORSEMENT, template) as (handle, answer):
        yield handle, answer.sized()


def _public(channel: Channel, kind: EkTemplate) -> bytes:
    with _loaded(channel, kind) as (_, public):
        return public


def _certified(public: bytes, data: bytes) -> bytes:
    """Checks that certificate and key belong together: else enrolment fails far away, and nobody knows why."""
    certificate = parse_ek_certificate(data)
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if certificate.public_key().public_bytes(*form) != parse_public(public).public_key().public_bytes(*form):
        raise TpmError(
            "the TPM's EK certificate is for another key than its template makes: re-provision the TPM"
        )
    return certificate.der


def _issuers(channel: Channel) -> tuple[bytes, ...]:
    """The certificates that the profile lets a TPM hold, one after the other, over consecutive indices."""
    return split_certificates(
        b"".join(
            read_whole(channel, index) or b""
            for index in nv_indices(channel)
            if _CHAIN_FIRST <= index <= _CHAIN_LAST
        )
    )
