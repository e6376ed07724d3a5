"""Admits hosts: what an enroller verifies before it signs a host record. Pure.

    enrolment = verify_enrolment(request, ...)        who vouches for the EK, and that the keys are what they must be
    challenge = challenge_enrolment(enrolment, ...)   a secret for the TPM that has EK and AK
    activated = verify_activation(activation, ...)    the secret is back: EK and AK are in one TPM; the record says what is so
    standing  = KnownHosts(trust).standing(activated) a new host, the same, or one that comes with new keys; or refused
                                                      (`known_hosts`)

Each enroller does all of this for itself; a host record counts when the threshold of them signed it.
"""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from attestd.errors import UsageError, VerificationError
from attestd.governance.authorities import Authorities
from attestd.governance.ek_trust import EkTrust
from attestd.governance.enrolment import Activation, Challenge, CredentialMember, EnrolmentRequest
from attestd.governance.host import (
    MAX_HOST_RECORD_BYTES,
    HostKeys,
    HostRecord,
    verify_host_keys,
)
from attestd.governance.issue import draft_host_request
from attestd.governance.platform import Tier
from attestd.strict import canonical, decode_base64, format_time, parse_canonical, parse_time
from attestd.tcg.credential import Random, make_credential
from attestd.tcg.ek_chain import VerifiedEkChain, verify_ek_chain
from attestd.tcg.endorsement import require_endorsement_key
from attestd.tcg.public import Public, host_id, parse_public

__all__ = [
    "BACKDATED",
    "ActivatedEnrolment",
    "VerifiedEk",
    "VerifiedEnrolment",
    "challenge_enrolment",
    "verify_activation",
    "verify_endorsement_key",
    "verify_enrolment",
]

_ID: Final = b"attestd/enrolment-id/v1\0"
_SECRET: Final = b"attestd/enrolment-secret/v1\0"
_NONCE_BYTES: Final = 16
_MIN_KEY_BYTES: Final = 32
# A record is drafted a little before it is signed, or backdated a little, for the clocks of a fleet differ.
BACKDATED: Final = timedelta(hours=1)
_AHEAD: Final = timedelta(minutes=5)


@dataclass(frozen=True)
class VerifiedEk:
    """An endorsement key that somebody vouches for. Only `verify_endorsement_key` makes one.

    Attributes:
        host: The host-id.
        public: Its public area.
        tier: How strong the root of its evidence is.
        chain: What was verified; None: it stands in `ek-allow.json`.
    """

    host: str
    public: Public
    tier: Tier
    chain: VerifiedEkChain | None


@dataclass(frozen=True)
class VerifiedEnrolment:
    """A request whose EK somebody vouches for. That EK and AK are in one TPM is not known yet.

    Attributes:
        request: As it was sent.
        ek: The endorsement key.
        keys: Attestation key and release key.
        chain_digest: SHA-256 over the certificates that were sent, hex; None: there were none.
    """

    request: EnrolmentRequest
    ek: VerifiedEk
    keys: HostKeys
    chain_digest: str | None


@dataclass(frozen=True)
class ActivatedEnrolment:
    """An enrolment whose EK and AK are in one TPM, and the record that says so. Only `verify_activation` makes one.

    Attributes:
        enrolment: What was verified before.
        record: The host record's canonical bytes: what `issue.sign_host_request` signs.
        labels: What the host calls itself; nobody has verified that.
        userspace: How it says that its user space is protected; nobody has verified that.
        not_before: When the record begins.
        not_after: When it ends.
    """

    enrolment: VerifiedEnrolment
    record: bytes
    labels: Mapping[str, str]
    userspace: str
    not_before: datetime
    not_after: datetime


