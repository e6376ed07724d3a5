"""Targets: what hosts and enrollers say to each other, certificates of endorsement keys, and what governance says of them."""

from base64 import b64encode
from datetime import timedelta
from functools import cache

from cryptography import x509

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.governance.admission import verify_activation, verify_enrolment
from attestd.governance.ek_trust import join_ek_trust, parse_ek_file
from attestd.governance.enrolment import (
    Challenge,
    EpochSignature,
    Pending,
    Signed,
    join_host_records,
    nonce_of_epoch_message,
    parse_challenge,
    parse_outcome,
)
from attestd.governance.known_hosts import KnownHosts
from attestd.governance.trust import Trust
from attestd.strict import canonical, decode_base64
from attestd.tcg.credential import make_credential
from attestd.tcg.ek_anchors import EkAnchors, require_authority
from attestd.tcg.ek_certificate import MAX_CERTIFICATE_BYTES, parse_ek_certificate, split_certificates
from attestd.tcg.ek_chain import verify_ek_chain
from attestd.tcg.endorsement import require_endorsement_key
from attestd.tcg.public import parse_public
from tests.fuzz.target import recanonical, target
from tests.governance.enrolling import KEY, YEAR, Enrolling, allow, parse_activation, parse_enrolment
from tests.governance.test_ek_trust import index, pem
from tests.tcg import build
from tests.tcg.ek_build import (
    NOW,
    P256,
    Authority,
    der,
    one_rdn,
    parts,
    resigned,
    say_not_critical,
    unsort_names,
)
from tests.world import Host, World

ROOT = Authority.root()
MIDDLE = ROOT.authority("middle")
ODD = Authority.root(one_rdn("odd"))
LEAF = MIDDLE.ek()
EK = parse_public(build.ek_public("L-2", P256.public_key()))
ANCHORS = EkAnchors(
    {"maker": (parse_ek_certificate(ROOT.certificate),)}, (parse_ek_certificate(MIDDLE.certificate),)
)


def _shipped() -> list[bytes]:
    return [
        LEAF,
        LEAF + b"\xff" * 100,
        der(0x04, LEAF),
        resigned(ODD.certificate, ODD.key, unsort_names),
        resigned(LEAF, MIDDLE.key, say_not_critical),
        ROOT.certificate,
    ]


@target(MalformedError, VerificationError, seeds=_shipped, max_bytes=MAX_CERTIFICATE_BYTES)
def certificate_as_shipped(data: bytes) -> None:
    """All of it that is ever looked at; and read again it is the same."""
    found = parse_ek_certificate(data)
    assert found.der in data
    again = parse_ek_certificate(found.der)
    assert (again.der, again.subject, again.issuer) == (found.der, found.subject, found.issuer)
    found.public_key()
    found.signature_hash()
    for kind in (x509.BasicConstraints, x509.ExtendedKeyUsage, x509.KeyUsage, x509.SubjectAlternativeName):
        found.extension(kind)
    assert found.subject == found.issuer or not found.is_issuer_of(again)
    assert split_certificates(found.der * 2) == (found.der, found.der)


@target(MalformedError, VerificationError, seeds=_shipped, max_bytes=MAX_CERTIFICATE_BYTES)
def ek_chain(data: bytes) -> None:
    """In the place of the EK's certificate: what verifies says what its issuer signed."""
    found = verify_ek_chain([data, LEAF], ek=EK, anchors=ANCHORS, now=NOW)
    assert found.root == "maker"
    assert parts(found.path[0])[0] == parts(LEAF)[0] or "default-encoded" in found.quirks


@target(MalformedError, VerificationError, seeds=lambda: [MIDDLE.certificate, *_shipped()])
def ek_issuer(data: bytes) -> None:
    """As a certificate that a host shows besides its own, where governance names no intermediate."""
    anchors = EkAnchors(ANCHORS.roots, ())
    assert verify_ek_chain([LEAF, data], ek=EK, anchors=anchors, now=NOW).path[0] == LEAF


@target(MalformedError, VerificationError, seeds=lambda: [pem(ROOT.certificate, MIDDLE.certificate)])
def ek_roots_file(data: bytes) -> None:
    found = parse_ek_file("ek-roots/a.pem", data)
    assert isinstance(found, tuple)
    for certificate in found:
        require_authority(certificate, "it")
    join_ek_trust({"ek-roots/a.pem": found})


