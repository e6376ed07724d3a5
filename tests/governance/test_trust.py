"""The trust files as one set: names, what is missing, what is unknown, version and digest."""

from hashlib import sha256
from typing import Any

import pytest

from attestd.errors import AttestdError, MalformedError, VerificationError
from attestd.governance.policy_schema import DEFAULT_POLICY
from attestd.governance.trust import Trust, parse_trust
from attestd.strict import canonical
from tests.world import Host, World, key_id


@pytest.fixture
def world() -> World:
    return World()


def refused(files: dict[str, bytes], error: type[AttestdError] = MalformedError) -> str:
    with pytest.raises(error) as raised:
        parse_trust(files)
    return str(raised.value)


def test_verifies(world: World) -> None:
    trust = world.trust()
    assert trust.version == 3
    assert set(trust.platforms) == {"local"}
    assert set(trust.hosts) == {world.host.id}
    assert trust.history == {}
    assert trust.policies.digest("exec") == sha256(DEFAULT_POLICY).hexdigest()


@pytest.mark.parametrize("name", ["authorities.json", "revocations.json", "platform", "hosts"])
def test_missing(world: World, name: str) -> None:
    files = {path: data for path, data in world.files().items() if not path.startswith(name)}
    assert "missing" in (message := refused(files)) or "at least one" in message


def test_empty() -> None:
    refused({})


@pytest.mark.parametrize(
    "name",
    [
        "extra.json",
        "Authorities.json",
        "authorities.json.bak",
        "platform",
        "platform/history/old/local-1.json",
        "hosts/a/b.json",
        "mesh.json",
        "policy/exec.txt",
        "policy/team/exec.cedar",
        "teams/a/exec.cedar",
        "",
        "/authorities.json",
        "./authorities.json",
        "other/local.json",
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
        (f"hosts/{world.host.id}", host),
    ):
        assert "holds what belongs in" in refused({**files, name: data}, VerificationError)


def test_a_file_of_another_kind(world: World) -> None:
    files = world.files()
    refused({**files, f"hosts/{world.host.id}.json": files["platform/local.json"]})
    refused({**files, "platform/local.json": files["revocations.json"]})


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
    assert trust.version == 4, "what was once in force does not make governance newer"


def test_history_is_verified_like_the_rest(world: World) -> None:
    old = world.platform_file()
    old["approvals"][0]["epoch"] += 1
    world.history["local-1"] = old
    refused(world.files(), VerificationError)


def test_several_platforms_and_hosts(world: World) -> None:
    other = Host("other", root=world.root)
    world.records[other.id] = world.host_record(other)
    world.platforms["prod-server"] = world.platform_file("prod-server", version=7)
    trust = world.trust()
    assert set(trust.hosts) == {world.host.id, other.id}
    assert set(trust.platforms) == {"local", "prod-server"}
    assert trust.version == 1 + 1 + 1 + 7


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
    version = world.trust().version
    for file in (world.authorities, world.revocations, world.platforms["local"]):
        file["version"] += 1
        version += 1
        assert world.trust().version == version


@pytest.mark.parametrize("version", [0, 2**31 + 1])
def test_versions_are_bounded(world: World, version: int) -> None:
    for file in (world.authorities, world.revocations, world.platforms["local"]):
        old, file["version"] = file["version"], version
        refused(world.files())
        file["version"] = old
    assert world.trust()


def test_revoked_keys_reach_every_file(world: World) -> None:
    world.revocations["keys"] = [key_id(world.platform_key)]
    assert world.trust().platforms["local"].approvals == ()
    world.revocations["keys"] = [key_id(world.enrollers[0])]
    refused(world.files(), VerificationError)


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
    first, second = world.trust(), parse_trust(dict(reversed(world.files().items())))
    assert isinstance(first, Trust)
    assert first.digest == second.digest
    assert canonical(first.revocations) == canonical(second.revocations)
