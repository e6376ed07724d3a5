"""The enroller over HTTP, on both databases: what it signs, what waits, what it refuses. The host's TPM is its private keys."""

import json
import os
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import update

from attestd.controller.configuration import ControllerConfiguration
from attestd.controller.enroller.keys import create_enroller_files
from attestd.controller.enroller.office import Office
from attestd.controller.enroller.records import Decision
from attestd.controller.store.engine import Store
from attestd.controller.store.schema import enrolments
from attestd.distribution.signer import generate_in_token
from attestd.errors import MalformedError, StoreError, UsageError
from attestd.governance.admission import challenge_enrolment, verify_enrolment
from attestd.governance.enrolment import (
    MAX_ACTIVATION_BYTES,
    MAX_ENROLMENT_BYTES,
    Activation,
    Challenge,
    EnrolmentRequest,
    Pending,
    Signed,
    parse_challenge,
    parse_outcome,
)
from attestd.governance.host import parse_host_record
from attestd.governance.succession import verify_ended_record
from attestd.strict import canonical, format_time
from tests.controller.running import Answered, Controller, PostgreSQL
from tests.distribution.repositories import write_key
from tests.governance.enrolling import Enrolling, allow
from tests.governance.test_ek_trust import index, pem
from tests.host import wait_for
from tests.softhsm import PIN
from tests.tcg import build
from tests.tcg.ek_build import Authority
from tests.world import Host, World, b64

BEGIN = "/v1/enrollments"
HEADERS = {"content-type": "application/json"}
PKCS8 = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
MAKER = Authority.root("maker")


class Desk:
    """A world and its enroller, in one or several processes on one database."""

    def __init__(self, top: Path, url: str) -> None:
        self.top, self.url = top, url
        self.world = World("enrolled", now=datetime.now(UTC).replace(microsecond=0))
        self.world.extra |= {
            "ek-roots/index.json": index({"maker": "hardware"}),
            "ek-roots/maker.pem": pem(MAKER.certificate),
        }
        self.key: Path | str = write_key(top, "enrolled enroller")
        self.controllers: list[Controller] = []

    def controller(self, **configuration: Any) -> Controller:
        made = Controller(
            self.top / f"c{len(self.controllers)}", database=self.url, governance=str(self.top / "web"),
            enroller_key=str(self.key), **{"roles": ["enroller"], **configuration},
        )  # fmt: skip
        self.publish(made)
        if self.controllers:
            secret = self.controllers[0].state / "controller" / "enroller.secret"
            (made.state / "controller").mkdir(mode=0o700)
            shutil.copy(secret, made.state / "controller")
        self.controllers.append(made)
        return made.init().start()

    def publish(self, controller: Controller) -> None:
        repository = self.world.publish()
        for name, data in repository.files().items():
            path = (controller.state / "trust" if name == "root.json" else self.top / "web") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def governed(self, change: Callable[[World], None]) -> None:
        """Publishes a change, and waits until every process goes by it."""
        change(self.world)
        marks = [len(made.said) for made in self.controllers]
        for made in self.controllers:
            self.publish(made)
        for made, seen in zip(self.controllers, marks, strict=True):
            wait_for(
                "governance is read",
                lambda made=made, seen=seen: any("governance.read" in line for line in made.said[seen:]),
            )


class Asking(Enrolling):
    """A host that asks over HTTP."""

    def begin(self, controller: Controller, request: EnrolmentRequest | None = None) -> Answered:
        return controller.post(BEGIN, canonical(request or self.request()), HEADERS)

    def challenged(self, controller: Controller) -> Challenge:
        answered = self.begin(controller)
        assert answered.status == 200, answered
        return parse_challenge(answered.body)

    def answer(self, controller: Controller, challenge: Challenge, activation: Activation) -> Answered:
        return controller.post(f"{BEGIN}/{challenge.id}/activation", canonical(activation), HEADERS)

    def enrol(self, controller: Controller, **changes: Any) -> Answered:
        challenge = self.challenged(controller)
        record = b64(self.record(challenge.tier, **changes))
        return self.answer(controller, challenge, self.activation(challenge, record=record))


