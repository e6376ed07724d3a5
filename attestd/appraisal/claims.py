"""The claims of an attestation result: those of EAT (RFC 9711), EAR and AR4SI, in our profile (docs/formats/evidence.md)."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal

import msgspec

from attestd.appraisal.challenge import CHALLENGE_PATTERN
from attestd.appraisal.vector import Status, TrustVector, status_of, trust_vector
from attestd.appraisal.verifier import VerifiedEvidence
from attestd.errors import UsageError
from attestd.governance.host import VerifiedHost
from attestd.governance.platform import Tier, Userspace
from attestd.strict import (
    Sha256Hex,
    Strict,
    canonical,
    decode_base64url,
    encode_base64url,
)

__all__ = [
    "MAX_LIFETIME",
    "MAX_RESULT_BYTES",
    "PROFILE",
    "WHAT",
    "Confirmation",
    "FindingsClaim",
    "ResultClaims",
    "confirmation",
    "draft_result",
    "ueid",
]

PROFILE: Final = "urn:attestd:attestation-result:v1"
MAX_RESULT_BYTES: Final = 32 * 1024
MAX_LIFETIME: Final = timedelta(days=1)
WHAT: Final = "attestation result"
# RFC 9711, 4.2.1: a UEID of type RAND, which 256 bits of a hash are.
_UEID_TYPE: Final = b"\x01"
_MAX_FINDINGS_BYTES: Final = 8 * 1024
_MAX_FINDING: Final = 1024
_DEVELOPER: Final = "attestd"
_NUMBER_BYTES: Final = 32

_Seconds = Annotated[int, msgspec.Meta(ge=0, lt=1 << 36)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
_Number = Annotated[int, msgspec.Meta(ge=0)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Coordinate = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{43}\Z")]
_Pcr = Annotated[int, msgspec.Meta(ge=0, le=23)]


class _Jwk(Strict, frozen=True):
    crv: Literal["P-256"]
    kty: Literal["EC"]
    x: _Coordinate
    y: _Coordinate


class Confirmation(Strict, frozen=True):
    """RFC 7800: a key that the subject holds."""

    jwk: _Jwk


class _VerifierId(Strict, frozen=True):
    build: _Name
    developer: _Name


class _Appraisal(Strict, frozen=True):
    status: Status = msgspec.field(name="ear.status")
    vector: TrustVector = msgspec.field(name="ear.trustworthiness-vector")
    policy: Annotated[str, msgspec.Meta(max_length=256)] = msgspec.field(name="ear.appraisal-policy-id")


class _Submods(Strict, frozen=True):
    platform: _Appraisal


class PlatformClaim(Strict, frozen=True):
    """The platform policy that evidence was appraised under."""

    name: _Name
    version: _Number
    digest: Sha256Hex


class StateClaim(Strict, frozen=True):
    """The state that was quoted: a result is dropped when the host is in another one."""

    reset_count: _Count
    restart_count: _Count
    bank: Literal["sha256"]
    pcrs: Annotated[tuple[_Pcr, ...], msgspec.Meta(min_length=1, max_length=24)]
    pcr_digest: Sha256Hex


class FindingsClaim(Strict, frozen=True):
    """What speaks against the host: the first of `count`."""

    count: _Number
    first: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=_MAX_FINDING)], ...], msgspec.Meta(max_length=512)
    ]


class AttestdClaims(Strict, frozen=True):
    """What EAR has no word for.

    Attributes:
        governance: Version of the snapshot that it was appraised by.
    """

    tier: Tier
    userspace: Userspace
    platform: PlatformClaim
    governance: _Number
    state: StateClaim
    findings: FindingsClaim


class ResultClaims(Strict, frozen=True):
    """The claims' exact shape.

    Attributes:
        iss: The verifier's name in `mesh.json`.
        ueid: 0x01 and the host-id, base64url.
        cnf: The host's release key.
    """

    profile: Literal["urn:attestd:attestation-result:v1"] = msgspec.field(name="eat_profile")
    iss: _Name
    ueid: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{44}\Z")]
    nonce: Annotated[str, msgspec.Meta(pattern=CHALLENGE_PATTERN)] = msgspec.field(name="eat_nonce")
    iat: _Seconds
    exp: _Seconds
    cnf: Confirmation
    verifier: _VerifierId = msgspec.field(name="ear.verifier-id")
    submods: _Submods
    attestd: AttestdClaims

    @property
    def host(self) -> str:
        """The host-id that it names."""
        return decode_base64url(self.ueid, what=WHAT)[len(_UEID_TYPE) :].hex()


def draft_result(
    evidence: VerifiedEvidence,
    *,
    verifier: str,
    build: str,
    governance: int,
    now: datetime,
    lifetime: timedelta,
) -> ResultClaims:
    """What a verifier says of evidence.

    Args:
        evidence: Verified.
        verifier: The verifier's name in `mesh.json`.
        build: Its software's name and version.
        governance: Version of the trust that the evidence was appraised by.
        now: The time.
        lifetime: For how long it holds, unless the host's record, the platform policy, or its window for this state
            ends before: hosts attest again before it is over.

    Raises:
        UsageError: A lifetime that no host accepts.
    """
    if not timedelta(seconds=1) <= lifetime <= MAX_LIFETIME:
        raise UsageError(f"a result for {lifetime}: expected 1 s to {MAX_LIFETIME}")
    host, found, policy = evidence.host, evidence.appraisal, evidence.appraisal.policy
    issued = int(now.timestamp())
    ends = [now + lifetime, *(end for end in _ends(evidence) if end > now)]
    return ResultClaims(
        profile=PROFILE,
        iss=verifier,
        ueid=ueid(host),
        nonce=evidence.challenge,
        iat=issued,
        exp=int(min(ends).timestamp()),
        cnf=confirmation(host),
        verifier=_VerifierId(build=build, developer=_DEVELOPER),
        submods=_Submods(
            platform=_Appraisal(
                status=status_of(evidence),
                vector=trust_vector(evidence),
                policy=f"urn:attestd:platform:{policy.name}:{policy.version}",
            )
        ),
        attestd=AttestdClaims(
            tier=host.tier,  # type: ignore[arg-type] # a host record has no other
            userspace=host.userspace,  # type: ignore[arg-type] # likewise
            platform=PlatformClaim(name=policy.name, version=policy.version, digest=policy.digest),
            governance=governance,
            state=StateClaim(
                reset_count=found.clock.reset_count,
                restart_count=found.clock.restart_count,
                bank="sha256",
                pcrs=policy.selection.pcrs,
                pcr_digest=found.pcr_digest.hex(),
            ),
            findings=FindingsClaim(count=evidence.count, first=_first(evidence.findings)),
        ),
    )


def _ends(evidence: VerifiedEvidence) -> Iterator[datetime]:
    """When what was found would be something else, though nothing happened on the host."""
    policy = evidence.appraisal.policy
    yield evidence.host.not_after
    if policy.valid_until is not None:
        yield policy.valid_until
    window = policy.windows.get(evidence.appraisal.pcr_digest)
    if window is not None:
        yield window


def ueid(host: VerifiedHost) -> str:
    """RFC 9711: the host-id as a UEID."""
    return encode_base64url(_UEID_TYPE + bytes.fromhex(host.host))


def confirmation(host: VerifiedHost) -> Confirmation:
    """RFC 7800: the host's release key."""
    # SPKI DER of a key on P-256 ends in its point's two numbers (RFC 5480), and a host record has no other key.
    point = host.release_spki[-2 * _NUMBER_BYTES :]
    x, y = encode_base64url(point[:_NUMBER_BYTES]), encode_base64url(point[_NUMBER_BYTES:])
    return Confirmation(jwk=_Jwk(crv="P-256", kty="EC", x=x, y=y))


def _first(findings: Iterable[str]) -> tuple[str, ...]:
    room, first = _MAX_FINDINGS_BYTES, []
    for finding in findings:
        text = finding[:_MAX_FINDING]
        room -= len(canonical(text))
        if room < 0:
            break
        first.append(text)
    return tuple(first)
