"""What an enroller admits: each numbered check, each attack, and what it leaves to a person."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from attestd.errors import MalformedError, StoreError, UsageError, VerificationError
from attestd.governance import trust as under_test
from attestd.governance.admission import (
    ActivatedEnrolment,
    KnownHosts,
    Standing,
    challenge_enrolment,
    verify_activation,
    verify_endorsement_key,
    verify_enrolment,
)
from attestd.governance.enrolment import Activation
from attestd.governance.host import HOST_RECORD_TYPE, ClaimedKeys, parse_claimed_keys, parse_host_record
from attestd.governance.issue import sign_host_request
from attestd.governance.trust import parse_trust
from attestd.strict import canonical, format_time
from attestd.tcg.public import parse_public
from tests.governance.enrolling import KEY, LIFE, YEAR, Enrolling, allow, counting
from tests.governance.test_ek_trust import index, pem
from tests.tcg import build
from tests.tcg.ek_build import Authority
from tests.world import (
    Host,
    World,
    b64,
    described,
    dsse,
    ed25519_key,
    key_id,
    read_of,
    signer,
    spki,
    tpm_signature,
)

MAKER, CLOUD = Authority.root("maker"), Authority.root("cloud")


@pytest.fixture
def world() -> World:
    """One host of it is known; another, `new`, is believed."""
    world = World()
    world.extra |= {
        "ek-roots/index.json": index({"maker": "hardware", "cloud": "vtpm"}),
        "ek-roots/maker.pem": pem(MAKER.certificate),
        "ek-roots/cloud.pem": pem(CLOUD.certificate),
    }
    return world


@pytest.fixture
def host(world: World) -> Host:
    return Host("new", root=world.root)


@pytest.fixture
def new(world: World, host: Host) -> Enrolling:
    """A new host with a certificate of the manufacturer's."""
    return Enrolling(world, host, MAKER.ek(host.ek))


def activate(enrolling: Enrolling, activation: Activation, id_: str, **changes: Any) -> ActivatedEnrolment:
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
    challenge = enrolling.challenge()
    record = b64(enrolling.record(challenge.tier, **changes))
    return activate(enrolling, enrolling.activation(challenge, record=record), challenge.id)


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


