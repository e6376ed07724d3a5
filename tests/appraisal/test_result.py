"""Attestation results: signed by one library and verified by another, and every way to pass off one that is none."""

import hashlib
import hmac
import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import structs

from attestd.appraisal.claims import draft_result
from attestd.appraisal.jws import OneAlgorithm
from attestd.appraisal.result import MAX_RESULT_BYTES, AttestationResult, read_claims, verify_result
from attestd.appraisal.vector import (
    APPROVED_BOOT,
    APPROVED_CONFIG,
    APPROVED_RUNTIME,
    GENUINE_HARDWARE,
    NO_CLAIM,
    UNRECOGNIZED_HARDWARE,
    UNRECOGNIZED_RUNTIME,
    UNSUPPORTABLE_CONFIG,
    trust_vector,
)
from attestd.appraisal.verifier import VerifiedEvidence
from attestd.errors import AttestdError, MalformedError, UsageError, VerificationError
from attestd.governance.mesh import MeshTrust
from attestd.strict import canonical, encode_base64url
from tests.appraisal.attesting import BAD, Attesting
from tests.governance.test_mesh import mesh
from tests.results import SigningKey, sign_result
from tests.world import Host, World, b64, ed25519_key, key_id, p256, spki

ONE, TWO = p256("verifier one"), ed25519_key("verifier two")
ALGORITHMS = {"one": "ES256", "two": "EdDSA"}
KEYS: Mapping[str, SigningKey] = {"one": ONE, "two": TWO}
LIFETIME = timedelta(minutes=5)


class Issued:
    """A host that attested, and what two verifiers say of it."""

    def __init__(self, *, bad: bool = False, **kind: bool) -> None:
        self.attesting = Attesting(**kind)
        world = self.attesting.world
        world.extra["mesh.json"] = canonical(mesh(world))
        if bad:
            self.attesting.items.append(BAD)
        self.evidence = self.attesting.verify()
        self.trust = self.attesting.trust
        self.mesh: MeshTrust = self.trust.mesh
        self.host = self.trust.hosts[world.host.id]
        self.now = self.attesting.now

    def claims(self, verifier: str = "one") -> Any:
        return draft_result(
            self.evidence,
            verifier=verifier,
            build="attestd 0.1.0",
            governance=self.trust.version,
            now=self.now,
            lifetime=LIFETIME,
        )

    def token(self, verifier: str = "one") -> str:
        return sign_result(self.claims(verifier), key=KEYS[verifier])

    def verify(self, token: str, **changes: Any) -> AttestationResult:
        given: dict[str, Any] = {
            "mesh": self.mesh,
            "host": self.host,
            "nonce": self.evidence.challenge,
            "now": self.now,
        }
        return verify_result(token, **{**given, **changes})

    def refused(self, token: str, error: type[AttestdError] = VerificationError, **changes: Any) -> str:
        with pytest.raises(error) as raised:
            self.verify(token, **changes)
        assert type(raised.value) is error
        return str(raised.value)


GOOD = Issued()


def plain(claims: Any) -> Any:
    return json.loads(canonical(claims))


def forged(
    claims: Any = None, *, header: Any = None, payload: bytes | None = None, key: SigningKey = ONE
) -> str:
    """Signed by hand: any header, any payload."""
    body = canonical(GOOD.claims() if claims is None else claims) if payload is None else payload
    head = header if isinstance(header, bytes) else canonical(standard() if header is None else header)
    text = f"{encode_base64url(head)}.{encode_base64url(body)}"
    algorithm = jwt.algorithms.get_default_algorithms()["ES256" if key is ONE else "EdDSA"]
    return f"{text}.{encode_base64url(algorithm.sign(text.encode(), key))}"


def standard(**members: Any) -> dict[str, Any]:
    return {"alg": "ES256", "kid": key_id(ONE), "typ": "eat+jwt", **members}


# --- earlier versions of mesh.json


def test_a_result_of_before_a_key_was_replaced() -> None:
    """It holds by the version that names the key, if it was issued before that ended; by no other."""
    issued = Issued()
    world = issued.attesting.world
    token = issued.token()
    first = hashlib.sha256(world.extra["mesh.json"]).hexdigest()
    assert issued.verify(token).mesh.named == {"version": 1, "digest": first}
    following = mesh(world)
    following["verifiers"]["nodes"]["one"]["key"] = b64(spki(p256("a new one")))
    world.replace_mesh(canonical(following), handover=issued.now + timedelta(seconds=1))
    trust = world.trust()
    assert issued.verify(token, mesh=trust.mesh_version(1)).mesh.version == 1
    assert "version 2 of mesh.json names no verifier with key" in issued.refused(token, mesh=trust.mesh)
    # The key goes on signing, whoever has it by now.
    issued.now += timedelta(seconds=1)
    message = issued.refused(issued.token(), mesh=trust.mesh_version(1))
    assert "version 1 of mesh.json counts for what was issued before" in message
    assert issued.verify(issued.token("two"), mesh=trust.mesh).verifier == "two"