@target(
    MalformedError,
    seeds=lambda: [
        index({"a": "hardware", "b": "vtpm"}, "c"),
        canonical({"v": 1, "hosts": {"ab" * 32: "software"}}),
    ],
    is_json=True,
)
def ek_index(data: bytes) -> None:
    """Either of the two files that are JSON."""
    data = recanonical(data)
    name = "ek-allow.json" if b'"hosts"' in data else "ek-roots/index.json"
    found = parse_ek_file(name, data)
    trust, _ = join_ek_trust({name: found})
    assert trust.anchors.roots == {}


@target(
    MalformedError,
    VerificationError,
    UsageError,
    seeds=lambda: [EK.raw, build.ek_public("H-2", P256.public_key())],
)
def ek_public(data: bytes) -> None:
    """A credential is made for no key but an EK's."""
    public = parse_public(data)
    template = require_endorsement_key(public)
    assert data.startswith(template.area)
    make_credential(public, name=b"\x00\x0b" + bytes(32), secret=bytes(32), random=bytes)


# --- messages ------------------------------------------------------------------------------------------------------


@cache
def _enrolling() -> Enrolling:
    world = World("enrolling")
    host = Host("new", root=world.root)
    allow(world, world.host)
    world.extra |= {
        "ek-roots/index.json": index({"maker": "hardware"}),
        "ek-roots/maker.pem": pem(ROOT.certificate),
    }
    return Enrolling(world, host, ROOT.ek(host.ek))


@cache
def _trust() -> Trust:
    return _enrolling().world.trust()


@cache
def _challenge() -> Challenge:
    return _enrolling().challenge()


def _requests() -> list[bytes]:
    known = Enrolling(_enrolling().world, _enrolling().world.host)
    return [canonical(_enrolling().request()), canonical(known.request())]


@target(MalformedError, VerificationError, seeds=_requests, is_json=True, max_bytes=128 * 1024)
def enrolment_request(data: bytes) -> None:
    request = parse_enrolment(data)
    assert parse_enrolment(canonical(request)) == request
    trust, now = _trust(), _enrolling().world.now
    found = verify_enrolment(request, authorities=trust.authorities, trust=trust.ek, now=now)
    assert found.ek.tier == ("hardware" if found.ek.chain else "software")


def _activations() -> list[bytes]:
    good = _enrolling().activation(_challenge())
    return [canonical(good), canonical(_enrolling().activation(_challenge(), epoch_nonce="A" * 43 + "="))]


@target(MalformedError, VerificationError, seeds=_activations, is_json=True, max_bytes=256 * 1024)
def enrolment_activation(data: bytes) -> None:
    """Only the record may differ from what the host meant, and only in what it may say of itself."""
    activation = parse_activation(data)
    trust, now = _trust(), _enrolling().world.now
    found = verify_activation(
        activation,
        id=_challenge().id,
        key=KEY,
        authorities=trust.authorities,
        trust=trust.ek,
        max_validity=YEAR,
        now=now,
    )
    assert found.enrolment.ek.host == _enrolling().host.id
    assert found.enrolment.ek.tier == "hardware"
    assert now < found.not_after <= now + YEAR
    KnownHosts(trust).reasons(found, now=now + timedelta(days=1))


def _answers() -> list[bytes]:
    record = _enrolling().world.files()[f"hosts/{_enrolling().world.host.id}.json"]
    signed = Signed(
        v=1,
        record=b64encode(record).decode(),
        ended=None,
        ak_certificate="PEM",
        epoch=EpochSignature(epoch=1, sig="AAAA"),
    )
    return [
        canonical(_challenge()),
        canonical(signed),
        canonical(Pending(v=1, digest="00" * 32, reasons=("a new host",))),
    ]


@target(MalformedError, UsageError, seeds=_answers, is_json=True, max_bytes=256 * 1024)
def enroller_answers(data: bytes) -> None:
    """An enroller that was broken into, to a host."""
    if b'"state"' not in data:
        challenge = parse_challenge(data)
        assert parse_challenge(canonical(challenge)) == challenge
        return
    outcome = parse_outcome(data)
    assert parse_outcome(canonical(outcome)) == outcome
    if isinstance(outcome, Signed):
        join_host_records([decode_base64(outcome.record, what="record")] * 2)


@target(MalformedError, seeds=lambda: [bytes(32) + bytes(36) + b"attestd.epoch.init"])
def epoch_first_write(data: bytes) -> None:
    assert nonce_of_epoch_message(data) in data
