"""Which hosts are known, by any of their keys: who comes again, who comes in disguise, and what a person decides."""

import pytest

from attestd.errors import StoreError, VerificationError
from attestd.governance import trust as under_test
from attestd.governance.host import HOST_RECORD_TYPE, ClaimedKeys, parse_claimed_keys
from attestd.governance.known_hosts import KnownHosts, Standing
from attestd.governance.trust import parse_trust
from attestd.strict import canonical, format_time
from tests.governance.enrolling import MAKER, YEAR, Enrolling, allow, believing, enrolled
from tests.tcg import build
from tests.world import Host, World, b64, described, dsse, ed25519_key, key_id, read_of, spki


@pytest.fixture
def world() -> World:
    return believing()


@pytest.fixture
def new(world: World) -> Enrolling:
    """A new host with a certificate of the manufacturer's."""
    host = Host("new", root=world.root)
    return Enrolling(world, host, MAKER.ek(host.ek))


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