# --- another library ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["one", "two"])
def test_pyjwt_verifies_ours(name: str) -> None:
    token = GOOD.token(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"verify_exp": False, "verify_iat": False}
        found = jwt.decode(token, KEYS[name].public_key(), algorithms=[ALGORITHMS[name]], options=options)
        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(
                token,
                p256("x").public_key() if name == "one" else ed25519_key("x").public_key(),
                algorithms=[ALGORITHMS[name]],
                options=options,
            )
    assert found == plain(GOOD.claims(name))
    assert jwt.get_unverified_header(token)["kid"] == key_id(KEYS[name])


@pytest.mark.parametrize("name", ["one", "two"])
def test_we_verify_pyjwts(name: str) -> None:
    signing = jwt.api_jws.PyJWS()
    token = signing.encode(
        canonical(GOOD.claims(name)),
        KEYS[name],
        algorithm=ALGORITHMS[name],
        headers={"kid": key_id(KEYS[name]), "typ": "eat+jwt"},
    )
    found = GOOD.verify(token)
    assert (found.verifier, found.key_id, found.is_affirming) == (name, key_id(KEYS[name]), True)
    assert found.expires == GOOD.now + LIFETIME


# --- what is said --------------------------------------------------------------------------------------------------


def test_what_a_good_host_gets() -> None:
    claims = plain(GOOD.claims())
    assert claims["submods"]["platform"] == {
        "ear.status": "affirming",
        "ear.trustworthiness-vector": {
            "instance-identity": 2,
            "configuration": APPROVED_CONFIG,
            "executables": APPROVED_RUNTIME,
            "hardware": NO_CLAIM,
        },
        "ear.appraisal-policy-id": "urn:attestd:platform:local:1",
    }
    assert claims["attestd"]["tier"] == "software"
    assert claims["attestd"]["findings"] == {"count": 0, "first": []}
    assert claims["eat_nonce"] == GOOD.evidence.challenge


def test_what_a_bad_host_gets() -> None:
    bad = Issued(bad=True)
    found = bad.verify(bad.token())
    assert not found.is_affirming
    assert "/bin/evil" in found.claims.attestd.findings.first[0]
    vector = found.claims.submods.platform.vector
    assert (vector.configuration, vector.executables) == (APPROVED_CONFIG, UNRECOGNIZED_RUNTIME)


def test_vectors() -> None:
    no_ima = Issued(ima=False).evidence
    assert trust_vector(no_ima).executables == APPROVED_BOOT
    strange = replace(no_ima, appraisal=replace(no_ima.appraisal, approval=None))
    assert trust_vector(strange).configuration == UNSUPPORTABLE_CONFIG
    assert trust_vector(strange).executables == UNRECOGNIZED_RUNTIME
    wrong = Attesting(ima=False)
    wrong.line = "quiet"
    wrong.publish()
    assert trust_vector(wrong.verify()).configuration == UNSUPPORTABLE_CONFIG
    hard = replace(no_ima, host=structs.replace(no_ima.host, tier="hardware"))
    assert trust_vector(hard).hardware == GENUINE_HARDWARE
    strict = replace(no_ima.appraisal, policy=replace(no_ima.appraisal.policy, min_tier="hardware"))
    assert trust_vector(replace(no_ima, appraisal=strict)).hardware == UNRECOGNIZED_HARDWARE


def test_as_many_findings_as_fit() -> None:
    evidence = replace(
        GOOD.evidence, findings=tuple(f"{number}{'x' * 2000}" for number in range(90)), count=90
    )
    claims = draft_result(evidence, verifier="one", build="a", governance=1, now=GOOD.now, lifetime=LIFETIME)
    assert claims.attestd.findings.count == 90
    assert 5 < len(claims.attestd.findings.first) < 10
    token = sign_result(claims, key=ONE)
    assert len(token) < MAX_RESULT_BYTES
    assert not GOOD.verify(token).is_affirming


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(days=1, seconds=1)])
def test_lifetimes_that_no_host_accepts(lifetime: timedelta) -> None:
    with pytest.raises(UsageError):
        draft_result(GOOD.evidence, verifier="one", build="a", governance=1, now=GOOD.now, lifetime=lifetime)