def verify_endorsement_key(
    ek: Public, certificates: Sequence[bytes], *, trust: EkTrust, now: datetime
) -> VerifiedEk:
    """Decides whether an endorsement key is believed, and as what.

    1. Its public area is one of the TCG's templates: it says that the key never leaves its TPM.
    2. It stands in `ek-allow.json`: it has the tier that stands there, whatever certificates come with it. An entry is about
       this one key, and was made by somebody who looked at it: it may say less than a chain would.
    3. Else its certificates lead to a root (`tcg.ek_chain.verify_ek_chain`), whose tier it has.

    Does not check that a TPM has the key: that is credential activation.

    Args:
        ek: The public area.
        certificates: The EK's certificate, then its issuers'; none where the TPM has none.
        trust: What governance says.
        now: At which time certificates are judged.

    Raises:
        MalformedError: A certificate does not parse.
        VerificationError: Nobody vouches for the key.
    """
    require_endorsement_key(ek)  # 1
    host = host_id(ek.raw)
    allowed = trust.allowed.get(host)
    if allowed is not None:  # 2
        return VerifiedEk(host, ek, allowed, None)
    if not certificates:
        raise VerificationError(
            f"the EK of host {host} has no certificate and does not stand in ek-allow.json: if you know this host, put it"
            " there (attestd governance allow)"
        )
    if not trust.anchors.roots:
        raise VerificationError(
            f"the EK of host {host} does not stand in ek-allow.json (attestd governance allow), and governance names no"
            " root in ek-roots/index.json"
        )
    chain = verify_ek_chain(certificates, ek=ek, anchors=trust.anchors, now=now)  # 3
    return VerifiedEk(host, ek, trust.tiers[chain.root], chain)


def verify_enrolment(
    request: EnrolmentRequest, *, authorities: Authorities, trust: EkTrust, now: datetime
) -> VerifiedEnrolment:
    """Verifies what a host says of its keys, as far as that goes without its TPM's help.

    1. Somebody vouches for the EK (`verify_endorsement_key`).
    2. Attestation key and release key are of the kinds they must be, and the AK certified the release key for this host
       (`host.verify_host_keys`).

    Args:
        request: Parsed.
        authorities: Whose root the release key's policy must be.
        trust: Whose endorsement keys are believed.
        now: At which time certificates are judged.

    Raises:
        MalformedError: A key, a certificate or the certification does not parse.
        VerificationError: One of the checks fails.
    """
    what = "enrolment"
    ek_public = parse_public(decode_base64(request.ek.public, what=what))
    certificates = [decode_base64(certificate, what=what) for certificate in request.ek.certificates]
    ek = verify_endorsement_key(ek_public, certificates, trust=trust, now=now)  # 1
    keys = verify_host_keys(ek.host, request.ak, request.release_key, authorities=authorities)  # 2
    digest = hashlib.sha256(b"".join(certificates)).hexdigest() if certificates else None
    return VerifiedEnrolment(request, ek, keys, digest)


def challenge_enrolment(
    enrolment: VerifiedEnrolment, *, key: bytes, expires: datetime, random: Random
) -> Challenge:
    """Asks the TPM that has the EK to show that it has the attestation key as well.

    The secret follows from `key` and the challenge's id, and the id from the request: nothing is kept.

    Args:
        enrolment: Verified.
        key: This enroller's secret, at least 32 bytes, the same in each of its processes.
        expires: When the challenge is over.
        random: Gives as many unpredictable bytes as asked for.

    Raises:
        UsageError: The key is too short.
    """
    nonce = random(_NONCE_BYTES)
    second = int(expires.timestamp())
    token = _token(enrolment.request, key, second.to_bytes(8, "big") + nonce)
    made = make_credential(
        enrolment.ek.public, name=enrolment.keys.ak.name, secret=_secret(key, token), random=random
    )
    return Challenge(
        v=1,
        id=token.hex(),
        expires=format_time(datetime.fromtimestamp(second, UTC)),
        host=enrolment.ek.host,
        tier=enrolment.ek.tier,
        credential=CredentialMember(
            id_object=b64encode(made.id_object).decode(),
            encrypted_secret=b64encode(made.encrypted_secret).decode(),
        ),
    )