class TestStanding:
    def known(self, enrolling: Enrolling) -> KnownHosts:
        return KnownHosts(enrolling.world.trust())

    def test_of_one_version_after_another(self, new: Enrolling, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only records that changed are read again; what is gone is known no more."""
        world, read = new.world, []
        first = KnownHosts(world.trust())
        first.read()

        def counting(data: bytes) -> ClaimedKeys:
            read.append(data)
            return parse_claimed_keys(data)

        monkeypatch.setattr(under_test, "parse_claimed_keys", counting)
        world.records[new.host.id] = world.host_record(new.host)
        second = KnownHosts(world.trust(), first)
        second.read()
        assert len(read) == 1
        assert second.standing(enrolled(new)) is Standing.SAME
        del world.records[new.host.id]
        assert KnownHosts(world.trust(), second).standing(enrolled(new)) is Standing.NEW
        assert len(read) == 1

    def test_a_key_of_another_host(self, new: Enrolling) -> None:
        """Whose record counts, or cannot be read now; not what says so and does not verify."""
        world, other = new.world, "ab" * 32
        name = f"hosts/{other}.json"
        stolen = {**world.host_record(new.host), "host": other}
        world.extra[name] = dsse(canonical(stolen), world.enrollers, payload_type=HOST_RECORD_TYPE)
        assert self.known(new).standing(enrolled(new)) is Standing.NEW, "it is no record of that host"
        moved = dsse(canonical(world.host_record(new.host)), world.enrollers, payload_type=HOST_RECORD_TYPE)
        world.extra[name] = moved
        assert self.known(new).standing(enrolled(new)) is Standing.NEW, "it lies under another's name"
        world.extra[name] = b"{}"
        assert self.known(new).standing(enrolled(new)) is Standing.NEW, "it is no record"

    def test_where_records_cannot_be_read(self, new: Enrolling) -> None:
        """Nobody is admitted while it is not known who is who."""
        world = new.world
        twin = Host("twin", root=world.root)
        twin.ak, twin.ak_public = new.host.ak, new.host.ak_public
        world.records[twin.id] = world.host_record(twin)
        files, metadata = world.files(), described(world.files())
        trust = parse_trust(read_of(files), metadata=metadata)
        known, refused = KnownHosts(trust), f"shows a key of host {twin.id}"
        known.read()
        del files[f"hosts/{twin.id}.json"]
        with pytest.raises(VerificationError, match=refused):
            known.standing(enrolled(new))
        with pytest.raises(StoreError, match="not there"):
            KnownHosts(trust).standing(enrolled(new))
        files[f"hosts/{twin.id}.json"] = b"another"
        with pytest.raises(StoreError, match="bytes, found"):
            KnownHosts(trust).standing(enrolled(new))

    def test_what_was_read_before_is_kept(self, world: World) -> None:
        """One record that cannot be read costs its own reading, not that of all."""
        others = [Host(f"other {number}", root=world.root) for number in range(5)]
        world.records |= {host.id: world.host_record(host) for host in others}
        files, read = world.files(), []

        def reading(name: str) -> bytes:
            read.append(name)
            return read_of(files)(name)

        trust = parse_trust(reading, metadata=described(files))
        names = sorted(name for name in files if name.startswith("hosts/"))
        last = [name for name, _ in trust.host_files][-1]
        whole = files.pop(last)
        known = KnownHosts(trust)
        read.clear()
        for times in (1, 2, 3):
            with pytest.raises(StoreError):
                known.read()
            assert len(read) == len(names) - 1 + times
        files[last] = whole
        known.read()
        read.clear()
        known.read()
        KnownHosts(trust, known).read()
        assert read == []

    @pytest.mark.parametrize("past", [False, True])
    def test_a_record_of_its_own_that_cannot_be_read(self, world: World, past: bool) -> None:
        """It is not new for that: who it was cannot be said now."""
        again = self.reinstalled(world)
        own = f"hosts/{world.host.id}.json"
        if past:
            world.extra[f"hosts/history/{world.host.id}-1.json"] = world.files()[own]
            own = f"hosts/history/{world.host.id}-1.json"
        files = world.files()
        trust = parse_trust(read_of(files), metadata=described(files))
        known = KnownHosts(trust)
        known.read()
        for changed in (None, b"another"):
            whole = files.pop(own)
            if changed is not None:
                files[own] = changed
            for ask in (known.standing, lambda made: known.reasons(made, now=world.now)):
                with pytest.raises(StoreError, match=rf"cannot be read now, ask again: {own}: "):
                    ask(enrolled(again))
            files[own] = whole
        assert known.standing(enrolled(again)) is Standing.REENROLMENT

    @pytest.mark.parametrize("past", [False, True])
    def test_a_record_of_its_own_that_does_not_verify(self, world: World, past: bool) -> None:
        """Its enroller was revoked, say: whether the keys are those of before is for a person, on the list or not."""
        same = self.same(world)
        second = ed25519_key("admission second enroller")
        world.authorities["keys"][key_id(second)] = {"spki": b64(spki(second))}
        world.authorities["enrollers"]["keys"].append(key_id(second))
        if past:
            own = f"hosts/history/{world.host.id}-1.json"
            world.extra[own] = world.files()[f"hosts/{world.host.id}.json"]
            world.records.clear()
        world.revocations["keys"] = [key_id(world.enrollers[0])]
        known = self.known(same)
        activated = enrolled(same, labels={})
        assert known.standing(activated) is Standing.REENROLMENT
        [reason] = known.reasons(activated, now=world.now)
        assert reason.startswith("its record does not verify, so that nobody knows which keys it had: hosts/")

    def test_a_new_host(self, new: Enrolling) -> None:
        activated = enrolled(new)
        known = self.known(new)
        assert known.standing(activated) is Standing.NEW
        [reason] = known.reasons(activated, now=new.world.now)
        assert reason == "a new host, vouched for by maker as hardware"

    def test_a_new_host_that_was_put_on_the_list(self, new: Enrolling) -> None:
        allow(new.world, new.host)
        assert self.known(new).reasons(enrolled(new), now=new.world.now) == ()

    def same(self, world: World) -> Enrolling:
        allow(world, world.host)
        return Enrolling(world, world.host)

    def test_the_same_host(self, world: World) -> None:
        same = self.same(world)
        activated = enrolled(same, labels={"role": "ci"})
        known = self.known(same)
        assert known.standing(activated) is Standing.SAME
        assert known.reasons(activated, now=world.now) == ()
        later = world.now + YEAR
        assert known.reasons(activated, now=later) == (f"its record ended at {format_time(later)}",)

    def test_what_a_host_says_of_itself_is_for_a_person(self, world: World) -> None:
        same = self.same(world)
        known = self.known(same)
        labels = known.reasons(enrolled(same, labels={"role": "prod", "a": "b"}), now=world.now)
        assert labels == ("labels a=b, role=prod, before role=ci",)
        assert known.reasons(enrolled(same), now=world.now) == ("labels none, before role=ci",)
        verity = enrolled(same, labels={"role": "ci"}, userspace="verity")
        assert known.reasons(verity, now=world.now) == ("userspace verity, before none",)

    def reinstalled(self, world: World) -> Enrolling:
        """The same TPM, its keys made anew."""
        again = world.host.reinstalled("again", root=world.root)
        allow(world, again)
        return Enrolling(world, again)

    def test_a_host_with_other_keys(self, world: World) -> None:
        again = self.reinstalled(world)
        activated = enrolled(again, labels={"role": "ci"})
        known = self.known(again)
        assert known.standing(activated) is Standing.REENROLMENT
        [reason] = known.reasons(activated, now=world.now)
        assert reason.startswith("other keys than before")

    def test_a_host_whose_record_went_into_the_history(self, world: World) -> None:
        same = self.same(world)
        old = f"hosts/history/{world.host.id}-1.json"
        world.extra[old] = world.files()[f"hosts/{world.host.id}.json"]
        world.records.clear()
        known = self.known(same)
        assert known.standing(enrolled(same)) is Standing.REENROLMENT

    def test_1_revoked(self, world: World) -> None:
        same = self.same(world)
        world.revocations["hosts"] = [world.host.id]
        with pytest.raises(VerificationError, match="is revoked: what was revoked is not enrolled again"):
            self.known(same).standing(enrolled(same))

    def test_2_one_tpm_is_one_host(self, world: World) -> None:
        """The same key in the area of another template: another host-id, and the TPM would open its credential."""
        twin = Host("twin", root=world.root)
        twin.ek = world.host.ek
        twin.ek_public = build.ek_public("H-2", twin.ek.public_key())
        from attestd.tcg.public import host_id

        twin.id = host_id(twin.ek_public)
        allow(world, twin)
        enrolling = Enrolling(world, twin)
        with pytest.raises(VerificationError, match="one TPM is one host"):
            self.known(enrolling).standing(enrolled(enrolling))

    @pytest.mark.parametrize("member", ["ak", "release_key"])
    def test_3_a_key_of_another_host(self, world: World, member: str) -> None:
        thief = Host("thief", root=world.root)
        allow(world, thief)
        enrolling = Enrolling(world, thief)
        setattr(thief, member, getattr(world.host, member))
        public = "ak_public" if member == "ak" else "release_public"
        setattr(thief, public, getattr(world.host, public))
        with pytest.raises(VerificationError, match=f"shows a key of host {world.host.id}"):
            self.known(enrolling).standing(enrolled(enrolling))

    def test_3_a_key_of_a_host_that_is_gone(self, world: World) -> None:
        thief = Host("thief", root=world.root)
        thief.release_key, thief.release_public = world.host.release_key, world.host.release_public
        allow(world, thief)
        old = f"hosts/history/{world.host.id}-1.json"
        world.extra[old] = world.files()[f"hosts/{world.host.id}.json"]
        world.records.clear()
        enrolling = Enrolling(world, thief)
        with pytest.raises(VerificationError, match="shows a key of host"):
            self.known(enrolling).standing(enrolled(enrolling))

    @pytest.mark.parametrize("member", ["ak", "release"])
    def test_one_key_that_is_new(self, world: World, member: str) -> None:
        again = self.reinstalled(world)
        kept = {"ak": ("release_key", "release_public"), "release": ("ak", "ak_public")}[member]
        for name in kept:
            setattr(again.host, name, getattr(world.host, name))
        assert self.known(again).standing(enrolled(again)) is Standing.REENROLMENT

    def test_reasons_refuse_as_well(self, world: World) -> None:
        same = self.same(world)
        world.revocations["hosts"] = [world.host.id]
        with pytest.raises(VerificationError, match="revoked"):
            self.known(same).reasons(enrolled(same), now=world.now)
