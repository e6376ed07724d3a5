"""The trust files as one set: names, what is missing or unknown, what is left out alone, version and digest."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from attestd.errors import (
    AttestdError,
    GovernanceRollbackError,
    MalformedError,
    StoreError,
    VerificationError,
)
from attestd.governance.host import HOST_RECORD_TYPE
from attestd.governance.policy_schema import DEFAULT_POLICY
from attestd.governance.trust import Trust, parse_trust, require_still_revoked
from attestd.strict import canonical
from tests.governance.make_vectors import IMA_POLICY
from tests.repository import LIFETIME
from tests.world import (
    NOW,
    Host,
    World,
    b64,
    described,
    dsse,
    ed25519_key,
    key_id,
    looked_at,
    p256,
    parse_files,
    read_of,
    spki,
)


@pytest.fixture
def world() -> World:
    return World()


def refused(files: dict[str, bytes], error: type[AttestdError] = MalformedError) -> str:
    with pytest.raises(error) as raised:
        parse_files(files)
    return str(raised.value)


def left_out(files: dict[str, bytes], name: str) -> str:
    """Why that file alone is not usable: all others are."""
    trust = parse_files(files)
    assert set(trust.unusable) == {name}
    return trust.unusable[name]


def test_verifies(world: World) -> None:
    trust = world.trust()
    assert (trust.version, trust.versions.targets) == (1, {"targets": 1})
    assert (trust.expires, trust.expires_role, trust.issued) == (NOW + LIFETIME, "root", NOW)
    assert set(trust.platforms) == {"local"}
    assert set(trust.hosts) == {world.host.id}
    assert (trust.history, trust.unusable) == ({}, {})
    assert trust.policies.digest("exec") == sha256(DEFAULT_POLICY).hexdigest()


@pytest.mark.parametrize("name", ["authorities.json", "revocations.json"])
def test_without_these_nothing_is_trusted(world: World, name: str) -> None:
    files = world.files()
    del files[name]
    assert f"no {name}" in refused(files)
    files[name] = b"{}"
    refused(files)


def test_empty() -> None:
    refused({})


def test_a_fleet_before_its_first_host(world: World) -> None:
    world.records, world.platforms = {}, {}
    assert (world.trust().hosts, world.trust().platforms) == ({}, {})


def test_exactly_the_files_that_are_signed(world: World) -> None:
    """Whoever reads the mirror cannot forget to compare: it is compared here."""
    files = world.files()
    metadata = described(files)
    assert parse_trust(read_of(files), metadata=metadata)
    changed = {**files, "revocations.json": files["revocations.json"] + b" "}
    less = {name: data for name, data in files.items() if name != "platform/local.json"}
    with pytest.raises(StoreError, match="not there"):
        parse_trust(read_of(less), metadata=metadata)
    with pytest.raises(VerificationError, match=r"target revocations.json: expected"):
        parse_trust(read_of(changed), metadata=metadata)
    more = parse_trust(
        read_of({**files, "platform/other.json": files["platform/local.json"]}), metadata=metadata
    )
    assert more.platforms.keys() == {"local"}, "what no role signs is not looked at"


@pytest.mark.parametrize(
    "name",
    [
        "extra.json",
        "Authorities.json",
        "authorities.json.bak",
        "platform",
        "platform/history/old/local-1.json",
        "hosts",
        "hosts/a/b.json",
        "mesh/one.json",
        "policy/exec.json",
        "policy/a/exec.cedar",
        "policy/exec.txt",
        "policy/team/exec.cedar",
        "",
        "/authorities.json",
        "./authorities.json",
        "other/local.json",
        "ima/fleet.txt",
        "ima/history/fleet.json",
    ],
)
def test_unknown_files(world: World, name: str) -> None:
    """An unknown file is not ignored: whoever put it there expects that it does something."""
    files = world.files()
    assert "unknown file" in refused({**files, name: files["revocations.json"]})


def test_every_file_lies_where_its_name_says(world: World) -> None:
    files = world.files()
    platform, host = files["platform/local.json"], files[f"hosts/{world.host.id}.json"]
    for name, data in (
        ("platform/other.json", platform),
        ("platform/local", platform),
        ("platform/history/local.json", platform),
        ("platform/history/local-2.json", platform),
        ("hosts/" + "00" * 32 + ".json", host),
    ):
        assert "holds what belongs in" in left_out({**files, name: data}, name)
    for name in (f"hosts/{world.host.id}", "hosts/a.json", "hosts/history/a.json"):
        assert "expected hosts/HOST.json" in left_out({**files, name: host}, name)


def test_a_file_of_another_kind(world: World) -> None:
    files = world.files()
    host = f"hosts/{world.host.id}.json"
    left_out({**files, host: files["platform/local.json"]}, host)
    left_out({**files, "platform/local.json": files["revocations.json"]}, "platform/local.json")


def test_history(world: World) -> None:
    old = world.platform_file(values={pcr: bytes(32) for pcr in world.values})
    world.history["local-1"] = old
    world.platforms["local"] = world.platform_file(version=2)
    trust = world.trust()
    current, earlier = trust.platform_version("local", 2), trust.platform_version("local", 1)
    assert current is trust.platforms["local"]
    assert earlier is not None
    assert earlier is trust.history["local", 1]
    assert trust.platform_version("local", 3) is None
    assert trust.platform_version("other", 1) is None


def test_history_is_verified_like_the_rest(world: World) -> None:
    old = world.platform_file()
    old["approvals"][0]["epoch"] += 1
    world.history["local-1"] = old
    assert "policy digest" in left_out(world.files(), "platform/history/local-1.json")


def test_the_ima_policy_that_a_platform_policy_goes_by(world: World) -> None:
    world.extra["ima/fleet.json"] = data = canonical(IMA_POLICY)
    world.platforms["local"]["reference"]["ima"] = {"policy": "fleet", "sha256": sha256(data).hexdigest()}
    trust = world.trust()
    found = trust.platforms["local"].ima
    assert found is not None
    assert trust.ima == {found.sha256: data}
    assert trust.unusable == {}


def test_without_its_ima_policy_a_platform_policy_is_none(world: World) -> None:
    """Fail closed: also when the file came, went or changed while the platform policy stayed as it was."""
    data = canonical(IMA_POLICY)
    reference = world.platforms["local"]["reference"]
    reference["ima"] = {"policy": "fleet", "sha256": sha256(data).hexdigest()}
    name, last = "platform/local.json", None
    for extra, why in (
        ({}, "found no such file"),
        ({"ima/fleet.json": data}, None),
        ({"ima/fleet.json": b"{}"}, f"found {sha256(b'{}').hexdigest()}"),
        ({"ima/other.json": data}, "found no such file"),
    ):
        world.extra = extra
        last = parse_trust(read_of(world.files()), metadata=described(world.files()), previous=last)
        assert ("local" in last.platforms) == (why is None)
        assert (why or "") in last.unusable.get(name, "")


def test_history_needs_no_ima_policy(world: World) -> None:
    """It verifies old receipts, and allows nothing."""
    old = world.platform_file()
    old["reference"]["ima"] = {"policy": "gone", "sha256": "ab" * 32}
    world.history["local-1"] = old
    world.platforms["local"] = world.platform_file(version=2)
    assert ("local", 1) in world.trust().history


def test_several_platforms_and_hosts(world: World) -> None:
    other = Host("other", root=world.root)
    world.records[other.id] = world.host_record(other)
    world.platforms["prod-server"] = world.platform_file("prod-server", version=7)
    trust = world.trust()
    assert set(trust.hosts) == {world.host.id, other.id}
    assert set(trust.platforms) == {"local", "prod-server"}


def test_the_digest_is_of_every_name_and_byte(world: World) -> None:
    seen = {world.trust().digest}
    world.revocations["requesters"] = [5]
    seen.add(world.trust().digest)
    world.records[world.host.id]["labels"] = {"role": "other"}
    seen.add(world.trust().digest)
    world.history["local-1"] = world.platforms["local"]
    seen.add(world.trust().digest)
    assert len(seen) == 4
    assert world.trust().digest == world.trust().digest


def test_the_version_rises_with_each_file(world: World) -> None:
    """It is the snapshot's: also a change that forgot to count itself is a newer set."""
    assert world.trust().version == 1
    world.revocations["requesters"] = [5]
    assert world.trust().version == 2
    world.records[world.host.id]["labels"] = {}
    assert world.trust().version == 3
    assert world.trust().version == 3


