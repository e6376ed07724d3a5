"""A host of `tests.world` that enrols: its TPM is its private keys."""

from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from attestd.governance.admission import (
    ActivatedEnrolment,
    challenge_enrolment,
    verify_activation,
    verify_enrolment,
)
from attestd.governance.enrolment import (
    MAX_ACTIVATION_BYTES,
    MAX_ENROLMENT_BYTES,
    Activation,
    Challenge,
    EnrolmentRequest,
    draft_enrolment,
)
from attestd.governance.issue import draft_host_request
from attestd.strict import canonical, convert, parse_json
from attestd.tcg.public import parse_public
from tests.governance.test_ek_trust import index, pem
from tests.tcg.activation import recover
from tests.tcg.ek_build import Authority
from tests.world import Host, World, b64

KEY = bytes(range(32))
MAKER, CLOUD = Authority.root("maker"), Authority.root("cloud")


def parse_enrolment(data: bytes) -> EnrolmentRequest:
    """As an enroller reads the body of `POST /v1/enrollments`."""
    return convert(
        parse_json(data, max_bytes=MAX_ENROLMENT_BYTES, what="enrolment"), EnrolmentRequest, what="enrolment"
    )


def parse_activation(data: bytes) -> Activation:
    """As an enroller reads the body of `POST /v1/enrollments/{id}/activation`."""
    return convert(
        parse_json(data, max_bytes=MAX_ACTIVATION_BYTES, what="activation"), Activation, what="activation"
    )


YEAR = timedelta(days=365)
LIFE = timedelta(minutes=10)


def counting(size: int) -> bytes:
    """Random enough for one challenge of a test."""
    return bytes(number % 251 for number in range(7, 7 + size))


class Enrolling:
    """One host and what it says; `world` is what the enroller believes."""

    def __init__(self, world: World, host: Host, *certificates: bytes) -> None:
        self.world, self.host, self.certificates = world, host, certificates

    def request(self, **members: Any) -> EnrolmentRequest:
        arguments = {
            "ek_public": self.host.ek_public,
            "certificates": self.certificates,
            "ak_public": self.host.ak_public,
            "release_public": self.host.release_public,
            "certify": self.host.certify(),
        }
        return draft_enrolment(**arguments | members)

    def challenge(self, request: EnrolmentRequest | None = None, *, key: bytes = KEY) -> Challenge:
        trust = self.world.trust()
        verified = verify_enrolment(
            request or self.request(), authorities=trust.authorities, trust=trust.ek, now=self.world.now
        )
        return challenge_enrolment(verified, key=key, expires=self.world.now + LIFE, random=counting)

    def secret(self, challenge: Challenge) -> bytes:
        """What the TPM recovers."""
        made = challenge.credential
        return recover(
            parse_public(self.host.ek_public),
            self.host.ek,
            b64decode(made.id_object),
            b64decode(made.encrypted_secret),
            parse_public(self.host.ak_public).name,
        )

    def record(self, tier: str, **changes: Any) -> bytes:
        now: datetime = self.world.now
        arguments: Mapping[str, Any] = {
            "ek_public": self.host.ek_public,
            "ek_chain_digest": sha256(b"".join(self.certificates)).hexdigest() if self.certificates else None,
            "ak_public": self.host.ak_public,
            "release_public": self.host.release_public,
            "certify": self.host.certify(),
            "tier": tier,
            "userspace": "none",
            "labels": {},
            "not_before": now - timedelta(minutes=5),
            "not_after": now + YEAR,
        }
        return draft_host_request(self.world.trust().authorities, **{**arguments, **changes})

    def activation(self, challenge: Challenge, **members: Any) -> Activation:
        values = {
            "v": 1,
            "enrolment": self.request(),
            "secret": b64(self.secret(challenge)),
            "record": b64(self.record(challenge.tier)),
            "epoch_nonce": None,
        }
        return Activation(**values | members)


def allow(world: World, *hosts: Host, tier: str = "software") -> None:
    """Puts hosts into `ek-allow.json`."""
    world.extra["ek-allow.json"] = canonical({"v": 1, "hosts": {host.id: tier for host in hosts}})


def believing() -> World:
    """One host of it is known; others, with a certificate of the manufacturer's or of the cloud's, are believed."""
    world = World()
    world.extra |= {
        "ek-roots/index.json": index({"maker": "hardware", "cloud": "vtpm"}),
        "ek-roots/maker.pem": pem(MAKER.certificate),
        "ek-roots/cloud.pem": pem(CLOUD.certificate),
    }
    return world


def activate(enrolling: Enrolling, activation: Activation, id_: str, **changes: Any) -> ActivatedEnrolment:
    """What the enroller makes of it."""
    trust = enrolling.world.trust()
    arguments = {
        "id": id_,
        "key": KEY,
        "authorities": trust.authorities,
        "trust": trust.ek,
        "max_validity": YEAR,
        "now": enrolling.world.now,
    }
    return verify_activation(activation, **arguments | changes)


def enrolled(enrolling: Enrolling, **changes: Any) -> ActivatedEnrolment:
    """The whole way; `changes` are the record's."""
    challenge = enrolling.challenge()
    record = b64(enrolling.record(challenge.tier, **changes))
    return activate(enrolling, enrolling.activation(challenge, record=record), challenge.id)
