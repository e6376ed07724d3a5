"""`hosts/<host-id>.json`: the host record, in which enrollers say which TPM keys are a host's."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Final, Literal, cast

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from attestd.authorization.dsse import parse_envelope, verify_threshold
from attestd.authorization.statement import Name
from attestd.errors import MalformedError, VerificationError
from attestd.governance.authorities import Authorities
from attestd.governance.platform import Tier, Userspace
from attestd.strict import (
    Base64Bytes,
    HostId,
    Sha256Hex,
    Strict,
    Utc,
    decode_base64,
    parse_canonical,
    parse_own_form,
    parse_time,
)
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.nv import counter_public, nv_name
from attestd.tcg.public import (
    Public,
    host_id,
    parse_public,
    require_attestation_key,
    require_release_key,
)
from attestd.tcg.quote import verify_certify

__all__ = [
    "HOST_RECORD_TYPE",
    "AttestationKey",
    "Certification",
    "ClaimedKeys",
    "HostKeys",
    "HostRecord",
    "ReleaseKey",
    "VerifiedHost",
    "ek_digest",
    "parse_claimed_keys",
    "parse_host_record",
    "verify_host_keys",
]

HOST_RECORD_TYPE: Final = "application/vnd.attestd.host-record+json"
MAX_HOST_RECORD_BYTES: Final = 64 * 1024

_COUNTER: Final = nv_name(counter_public(written=True)).hex()
_Name = Annotated[str, msgspec.Meta(pattern=r"\A000b[0-9a-f]{64}\Z")]
_Label = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class _Ek(Strict, frozen=True):
    public: Base64Bytes
    chain_digest: Sha256Hex | None


class AttestationKey(Strict, frozen=True):
    """The attestation key: its TPMT_PUBLIC."""

    public: Base64Bytes


class Certification(Strict, frozen=True):
    """The attestation key's TPM2_Certify of the release key: TPMS_ATTEST and TPMT_SIGNATURE."""

    attest: Base64Bytes
    signature: Base64Bytes


class ReleaseKey(Strict, frozen=True):
    """The release key: its TPMT_PUBLIC, and that it is in the attestation key's TPM."""

    public: Base64Bytes
    certify: Certification


class _Nv(Strict, frozen=True):
    epoch: _Name
    log_counter: _Name


class HostRecord(Strict, frozen=True):
    """The record's exact shape, the payload of its DSSE envelope."""

    v: Literal[1]
    host: HostId
    ek: _Ek
    ak: AttestationKey
    release_key: ReleaseKey
    nv: _Nv
    tier: Tier
    userspace: Userspace
    labels: Annotated[dict[Name, _Label], msgspec.Meta(max_length=64)]
    not_before: Utc
    not_after: Utc