@pytest.mark.parametrize("version", [0, 2**31 + 1])
def test_versions_are_bounded(world: World, version: int) -> None:
    for file in (world.authorities, world.revocations):
        old, file["version"] = file["version"], version
        refused(world.files())
        file["version"] = old
    world.platforms["local"]["version"] = version
    left_out(world.files(), "platform/local.json")


def test_revoked_keys_reach_every_file(world: World) -> None:
    world.revocations["keys"] = [key_id(world.platform_key)]
    assert world.trust().platforms["local"].approvals == ()
    assert world.trust().unusable == {}, "a policy without approvals allows nothing, and says why"
    world.revocations["keys"] = [key_id(world.enrollers[0])]
    host = f"hosts/{world.host.id}.json"
    assert "every enroller key is revoked" in left_out(world.files(), host)


def test_a_revoked_enroller_ends_only_the_hosts_that_rest_on_it(world: World) -> None:
    other, second = Host("other", root=world.root), ed25519_key("second enroller")
    world.authorities["keys"][key_id(second)] = {"spki": b64(spki(second))}
    world.authorities["enrollers"]["keys"].append(key_id(second))
    world.revocations["keys"] = [key_id(world.enrollers[0])]
    name = f"hosts/{other.id}.json"
    world.extra[name] = dsse(canonical(world.host_record(other)), [second], payload_type=HOST_RECORD_TYPE)
    trust = world.trust()
    assert [host.host for host in trust.hosts.values()] == [other.id]
    assert set(trust.unusable) == {f"hosts/{world.host.id}.json"}
    assert set(trust.platforms) == {"local"}


