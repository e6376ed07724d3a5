"""One host record after another: what enrollers sign of the one before, and what does not count as that."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from attestd.authorization.dsse import parse_envelope
from attestd.errors import MalformedError, VerificationError
from attestd.governance.host import HOST_RECORD_TYPE, MAX_HOST_RECORD_BYTES, VerifiedHost
from attestd.governance.issue import sign_host_request
from attestd.governance.succession import (
    HANDOVER,
    draft_ended_record,
    ends_late,
    place_host_record,
    retire_host_record,
    verify_ended_record,
    warn_of_succession,
)
from attestd.strict import canonical, format_time, parse_json, parse_time
from tests.world import Host, World, signer

YEAR = timedelta(days=365)


@pytest.fixture
def world() -> World:
    return World()


def previous(world: World) -> bytes:
    return world.files()[f"hosts/{world.host.id}.json"]


def payload(record: bytes) -> dict[str, Any]:
    found = parse_envelope(record, payload_type=HOST_RECORD_TYPE, max_bytes=MAX_HOST_RECORD_BYTES).payload
    return dict(parse_json(found, max_bytes=MAX_HOST_RECORD_BYTES, what="record"))


def successor(world: World, **changes: Any) -> bytes:
    """A record of other labels, drafted an hour later."""
    begins = format_time(world.now + timedelta(hours=1))
    return canonical({**payload(previous(world)), "labels": {"role": "new"}, "not_before": begins, **changes})


def signed(world: World, data: bytes, *keys: Any) -> bytes:
    return sign_host_request(data, signers=[signer(key) for key in keys or world.enrollers])


def verified(world: World, data: bytes) -> VerifiedHost:
    return verify_ended_record(
        data, previous=previous(world), authorities=world.trust().authorities, revoked_keys=frozenset()
    )


def test_it_ends_when_the_next_one_was_drafted(world: World) -> None:
    ended = draft_ended_record(previous(world), successor=successor(world))
    assert ended is not None
    found = verified(world, signed(world, ended))
    assert found.not_after == world.now + timedelta(hours=1) + HANDOVER
    before = payload(previous(world))
    now = payload(signed(world, ended))
    assert {name for name in before if before[name] != now[name]} == {"not_after"}


def test_an_earlier_end_stays(world: World) -> None:
    late = successor(world, not_before=format_time(parse_time(payload(previous(world))["not_after"]) + YEAR))
    ended = draft_ended_record(previous(world), successor=late)
    assert ended is not None
    assert verified(world, signed(world, ended)).not_after == world.trust().hosts[world.host.id].not_after


def test_the_same_record_ends_not(world: World) -> None:
    assert draft_ended_record(previous(world), successor=canonical(payload(previous(world)))) is None
    with pytest.raises(MalformedError):
        draft_ended_record(previous(world), successor=b"{}")


def test_what_is_not_its_end(world: World) -> None:
    record = payload(previous(world))
    for changes in (
        {"labels": {"role": "other"}},
        {"not_after": format_time(parse_time(record["not_after"]) + YEAR)},
        {"tier": "hardware"},
    ):
        with pytest.raises(VerificationError, match="is not the present record"):
            verified(world, signed(world, canonical({**record, **changes})))
    ended = draft_ended_record(previous(world), successor=successor(world))
    assert ended is not None
    with pytest.raises(VerificationError):
        verified(world, signed(world, ended, world.authors[0]))
    for data in (b"{}", sign_host_request(ended, signers=[])):
        with pytest.raises((MalformedError, VerificationError)):
            verified(world, data)


def test_who_signs_is_told_what_ends(world: World) -> None:
    """A record that begins now and keeps the keys says nothing; one that waited, or has others, does."""
    present, hour = world.trust().hosts[world.host.id], timedelta(hours=1)

    def told(data: bytes, after: timedelta = hour, seen: datetime | None = None) -> tuple[str, ...]:
        return warn_of_succession(data, present=present, seen=seen, now=world.now + after)

    same = successor(world)
    assert told(same) == told(same, 24 * hour) == ()
    [late] = told(same, 25 * hour)
    assert late == (
        f"it waited: it begins at {format_time(world.now + hour)}, 1 day ago, and holds from then on, not from now"
    )
    assert ", 2 days ago, and" in told(same, 50 * hour)[0]
    stranger = world.host_record(Host("stranger", root=world.root))
    keys = {name: stranger[name] for name in ("ak", "release_key")}
    for changed in (keys, {"ak": keys["ak"]}, {"release_key": keys["release_key"]}):
        [ends] = told(successor(world, **changed))
        end = world.now + hour + HANDOVER
        assert ends.startswith(
            f"the keys before (ak {present.ak_name.hex()}) end at {format_time(end)}: nothing that"
        )
    other = successor(world, **keys)
    assert warn_of_succession(other, present=None, seen=None, now=world.now + hour) == ()
    assert told(other, 25 * hour) == (late, ends)
    for data, after, is_late in ((other, 25, True), (other, 24, False), (same, 25, False)):
        assert ends_late(data, present=present, now=world.now + after * hour) is is_late
    assert not ends_late(other, present=None, now=world.now + 25 * hour)
    assert told(other, seen=end) == (ends,)
    assert told(other, seen=end + hour) == (ends, "the host has attested since")
    # They had ended by then anyway.
    over = successor(
        world,
        **keys,
        not_before=format_time(present.not_after),
        not_after=format_time(present.not_after + YEAR),
    )
    assert told(over, present.not_after - world.now) == ()
    with pytest.raises(MalformedError):
        told(b"{}")


def test_its_place(world: World) -> None:
    host, files = world.host.id, world.files()
    assert place_host_record(files, b"new", host=host, ended=None) == {f"hosts/{host}.json": b"new"}
    ended = retire_host_record(previous(world), not_after=world.now, signers=[signer(world.enrollers[0])])
    placed = place_host_record({**files, f"hosts/history/{host}-1.json": b""}, b"new", host=host, ended=ended)
    assert placed == {f"hosts/{host}.json": b"new", f"hosts/history/{host}-2.json": ended}