class VerifiedHost(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A host record whose signatures, names and certification hold.

    A verifier remembers a hundred thousand: keys are kept as bytes, and loaded when they are used.

    Attributes:
        host: The host-id, recomputed from the EK.
        ak_spki: The attestation key's SPKI DER, `ak` the key.
        release_spki: The release key's SPKI DER.
        enrollers: The key ids that signed the record.
    """

    host: str
    ak_spki: bytes
    ak_name: bytes
    release_spki: bytes
    release_name: bytes
    tier: str
    userspace: str
    labels: Mapping[str, str]
    not_before: datetime
    not_after: datetime
    enrollers: tuple[str, ...]

    @property
    def ak(self) -> ec.EllipticCurvePublicKey:
        """The attestation key."""
        return _loaded(self.ak_spki)


@dataclass(frozen=True, slots=True)
class ClaimedKeys:
    """The keys that a host record is about, by what it says; nothing of it is verified.

    Attributes:
        ek: Which key the EK is (`ek_digest`).
        names: The Names of attestation key and release key.
    """

    host: str
    ek: bytes
    names: tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class HostKeys:
    """A host's keys, the one certified by the other. Only `verify_host_keys` makes one."""

    ak: Public
    release_key: Public

    @property
    def ak_key(self) -> ec.EllipticCurvePublicKey:
        """The attestation key itself."""
        return _ec_key(self.ak)


def parse_host_record(
    data: bytes, *, authorities: Authorities, revoked_keys: Collection[str]
) -> VerifiedHost:
    """Parses and verifies one host record.

    Checks the enrollers' signatures, that the host-id is that of the EK, that AK and release key are exactly of the
    kind the architecture asks for, that the AK certified the release key under this host's id, and that the NV
    Names are those of these authorities. Does not check validity in time or revocation: the caller knows the time.

    Raises:
        MalformedError: Not a host record.
        VerificationError: One of the above does not hold.
    """
    envelope = parse_envelope(data, payload_type=HOST_RECORD_TYPE, max_bytes=MAX_HOST_RECORD_BYTES)
    keys = [key for key in authorities.enroller_keys if key.key_id not in revoked_keys]
    if not keys:
        raise VerificationError("host record: every enroller key is revoked")
    enrollers = verify_threshold(envelope, keys=keys, threshold=authorities.enroller_threshold)
    what = "host record"
    record = _parse_record(envelope.payload)
    ek = parse_public(decode_base64(record.ek.public, what=what))
    if host_id(ek.raw) != record.host:
        raise VerificationError(f"{what}: host {record.host} is not the SHA-256 of its EK, {host_id(ek.raw)}")
    keys_of_host = verify_host_keys(record.host, record.ak, record.release_key, authorities=authorities)
    ak, release = keys_of_host.ak, keys_of_host.release_key
    if record.nv.epoch != authorities.epoch_name.hex() or record.nv.log_counter != _COUNTER:
        raise VerificationError(f"{what}: the NV Names are not those that these authorities imply")
    return VerifiedHost(
        host=record.host,
        ak_spki=_spki(_ec_key(ak)),
        ak_name=ak.name,
        release_spki=_spki(_ec_key(release)),
        release_name=release.name,
        tier=record.tier,
        userspace=record.userspace,
        labels=_shared_labels(tuple(record.labels.items())),
        not_before=parse_time(record.not_before),
        not_after=parse_time(record.not_after),
        enrollers=_shared(enrollers),
    )


def parse_claimed_keys(data: bytes) -> ClaimedKeys:
    """Which keys a host record is about, without verifying anything: a tenth of the work of `parse_host_record`.

    Raises:
        MalformedError: Not a host record: `parse_host_record` would not take it either.
    """
    envelope = parse_envelope(data, payload_type=HOST_RECORD_TYPE, max_bytes=MAX_HOST_RECORD_BYTES)
    record = _parse_record(envelope.payload)
    ek, ak, release = (
        parse_public(decode_base64(public, what="host record"))
        for public in (record.ek.public, record.ak.public, record.release_key.public)
    )
    return ClaimedKeys(record.host, ek_digest(ek), (ak.name, release.name))


def ek_digest(ek: Public) -> bytes:
    """Which key an EK is, whatever else its public area says: SHA-256 over its type and numbers."""
    return hashlib.sha256(repr(ek.identity).encode()).digest()


def verify_host_keys(
    host: str, ak: AttestationKey, release_key: ReleaseKey, *, authorities: Authorities
) -> HostKeys:
    """Verifies a host's two keys against each other.

    Both are exactly of the kind the architecture asks for, and the AK certified the release key under this host's id. Does
    not check that the AK is in that host's TPM: enrollers saw that, by credential activation.

    Args:
        host: The host-id.
        ak: The attestation key.
        release_key: The release key with its certification.
        authorities: Whose root the release key's policy must be.

    Raises:
        MalformedError: A key or the certification does not parse.
        VerificationError: One of the above does not hold.
    """
    what = "host record"
    found = HostKeys(
        parse_public(decode_base64(ak.public, what=what)),
        parse_public(decode_base64(release_key.public, what=what)),
    )
    require_attestation_key(found.ak)
    require_release_key(found.release_key, auth_policy=authorities.release_policy)
    name = found.release_key.name
    verify_certify(
        ak_public_key=_ec_key(found.ak),
        attest=decode_base64(release_key.certify.attest, what=what),
        signature=decode_base64(release_key.certify.signature, what=what),
        extra_data=extra_data(Purpose.ENROLL, host_id=host, data=name),
        name=name,
    )
    return found


def _ec_key(public: Public) -> ec.EllipticCurvePublicKey:
    key = public.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise MalformedError("host record: AK and release key must be elliptic curve keys")
    return key


def _parse_record(payload: bytes) -> HostRecord:
    record = parse_own_form(payload, HostRecord, max_bytes=MAX_HOST_RECORD_BYTES)
    if record is None:
        what = "host record"
        record = parse_canonical(payload, HostRecord, max_bytes=MAX_HOST_RECORD_BYTES, what=what)
    return record


@lru_cache(maxsize=1024)
def _shared_labels(labels: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """One object for all hosts with these labels, of which a fleet has few."""
    return MappingProxyType(dict(labels))


@lru_cache(maxsize=64)
def _shared(enrollers: tuple[str, ...]) -> tuple[str, ...]:
    return enrollers


@lru_cache(maxsize=1024)
def _loaded(spki_der: bytes) -> ec.EllipticCurvePublicKey:
    """A few of the keys loaded, as a host's own is always used: loading takes microseconds, and 3 KB."""
    return cast("ec.EllipticCurvePublicKey", load_der_public_key(spki_der))  # of which it was made


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