def test_a_host_under_another_tpm_root_is_left_out(world: World) -> None:
    """The TPM root is replaced: hosts that still have their old release key are out, the others go on."""
    stranger = Host("stranger", root=p256("another root"))
    world.records[stranger.id] = world.host_record(stranger)
    left_out(world.files(), f"hosts/{stranger.id}.json")


# --- revocations ---------------------------------------------------------------------------------------------------


def test_a_bump(world: World) -> None:
    world.revocations |= {"epoch": 3, "bump": world.bump(3)}
    bump = world.trust().revocations.bump
    assert bump is not None
    assert bump.epoch == 3


def test_a_bump_to_another_epoch(world: World) -> None:
    """TPM and software must not differ in what is approved."""
    world.revocations |= {"epoch": 2, "bump": world.bump(3)}
    assert "bump is to epoch 3, the least epoch is 2" in refused(world.files())


def test_a_bump_that_the_epoch_authority_did_not_sign(world: World) -> None:
    world.revocations |= {"epoch": 3, "bump": world.bump(3, key=world.root)}
    assert "not signed by the epoch authority" in refused(world.files(), VerificationError)
    world.revocations["bump"] = {**world.bump(2), "epoch": 3}
    refused(world.files(), VerificationError)
    world.revocations["bump"] = {"epoch": 3, "sig": "AA=="}
    refused(world.files(), VerificationError)


@pytest.mark.parametrize(
    ("member", "values"),
    [
        *((member, ["ab" * 32, "cd" * 32]) for member in ("artifacts", "keys", "hosts", "subjects")),
        ("requesters", [7, 9]),
    ],
)
def test_what_was_revoked_stays_revoked(world: World, member: str, values: list[Any]) -> None:
    world.revocations[member] = values[:1]
    before = world.trust().revocations
    world.revocations |= {member: values, "version": 2}
    more = world.trust().revocations
    require_still_revoked(before, more)
    require_still_revoked(before, before)
    with pytest.raises(
        GovernanceRollbackError, match=f"{member}: expected {values[1]}, which version 2 revokes"
    ):
        require_still_revoked(more, before)


def test_the_epoch_does_not_go_back(world: World) -> None:
    before = world.trust().revocations
    world.revocations |= {"epoch": 3, "bump": world.bump(3)}
    after = world.trust().revocations
    require_still_revoked(before, after)
    with pytest.raises(GovernanceRollbackError, match="expected 3 or more"):
        require_still_revoked(after, before)


# --- teams ---------------------------------------------------------------------------------------------------------


