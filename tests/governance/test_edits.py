"""Next versions of trust files, each of which hosts accept."""

import json
from typing import Any

import pytest

from attestd.authorization.dsse import PublicKey
from attestd.authorization.secret import Secrets
from attestd.errors import MalformedError, UsageError
from attestd.governance.authorities import parse_authorities
from attestd.governance.changes import describe_changes
from attestd.governance.draft import RoleKeys
from attestd.governance.edits import (
    Reapproved,
    draft_shared_authorities,
    with_epoch,
    with_revoked,
    with_rule,
    with_states,
    with_team,
    without_bump,
    without_rule,
    without_team,
)
from attestd.governance.issue import Sign
from attestd.strict import canonical, format_time
from tests.world import NOW, SELECTION, World, ed25519_key, key_id, p256, signer, spki


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


def other_state(world: World, *, epoch: int, max_epoch: int = 9) -> dict[str, Any]:
    """An approval of another state."""
    values = {pcr: bytes([pcr]) * 32 for pcr in SELECTION.pcrs}
    approval: dict[str, Any] = world.platform_file(values=values, epoch=epoch, max_epoch=max_epoch)[
        "approvals"
    ][0]
    return approval


def test_states_over_an_epoch(world: World) -> None:
    """What is kept is approved again; what holds for longer stays as it is; the rest ends."""
    lasting, ended = other_state(world, epoch=7), world.platform_file(max_epoch=9)["approvals"][0]
    world.platforms["local"] = world.platform_file(max_epoch=9)
    world.platforms["local"]["approvals"] = [ended, lasting, {**ended, "epoch": 0, "pcr_digest": "ab" * 32}]
    file = canonical(world.platforms["local"])
    world.platforms["local"]["approvals"].pop()  # of an epoch that is over, and therefore not told of
    world.revocations |= {"epoch": 1}
    trust = world.trust()
    first, second = (item["pcr_digest"] for item in (ended, lasting))

    by_platform = signer(world.platform_key)

    def bump(epoch: int, *keep: str, sign: Sign | None = by_platform) -> Reapproved:
        return with_states(
            file, authorities=trust.authorities, revocations=trust.revocations, epoch=epoch,
            keep=lambda digest: digest in keep, sign=sign,
        )  # fmt: skip

    found = bump(2, first)
    assert (found.kept, found.ended) == ((first, second), ())
    assert found.data is not None
    world.platforms["local"] = json.loads(found.data)
    world.history["local-1"] = json.loads(canonical({**json.loads(file), "approvals": [ended, lasting]}))
    world.revocations |= {"epoch": 2, "bump": world.bump(2)}
    policy = world.trust().platforms["local"]
    assert policy.version == 2
    assert all(policy.approval_for(bytes.fromhex(state), epoch=2, at=NOW) for state in (first, second))
    assert bump(2) == Reapproved(None, (second,), (first,))
    assert bump(8) == Reapproved(None, (), (first, second))
    with pytest.raises(UsageError, match=f"--platform-key is needed: it approves state {first}"):
        bump(2, first, sign=None)
    with pytest.raises(UsageError, match="the root did not approve platform key"):
        bump(10, first)
    with pytest.raises(UsageError, match="the root did not approve platform key"):
        bump(2, first, sign=signer(p256("another")))


def test_windows_of_states_that_end_go_with_them(world: World) -> None:
    """A window of no approved state would make the policy none."""
    file = world.platform_file(max_epoch=9)
    other = world.platform_file(values={pcr: bytes(32) for pcr in world.values}, max_epoch=9)
    file["approvals"] += other["approvals"]
    first, second = (item["pcr_digest"] for item in file["approvals"])
    file["lifecycle"]["windows"] = [
        {"pcr_digest": state, "not_after": format_time(NOW)} for state in (first, second)
    ]
    world.platforms["local"] = file
    trust = world.trust()
    found = with_states(
        canonical(file), authorities=trust.authorities, revocations=trust.revocations, epoch=2,
        keep=lambda digest: digest == first, sign=signer(world.platform_key),
    )  # fmt: skip
    assert found.data is not None
    world.platforms["local"] = json.loads(found.data)
    assert world.trust().platforms["local"].windows == {bytes.fromhex(first): NOW}


def test_states_by_a_revoked_key(world: World) -> None:
    """They are over already."""
    world.revocations["keys"] = [key_id(world.platform_key)]
    trust = world.trust()
    found = with_states(
        canonical(world.platforms["local"]),
        authorities=trust.authorities,
        revocations=trust.revocations,
        epoch=2,
        keep=lambda _: True,
        sign=signer(world.platform_key),
    )
    assert found == Reapproved(None, (), ())


def test_what_is_secret(world: World) -> None:
    present = canonical(world.authorities)
    marked = with_rule(present, name="local", secret=([3, 2, 3], ["TOKEN"]))
    assert json.loads(marked)["authorizations"][0]["secret"] == {"argv": [2, 3], "env": ["TOKEN"]}
    kept = with_rule(marked, name="local", threshold=1)
    assert parse_authorities(kept).rules[0].secrets == Secrets(frozenset({2, 3}), frozenset({"TOKEN"}))
    told = with_rule(kept, name="local", secret=((), ()))
    assert "secret" not in json.loads(told)["authorizations"][0]
    with pytest.raises(MalformedError, match="no variable"):
        with_rule(present, name="local", secret=([], ["PATH"]))
    changes = describe_changes({"authorities.json": present}, {"authorities.json": marked})
    assert [change.words for change in changes if "secret" in change.words] == [
        f"authority local: +secret {place}" for place in ("argv[2]", "argv[3]", "env:TOKEN")
    ]
    assert not any(change.is_weaker for change in changes)
    back = describe_changes({"authorities.json": marked}, {"authorities.json": told})
    assert [change.words for change in back if change.is_weaker] == [
        f"authority local: -secret {place}" for place in ("argv[2]", "argv[3]", "env:TOKEN")
    ]
