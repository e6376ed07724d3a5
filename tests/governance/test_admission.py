"""What an enroller admits: each numbered check, each attack, and what it leaves to a person."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.governance.admission import (
    challenge_enrolment,
    verify_endorsement_key,
    verify_enrolment,
)
from attestd.governance.host import parse_host_record
from attestd.governance.issue import sign_host_request
from attestd.strict import canonical, format_time
from attestd.tcg.public import parse_public
from tests.governance.enrolling import (
    CLOUD,
    KEY,
    LIFE,
    MAKER,
    YEAR,
    Enrolling,
    activate,
    allow,
    believing,
    counting,
    enrolled,
)
from tests.tcg.ek_build import Authority
from tests.world import (
    Host,
    World,
    b64,
    signer,
    tpm_signature,
)


@pytest.fixture
def world() -> World:
    return believing()


@pytest.fixture
def host(world: World) -> Host:
    return Host("new", root=world.root)


@pytest.fixture
def new(world: World, host: Host) -> Enrolling:
    """A new host with a certificate of the manufacturer's."""
    return Enrolling(world, host, MAKER.ek(host.ek))


class TestEndorsementKey:
    def verify(self, world: World, host: Host, *certificates: bytes) -> Any:
        trust = world.trust().ek
        return verify_endorsement_key(parse_public(host.ek_public), certificates, trust=trust, now=world.now)

    def test_the_root_says_the_tier(self, world: World, host: Host) -> None:
        for maker, tier in ((MAKER, "hardware"), (CLOUD, "vtpm")):
            found = self.verify(world, host, maker.ek(host.ek))
            assert (found.host, found.tier) == (host.id, tier)
            assert found.chain.root in ("maker", "cloud")

    @pytest.mark.parametrize("tier", ["uncertified", "software"])
    def test_the_allow_list_says_the_tier(self, world: World, host: Host, tier: str) -> None:
        allow(world, host, tier=tier)
        found = self.verify(world, host)
        assert (found.tier, found.chain) == (tier, None)

    def test_an_entry_is_not_rounded_up_by_a_chain(self, world: World, host: Host) -> None:
        allow(world, host, tier="software")
        assert self.verify(world, host, MAKER.ek(host.ek)).tier == "software"
        assert self.verify(world, host, b"not even a certificate").tier == "software"

    def test_nobody_vouches(self, world: World, host: Host) -> None:
        allow(world, world.host)
        with pytest.raises(VerificationError, match=r"no certificate and does not stand in ek-allow\.json"):
            self.verify(world, host)
        with pytest.raises(VerificationError, match="chain does not verify"):
            self.verify(world, host, Authority.root("stranger").ek(host.ek))

    def test_no_root_is_named(self, host: Host) -> None:
        with pytest.raises(VerificationError, match=r"names no root in ek-roots/index\.json"):
            self.verify(World(), host, MAKER.ek(host.ek))

    def test_a_public_area_of_its_own(self, world: World, host: Host) -> None:
        """The same key, but the area says that it may leave the TPM, or sign."""
        for old, new in (("000300b2", "000300b0"), ("000300b2", "000700b2"), ("8371", "8372")):
            area = bytes.fromhex(host.ek_public.hex().replace(old, new, 1))
            with pytest.raises(VerificationError, match="not an endorsement key"):
                verify_endorsement_key(
                    parse_public(area), [MAKER.ek(host.ek)], trust=world.trust().ek, now=world.now
                )


class TestEnrolment:
    def verify(self, enrolling: Enrolling, **members: Any) -> Any:
        trust = enrolling.world.trust()
        return verify_enrolment(
            enrolling.request(**members),
            authorities=trust.authorities,
            trust=trust.ek,
            now=enrolling.world.now,
        )

    def test_what_is_verified(self, new: Enrolling) -> None:
        found = self.verify(new)
        assert found.ek.host == new.host.id
        assert found.keys.ak.raw == new.host.ak_public
        assert found.keys.release_key.raw == new.host.release_public

    def test_a_software_attestation_key(self, new: Enrolling) -> None:
        """Not restricted: its owner could have it sign anything, a quote that no TPM made among it."""
        area = bytearray(new.host.ak_public)
        area[5] &= 0xFE  # restricted
        with pytest.raises(VerificationError, match="not an acceptable attestation key: attributes"):
            self.verify(new, ak_public=bytes(area))

    def test_a_release_key_of_another_root(self, new: Enrolling) -> None:
        other = Host("new", root=World("other").root)
        with pytest.raises(VerificationError, match="not an acceptable release key: auth_policy"):
            self.verify(new, release_public=other.release_public, certify=other.certify())

    def test_a_release_key_that_another_ak_certified(self, new: Enrolling) -> None:
        attest, _ = new.host.certify()
        certify = attest, tpm_signature(new.world.host.ak, attest)
        with pytest.raises(VerificationError, match="signature does not verify"):
            self.verify(new, certify=certify)
        # Nor one that is about another host.
        with pytest.raises(VerificationError, match="extraData is"):
            self.verify(new, certify=new.world.host.certify())

    def test_a_certification_of_another_key(self, new: Enrolling) -> None:
        other = Host("another", root=new.world.root)
        with pytest.raises(VerificationError):
            self.verify(new, release_public=other.release_public)

    @pytest.mark.parametrize("member", ["ek_public", "ak_public", "release_public"])
    def test_what_does_not_parse(self, new: Enrolling, member: str) -> None:
        with pytest.raises(MalformedError):
            self.verify(new, **{member: b"nothing"})