def test_a_team(world: World) -> None:
    """Its rules come after those of the top level, those of several teams in the order of their names."""
    for name in ("b", "a-b", "a"):
        world.add_team(name, paths=["/opt/"], uids=[1001], max_depth=2)
    world.authorities["authorizations"][0]["paths"] = ["/usr/"]
    trust = world.trust()
    assert [rule.name for rule in trust.authorities.rules] == ["local", "a/all", "a-b/all", "b/all"]
    assert trust.versions.targets.keys() == {"targets", "team-a", "team-a-b", "team-b"}
    rule = trust.authorities.rule_for(executable="/opt/x", uid=1001)
    assert rule is not None
    assert rule.name == "a/all"
    assert trust.authorities.rule_for(executable="/opt/x", uid=0) is None
    assert trust.authorities.teams["a"].covers(executable="/opt/x", uid=1001)
    assert not trust.authorities.teams["a"].covers(executable="/usr/x", uid=1001)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"paths": ["/opt/"]}, "path '/opt/'"),
        ({"paths": ["/opt/payments"]}, "path '/opt/payments'"),
        ({"paths": ["/opt/payments/x", "/usr/bin/id"]}, "path '/usr/bin/id'"),
        ({"uids": None}, "any user"),
        ({"uids": [1001, 0]}, "uid 0"),
        ({"max_depth": 2}, "max_depth 2 > 1"),
        ({"paths": ["/opt/payments/../x"]}, "not a real, absolute path"),
        ({"threshold": 2}, "2 of 1"),
    ],
)
def test_a_team_beyond_its_scope(world: World, change: dict[str, Any], why: str) -> None:
    """Then nobody may authorize anything in it: the next team, or nobody's rule, must not decide instead."""
    world.authorities["authorizations"][0]["paths"] = ["/usr/"]
    world.add_team("payments", paths=["/opt/payments/"], uids=[1001], max_depth=1)
    world.add_team("z", paths=["/opt/"])
    world.teams["payments"]["authorizations"][0] |= change
    trust = world.trust()
    name = "teams/payments/authorities.json"
    assert set(trust.unusable) == {name}
    assert why in trust.unusable[name]
    rule = trust.authorities.rule_for(executable="/opt/payments/x", uid=1001)
    assert rule is not None
    assert (rule.name, rule.keys, rule.unusable) == ("payments/", (), trust.unusable[name])
    other = trust.authorities.rule_for(executable="/opt/other", uid=1001)
    assert other is not None
    assert other.name == "z/all"


@pytest.mark.parametrize(
    "change",
    [{"paths": ["/opt/payments/bin/"]}, {"paths": ["/opt/payments/x"]}, {"uids": [1001]}, {"max_depth": 0}],
)
def test_a_team_within_its_scope(world: World, change: dict[str, Any]) -> None:
    world.add_team("payments", paths=["/opt/payments/"], uids=[1001, 1002], max_depth=1)
    world.teams["payments"]["authorizations"][0] |= change
    assert world.trust().unusable == {}


def test_a_team_without_rules_yet(world: World) -> None:
    world.add_team("a", paths=["/opt/"])
    del world.teams["a"]
    assert [rule.name for rule in world.trust().authorities.rules] == ["local"]


def test_files_of_teams(world: World) -> None:
    world.add_team("a", paths=["/opt/"])
    world.extra = {
        "teams/a/policy/exec.cedar": DEFAULT_POLICY,
        "teams/a/policy/typo.cedar": b"a",
        "teams/a/policy/Capital.cedar": DEFAULT_POLICY,
        "teams/a/policy/exec.json": b"b",
        "teams/a/other.json": b"c",
        "teams/b/authorities.json": b"d",
        "teams/b/policy/exec.cedar": b"e",
    }
    trust = world.trust()
    assert trust.policies.digest("a/exec") == sha256(DEFAULT_POLICY).hexdigest()
    unusable = dict(trust.unusable)
    assert "expected policy/<name>.cedar or" in unusable.pop("teams/a/policy/Capital.cedar")
    assert unusable.pop("teams/a/policy/typo.cedar").startswith("teams/a/policy/typo.cedar")
    assert unusable == {
        "teams/a/policy/exec.json": "not a file that a team may have",
        "teams/a/other.json": "not a file that a team may have",
        "teams/b/authorities.json": "authorities.json names no team 'b'",
        "teams/b/policy/exec.cedar": "authorities.json names no team 'b'",
    }


