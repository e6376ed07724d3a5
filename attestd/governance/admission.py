"""Admits hosts: what an enroller verifies before it signs a host record, and why a person may have to decide. Pure.

    enrolment = verify_enrolment(request, ...)        who vouches for the EK, and that the keys are what they must be
    challenge = challenge_enrolment(enrolment, ...)   a secret for the TPM that has EK and AK
    activated = verify_activation(activation, ...)    the secret is back: EK and AK are in one TPM; the record says what is so
    standing  = KnownHosts(trust).standing(activated) a new host, the same, or one that comes with new keys; or refused

Each enroller does all of this for itself; a host record counts when the threshold of them signed it.
"""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from attestd.errors import MalformedError, StoreError, UsageError, VerificationError
from attestd.governance.authorities import Authorities
from attestd.governance.ek_trust import EkTrust
from attestd.governance.enrolment import Activation, Challenge, CredentialMember, EnrolmentRequest
from attestd.governance.host import (
    MAX_HOST_RECORD_BYTES,
    HostKeys,
    HostRecord,
    VerifiedHost,
    ek_digest,
    verify_host_keys,
)
from attestd.governance.issue import draft_host_request
from attestd.governance.platform import Tier
from attestd.governance.trust import Trust
from attestd.strict import canonical, decode_base64, format_time, parse_canonical, parse_time
from attestd.tcg.credential import Random, make_credential
from attestd.tcg.ek_chain import VerifiedEkChain, verify_ek_chain
from attestd.tcg.endorsement import require_endorsement_key
from attestd.tcg.public import Public, host_id, parse_public

