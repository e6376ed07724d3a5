"""Enrolment of a host with a real TPM: two enrollers, each with its own credential, and the epoch's first write."""

import os
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from attestd.errors import TpmRefusedError, VerificationError
from attestd.governance.admission import (
    ActivatedEnrolment,
    challenge_enrolment,
    verify_activation,
    verify_enrolment,
)
from attestd.governance.enrolment import (
    Activation,
    Challenge,
    EnrolmentRequest,
    draft_enrolment,
    epoch_message,
    join_host_records,
    nonce_of_epoch_message,
    parse_challenge,
)
from attestd.governance.host import parse_host_record
from attestd.governance.issue import draft_host_request, sign_host_request
from attestd.governance.known_hosts import KnownHosts
from attestd.strict import canonical
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.public import authority_name, authority_public, host_id, parse_public
from attestd.tpm.device import Tpm
from attestd.tpm.endorsement import EndorsementKey
from attestd.tpm.keys import AuthValues, KeyBlobs
from tests.governance.enrolling import parse_activation
from tests.governance.test_ek_trust import index
from tests.world import Host, World, b64, ed25519_key, key_id, sign, signer, spki

LIFE = timedelta(minutes=10)
YEAR = timedelta(days=365)


class Enroller:
    """One of several: it shares governance with the others, and nothing else."""

    def __init__(self, world: World, number: int, now: datetime) -> None:
        self.trust = world.trust()
        self.now = now
        self._key = os.urandom(32)
        self._signer = signer(world.enrollers[number])
        self._epoch_key = world.epoch_key

    def challenge(self, request: EnrolmentRequest) -> bytes:
        verified = verify_enrolment(
            request, authorities=self.trust.authorities, trust=self.trust.ek, now=self.now
        )
        return canonical(
            challenge_enrolment(verified, key=self._key, expires=self.now + LIFE, random=os.urandom)
        )

    def activate(self, id_: str, body: bytes) -> ActivatedEnrolment:
        return verify_activation(
            parse_activation(body),
            id=id_,
            key=self._key,
            authorities=self.trust.authorities,
            trust=self.trust.ek,
            max_validity=YEAR,
            now=self.now,
        )

    def sign(self, activated: ActivatedEnrolment) -> bytes:
        reasons = KnownHosts(self.trust).reasons(activated, now=self.now)
        assert reasons == ("a new host, vouched for by local as vtpm",)  # an operator says yes
        return sign_host_request(activated.record, signers=[self._signer])

    def sign_epoch(self, nonce: bytes) -> bytes:
        name = self.trust.authorities.epoch.name
        return sign(self._epoch_key, epoch_message(name, epoch=self.trust.revocations.epoch, nonce=nonce))


class Joining:
    """The host."""

    def __init__(self, tpm: Tpm, world: World, now: datetime) -> None:
        self.tpm, self.now = tpm, now
        self.authorities = world.trust().authorities
        auth = AuthValues.generate()
        root = authority_name(world.root.public_key())
        self.blobs: KeyBlobs = tpm.create_keys(root_name=root, auth_values=auth)
        tpm.load_keys(self.blobs, auth)
        self.ek: EndorsementKey = tpm.endorsement_key()
        self.host = host_id(self.ek.public)
        bound = extra_data(
            Purpose.ENROLL, host_id=self.host, data=parse_public(self.blobs.release_public).name
        )
        self.certify = tpm.certify_release_key(bound)

    def request(self) -> EnrolmentRequest:
        return draft_enrolment(
            ek_public=self.ek.public,
            certificates=self.ek.certificate_chain,
            ak_public=self.blobs.ak_public,
            release_public=self.blobs.release_public,
            certify=self.certify,
        )

    def secret(self, challenge: Challenge) -> bytes:
        return self.tpm.activate_credential(
            ek_public=self.ek.public,
            id_object=b64decode(challenge.credential.id_object),
            encrypted_secret=b64decode(challenge.credential.encrypted_secret),
        )

    def activation(self, challenge: Challenge) -> bytes:
        record = draft_host_request(
            self.authorities,
            ek_public=self.ek.public,
            ek_chain_digest=sha256(b"".join(self.ek.certificate_chain)).hexdigest(),
            ak_public=self.blobs.ak_public,
            release_public=self.blobs.release_public,
            certify=self.certify,
            tier=challenge.tier,
            userspace="none",
            labels={},
            not_before=self.now - timedelta(minutes=5),
            not_after=self.now + timedelta(days=300),
        )
        return canonical(
            Activation(
                v=1,
                enrolment=self.request(),
                secret=b64(self.secret(challenge)),
                record=b64(record),
                epoch_nonce=None,
            )
        )


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def world(swtpm_template: Path) -> World:
    """Governance of two enrollers that must both sign, and that believes the software TPMs' CA."""
    world = World()
    world.enrollers.append(ed25519_key("second"))
    world.authorities["keys"] |= {key_id(key): {"spki": b64(spki(key))} for key in world.enrollers}
    world.authorities["enrollers"] = {"keys": [key_id(key) for key in world.enrollers], "threshold": 2}
    authority = swtpm_template / "ca"
    world.extra |= {
        "ek-roots/index.json": index({"local": "vtpm"}, "local-cas"),
        "ek-roots/local.pem": (authority / "swtpm-localca-rootca-cert.pem").read_bytes(),
        "ek-roots/local-cas.pem": (authority / "issuercert.pem").read_bytes(),
    }
    return world


