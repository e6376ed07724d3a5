"""Attestation results: an EAT (RFC 9711) as a signed JWT, with the claims of EAR and AR4SI (docs/formats/evidence.md).

A result says what one verifier saw of one host, once. It holds until it expires, and only while the host is as it was then.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attestd.appraisal.claims import MAX_LIFETIME, MAX_RESULT_BYTES, WHAT, ResultClaims, confirmation, ueid
from attestd.appraisal.vector import Status
from attestd.authorization.dsse import PublicKey
from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.governance.host import VerifiedHost
from attestd.governance.mesh import MeshTrust, MeshVerifier
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
    "RESULT_ENTRY",
    "AttestationResult",
    "format_result",
    "is_result_key",
    "key_of",
    "read_claims",
    "record_of",
    "verify_result",
]

# Clocks of host and verifier may differ by as much as a host's trusted time may.
SKEW: Final = timedelta(seconds=5)
_TYPE: Final = "eat+jwt"
# What an `attestation` entry calls itself that has one.
RESULT_ENTRY: Final = "verifier's result"
_NUMBER_BYTES: Final = 32
_MAX_HEADER: Final = 512
# Tokens that are remembered, of at most 32 KiB: those of one host, or of one execution.
_KEPT: Final = 64


class _Header(Strict, frozen=True):
    alg: Literal["ES256", "EdDSA"]
    kid: Sha256Hex
    typ: Literal["eat+jwt"]


@dataclass(frozen=True)
class AttestationResult:
    """A result whose signature and claims verified. Only `verify_result` makes one.

    Attributes:
        verifier: Its name in `mesh.json`.
        key_id: Its key's.
        host: The host-id.
        expires: From then on it says nothing.
        mesh: The version of `mesh.json` by which it verified.
        token: As it was signed.
    """

    verifier: str
    key_id: str
    host: str
    claims: ResultClaims
    issued: datetime
    expires: datetime
    token: str
    mesh: MeshTrust = field(repr=False, compare=False)

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


def is_result_key(key: PublicKey) -> bool:
    """Whether such a key signs results: Ed25519, or P-256."""
    public = key.public_key
    return isinstance(public, ed25519.Ed25519PublicKey) or public.curve.name == ec.SECP256R1.name


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
    2. `kid` names the key of a verifier in that version of `mesh.json`, and the algorithm is that key's: the header chooses nothing.
    3. The signature verifies.
    4. The claims are canonical, of this profile, and issued under that verifier's own name.
    5. They are about this host: its id and its release key.
    6. They answer the challenge.
    7. They are issued by now and not over, and do not hold for longer than a day; and that version of `mesh.json` had not ended
        when they were issued.

    Does not check whether the verdict is good (`AttestationResult.is_affirming`), and whether the host still is as it was
    (`AttestationResult.holds`).

    Args:
        token: As received.
        mesh: Whose results count: the version in force for whoever acts; who audits takes the one that the log entry names.
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
    _require("UEID", claims.ueid, ueid(host))  # 5
    _require("release key", claims.cnf, confirmation(host))
    if nonce is not None:  # 6
        _require("nonce", claims.nonce, nonce)
    issued, expires = (datetime.fromtimestamp(second, UTC) for second in (claims.iat, claims.exp))
    if not issued - SKEW <= now < expires or expires - issued > MAX_LIFETIME:  # 7
        raise VerificationError(
            f"{WHAT}: it holds from {format_time(issued)} to {format_time(expires)}, at most a day, and it is {format_time(now)}"
        )
    if mesh.until is not None and not mesh.counts_at(issued):
        raise VerificationError(
            f"{WHAT}: issued {format_time(issued)}; version {mesh.version} of mesh.json counts for what was issued before"
            f" {format_time(mesh.until)}"
        )
    return AttestationResult(
        verifier=name,
        key_id=verifier.key.key_id,
        host=host.host,
        claims=claims,
        issued=issued,
        expires=expires,
        token=token,
        mesh=mesh,
    )


def read_claims(token: str) -> ResultClaims:
    """What a token says. Nothing of it is verified.

    Raises:
        MalformedError: It does not parse.
    """
    return _parsed(_split(token)[1])


def key_of(token: str) -> str:
    """The key that a token says it is signed by. Nothing of it is verified.

    Raises:
        MalformedError: It does not parse.
    """
    return _split(token)[0].kid


def record_of(claims: ResultClaims, records: Iterable[VerifiedHost]) -> VerifiedHost | None:
    """Which of a host's records, present and earlier, a result is about: the one with the release key that it names."""
    return next((record for record in records if confirmation(record) == claims.cnf), None)


@lru_cache(maxsize=_KEPT)  # Who audits a log reads what a token says, and then verifies it.
def _parsed(payload: bytes) -> ResultClaims:
    return parse_canonical(payload, ResultClaims, max_bytes=MAX_RESULT_BYTES, what=WHAT)


@lru_cache(maxsize=_KEPT)
def _split(token: str) -> tuple[_Header, bytes]:
    if len(token) > MAX_RESULT_BYTES:
        raise MalformedError(f"{WHAT}: {len(token)} characters, the limit is {MAX_RESULT_BYTES}")
    parts = token.split(".")
    if len(parts) != len(("header", "claims", "signature")):
        raise MalformedError(f"{WHAT}: {len(parts)} parts, expected 3: not a signed JWT")
    header, payload, _ = (decode_base64url(part, what=WHAT) for part in parts)
    value = parse_json(header, max_bytes=_MAX_HEADER, what=f"{WHAT}: header")
    return convert(value, _Header, what=f"{WHAT}: header"), payload


def _issuer(header: _Header, mesh: MeshTrust) -> tuple[str, MeshVerifier]:
    for name, verifier in mesh.verifiers.items():
        if verifier.key.key_id == header.kid:
            _require("algorithm", header.alg, _algorithm(verifier.key))
            return name, verifier
    known = f"version {mesh.version} of mesh.json" if mesh.version else "mesh.json"
    raise VerificationError(f"{WHAT}: {known} names no verifier with key {header.kid}")


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
        raise VerificationError(f"{WHAT}: {what}: expected {expected}, found {found}")
