"""Attestation results: an EAT (RFC 9711) as a signed JWT, with the claims of EAR and AR4SI (docs/formats/evidence.md).

A result says what one verifier saw of one host, once. It holds until it expires, and only while the host is as it was then.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final, Literal, cast

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.appraisal.challenge import CHALLENGE_PATTERN
from attestd.appraisal.vector import Status, TrustVector, status_of, trust_vector
from attestd.appraisal.verifier import VerifiedEvidence
from attestd.authorization.dsse import PublicKey
from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.governance.host import VerifiedHost
from attestd.governance.mesh import MeshTrust, MeshVerifier
from attestd.governance.platform import Tier, Userspace
from attestd.strict import (
    Sha256Hex,
    Strict,
    canonical,
    convert,
    decode_base64url,
    encode_base64url,
    encode_own_form,
    format_time,
    parse_canonical,
    parse_json,
)
from attestd.tcg.attest import ClockInfo

__all__ = [
    "MAX_RESULT_BYTES",
    "PROFILE",
    "AttestationResult",
    "ResultClaims",
    "SigningKey",
    "draft_result",
    "format_result",
    "is_result_key",
    "read_claims",
    "sign_result",
    "verify_result",
]

PROFILE: Final = "urn:attestd:attestation-result:v1"
MAX_RESULT_BYTES: Final = 32 * 1024
MAX_LIFETIME: Final = timedelta(days=1)
# Clocks of host and verifier may differ by as much as a host's trusted time may.
SKEW: Final = timedelta(seconds=5)

_WHAT: Final = "attestation result"
_TYPE: Final = "eat+jwt"
_NUMBER_BYTES: Final = 32
# RFC 9711, 4.2.1: a UEID of type RAND, which 256 bits of a hash are.
_UEID_TYPE: Final = b"\x01"
_MAX_HEADER: Final = 512
_MAX_FINDINGS_BYTES: Final = 8 * 1024
_MAX_FINDING: Final = 1024
_DEVELOPER: Final = "attestd"
# Tokens that are remembered, of at most 32 KiB: those of one host, or of one execution.
_KEPT: Final = 64

SigningKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_Seconds = Annotated[int, msgspec.Meta(ge=0, lt=1 << 36)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
_Number = Annotated[int, msgspec.Meta(ge=0)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Coordinate = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{43}\Z")]
_Pcr = Annotated[int, msgspec.Meta(ge=0, le=23)]


class _Header(Strict, frozen=True):
    alg: Literal["ES256", "EdDSA"]
    kid: Sha256Hex
    typ: Literal["eat+jwt"]


class _Jwk(Strict, frozen=True):
    crv: Literal["P-256"]
    kty: Literal["EC"]
    x: _Coordinate
    y: _Coordinate


class _Confirmation(Strict, frozen=True):
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
    cnf: _Confirmation
    verifier: _VerifierId = msgspec.field(name="ear.verifier-id")
    submods: _Submods
    attestd: AttestdClaims

    @property
    def host(self) -> str:
        """The host-id that it names."""
        return decode_base64url(self.ueid, what=_WHAT)[len(_UEID_TYPE) :].hex()


@dataclass(frozen=True)
class AttestationResult:
    """A result whose signature and claims verified. Only `verify_result` makes one.

    Attributes:
        verifier: Its name in `mesh.json`.
        key_id: Its key's.
        host: The host-id.
        expires: From then on it says nothing.
        token: As it was signed.
    """

    verifier: str
    key_id: str
    host: str
    claims: ResultClaims
    issued: datetime
    expires: datetime
    token: str

    @property
    def is_affirming(self) -> bool:
        """Whether the verifier found nothing that speaks against the host."""
        return (
            self.claims.submods.platform.status is Status.AFFIRMING and not self.claims.attestd.findings.count
        )

    def holds(self, *, now: datetime, clock: ClockInfo, pcr_digest: bytes, platform_digest: str) -> bool:
        """Whether it may still be used: not over, and the host is in the state that the verifier saw.

        Args:
            now: The time.
            clock: The TPM's, in the host's newest quote.
            pcr_digest: The composite of the policy's PCRs in that quote.
            platform_digest: Of the platform policy in force.
        """
        state = self.claims.attestd.state
        return (
            now < self.expires
            and (state.reset_count, state.restart_count) == (clock.reset_count, clock.restart_count)
            and bytes.fromhex(state.pcr_digest) == pcr_digest
            and self.claims.attestd.platform.digest == platform_digest
        )


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
        ueid=encode_base64url(_UEID_TYPE + bytes.fromhex(host.host)),
        nonce=evidence.challenge,
        iat=issued,
        exp=int(min(ends).timestamp()),
        cnf=_confirmation(host),
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


def is_result_key(key: PublicKey) -> bool:
    """Whether such a key signs results: Ed25519, or P-256."""
    public = key.public_key
    return isinstance(public, ed25519.Ed25519PublicKey) or public.curve.name == ec.SECP256R1.name


def sign_result(claims: ResultClaims, *, key: SigningKey) -> str:
    """Signs a result with a key that is here.

    Raises:
        UsageError: The key is neither Ed25519 nor on P-256.
    """
    public = PublicKey(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return format_result(claims, public=public, sign=key.sign)
    return format_result(claims, public=public, sign=lambda message: key.sign(message, ec.ECDSA(SHA256())))


def format_result(claims: ResultClaims, *, public: PublicKey, sign: Callable[[bytes], bytes]) -> str:
    """Signs a result with a key wherever it is.

    Args:
        claims: What it says.
        public: The key's public half.
        sign: Signs a message: Ed25519, or ECDSA with SHA-256 in DER.

    Raises:
        UsageError: The key is neither Ed25519 nor on P-256.
    """
    name, header = _header(public)
    text = f"{header}.{encode_base64url(encode_own_form(claims))}"
    signature = sign(text.encode("ascii"))
    if name == "ES256":  # RFC 7518, 3.4: both numbers in 32 bytes each, where all else here has DER
        r, s = decode_dss_signature(signature)
        signature = r.to_bytes(_NUMBER_BYTES, "big") + s.to_bytes(_NUMBER_BYTES, "big")
    return f"{text}.{encode_base64url(signature)}"


@lru_cache(maxsize=8)
def _header(public: PublicKey) -> tuple[str, str]:
    """The algorithm, and the header in its form; the same for each result of a key."""
    name = _algorithm(public)
    return name, encode_base64url(canonical({"alg": name, "kid": public.key_id, "typ": _TYPE}))


def verify_result(
    token: str, *, mesh: MeshTrust, host: VerifiedHost, nonce: str | None, now: datetime
) -> AttestationResult:
    """Verifies a result.

    1. It is a JWS of three parts, each in its one spelling, with a header of `alg`, `kid` and `typ` alone.
    2. `kid` names the key of a verifier in governance, and the algorithm is that key's: the header chooses nothing.
    3. The signature verifies.
    4. The claims are canonical, of this profile, and issued under that verifier's own name.
    5. They are about this host: its id and its release key.
    6. They answer the challenge.
    7. They are issued by now and not over, and do not hold for longer than a day.

    Does not check whether the verdict is good (`AttestationResult.is_affirming`), and whether the host still is as it was
    (`AttestationResult.holds`).

    Args:
        token: As received.
        mesh: Whose results count.
        host: The record of the host that it has to be about.
        nonce: The challenge that the verifier gave; None: it was not asked by us, which shows no freshness but its expiry.
        now: The time.

    Raises:
        MalformedError: It does not parse.
        VerificationError: One of the above does not hold.
    """
    name, verifier = _issuer(_split(token)[0], mesh)  # 1, 2
    claims = _signed(token, verifier.key.spki_der)  # 3, 4
    _require("issuer", claims.iss, name)
    _require("UEID", claims.ueid, encode_base64url(_UEID_TYPE + bytes.fromhex(host.host)))  # 5
    _require("release key", claims.cnf, _confirmation(host))
    if nonce is not None:  # 6
        _require("nonce", claims.nonce, nonce)
    issued, expires = (datetime.fromtimestamp(second, UTC) for second in (claims.iat, claims.exp))
    if not issued - SKEW <= now < expires or expires - issued > MAX_LIFETIME:  # 7
        raise VerificationError(
            f"{_WHAT}: it holds from {format_time(issued)} to {format_time(expires)}, at most a day, and it is {format_time(now)}"
        )
    return AttestationResult(
        verifier=name,
        key_id=verifier.key.key_id,
        host=host.host,
        claims=claims,
        issued=issued,
        expires=expires,
        token=token,
    )


def read_claims(token: str) -> ResultClaims:
    """What a token says. Nothing of it is verified.

    Raises:
        MalformedError: It does not parse.
    """
    return _parsed(_split(token)[1])


def _parsed(payload: bytes) -> ResultClaims:
    return parse_canonical(payload, ResultClaims, max_bytes=MAX_RESULT_BYTES, what=_WHAT)


@lru_cache(maxsize=_KEPT)
def _split(token: str) -> tuple[_Header, bytes]:
    if len(token) > MAX_RESULT_BYTES:
        raise MalformedError(f"{_WHAT}: {len(token)} characters, the limit is {MAX_RESULT_BYTES}")
    parts = token.split(".")
    if len(parts) != len(("header", "claims", "signature")):
        raise MalformedError(f"{_WHAT}: {len(parts)} parts, expected 3: not a signed JWT")
    header, payload, _ = (decode_base64url(part, what=_WHAT) for part in parts)
    value = parse_json(header, max_bytes=_MAX_HEADER, what=f"{_WHAT}: header")
    return convert(value, _Header, what=f"{_WHAT}: header"), payload


def _issuer(header: _Header, mesh: MeshTrust) -> tuple[str, MeshVerifier]:
    for name, verifier in mesh.verifiers.items():
        if verifier.key.key_id == header.kid:
            _require("algorithm", header.alg, _algorithm(verifier.key))
            return name, verifier
    raise VerificationError(f"{_WHAT}: mesh.json names no verifier with key {header.kid}")


@lru_cache(maxsize=_KEPT)  # A host asks what a token says for each execution: the signature is verified once.
def _signed(token: str, spki: bytes) -> ResultClaims:
    """The claims of a token that a key signed."""
    # Imported here: a host without verifiers holds two megabytes less, and starts sooner.
    from attestd.appraisal.jws import verify_compact  # noqa: PLC0415

    key = PublicKey(spki)
    verify_compact(token, key.public_key, algorithm=_algorithm(key))
    return _parsed(_split(token)[1])


def _algorithm(key: PublicKey) -> str:
    if not is_result_key(key):
        raise UsageError(f"a verifier's key {key.key_id}: expected one on P-256, or Ed25519")
    return "EdDSA" if isinstance(key.public_key, ed25519.Ed25519PublicKey) else "ES256"


def _require(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise VerificationError(f"{_WHAT}: {what}: expected {expected}, found {found}")


def _confirmation(host: VerifiedHost) -> _Confirmation:
    """RFC 7800: the host's release key."""
    return _key_claim(host.release_spki)


@lru_cache(maxsize=1024)
def _key_claim(spki: bytes) -> _Confirmation:
    point = cast(ec.EllipticCurvePublicKey, PublicKey(spki).public_key).public_numbers()  # of a host record
    x, y = (encode_base64url(number.to_bytes(32, "big")) for number in (point.x, point.y))
    return _Confirmation(jwk=_Jwk(crv="P-256", kty="EC", x=x, y=y))


def _first(findings: Iterable[str]) -> tuple[str, ...]:
    room, first = _MAX_FINDINGS_BYTES, []
    for finding in findings:
        text = finding[:_MAX_FINDING]
        room -= len(canonical(text))
        if room < 0:
            break
        first.append(text)
    return tuple(first)