__all__ = [
    "BACKDATED",
    "ActivatedEnrolment",
    "KnownHosts",
    "Standing",
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


class Standing(StrEnum):
    """What the fleet knows of a host.

    Attributes:
        NEW: Nothing.
        SAME: It has a record with these very keys.
        REENROLMENT: It had other keys: its TPM was cleared, it was installed again, or somebody else has its TPM; or it has
            records none of which verifies, so that nobody knows which keys it had.
    """

    NEW = "new"
    SAME = "same"
    REENROLMENT = "re-enrolment"


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

    Does not check whether the host is known, revoked, or a second one of a TPM (`KnownHosts.standing`), nor labels and
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


class KnownHosts:
    """The hosts of one version of governance, to be asked by any of their keys; made once a version.

    It holds which keys each record, present or earlier, says that it is about: some hundred bytes each. That a record verifies
    is found out when it matters: when somebody shows a key that it is about.

    One thread at a time reads (`read`); then any number ask.
    """

    def __init__(self, trust: Trust, previous: "KnownHosts | None" = None) -> None:
        """Takes what `previous` knows of the same files, and reads none."""
        self._trust = trust
        before = {} if previous is None else previous._claims  # noqa: SLF001 - its own
        self._claims: dict[str, tuple[bytes, ...]] = {}  # what the metadata says of the file, then the keys
        self._by_key: dict[bytes, tuple[str, ...] | str] = {}
        self._unread: dict[str, bytes] = {}
        for name, packed in trust.host_files:
            known = before.get(name)
            if known is not None and known[0] == packed:
                self._add(name, known)
            else:
                self._unread[name] = packed

    def read(self) -> None:
        """Reads the records that it does not know yet; after an error it goes on where it was.

        Raises:
            StoreError: One cannot be read, or is not the file that the metadata names: nobody can say whose keys it is about.
        """
        while self._unread:
            name, packed = next(iter(self._unread.items()))
            try:
                claimed = _claimed(self._trust, name)
            except (VerificationError, MalformedError) as error:  # of the files here, not of who asks
                raise StoreError(f"governance: {error}") from error
            self._add(name, (packed, *claimed))
            del self._unread[name]

    def _add(self, name: str, claims: tuple[bytes, ...]) -> None:
        self._claims[name] = claims
        for key in claims[1:]:
            others = self._by_key.get(key)
            # Nearly always one: no tuple for each of three hundred thousand.
            self._by_key[key] = name if others is None else (*_names(others), name)

    def standing(self, activated: ActivatedEnrolment) -> Standing:
        """What the fleet knows of a host, and that it is no other one in disguise.

        1. The host is not revoked.
        2. Its EK is of no other host-id: the same key in another public area would be a second host in one TPM.
        3. Its attestation key and release key are no other host's, now or ever.

        Raises:
            VerificationError: One of these does not hold.
            StoreError: A record of this host, or any whose keys are not known yet, cannot be read now.
        """
        self.read()
        enrolment = activated.enrolment
        host, keys = enrolment.ek.host, enrolment.keys
        if host in self._trust.revocations.hosts:  # 1
            raise VerificationError(f"host {host} is revoked: what was revoked is not enrolled again")
        for other in self._others(ek_digest(enrolment.ek.public), host):  # 2
            raise VerificationError(
                f"the EK of host {host} is that of host {other} already: one TPM is one host"
            )
        for name in (keys.ak.name, keys.release_key.name):  # 3
            for other in self._others(name, host):
                raise VerificationError(f"host {host} shows a key of host {other}: a key is of one host")
        records = self._trust.known_records(host)
        if not records.usable and not records.refused:
            return Standing.NEW
        present = records.present
        return Standing.SAME if present is not None and _has(present, keys) else Standing.REENROLMENT

    def _others(self, key: bytes, host: str) -> Iterator[str]:
        """Other hosts that have a record about a key which verifies, or which nobody can read now."""
        for name in _names(self._by_key.get(key, ())):
            other = _host_of(name)
            if other != host and not self._trust.is_refused(name):
                yield other

    def reasons(self, activated: ActivatedEnrolment, *, now: datetime) -> tuple[str, ...]:
        """What an operator has to decide before the record is signed, in words; empty: nothing.

        A chain to a manufacturer says that there is a TPM, not that it is one of ours: any laptop's has one. A host that stands
        in `ek-allow.json` was admitted by whoever wrote that, and one that has a record may have it again.

        Raises:
            VerificationError, StoreError: As `standing`.
        """
        standing = self.standing(activated)
        enrolment = activated.enrolment
        records = self._trust.known_records(enrolment.ek.host)
        present = records.present
        found: list[str] = []
        if standing is Standing.NEW and enrolment.ek.chain is not None:
            found.append(f"a new host, vouched for by {enrolment.ek.chain.root} as {enrolment.ek.tier}")
        if standing is Standing.REENROLMENT and records.usable:
            found.append("other keys than before: its TPM was cleared or it was installed again")
        if present is None and records.refused:
            found.append(
                f"its record does not verify, so that nobody knows which keys it had: {records.refused[0]}"
            )
        if standing is Standing.SAME and present is not None and present.not_after <= now:
            found.append(f"its record ended at {format_time(present.not_after)}")
        labels = {} if present is None else present.labels
        if activated.labels != labels:
            found.append(f"labels {_words(activated.labels)}, before {_words(labels)}")
        userspace = "none" if present is None else present.userspace
        if activated.userspace != userspace:
            found.append(f"userspace {activated.userspace}, before {userspace}")
        return tuple(found)


def _claimed(trust: Trust, name: str) -> tuple[bytes, ...]:
    claimed = trust.claimed_keys(name)
    # One that lies under another host's name is nobody's.
    return () if claimed is None or claimed.host != _host_of(name) else (claimed.ek, *claimed.names)


def _names(names: tuple[str, ...] | str) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _host_of(name: str) -> str:
    return name.rpartition("/")[2][:64]


def _has(record: VerifiedHost, keys: HostKeys) -> bool:
    return (record.ak_name, record.release_name) == (keys.ak.name, keys.release_key.name)


def _words(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))[:200] or "none"


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