@pytest.fixture
def joining(tpm: Tpm, world: World, now: datetime) -> Joining:
    return Joining(tpm, world, now)


def test_two_enrollers_each_activate_and_sign(joining: Joining, world: World, now: datetime) -> None:
    signed = []
    for number in range(2):
        enroller = Enroller(world, number, now)
        challenge = parse_challenge(enroller.challenge(joining.request()))
        assert (challenge.host, challenge.tier) == (joining.host, "vtpm")
        activated = enroller.activate(challenge.id, joining.activation(challenge))
        signed.append(enroller.sign(activated))
    authorities = world.trust().authorities
    with pytest.raises(VerificationError, match="2 distinct keys"):
        parse_host_record(signed[0], authorities=authorities, revoked_keys=())
    record = parse_host_record(join_host_records(signed), authorities=authorities, revoked_keys=())
    assert (record.host, record.tier, len(record.enrollers)) == (joining.host, "vtpm", 2)


def test_one_enrollers_credential_is_nothing_to_another(
    joining: Joining, world: World, now: datetime
) -> None:
    """A controller that was broken into has a host answer its own challenge: that admits nobody elsewhere."""
    first, second = (Enroller(world, number, now) for number in range(2))
    challenge = parse_challenge(first.challenge(joining.request()))
    body = joining.activation(challenge)
    first.activate(challenge.id, body)
    with pytest.raises(VerificationError, match="this enroller gave no such id"):
        second.activate(challenge.id, body)
    own = parse_challenge(second.challenge(joining.request()))
    with pytest.raises(VerificationError, match="the secret is not the credential's"):
        second.activate(own.id, body)


def test_keys_in_software_behind_an_ek_in_hardware(joining: Joining, world: World, now: datetime) -> None:
    """All that can be seen is right: certificate, templates, certification. The TPM does not open the credential."""
    software = Host("software", root=world.root)
    software.id = joining.host  # its AK signs whatever is asked of it
    request = draft_enrolment(
        ek_public=joining.ek.public,
        certificates=joining.ek.certificate_chain,
        ak_public=software.ak_public,
        release_public=software.release_public,
        certify=software.certify(),
    )
    challenge = parse_challenge(Enroller(world, 0, now).challenge(request))
    with pytest.raises(TpmRefusedError, match="TPM2_ActivateCredential"):
        joining.secret(challenge)


def test_the_epochs_first_write_is_signed_elsewhere(joining: Joining, world: World, now: datetime) -> None:
    world.revocations["epoch"] = 3
    enroller = Enroller(world, 0, now)
    public = authority_public(world.epoch_key.public_key())
    joining.tpm.define_epoch(public)
    sent: list[bytes] = []

    def ask(message: bytes) -> bytes:
        sent.append(nonce_of_epoch_message(message))
        return enroller.sign_epoch(sent[0])

    joining.tpm.init_epoch(3, authority_public=public, sign=ask)
    assert joining.tpm.read_epoch() == 3
    joining.tpm.undefine(0x01800AA0)
    joining.tpm.define_epoch(public)
    with pytest.raises(TpmRefusedError):  # of another session: what was signed once does not serve again
        joining.tpm.init_epoch(3, authority_public=public, sign=lambda _: enroller.sign_epoch(sent[0]))