@pytest.mark.parametrize("name", ["", "A", "a/b", "-a", "a_b", "a" * 33])
def test_names_of_teams(world: World, name: str) -> None:
    world.authorities["teams"][name] = {"paths": ["/opt/"], "uids": None, "max_depth": 0}
    refused(world.files())


def test_paths_of_teams(world: World) -> None:
    world.authorities["teams"]["a"] = {"paths": ["opt/"], "uids": None, "max_depth": 0}
    assert "team 'a': 'opt/' is not a real, absolute path" in refused(world.files())


# --- the set as a whole --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("artifacts", ["aa"]),
        ("keys", ["AA" * 32]),
        ("hosts", ["zz" * 32]),
        ("subjects", [b"aa".hex()]),
        ("requesters", [-1]),
        ("requesters", [2**32 - 1]),
        ("requesters", ["0"]),
        ("epoch", -1),
    ],
)
def test_revocations_that_would_revoke_nothing(world: World, member: str, value: Any) -> None:
    """What can never match is a mistake of someone who believes that something is revoked."""
    world.revocations[member] = value
    refused(world.files())


def test_trust_is_the_same_for_the_same_files(world: World) -> None:
    first, second = parse_files(world.files()), parse_files(dict(reversed(world.files().items())))
    assert isinstance(first, Trust)
    assert first.digest == second.digest
    assert canonical(first.revocations) == canonical(second.revocations)


# --- what was verified before --------------------------------------------------------------------------------------


def after(previous: Trust, files: dict[str, bytes]) -> Trust:
    """With what was trusted before at hand: the same as without."""
    found = looked_at(parse_trust(read_of(files), metadata=described(files), previous=previous))
    anew = parse_files(files)
    assert replace(found, policies=anew.policies) == anew
    assert found.policies.unusable == anew.policies.unusable
    return found


def test_only_what_changed_is_verified_again(world: World) -> None:
    world.history["local-1"] = world.platform_file()
    world.platforms["local"] = world.platform_file(version=2)
    world.add_team("a", paths=["/opt/"])
    world.extra["platform/broken.json"] = b"{}"
    first = parse_files(world.files())
    world.revocations["requesters"] = [5]
    second = after(first, world.files())
    assert second.hosts[world.host.id] is first.hosts[world.host.id]
    assert second.history["local", 1] is first.history["local", 1]
    assert second.policies is first.policies
    assert second.unusable == first.unusable
    world.records[world.host.id]["labels"] = {}
    third = after(second, world.files())
    assert third.hosts[world.host.id].labels == {}
    assert third.platforms["local"] is first.platforms["local"]


def test_other_policies_or_other_scopes_of_teams_are_parsed_again(world: World) -> None:
    world.add_team("a", paths=["/opt/"])
    world.extra["teams/a/policy/exec.cedar"] = DEFAULT_POLICY
    first = parse_files(world.files())
    world.authorities["teams"]["a"]["paths"] = ["/usr/"]
    second = after(first, world.files())
    assert second.policies is not first.policies
    world.policies["policy/exec.cedar"] = DEFAULT_POLICY + b"// other"
    third = after(second, world.files())
    assert third.policies.digest("exec") == sha256(DEFAULT_POLICY + b"// other").hexdigest()
    del world.extra["teams/a/policy/exec.cedar"]
    assert after(third, world.files()).policies.digest("a/exec") is None


def test_a_revoked_key_has_all_of_it_verified_again(world: World) -> None:
    first = parse_files(world.files())
    world.revocations["keys"] = [key_id(world.enrollers[0])]
    assert after(first, world.files()).hosts == {}
    world.revocations["keys"] = [key_id(world.platform_key)]
    assert after(first, world.files()).platforms["local"].approvals == ()


def test_other_authorities_have_all_of_it_verified_again(world: World) -> None:
    world.add_team("a", paths=["/opt/"])
    first = parse_files(world.files())
    world.authorities["teams"]["a"]["paths"] = ["/opt/a/"]
    assert set(after(first, world.files()).unusable) == {"teams/a/authorities.json"}
    world.authorities["enrollers"]["keys"] = [key_id(world.authors[0])]
    assert after(first, world.files()).hosts == {}


def test_the_same_bytes_under_another_name_are_another_file(world: World) -> None:
    first = parse_files(world.files())
    moved = {**world.files(), "platform/other.json": world.files()["platform/local.json"]}
    assert set(after(first, moved).unusable) == {"platform/other.json"}