class TestActivation:
    def test_the_whole_of_it(self, new: Enrolling) -> None:
        challenge = new.challenge()
        assert (challenge.host, challenge.tier) == (new.host.id, "hardware")
        assert challenge.expires == format_time(new.world.now + LIFE)
        found = activate(new, new.activation(challenge), challenge.id)
        assert found.enrolment.ek.host == new.host.id
        assert (found.labels, found.userspace, found.not_after) == ({}, "none", new.world.now + YEAR)
        enrollers = [signer(key) for key in new.world.enrollers]
        signed = sign_host_request(found.record, signers=enrollers)
        record = parse_host_record(signed, authorities=new.world.trust().authorities, revoked_keys=())
        assert (record.host, record.tier) == (new.host.id, "hardware")

    def test_no_two_challenges_are_alike(self, new: Enrolling) -> None:
        trust = new.world.trust()
        verified = verify_enrolment(
            new.request(), authorities=trust.authorities, trust=trust.ek, now=new.world.now
        )
        made = [
            challenge_enrolment(verified, key=KEY, expires=new.world.now, random=os.urandom) for _ in range(2)
        ]
        assert made[0].id != made[1].id
        assert new.secret(made[0]) != new.secret(made[1])

    @pytest.mark.parametrize("secret", [b"", bytes(32), b"x" * 33])
    def test_2_a_secret_that_was_guessed(self, new: Enrolling, secret: bytes) -> None:
        challenge = new.challenge()
        with pytest.raises(VerificationError, match="the secret is not the credential's"):
            activate(new, new.activation(challenge, secret=b64(secret)), challenge.id)

    def test_2_the_secret_of_another_challenge(self, new: Enrolling) -> None:
        trust = new.world.trust()
        verified = verify_enrolment(
            new.request(), authorities=trust.authorities, trust=trust.ek, now=new.world.now
        )
        other = challenge_enrolment(verified, key=KEY, expires=new.world.now + LIFE, random=os.urandom)
        challenge = new.challenge()
        with pytest.raises(VerificationError, match="the secret is not"):
            activate(new, new.activation(challenge, secret=b64(new.secret(other))), challenge.id)

    def test_2_an_attestation_key_in_another_tpm(self, new: Enrolling) -> None:
        """An EK of hardware, an AK in software: the credential is for a Name that the hardware has not loaded."""
        software = Host("software", root=new.world.root)
        bound = Host("software", root=new.world.root)
        bound.id = new.host.id  # it can certify for any host-id
        members = {
            "ak_public": software.ak_public,
            "release_public": software.release_public,
            "certify": bound.certify(),
        }
        challenge = new.challenge(new.request(**members))
        with pytest.raises(AssertionError):  # the TPM refuses: the integrity HMAC is over the AK's Name
            new.secret(challenge)

    def test_1_another_request(self, new: Enrolling) -> None:
        """The secret was won for one attestation key: it must not serve for another."""
        challenge = new.challenge()
        other = Host("other", root=new.world.root)
        for members in ({"certificates": ()}, {"ak_public": other.ak_public}, {"ek_public": other.ek_public}):
            activation = new.activation(challenge, enrolment=new.request(**members))
            with pytest.raises(VerificationError, match="gave no such id for this request"):
                activate(new, activation, challenge.id)

    @pytest.mark.parametrize(
        "change",
        [
            lambda _: "",
            lambda _: "zz",
            lambda id_: id_[:-2],
            lambda id_: id_ + "00",
            lambda id_: "f" + id_[1:],
            lambda id_: id_[:-1] + ("0" if id_[-1] != "0" else "1"),
            lambda _: "00" * 56,
        ],
    )
    def test_1_an_id_that_nobody_gave(self, new: Enrolling, change: Callable[[str], str]) -> None:
        challenge = new.challenge()
        with pytest.raises(VerificationError, match="gave no such id"):
            activate(new, new.activation(challenge), change(challenge.id))

    def test_1_an_id_of_another_enroller(self, new: Enrolling) -> None:
        challenge = new.challenge(key=b"another enroller's key, 32 bytes")
        with pytest.raises(VerificationError, match="gave no such id"):
            activate(new, new.activation(challenge), challenge.id)

    def test_1_too_late(self, new: Enrolling) -> None:
        challenge = new.challenge()
        last = new.world.now + LIFE
        activate(new, new.activation(challenge), challenge.id, now=last)
        with pytest.raises(VerificationError, match="the challenge has expired"):
            activate(new, new.activation(challenge), challenge.id, now=last + timedelta(seconds=1))

    def test_3_governance_changed_meanwhile(self, new: Enrolling) -> None:
        challenge = new.challenge()
        activation = new.activation(challenge)
        del new.world.extra["ek-roots/maker.pem"]
        with pytest.raises(VerificationError, match="chain does not verify"):
            activate(new, activation, challenge.id)

    @pytest.mark.parametrize("size", [0, 31])
    def test_a_key_that_is_none(self, new: Enrolling, size: int) -> None:
        with pytest.raises(UsageError, match="at least 32"):
            new.challenge(key=bytes(size))

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"tier": "vtpm"}, "tier vtpm, expected hardware"),
            ({"ek_chain_digest": None}, "differs from what was verified in ek"),
            ({"ek_chain_digest": "00" * 32}, "in ek"),
        ],
    )
    def test_4_a_record_that_says_more(self, new: Enrolling, changes: dict[str, Any], words: str) -> None:
        arguments = {"tier": "hardware", **changes}
        challenge = new.challenge()
        activation = new.activation(challenge, record=b64(new.record(**arguments)))
        with pytest.raises(VerificationError, match=words):
            activate(new, activation, challenge.id)

    def test_4_a_record_of_other_keys(self, new: Enrolling) -> None:
        other = Host("other", root=new.world.root)
        challenge = new.challenge()
        for changes in (
            {"ak_public": other.ak_public},
            {"release_public": other.release_public},
            {"ek_public": other.ek_public},
            {"certify": other.certify()},
        ):
            activation = new.activation(challenge, record=b64(new.record("hardware", **changes)))
            with pytest.raises(VerificationError, match="differs from what was verified in "):
                activate(new, activation, challenge.id)

    def test_4_nv_names_of_its_own(self, new: Enrolling) -> None:
        record = msgspec.json.decode(new.record("hardware"))
        record["nv"]["epoch"] = "000b" + "00" * 32
        challenge = new.challenge()
        with pytest.raises(VerificationError, match="in nv"):
            activate(new, new.activation(challenge, record=b64(canonical(record))), challenge.id)

    @pytest.mark.parametrize("data", [b"", b"{}", b"[1]"])
    def test_4_what_is_no_record(self, new: Enrolling, data: bytes) -> None:
        challenge = new.challenge()
        with pytest.raises(MalformedError, match="host record"):
            activate(new, new.activation(challenge, record=b64(data)), challenge.id)

    def test_4_times_in_another_form(self, new: Enrolling) -> None:
        record = msgspec.json.decode(new.record("hardware"))
        record["not_before"] = record["not_before"].replace("Z", ".000000Z")
        challenge = new.challenge()
        with pytest.raises(VerificationError, match="in not_before"):
            activate(new, new.activation(challenge, record=b64(canonical(record))), challenge.id)

    @pytest.mark.parametrize(
        ("begins", "ends", "words"),
        [
            (timedelta(minutes=-61), YEAR, "it begins at"),
            (timedelta(minutes=6), YEAR, "it begins at"),
            (timedelta(0), YEAR + timedelta(seconds=1), "it ends at"),
            (timedelta(minutes=-10), timedelta(0), "it ends at"),
            (timedelta(minutes=-10), timedelta(minutes=-9), "it ends at"),
        ],
    )
    def test_5_times(self, new: Enrolling, begins: timedelta, ends: timedelta, words: str) -> None:
        now = new.world.now
        with pytest.raises(VerificationError, match=words):
            enrolled(new, not_before=now + begins, not_after=now + ends)

    @pytest.mark.parametrize("begins", [timedelta(minutes=-60), timedelta(minutes=5)])
    def test_5_at_the_ends(self, new: Enrolling, begins: timedelta) -> None:
        enrolled(new, not_before=new.world.now + begins)

    def test_an_expiry_far_away(self, new: Enrolling) -> None:
        trust = new.world.trust()
        verified = verify_enrolment(
            new.request(), authorities=trust.authorities, trust=trust.ek, now=new.world.now
        )
        made = challenge_enrolment(
            verified, key=KEY, expires=datetime(9999, 12, 31, tzinfo=UTC), random=counting
        )
        activate(new, new.activation(made), made.id, now=new.world.now)
