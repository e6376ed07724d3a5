"""Next versions of trust files, each of which hosts accept."""

import json

import pytest

from attestd.authorization.dsse import PublicKey
from attestd.errors import MalformedError, UsageError
from attestd.governance.authorities import parse_authorities
from attestd.governance.draft import RoleKeys
from attestd.governance.edits import (
    draft_shared_authorities,
    with_epoch,
    with_revoked,
    with_rule,
    with_team,
    without_bump,
    without_rule,
    without_team,
)
from tests.world import World, ed25519_key, p256, signer, spki


@pytest.fixture
def world() -> World:
    return World()


def public(key: object) -> PublicKey:
    return PublicKey(spki(key))  # type: ignore[arg-type]


def test_authorities_of_a_fleet() -> None:
    people = tuple(public(ed25519_key(name)) for name in ("alice", "bob"))
    root, first, second, epoch = (public(p256(name)) for name in ("root", "one", "two", "epoch"))
    data = draft_shared_authorities(
        authorization=RoleKeys(people, 2),
        enrollers=RoleKeys(people[:1]),
        root=root,
        platform=[first, second],
        epoch=epoch,
    )
    found = parse_authorities(data)
    (rule,) = found.rules
    assert (rule.name, rule.threshold, rule.keys) == ("all", 2, people)
    assert (found.enroller_keys, found.enroller_threshold) == (people[:1], 1)
    assert (found.root.key_id, found.epoch.key_id) == (root.key_id, epoch.key_id)
    assert set(found.platform) == {first.key_id, second.key_id}


def test_teams(world: World) -> None:
    present = world.files()["authorities.json"]
    data = with_team(present, team="web", paths=["/usr/bin/deploy"], uids=[9, 7], max_depth=1)
    found = parse_authorities(data)
    assert (found.teams["web"].paths, found.teams["web"].uids, found.version) == (
        ("/usr/bin/deploy",),
        {7, 9},
        2,
    )
    assert (
        parse_authorities(with_team(present, team="web", paths=["/"], uids=None, max_depth=0))
        .teams["web"]
        .uids
        is None
    )
    assert not parse_authorities(without_team(data, team="web")).teams
    with pytest.raises(UsageError, match="there are: none"):
        without_team(present, team="web")
    with pytest.raises(MalformedError):
        with_team(present, team="web", paths=["relative"], uids=None, max_depth=0)
    with pytest.raises(MalformedError):
        with_team(b"{}", team="web", paths=["/"], uids=None, max_depth=0)


def test_rules(world: World) -> None:
    present = world.files()["authorities.json"]
    keys = [public(ed25519_key(name)) for name in ("alice", "bob")]
    data = with_rule(present, name="deploy", keys=keys, paths=["/usr/bin/deploy"], uids=[7], max_depth=2)
    first, *rest = parse_authorities(data).rules
    assert (first.name, first.threshold, first.uids, first.max_depth) == ("deploy", 2, {7}, 2)
    assert [rule.name for rule in rest] == [rule.name for rule in parse_authorities(present).rules]
    again = with_rule(data, name="deploy", threshold=1)
    assert parse_authorities(again).rules[0].keys == tuple(keys)
    *_, last = parse_authorities(with_rule(present, name="x", keys=keys, paths=["/"], is_last=True)).rules
    assert last.name == "x"
    assert parse_authorities(without_rule(data, name="deploy")).rules == parse_authorities(present).rules
    for missing in ({"keys": keys}, {"paths": ["/"]}):
        with pytest.raises(UsageError, match="--key and --path"):
            with_rule(present, name="new", **missing)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="there is no rule"):
        without_rule(present, name="none")
    with pytest.raises(MalformedError):
        with_rule(data, name="deploy", threshold=3)


def test_revoking(world: World) -> None:
    present = world.files()["revocations.json"]
    data = with_revoked(present, {"artifacts": ["ab" * 32], "requesters": [7]})
    value = json.loads(data)
    assert (value["version"], value["artifacts"], value["requesters"]) == (2, ["ab" * 32], [7])
    more = json.loads(with_revoked(data, {"artifacts": ["aa" * 32, "ab" * 32]}))
    assert more["artifacts"] == ["aa" * 32, "ab" * 32]
    for nothing in ({}, {"requesters": [7]}):
        with pytest.raises(UsageError, match="nothing to revoke"):
            with_revoked(data, nothing)
    with pytest.raises(MalformedError):
        with_revoked(data, {"keys": ["not a key id"]})


def test_an_epoch(world: World) -> None:
    files = world.files()
    sign = signer(world.epoch_key)
    data = with_epoch(files["revocations.json"], authorities=files["authorities.json"], epoch=5, sign=sign)
    world.revocations = json.loads(data)
    found = world.trust().revocations  # which verifies the signature
    assert found.bump is not None
    assert (found.epoch, found.bump.epoch, found.version) == (5, 5, 2)
    made_anew = json.loads(without_bump(data))
    assert (made_anew["epoch"], made_anew["bump"], made_anew["version"]) == (5, None, 3)
    with pytest.raises(UsageError, match="expected 6 or more"):
        with_epoch(data, authorities=files["authorities.json"], epoch=5, sign=sign)
    with pytest.raises(UsageError, match="not the epoch authority"):
        with_epoch(data, authorities=files["authorities.json"], epoch=6, sign=signer(p256("another")))