def signed(answered: Answered) -> Signed:
    assert answered.status == 200, answered
    outcome = parse_outcome(answered.body)
    assert isinstance(outcome, Signed)
    return outcome


def pending(answered: Answered) -> Pending:
    assert answered.status == 202, answered
    outcome = parse_outcome(answered.body)
    assert isinstance(outcome, Pending)
    return outcome


# Where what the database does has no part in it.
on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@pytest.fixture
def desk(tmp_path: Path, url: str) -> Iterator[Desk]:
    desk = Desk(tmp_path, url)
    try:
        yield desk
    finally:
        for made in desk.controllers:
            made.kill()


@pytest.fixture
def believed(desk: Desk) -> Asking:
    """A host that stands in `ek-allow.json`."""
    host = Host("new", root=desk.world.root)
    allow(desk.world, host)
    return Asking(desk.world, host)


@pytest.fixture
def certified(desk: Desk) -> Asking:
    """A host whose TPM a manufacturer vouches for: a person decides."""
    host = Host("certified", root=desk.world.root)
    return Asking(desk.world, host, MAKER.ek(host.ek))


def test_a_host_that_was_admitted_before(desk: Desk, believed: Asking) -> None:
    controller = desk.controller()
    found = signed(believed.enrol(controller))
    authorities = desk.world.trust().authorities
    record = parse_host_record(b64decode(found.record), authorities=authorities, revoked_keys=frozenset())
    assert (record.host, record.tier, dict(record.labels)) == (believed.host.id, "software", {})
    assert (found.ended, found.ak_certificate, found.epoch) == (None, None, None)
    again = signed(believed.enrol(controller))
    assert again.record == found.record
    health = controller.get("/healthz")
    assert health.json == {"healthy": True, "troubles": {}}
    assert 'attestd_enroller_requests{outcome="signed"} 2' in controller.get("/metrics").body.decode()


def test_certificates_of_attestation_keys(tmp_path: Path) -> None:
    """As OpenSSL judges them, against the authority that `init` made."""
    desk = Desk(tmp_path, f"sqlite:///{tmp_path / 'controller.db'}")
    host = Host("new", root=desk.world.root)
    allow(desk.world, host)
    with desk.controller(ak_trust_domain="example.com") as controller:
        found = signed(Asking(desk.world, host).enrol(controller))
    assert found.ak_certificate is not None
    (tmp_path / "ak.pem").write_text(found.ak_certificate)
    other = create_enroller_files(tmp_path, ControllerConfiguration(ak_trust_domain="example.com"))
    for ca, verifies in ((controller.state / "controller" / "ak-ca.pem", True), (other, False)):
        verified = openssl("verify", "-x509_strict", "-CAfile", ca, tmp_path / "ak.pem")
        assert (verified.returncode == 0) is verifies, verified
    shown = openssl("x509", "-in", tmp_path / "ak.pem", "-noout", "-text").stdout
    assert f"URI:spiffe://example.com/host/{host.id}" in shown
    assert "2.23.133.8.3" in shown