def verify_activation(
    activation: Activation,
    *,
    id: str,  # noqa: A002 - as the path and the challenge call it
    key: bytes,
    authorities: Authorities,
    trust: EkTrust,
    max_validity: timedelta,
    now: datetime,
    begun_within: timedelta = BACKDATED,
) -> ActivatedEnrolment:
    """Verifies that a host's EK and AK are in one TPM, and that the record it wants says what is so.

    1. This enroller made the id, for this very request, and it is not over.
    2. The secret is the one in the credential: only the TPM with the EK recovers it, and only with the AK loaded.
    3. All that `verify_enrolment` checks still holds, by the governance of now.
    4. The record is, byte for byte, what this enroller would write itself, but for labels, userspace and times.
    5. It begins about now, and does not hold for too long.

    Does not check whether the host is known, revoked, or a second one of a TPM (`known_hosts.KnownHosts.standing`), nor labels and
    userspace, which are for an operator to approve.

    Args:
        activation: Parsed.
        id: From the request's path.
        key: As for `challenge_enrolment`.
        authorities: As for `verify_enrolment`.
        trust: Likewise.
        max_validity: For how long this enroller signs records.
        now: The time.
        begun_within: How long ago the record may begin: longer, where this very record was seen before and waited for a
            person.

    Raises:
        MalformedError: The record, a key or a certificate does not parse.
        VerificationError: One of the checks fails.
        UsageError: The key is too short.
    """
    what = "activation"
    token = _require_token(activation.enrolment, key, id, now)  # 1
    if not hmac.compare_digest(decode_base64(activation.secret, what=what), _secret(key, token)):  # 2
        raise VerificationError(
            f"{what}: the secret is not the credential's: EK and attestation key were not shown to be in one TPM"
        )
    enrolment = verify_enrolment(activation.enrolment, authorities=authorities, trust=trust, now=now)  # 3
    data = decode_base64(activation.record, what=what)
    record = parse_canonical(data, HostRecord, max_bytes=MAX_HOST_RECORD_BYTES, what="host record")
    _require_own_words(record, data, enrolment, authorities)  # 4
    starts, ends = parse_time(record.not_before), parse_time(record.not_after)
    if not now - begun_within <= starts <= now + _AHEAD:  # 5
        raise VerificationError(
            f"host record: it begins at {record.not_before}, expected from {format_time(now - begun_within)} to about"
            f" {format_time(now)}: is the host's clock right?"
        )
    if not now < ends <= now + max_validity:
        raise VerificationError(
            f"host record: it ends at {record.not_after}, expected by {format_time(now + max_validity)}"
        )
    return ActivatedEnrolment(enrolment, data, record.labels, record.userspace, starts, ends)


def _require_own_words(
    record: HostRecord, data: bytes, enrolment: VerifiedEnrolment, authorities: Authorities
) -> None:
    what = "activation"
    attest, signature = (
        decode_base64(part, what=what)
        for part in (
            enrolment.request.release_key.certify.attest,
            enrolment.request.release_key.certify.signature,
        )
    )
    expected = draft_host_request(
        authorities,
        ek_public=enrolment.ek.public.raw,
        ek_chain_digest=enrolment.chain_digest,
        ak_public=enrolment.keys.ak.raw,
        release_public=enrolment.keys.release_key.raw,
        certify=(attest, signature),
        tier=enrolment.ek.tier,
        userspace=record.userspace,
        labels=record.labels,
        not_before=parse_time(record.not_before),
        not_after=parse_time(record.not_after),
    )
    if data == expected:
        return
    wanted = parse_canonical(expected, HostRecord, max_bytes=MAX_HOST_RECORD_BYTES, what=what)
    members = [
        name for name in HostRecord.__struct_fields__ if getattr(record, name) != getattr(wanted, name)
    ]
    if members == ["tier"]:
        raise VerificationError(
            f"host record: tier {record.tier}, expected {wanted.tier}: what the EK is rooted in"
        )
    raise VerificationError(
        f"host record: it differs from what was verified in {', '.join(members) or 'its times'}"
    )


def _token(request: EnrolmentRequest, key: bytes, head: bytes) -> bytes:
    if len(key) < _MIN_KEY_BYTES:
        raise UsageError(f"an enroller's key of {len(key)} bytes, expected at least {_MIN_KEY_BYTES}")
    return head + hmac.digest(key, _ID + head + hashlib.sha256(canonical(request)).digest(), "sha256")


def _require_token(request: EnrolmentRequest, key: bytes, found: str, now: datetime) -> bytes:
    try:
        token = bytes.fromhex(found)
    except ValueError:
        token = b""
    head = token[: 8 + _NONCE_BYTES]
    expected = _token(request, key, head)
    if not hmac.compare_digest(token, expected):
        raise VerificationError(
            "activation: this enroller gave no such id for this request: begin the enrolment again"
        )
    if now.timestamp() > int.from_bytes(head[:8], "big"):
        raise VerificationError("activation: the challenge has expired: begin the enrolment again")
    return token


def _secret(key: bytes, token: bytes) -> bytes:
    return hmac.digest(key, _SECRET + token, "sha256")