def test_no_result_outlives_what_it_rests_on() -> None:
    """The host's record, the platform policy, its window for the state: whichever ends first; what is over already says so itself."""
    now, found = GOOD.now, GOOD.evidence.appraisal

    def lasts(evidence: VerifiedEvidence) -> int:
        claims = draft_result(
            evidence, verifier="one", build="a", governance=1, now=now, lifetime=timedelta(minutes=5)
        )
        return claims.exp - claims.iat

    def by(**members: Any) -> VerifiedEvidence:
        policy = replace(found.policy, **members)
        return replace(GOOD.evidence, appraisal=replace(found, policy=policy))

    def after(seconds: int) -> datetime:
        return now + timedelta(seconds=seconds)

    assert lasts(GOOD.evidence) == 300
    assert lasts(replace(GOOD.evidence, host=structs.replace(GOOD.host, not_after=after(90)))) == 90
    assert lasts(by(valid_until=after(60))) == 60
    assert lasts(by(valid_until=after(600))) == 300
    assert lasts(by(windows={found.pcr_digest: after(30)}, valid_until=after(60))) == 30
    assert lasts(by(windows={bytes(32): after(30)})) == 300
    assert lasts(by(windows={found.pcr_digest: after(-1)}, valid_until=now)) == 300


def test_a_key_that_no_mesh_names() -> None:
    with pytest.raises(UsageError):
        sign_result(GOOD.claims(), key=ec.derive_private_key(7, ec.SECP384R1()))


# --- headers ---------------------------------------------------------------------------------------------------------


def test_no_signature_at_all() -> None:
    header = encode_base64url(canonical(standard(alg="none")))
    body = encode_base64url(canonical(GOOD.claims()))
    GOOD.refused(f"{header}.{body}.", MalformedError)
    GOOD.refused(f"{encode_base64url(canonical(standard()))}.{body}.")


@pytest.mark.parametrize(
    "secret",
    [
        spki(ONE),
        ONE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        ONE.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
    ],
)
@pytest.mark.parametrize("named", ["HS256", "ES256"])
def test_the_public_key_as_a_secret(secret: bytes, named: str) -> None:
    text = f"{encode_base64url(canonical(standard(alg=named)))}.{encode_base64url(canonical(GOOD.claims()))}"
    mac = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    GOOD.refused(f"{text}.{encode_base64url(mac)}", MalformedError if named == "HS256" else VerificationError)


@pytest.mark.parametrize("name", ["none", "HS256", "EdDSA", "ES384", "ES256K"])
def test_the_library_is_offered_one_algorithm(name: str) -> None:
    """The header was compared before; the library has no other to choose either."""
    with pytest.raises(VerificationError, match="expected ES256"):
        OneAlgorithm("ES256").get_alg(name)


def test_the_other_keys_algorithm() -> None:
    assert "algorithm: expected ES256, found EdDSA" in GOOD.refused(
        forged(header=standard(alg="EdDSA"), key=TWO)
    )


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (standard(kid="ab" * 32), VerificationError),
        (standard(kid=key_id(p256("verifier one's thief"))), VerificationError),
        (standard(kid="one"), MalformedError),
        (standard(kid="../../dev/null"), MalformedError),
        (standard(kid=None), MalformedError),
        ({"alg": "ES256", "typ": "eat+jwt"}, MalformedError),
        (standard(typ="JWT"), MalformedError),
        (standard(alg="es256"), MalformedError),
        (standard(alg="ES384"), MalformedError),
        (standard(jwk={"kty": "EC"}), MalformedError),
        (standard(jku="https://evil"), MalformedError),
        (standard(x5c=["AA"]), MalformedError),
        (standard(crit=["b64"], b64=False), MalformedError),
        (b'{"alg":"none","alg":"ES256","kid":"%s","typ":"eat+jwt"}' % key_id(ONE).encode(), MalformedError),
        (b"[]", MalformedError),
        (b"", MalformedError),
        (canonical(standard()) + b" " * 600, MalformedError),
    ],
)
def test_headers(header: Any, error: type[AttestdError]) -> None:
    GOOD.refused(forged(header=header), error)


def test_a_result_by_a_key_of_somebody_else() -> None:
    stranger = p256("stranger")
    assert "signature" in GOOD.refused(forged(header=standard(), key=TWO))
    token = sign_result(GOOD.claims(), key=stranger)
    assert "names no verifier with key" in GOOD.refused(token)


def test_a_verifier_that_is_revoked() -> None:
    issued = Issued()
    issued.attesting.world.revocations["keys"] = [key_id(ONE)]
    assert "names no verifier" in issued.refused(issued.token(), mesh=issued.attesting.trust.mesh)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_part_changed(place: int) -> None:
    parts = GOOD.token().split(".")
    for index in (0, len(parts[place]) // 2, len(parts[place]) - 1):
        part = parts[place]
        other = part[:index] + ("A" if part[index] != "A" else "B") + part[index + 1 :]
        token = ".".join([*parts[:place], other, *parts[place + 1 :]])
        with pytest.raises((MalformedError, VerificationError)):
            GOOD.verify(token)


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token[:0],
        lambda token: token + ".",
        lambda token: token.replace(".", "..", 1),
        lambda token: token + "=",
        lambda token: token + "\n",
        lambda token: " " + token,
        lambda token: token.rpartition(".")[0],
        lambda token: token + "A" * MAX_RESULT_BYTES,
        lambda token: token.replace(".", ".\u0661", 1),
    ],
)
def test_no_token(change: Any) -> None:
    GOOD.refused(change(GOOD.token()), MalformedError)