def openssl(*arguments: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


def test_an_authority_of_ones_own_for_attestation_keys(tmp_path: Path) -> None:
    key, foreign = (str(write_key(tmp_path, name)) for name in ("ak", "foreign"))
    (tmp_path / "ed448.pem").write_bytes(Ed448PrivateKey.generate().private_bytes(*PKCS8))
    (tmp_path / "ed448.pem").chmod(0o600)

    def create(**values: str) -> Path | None:
        return create_enroller_files(tmp_path, ControllerConfiguration(**values))

    assert create() is None
    certificate = create(ak_trust_domain="example.com", ak_ca_key=key)
    assert certificate == tmp_path / "ak-ca.pem"
    for values, error, words in (
        ({"ak_ca_key": foreign}, UsageError, "do not belong together"),
        ({"ak_ca_key": str(tmp_path / "none")}, StoreError, "none"),
        ({"ak_ca_key": str(tmp_path / "ed448.pem")}, UsageError, "expected a P-256"),
        ({"ak_ca_key": key, "ak_ca_certificate": str(tmp_path / "none")}, StoreError, "none"),
        ({"ak_ca_key": key, "ak_ca_certificate": key}, MalformedError, "expected a certificate in PEM"),
    ):
        with pytest.raises(error, match=words):
            create(ak_trust_domain="example.com", **values)
    certificate.unlink()
    with pytest.raises(UsageError, match="trust domain"):
        create(ak_trust_domain="Ex ample", ak_ca_key=key)
    for values in ({"ak_ca_key": key}, {"ak_trust_domain": "example.com", "ak_ca_certificate": key}):
        with pytest.raises(ValueError, match="name "):
            create(**values)


@on_sqlite
def test_killed_between_the_two_requests(desk: Desk, believed: Asking) -> None:
    controller = desk.controller()
    challenge = believed.challenged(controller)
    activation = believed.activation(challenge)
    controller.kill()
    controller.start()
    signed(believed.answer(controller, challenge, activation))


def test_an_operator_decides(desk: Desk, certified: Asking) -> None:
    controller = desk.controller()
    waits = pending(certified.enrol(controller, labels={"role": "ci"}))
    assert waits.reasons == (
        "a new host, vouched for by maker as hardware", "labels role=ci, before none",
    )  # fmt: skip
    pending(certified.enrol(controller, labels={"role": "ci"}))
    table = controller.attestd("hosts").stdout
    assert f"{certified.host.id[:16]}  waiting" in table
    assert "labels role=ci, before none" in table
    controller.attestd("approve", certified.host.id[:7], "--yes", status=64)
    shown = controller.attestd("approve", waits.digest, "--yes").stderr
    for words in (certified.host.id, "hardware", "role=ci", waits.digest, "a new host, vouched for by maker"):
        assert words in shown
    controller.kill()  # what was decided is not forgotten
    controller.start()
    found = signed(certified.enrol(controller, labels={"role": "ci"}))
    assert sha256(certified.record("hardware", labels={"role": "ci"})).hexdigest() == waits.digest
    assert found.record
    # The approval is for that record, and no other.
    assert pending(certified.enrol(controller, labels={"role": "root"})).digest != waits.digest
    decided = json.loads(controller.attestd("hosts", "--json").stdout)["decisions"]
    assert [(item["decision"], item["digest"]) for item in decided] == [("approved", waits.digest)]
    assert decided[0]["operator"]


def test_an_operator_refuses(desk: Desk, certified: Asking) -> None:
    controller = desk.controller()
    pending(certified.enrol(controller))
    controller.attestd("approve", certified.host.id, "--refuse", "--yes")
    assert "an operator refused this record" in certified.enrol(controller).problem(403)
    pending(certified.enrol(controller, labels={"role": "ci"}))


def test_a_record_that_changed_while_somebody_looked_is_not_approved(desk: Desk, certified: Asking) -> None:
    controller = desk.controller()
    pending(certified.enrol(controller))
    store = Store.open(desk.url)
    office = Office(store)
    [seen] = office.kept([certified.host.id])
    pending(certified.enrol(controller, labels={"role": "root"}))
    [other] = office.kept([certified.host.id])
    for kept in (seen, replace(other, reasons=()), replace(other, at=seen.at - timedelta(seconds=1))):
        with pytest.raises(UsageError, match="waits any more"):
            office.decide(kept, Decision.APPROVED, operator="test", now=datetime.now(UTC))
    assert office.decisions([seen.host]) == []
    store.close()


@on_sqlite
def test_a_record_that_waited_longer_than_a_record_may_be_old(desk: Desk, certified: Asking) -> None:
    """Known here, it began about now when it came; unknown, it is refused. Whoever approves it is told."""
    controller = desk.controller()
    old = {"not_before": desk.world.now - timedelta(hours=26)}
    assert "is the host's clock right?" in certified.enrol(controller, **old).problem(403)
    fresh = {"not_before": desk.world.now - timedelta(minutes=59)}
    digest = pending(certified.enrol(controller, **fresh)).digest
    store = Store.open(desk.url)
    with store.write() as connection:
        # As if this one had come when it began.
        record = certified.record("hardware", **old)
        connection.execute(
            update(enrolments)
            .where(enrolments.c.digest == digest)
            .values(digest=sha256(record).hexdigest(), record=record)
        )
    store.close()
    pending(certified.enrol(controller, **old))
    shown = controller.attestd("approve", certified.host.id, "--yes").stderr
    assert f"WARNING: it waited: it begins at {format_time(old['not_before'])}, 1 day ago" in shown
    [decided] = json.loads(controller.attestd("hosts", "--json").stdout)["decisions"]
    assert "it waited" in decided["words"]


def test_a_host_that_is_expected(desk: Desk, certified: Asking) -> None:
    controller = desk.controller()
    controller.attestd("enroll", certified.host.id, "--label", "role=ci")
    controller.attestd("enroll", "x", status=64)
    pending(certified.enrol(controller, labels={"role": "root"}))
    signed(certified.enrol(controller, labels={"role": "ci"}))
    signed(certified.enrol(controller, labels={"role": "ci"}))
    # Once: other keys of this TPM are another decision.
    other = Asking(desk.world, with_other_keys(certified.host, desk.world), *certified.certificates)
    assert any("other keys than" in reason for reason in pending(other.enrol(controller)).reasons)


def test_an_expectation_does_not_outlive_the_host_that_came(desk: Desk, believed: Asking) -> None:
    """It came, and nobody had to expect it: whoever comes next with its TPM was not expected."""
    controller = desk.controller()
    controller.attestd("enroll", believed.host.id)
    signed(believed.enrol(controller))
    other = Asking(desk.world, with_other_keys(believed.host, desk.world))
    assert any("other keys" in reason for reason in pending(other.enrol(controller)).reasons)


def with_other_keys(host: Host, world: World, name: str = "other keys") -> Host:
    """The same TPM, installed again."""
    return host.reinstalled(name, root=world.root)


def test_a_host_that_comes_again_with_other_keys(desk: Desk, believed: Asking) -> None:
    """After a clear of its TPM, or a takeover: who can tell but a person, whether governance has the host already or not."""
    controller = desk.controller()
    signed(believed.enrol(controller))
    other = Asking(desk.world, with_other_keys(believed.host, desk.world))
    [reason] = pending(other.enrol(controller)).reasons
    assert reason.startswith("other keys than in the record that was signed here at ")
    desk.governed(lambda world: world.records.update({believed.host.id: world.host_record(believed.host)}))
    waits = pending(other.enrol(controller))
    assert "other keys than before: its TPM was cleared or it was installed again" in waits.reasons
    shown = controller.attestd("approve", other.host.id, "--yes").stderr
    assert "before" in shown
    ended = signed(other.enrol(controller)).ended
    # What it sealed with the keys before goes on verifying: that their record ends is signed as well.
    assert ended is not None
    trust = desk.world.trust()
    past = verify_ended_record(
        b64decode(ended),
        previous=desk.world.files()[f"hosts/{other.host.id}.json"],
        authorities=trust.authorities,
        revoked_keys=frozenset(),
    )
    assert past.ak_name == trust.hosts[other.host.id].ak_name
    assert past.not_after == desk.world.now
    [decided] = json.loads(controller.attestd("hosts", "--json").stdout)["decisions"]
    assert decided["decision"] == "approved"
    assert "other keys than before" in decided["words"]


def test_a_revoked_host(desk: Desk, believed: Asking, certified: Asking) -> None:
    controller = desk.controller()
    signed(believed.enrol(controller))
    said = controller.attestd("revoke", believed.host.id, "--reason", "stolen", "--yes").stderr
    assert "attestd governance revoke --host" in said
    assert "revoked here" in believed.enrol(controller).problem(403)
    controller.attestd("enroll", believed.host.id, status=64)
    assert "was revoked here" in controller.attestd("revoke", believed.host.id, "--yes").stderr
    assert "revoked" in controller.attestd("hosts").stdout
    desk.governed(lambda world: world.revocations.update(hosts=[certified.host.id], version=2))
    assert "is revoked" in certified.enrol(controller).problem(403)


@on_sqlite
def test_what_does_not_verify(desk: Desk, believed: Asking, certified: Asking) -> None:
    controller = desk.controller()
    challenge = believed.challenged(controller)
    good = believed.activation(challenge)
    for changed, words in (
        ({"secret": b64(bytes(32))}, "the secret is not the credential's"),
        ({"enrolment": certified.request()}, "no such id for this request"),
        ({"record": b64(believed.record("hardware"))}, "tier hardware, expected software"),
        ({"record": b64(believed.record("software", ak_public=certified.host.ak_public))}, "differs from what was verified in ak"),
    ):  # fmt: skip
        answered = believed.answer(controller, challenge, msgspec.structs.replace(good, **changed))
        assert words in answered.problem(403)
    last = "0" if challenge.id[-1] != "0" else "1"
    for id_, words in (
        (challenge.id[:-1] + last, "no such id"),
        ("00" * 56, "no such id"),
        ("x", "no such id"),
        # Its expiry, an hour earlier: the MAC is over it.
        (f"{int(challenge.id[:16], 16) - 3600:016x}{challenge.id[16:]}", "no such id"),
    ):
        answered = controller.post(f"{BEGIN}/{id_}/activation", canonical(good), HEADERS)
        assert words in answered.problem(403), id_
    # One that it gave more than ten minutes ago.
    trust, now = desk.world.trust(), datetime.now(UTC)
    old = challenge_enrolment(
        verify_enrolment(believed.request(), authorities=trust.authorities, trust=trust.ek, now=now),
        key=(controller.state / "controller" / "enroller.secret").read_bytes(),
        expires=now - timedelta(seconds=1),
        random=os.urandom,
    )
    late = believed.answer(controller, old, believed.activation(old))
    assert "the challenge has expired: begin the enrolment again" in late.problem(403)
    # A secret of one challenge is not another's.
    other = believed.challenged(controller)
    assert "the secret is not" in believed.answer(controller, other, good).problem(403)
    # Another enroller's challenge: it has another secret.
    (desk.controllers[0].state / "controller" / "enroller.secret").write_bytes(os.urandom(32))
    controller.stop()
    controller.start()
    assert "no such id" in believed.answer(controller, challenge, good).problem(403)


@on_sqlite
def test_keys_that_are_not_what_they_must_be(desk: Desk, believed: Asking, certified: Asking) -> None:
    controller = desk.controller()
    stranger = Asking(desk.world, Host("stranger", root=desk.world.root))
    assert "does not stand in ek-allow.json" in stranger.begin(controller).problem(403)
    own = Authority.root("maker", build.key(99))  # self-made, under the manufacturer's name
    forged = Asking(desk.world, stranger.host, own.ek(stranger.host.ek), own.certificate)
    assert own.certificate != MAKER.certificate
    forged.begin(controller).problem(403)
    lent = Asking(desk.world, stranger.host, MAKER.ek(certified.host.ek))
    lent.begin(controller).problem(403)
    # An attestation key that lives outside of a TPM: its attributes say so.
    software = bytearray(believed.host.ak_public)
    software[4:8] = (int.from_bytes(software[4:8], "big") & ~0x12).to_bytes(4, "big")
    believed.begin(controller, believed.request(ak_public=bytes(software))).problem(403)
    # Keys of another host, under one's own EK.
    theft = believed.request(
        ak_public=desk.world.host.ak_public, release_public=desk.world.host.release_public
    )
    believed.begin(controller, theft).problem(403)


@on_sqlite
def test_bodies(desk: Desk, believed: Asking) -> None:
    controller = desk.controller()
    activation = f"{BEGIN}/{'00' * 56}/activation"
    for path, most in ((BEGIN, MAX_ENROLMENT_BYTES), (activation, MAX_ACTIVATION_BYTES)):
        controller.post(path, b"{" + b" " * most + b"}", HEADERS).problem(413)
        controller.post(path, b"{", HEADERS).problem(400)
        controller.post(path, b"{}", HEADERS).problem(422)
        controller.post(path, b"{}", {"content-type": "text/plain"}).problem(415)
    believed.begin(controller, believed.request(ak_public=b"\0")).problem(403)


def test_two_processes_on_one_database(tmp_path: Path, pg: PostgreSQL) -> None:
    desk = Desk(tmp_path, pg.database())
    host = Host("certified", root=desk.world.root)
    certified = Asking(desk.world, host, MAKER.ek(host.ek))
    try:
        one, two = desk.controller(), desk.controller()
        challenge = certified.challenged(one)
        waits = pending(certified.answer(two, challenge, certified.activation(challenge)))
        one.kill()
        two.attestd("approve", waits.digest, "--yes")
        one.start()
        found = {signed(certified.enrol(made)).record for made in (one, two)}
        assert len(found) == 1
        two.attestd("revoke", certified.host.id, "--yes")
        certified.enrol(one).problem(403)
    finally:
        for made in desk.controllers:
            made.kill()


@on_sqlite
def test_governance_has_to_name_its_key(desk: Desk, believed: Asking) -> None:
    desk.key = write_key(desk.top, "nobody")
    controller = desk.controller()
    believed.begin(controller).problem(503)
    assert "governance does not name it" in controller.get("/healthz").json["troubles"]["enroller"]


def test_its_key_is_in_a_token(tmp_path: Path, token: str, token_environment: dict[str, str]) -> None:
    uri, pin = f"hsm:77?label={token}", tmp_path / "pin"
    _, public = generate_in_token("p256", uri, tmp_path / "key.pub", ask=lambda _: PIN)
    pin.write_text(PIN)
    pin.chmod(0o600)
    desk = Desk(tmp_path, f"sqlite:///{tmp_path / 'controller.db'}")
    authorities = desk.world.authorities
    [before] = authorities["enrollers"]["keys"]
    authorities["enrollers"]["keys"] = [public.key_id]
    authorities["keys"] = {
        **{name: key for name, key in authorities["keys"].items() if name != before},
        public.key_id: {"spki": b64(public.spki_der)},
    }
    desk.key = uri
    host = Host("new", root=desk.world.root)
    allow(desk.world, host)
    with desk.controller(environment=token_environment, enroller_passphrase_file=str(pin)) as controller:
        record = b64decode(signed(Asking(desk.world, host).enrol(controller)).record)
    found = parse_host_record(record, authorities=desk.world.trust().authorities, revoked_keys=frozenset())
    assert found.enrollers == (public.key_id,)


def test_keys_that_it_cannot_open(tmp_path: Path) -> None:
    for configuration, words in (
        ({}, "enroller_key: name the key"),
        ({"enroller_key": str(tmp_path / "none.pem")}, "none.pem"),
    ):
        made = Controller(
            tmp_path / "c", roles=["enroller"], governance=str(tmp_path / "web"), **configuration
        )
        made.init()
        assert words in made.attestd("serve", status=64 if not configuration else 69).stderr
    made.attestd("hosts", status=69)
