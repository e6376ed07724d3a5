"""Host records are verified when they are asked for: what that changes for nobody, and what an attacker gains by it: nothing."""

import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from attestd.errors import MalformedError, StoreError, VerificationError
from attestd.governance import host_records as under_test
from attestd.governance.host import HOST_RECORD_TYPE
from attestd.governance.host_records import KnownRecords, Read
from attestd.governance.trust import Trust, parse_trust
from attestd.strict import canonical
from tests.world import Host, World, described, dsse, ed25519_key, key_id, read_of, spki

FLEET = 12


class Mirror:
    """Files, and which of them were read."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.read: list[str] = []
        self.error: Exception | None = None

    def __call__(self, name: str) -> bytes:
        self.read.append(name)
        if self.error is not None and name.startswith("hosts/"):
            raise self.error
        return read_of(self.files)(name)

    @property
    def records_read(self) -> list[str]:
        return [name for name in self.read if name.startswith("hosts/")]


def load(world: World, read: Read, *, previous: Trust | None = None) -> Trust:
    return parse_trust(read, metadata=described(world.files()), previous=previous)


@pytest.fixture
def world() -> World:
    found = World("records")
    hosts = [found.host, *(Host(f"records {number}", root=found.root) for number in range(FLEET - 1))]
    found.records = {host.id: found.host_record(host) for host in hosts}
    return found


@pytest.fixture
def mirror(world: World) -> Mirror:
    return Mirror(world.files())


@pytest.fixture
def trust(world: World, mirror: Mirror) -> Trust:
    return load(world, mirror)


def name_of(host: str) -> str:
    return f"hosts/{host}.json"


# --- lazily --------------------------------------------------------------------------------------------------------


def test_names_are_known_without_reading(world: World, trust: Trust, mirror: Mirror) -> None:
    assert len(trust.hosts) == FLEET
    assert set(trust.hosts) == set(world.records)
    assert world.host.id in trust.hosts
    assert "ab" * 32 not in trust.hosts
    assert 5 not in trust.hosts
    assert (len(trust.host_history), list(trust.host_history), trust.host_history.get(world.host.id)) == (
        0,
        [],
        None,
    )
    assert dict(trust.unusable) == {}
    assert mirror.records_read == []


def test_a_record_is_read_once(world: World, trust: Trust, mirror: Mirror) -> None:
    first = trust.hosts[world.host.id]
    assert first.host == world.host.id
    assert trust.hosts.get(world.host.id) is first
    assert mirror.records_read == [name_of(world.host.id)]
    assert trust.hosts.get("ab" * 32) is None
    with pytest.raises(KeyError):
        trust.hosts["ab" * 32]
    assert trust.look_at_hosts() == FLEET
    assert sorted(mirror.records_read) == sorted(map(name_of, world.records))
    assert {host.host for host in trust.hosts.values()} == set(world.records)
    assert dict(trust.hosts.items())[world.host.id] is first


def test_the_next_set_goes_on_with_what_did_not_change(world: World, trust: Trust, mirror: Mirror) -> None:
    trust.look_at_hosts()
    changed, other = islice(world.records, 2)
    world.records[changed] |= {"labels": {"role": "new"}}
    mirror.files, mirror.read = world.files(), []
    after = load(world, mirror, previous=trust)
    assert after.hosts[other] is trust.hosts[other]
    assert after.hosts[changed].labels == {"role": "new"}
    assert mirror.records_read == [name_of(changed)]
    assert trust.hosts[changed].labels == {"role": "ci"}, (
        "and who decides by the set before goes on with that"
    )
    again = load(world, mirror, previous=after)
    assert again.digest == after.digest


def test_what_no_set_names_is_forgotten(
    world: World, trust: Trust, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_SLACK", 0)
    trust.look_at_hosts()
    gone = sorted(world.records)[:4]
    kept = trust.hosts[world.host.id]
    world.records = {host: record for host, record in world.records.items() if host not in gone}
    world.records[world.host.id] = world.host_record(world.host)
    after = load(world, mirror, previous=trust)
    last = load(world, mirror, previous=after)
    assert last.hosts[world.host.id] is kept
    mirror.read = []
    back = load(World("records"), mirror, previous=last)
    assert back.hosts.get(gone[0]) is None
    for host in gone:
        if host != world.host.id:
            trust.hosts[host]
    assert set(mirror.records_read) >= {name_of(host) for host in gone if host != world.host.id}


def test_history_is_read_when_it_is_asked_for(world: World) -> None:
    record = canonical(world.host_record(world.host))
    earlier = dsse(record, world.enrollers, payload_type=HOST_RECORD_TYPE)
    world.extra = {f"hosts/history/{world.host.id}-{number}.json": earlier for number in (2, 10)}
    world.extra[f"hosts/history/{world.host.id}-3.json"] = b"{}"
    mirror = Mirror(world.files())
    trust = load(world, mirror)
    assert list(trust.host_history) == [world.host.id]
    assert mirror.records_read == []
    assert len(trust.records(world.host.id)) == 3
    assert set(trust.unusable) == {f"hosts/history/{world.host.id}-3.json"}
    mirror.read = []
    assert len(trust.host_history[world.host.id]) == 2
    assert mirror.records_read == []
    with pytest.raises(KeyError):
        trust.host_history["ab" * 32]


def test_a_file_by_its_name(world: World, trust: Trust, mirror: Mirror) -> None:
    assert trust.file(name_of(world.host.id)) == mirror.files[name_of(world.host.id)]
    assert trust.file("hosts/a.json") is None
    mirror.files[name_of(world.host.id)] += b" "
    with pytest.raises(VerificationError, match="bytes, found"):
        trust.file(name_of(world.host.id))


def test_below_hosts_there_are_records_only(world: World) -> None:
    world.extra["hosts/a/b.json"] = b"{}"
    with pytest.raises(MalformedError, match="unknown file"):
        load(world, Mirror(world.files()))


# --- attacks -------------------------------------------------------------------------------------------------------


def other_than(world: World) -> str:
    return next(host for host in world.records if host != world.host.id)


def test_a_record_swapped_after_the_set_was_read(world: World, trust: Trust, mirror: Mirror) -> None:
    """What was promised is what the metadata names, whatever lies there: also another record that an enroller signed."""
    own = name_of(world.host.id)
    weaker = {**world.records[world.host.id], "tier": "hardware"}
    for data in (
        dsse(canonical(weaker), world.enrollers, payload_type=HOST_RECORD_TYPE),
        mirror.files[name_of(other_than(world))],
        b"",
        b"{}",
    ):
        before, mirror.files[own] = mirror.files[own], data
        assert trust.hosts.get(world.host.id) is None
        assert "governance: target hosts/" in trust.unusable[own]
        assert "governance: target" in trust.why_none(world.host.id)
        assert not trust.is_refused(own), "what lies there says nothing of the record"
        mirror.files[own] = before
    assert trust.hosts[world.host.id].tier == "software", "it is back, and it is believed"
    assert own not in trust.unusable
    assert trust.why_none(world.host.id) == ""
    mirror.files[own] = b"swapped again"
    assert trust.hosts[world.host.id].tier == "software", "and what was verified is what was promised"


def test_a_record_of_another_host_under_a_hosts_name(world: World) -> None:
    """As governance published it, so that the digest is right."""
    files, victim = world.files(), world.host.id
    files[name_of(victim)] = files[name_of(other_than(world))]
    world.records, world.extra = {}, files
    trust = load(world, read_of(files))
    assert trust.hosts[other_than_name(files, victim)].host != victim
    assert trust.hosts.get(victim) is None
    assert "it holds what belongs in" in trust.unusable[name_of(victim)]
    assert trust.is_refused(name_of(victim))
    assert trust.records(victim) == ()


def other_than_name(files: Mapping[str, bytes], victim: str) -> str:
    return next(
        name[6:-5]
        for name, data in files.items()
        if name.startswith("hosts/") and data == files[name_of(victim)] and name != name_of(victim)
    )


@pytest.mark.parametrize("host", ["", "history/" + "a" * 56, "../authorities", "A" * 64, "a" * 63])
def test_what_is_no_host_id(world: World, host: str) -> None:
    world.extra["hosts/history/" + "a" * 56 + ".json"] = world.files()[name_of(world.host.id)]
    trust = load(world, Mirror(world.files()))
    assert host not in trust.hosts
    assert trust.hosts.get(host) is None


def test_an_enrollers_key_is_revoked(world: World, trust: Trust, mirror: Mirror) -> None:
    """All its hosts end with the set that says so, whether they were looked at before or not; another's go on."""
    second = ed25519_key("records second enroller")
    world.authorities["keys"][key_id(second)] = {"spki": spki_of(second)}
    world.authorities["enrollers"]["keys"].append(key_id(second))
    theirs = other_than(world)
    record = dsse(canonical(world.records.pop(theirs)), [second], payload_type=HOST_RECORD_TYPE)
    world.extra[name_of(theirs)] = record
    mirror.files = world.files()
    before = load(world, mirror, previous=trust)
    some = list(islice(before.hosts, FLEET // 2))
    assert all(before.hosts.get(host) for host in some)
    world.revocations["keys"] = [key_id(world.enrollers[0])]
    mirror.files = world.files()
    after = load(world, mirror, previous=before)
    assert [host.host for host in after.hosts.values()] == [theirs]
    assert len(after.unusable) == FLEET - 1
    assert all(after.is_refused(name_of(host)) for host in world.records)
    world.revocations["requesters"] = [7]
    mirror.files, mirror.read = world.files(), []
    assert load(world, mirror, previous=after).hosts.get(world.host.id) is None
    assert mirror.records_read == [], "that is known, and stays so"


def spki_of(key: object) -> str:
    from tests.world import b64

    return b64(spki(key))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error", [StoreError("the disk fails"), VerificationError("a link"), MalformedError("too large")]
)
def test_what_cannot_be_read_is_tried_again(
    world: World, trust: Trust, mirror: Mirror, error: Exception
) -> None:
    mirror.error = error
    assert trust.hosts.get(world.host.id) is None
    assert trust.unusable[name_of(world.host.id)] == str(error)
    assert trust.records(world.host.id) == ()
    with pytest.raises(KeyError):
        trust.hosts[world.host.id]
    assert list(trust.hosts.values()) == []
    assert len(trust.unusable) == FLEET
    with pytest.raises(type(error)):
        trust.claimed_keys(name_of(world.host.id))
    mirror.error = None
    assert trust.hosts[world.host.id].host == world.host.id
    assert len(list(trust.hosts.values())) == FLEET
    assert dict(trust.unusable) == {}


def test_what_does_not_verify_is_not_read_again(world: World) -> None:
    world.records[world.host.id]["tier"] = "none"
    mirror = Mirror(world.files())
    trust = load(world, mirror)
    assert trust.hosts.get(world.host.id) is None
    assert trust.hosts.get(world.host.id) is None
    assert mirror.records_read == [name_of(world.host.id)]
    assert world.host.id in trust.hosts, "governance names it"
    assert trust.claimed_keys(name_of(world.host.id)) is None


def test_records_that_are_not_here(world: World, mirror: Mirror) -> None:
    """As on another host: which they are, so that they can be downloaded."""
    past = f"hosts/history/{world.host.id}-1.json"
    record = canonical(world.host_record(world.host))
    world.extra[past] = dsse(record, world.enrollers, payload_type=HOST_RECORD_TYPE)
    own = name_of(world.host.id)
    mirror.files = {name: data for name, data in world.files().items() if name not in (own, past)}
    trust = load(world, mirror)
    assert trust.unread(world.host.id) == [own, past]
    assert trust.unread("ab" * 32) == []
    with pytest.raises(StoreError, match=f"cannot be read now, ask again: {own}: "):
        trust.known_records(world.host.id)
    assert trust.known_records("ab" * 32) == KnownRecords(None, (), ())
    mirror.files = world.files()
    assert trust.unread(world.host.id) == []
    known = trust.known_records(world.host.id)
    assert known.usable == (known.present, *known.earlier) == trust.records(world.host.id)
    assert (len(known.usable), known.refused) == (2, ())
    mirror.files[name_of(other_than(world))] = b"another"
    assert trust.unread(other_than(world)) == [name_of(other_than(world))]


def test_what_cannot_be_read_is_forgotten(
    world: World, trust: Trust, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told of by the set in which it could not be read, and by that of the latest few."""
    monkeypatch.setattr(under_test, "_MOST_UNREADABLE", 3)
    mirror.error = StoreError("no such file")
    hosts = list(trust.hosts)
    assert [trust.hosts.get(host) for host in hosts] == [None] * FLEET
    assert set(trust.unusable) == set(map(name_of, hosts[-3:]))
    assert dict(load(world, mirror, previous=trust).unusable) == {}


def test_what_concerns_one_host(world: World, mirror: Mirror) -> None:
    """Its own records, first, and what nobody can use; another's that is not there is nobody's fault."""
    broken, elsewhere = [host for host in sorted(world.records) if host != world.host.id][:2]
    world.records[broken]["tier"] = "none"
    mirror.files = world.files()
    del mirror.files[name_of(elsewhere)]
    trust = load(world, mirror)
    trust.look_at_hosts()
    assert set(trust.unusable) == {name_of(broken), name_of(elsewhere)}
    assert set(trust.faults(world.host.id)) == {name_of(broken)}
    assert list(trust.faults(elsewhere)) == [name_of(elsewhere), name_of(broken)]


def test_reasons_are_of_one_moment(trust: Trust, mirror: Mirror) -> None:
    """While somebody goes through them, another thread reads what could not be read before."""
    for found in (trust.unusable.items, trust.unusable.values, trust.unusable.keys):
        fresh = iter(found())
        assert list(fresh) == []
        mirror.error = StoreError("the disk fails")
        for host in trust.hosts:
            trust._memo.records._memory.present.clear()
            trust.hosts.get(host)
        going = iter(found())
        next(going)
        mirror.error = None
        trust.look_at_hosts()
        assert sum(1 for _ in going) == FLEET - 1


def test_the_same_list_is_gone_through_once(world: World, mirror: Mirror) -> None:
    metadata = described(world.files())
    first = parse_trust(mirror, metadata=metadata)
    again = parse_trust(mirror, metadata=metadata, previous=first)
    assert (len(again.hosts), again.digest) == (FLEET, first.digest)
    assert again.hosts[world.host.id] is first.hosts[world.host.id]


# --- many at a time ------------------------------------------------------------------------------------------------


@pytest.fixture
def switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching")
def test_many_threads_ask(world: World, mirror: Mirror) -> None:
    """While sets follow each other, one host comes and goes, and another's record is not what it should be."""
    broken, moving = sorted(world.records)[:2]
    good = world.files()
    mirror.files[name_of(broken)] = b"not that"
    record, stop = world.records[moving], threading.Event()
    box = [load(world, mirror)]

    def ask(_: int) -> int:
        count = 0
        while not stop.is_set():
            trust = box[0]
            for host in trust.hosts:
                found = trust.hosts.get(host)
                assert found is None if host == broken else found is None or found.host == host
                assert found is not None or host in (broken, moving)
            assert len(trust.unusable) <= 2
            assert FLEET - 2 <= sum(1 for _ in trust.hosts.values()) <= FLEET
            count += 1
        return count

    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(ask, number) for number in range(6)]
        for number in range(40):
            if number % 2:
                world.records[moving] = record
            else:
                world.records.pop(moving)
            mirror.files = {**good, **world.files(), name_of(broken): b"not that"}
            box[0] = load(world, mirror, previous=box[0])
        stop.set()
        assert all(job.result() for job in asking)


def test_iterating_while_the_set_is_replaced(world: World, trust: Trust, mirror: Mirror) -> None:
    seen = []
    for host in trust.hosts:
        seen.append(host)
        world.revocations["requesters"] = [len(seen)]
        mirror.files = world.files()
        load(world, mirror, previous=trust).look_at_hosts()
    assert len(seen) == FLEET