# --- claims ------------------------------------------------------------------------------------------------------------


def claims(**members: Any) -> bytes:
    return canonical({**plain(GOOD.claims()), **members})


SECOND = int(GOOD.now.timestamp())


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (claims(eat_profile="tag:github.com,2023:veraison/ear"), MalformedError),
        (claims(admin=True), MalformedError),
        (claims(iat=str(SECOND)), MalformedError),
        (canonical(GOOD.claims()).replace(b'"iat":%d' % SECOND, b'"iat":%d.5' % SECOND), MalformedError),
        (canonical(GOOD.claims()).replace(b'"iss":"one"', b'"iss":"one","iss":"one"'), MalformedError),
        (canonical(GOOD.claims()) + b"\n", MalformedError),
        (b" " + canonical(GOOD.claims()), MalformedError),
        (b"", MalformedError),
        (claims(iss="two"), VerificationError),
        (claims(iss="nobody"), VerificationError),
        (claims(ueid=encode_base64url(b"\1" + bytes(32))), VerificationError),
        (claims(ueid=encode_base64url(b"\2" + bytes.fromhex(GOOD.host.host))), VerificationError),
        (claims(eat_nonce="A" * 75), VerificationError),
        (claims(iat=SECOND + 60, exp=SECOND + 120), VerificationError),
        (claims(exp=SECOND), VerificationError),
        (claims(exp=SECOND - 1), VerificationError),
        (claims(iat=SECOND - 60, exp=SECOND + 86_400), VerificationError),
        (claims(iat=-1), MalformedError),
        (claims(exp=2**40), MalformedError),
    ],
)
def test_claims(payload: bytes, error: type[AttestdError]) -> None:
    """All signed by a verifier's key: by one that is not honest, or whose key leaked to another profile."""
    GOOD.refused(forged(payload=payload), error)


def test_the_release_key_of_another_host() -> None:
    def naming(host: Host) -> str:
        numbers = host.release_key.public_key().public_numbers()
        x, y = (encode_base64url(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        return forged(payload=claims(cnf={"jwk": {"crv": "P-256", "kty": "EC", "x": x, "y": y}}))

    assert "release key" in GOOD.refused(naming(Host("other", root=World("x").root)))
    assert GOOD.verify(naming(GOOD.attesting.world.host)).is_affirming


def test_a_result_about_another_host() -> None:
    other = structs.replace(GOOD.host, host="ab" * 32)
    assert "UEID" in GOOD.refused(GOOD.token(), host=other)


def test_the_answer_to_another_question() -> None:
    assert "nonce" in GOOD.refused(GOOD.token(), nonce="A" * 75)
    assert GOOD.verify(GOOD.token(), nonce=None).is_affirming


def test_when_it_holds() -> None:
    token = GOOD.token()
    assert GOOD.verify(token, now=GOOD.now + LIFETIME - timedelta(seconds=1))
    assert GOOD.verify(token, now=GOOD.now - timedelta(seconds=5)), "clocks differ"
    GOOD.refused(token, now=GOOD.now + LIFETIME)
    GOOD.refused(token, now=GOOD.now - timedelta(seconds=6))
    found = GOOD.verify(token)
    assert found.issued == datetime.fromtimestamp(SECOND, UTC)


def test_dropped_when_the_host_is_no_longer_as_it_was() -> None:
    found = GOOD.verify(GOOD.token())
    appraisal = GOOD.evidence.appraisal
    same: dict[str, Any] = {
        "now": GOOD.now,
        "clock": appraisal.clock,
        "pcr_digest": appraisal.pcr_digest,
        "platform_digest": appraisal.policy.digest,
    }
    assert found.holds(**same)
    later = GOOD.attesting
    for changes in (
        {"now": found.expires},
        {"pcr_digest": bytes(32)},
        {"platform_digest": "ab" * 32},
    ):
        assert not found.holds(**{**same, **changes})
    for member in ("reset_count", "restart_count"):
        later.tick(**{member: getattr(appraisal.clock, member) + 1})
        assert not found.holds(**{**same, "clock": later.clock})
        later.clock = appraisal.clock


def test_what_a_token_says_can_be_read_by_whom_it_convinces_of_nothing() -> None:
    claims = read_claims(GOOD.token())
    assert claims == GOOD.claims()
    assert claims.host == GOOD.host.host
    for garbage in ("", "a.b.c", GOOD.token()[:-90], "é"):
        with pytest.raises(MalformedError):
            read_claims(garbage)
