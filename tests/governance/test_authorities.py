"""`authorities.json`: keys, rules and their order, thresholds, the TPM's authorities."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.authorization.dsse import PublicKey
from attestd.authorization.secret import ALL_SECRET, NOTHING_SECRET, Secrets
from attestd.errors import MalformedError
from attestd.governance.authorities import Authorities, Team, parse_authorities, unusable_team
from attestd.strict import canonical
from attestd.tcg.nv import epoch_name
from attestd.tcg.policy import release_policy
from attestd.tcg.public import authority_name
from tests.world import World, b64, digest, ed25519_key, key_id, p256, spki


@pytest.fixture
def world() -> World:
    return World(authors=3, threshold=2)


def parse(world: World) -> Authorities:
    return parse_authorities(canonical(world.authorities))


def refused(world: World) -> str:
    with pytest.raises(MalformedError) as raised:
        parse(world)
    return str(raised.value)


def add_rule(world: World, name: str, *paths: str, uids: list[int] | None = None, first: bool = True) -> None:
    rule = {**world.authorities["authorizations"][0], "name": name, "paths": list(paths), "uids": uids}
    world.authorities["authorizations"].insert(0 if first else 99, rule)


def test_names_follow_from_keys(world: World) -> None:
    authorities = parse(world)
    assert authorities.root.name == authority_name(world.root.public_key())
    assert authorities.root.key_id == key_id(world.root)
    assert authorities.epoch_name == epoch_name(authority_name(world.epoch_key.public_key()))
    assert authorities.release_policy == release_policy(authority_name(world.root.public_key()))
    assert set(authorities.platform) == {key_id(world.platform_key)}
    assert [key.key_id for key in authorities.enroller_keys] == [key_id(key) for key in world.enrollers]


def test_the_first_rule_that_covers_decides(world: World) -> None:
    """A strict rule is not weakened by a lax one after it."""
    add_rule(world, "deploys", "/usr/bin/deploy", "/opt/deploy/", uids=[1001, 1002])
    authorities = parse(world)

    def rule(executable: str, uid: int) -> str | None:
        found = authorities.rule_for(executable=executable, uid=uid)
        return found.name if found else None

    assert rule("/usr/bin/deploy", 1001) == "deploys"
    assert rule("/opt/deploy/a/b", 1002) == "deploys"
    assert rule("/usr/bin/deploy", 0) == "local"
    assert rule("/usr/bin/deploy2", 1001) == "local"
    assert rule("/usr/bin/deploy/x", 1001) == "local"
    assert rule("/opt/deploy", 1001) == "local"
    assert rule("/opt/deployment/x", 1001) == "local"


def test_no_rule(world: World) -> None:
    world.authorities["authorizations"] = []
    assert parse(world).rule_for(executable="/usr/bin/deploy", uid=0) is None


@pytest.mark.parametrize("path", ["/", "/usr/bin/deploy", "/usr/", "/ü x/"])
def test_real_paths(world: World, path: str) -> None:
    world.authorities["authorizations"][0]["paths"] = [path]
    assert parse(world).rules[0].paths == (path,)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "usr/bin/x",
        "./x",
        "//",
        "/usr//bin",
        "//usr",
        "/usr/./x",
        "/usr/../x",
        "/..",
        "/../",
        "/x\0",
        "/usr//",
    ],
)
def test_paths_that_would_never_match(world: World, path: str) -> None:
    """Misspelt, a strict rule would leave its scope to the lax one after it."""
    world.authorities["authorizations"][0]["paths"] = ["/usr/", path]
    assert "real, absolute path" in refused(world)


def test_two_rules_of_one_name(world: World) -> None:
    add_rule(world, "local", "/usr/")
    assert "same name" in refused(world)


@pytest.mark.parametrize("threshold", [1, 3])
def test_thresholds(world: World, threshold: int) -> None:
    world.authorities["authorizations"][0]["threshold"] = threshold
    assert parse(world).rules[0].threshold == threshold


@pytest.mark.parametrize("threshold", [0, -1, 4, 17])
def test_thresholds_that_mean_nothing_or_never_hold(world: World, threshold: int) -> None:
    world.authorities["authorizations"][0]["threshold"] = threshold
    refused(world)
    world.authorities["authorizations"][0]["threshold"] = 1
    world.authorities["enrollers"]["threshold"] = threshold or 2
    refused(world)


def test_one_key_twice_is_one_key(world: World) -> None:
    one = key_id(world.authors[0])
    world.authorities["authorizations"][0]["keys"] = [one, one]
    assert "1 distinct" in refused(world)


@pytest.mark.parametrize("where", ["rule", "enrollers", "root", "platform", "epoch"])
def test_unknown_keys(world: World, where: str) -> None:
    unknown = key_id(p256("unknown"))
    file: dict[str, Any] = world.authorities
    if where == "rule":
        file["authorizations"][0]["keys"][0] = unknown
    elif where == "enrollers":
        file["enrollers"]["keys"] = [unknown]
    else:
        file["tpm"][where] = [unknown] if where == "platform" else unknown
    assert f"unknown key {unknown}" in refused(world)


def test_one_platform_key_twice(world: World) -> None:
    world.authorities["tpm"]["platform"] *= 2
    refused(world)


def test_several_platform_keys(world: World) -> None:
    second = p256("second platform key")
    world.authorities["keys"][key_id(second)] = {"spki": b64(spki(second))}
    world.authorities["tpm"]["platform"].append(key_id(second))
    assert set(parse(world).platform) == {key_id(world.platform_key), key_id(second)}


@pytest.mark.parametrize("where", ["root", "platform", "epoch"])
def test_tpm_authorities_are_p256(world: World, where: str) -> None:
    """TPMs verify nothing better everywhere; an Ed25519 key would only fail later, on the host."""
    p384 = ec.derive_private_key(7, ec.SECP384R1())
    for key in (ed25519_key("x"), p384):
        identity = key_id(key)
        world.authorities["keys"][identity] = {"spki": b64(spki(key))}
        world.authorities["tpm"][where] = [identity] if where == "platform" else identity
        assert "must be an ECDSA P-256 key" in refused(world)


def test_key_ids_are_recomputed(world: World) -> None:
    """Two ids for one key would be two votes."""
    keys = world.authorities["keys"]
    keys["00" * 32] = keys[key_id(world.authors[0])]
    assert "has the id" in refused(world)


def test_keys_of_a_second_encoding(world: World) -> None:
    point = world.root.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    prefix = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
    compressed = prefix + point
    world.authorities["keys"][digest(compressed)] = {"spki": b64(compressed)}
    refused(world)


def test_keys_of_another_kind(world: World) -> None:
    numbers = rsa.RSAPublicNumbers(65537, (1 << 2047) + 2**600 + 1)
    der = numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    world.authorities["keys"][digest(der)] = {"spki": b64(der)}
    assert "expected Ed25519 or ECDSA" in refused(world)


def test_distinct_keys_in_rules(world: World) -> None:
    keys = parse(world).rules[0].keys
    assert set(keys) == {PublicKey(spki(key)) for key in world.authors}


def test_secrets(world: World) -> None:
    for none in ({}, {"secret": None}):
        world.authorities["authorizations"][0] |= none
        assert parse(world).rules[0].secrets == NOTHING_SECRET
    add_rule(world, "deploys", "/usr/bin/deploy", "/opt/", uids=[1001])
    world.authorities["authorizations"][0]["secret"] = {"argv": [2, 3], "env": ["TOKEN"]}
    authorities = parse(world)
    secrets = Secrets(frozenset({2, 3}), frozenset({"TOKEN"}))
    assert authorities.rules[0].secrets == secrets
    assert authorities.secrets_of("/usr/bin/deploy") == secrets
    assert authorities.secrets_of("/opt/x") == secrets
    assert authorities.secrets_of("/usr/bin/other") == NOTHING_SECRET
    assert authorities.secrets_of(None) == secrets
    scope = Team(paths=("/opt/",), uids=None, max_depth=0, name="web")
    assert unusable_team(scope, "it does not verify").secrets == ALL_SECRET


@pytest.mark.parametrize(
    "secret",
    [
        {"argv": [], "env": []},
        {"argv": [0], "env": []},
        {"argv": [65_536], "env": []},
        {"argv": [1]},
        {"argv": [1], "env": ["A=B"]},
        {"argv": [], "env": ["PATH"]},
        {"argv": [], "env": [], "cwd": True},
    ],
)
def test_secrets_that_are_none(world: World, secret: Any) -> None:
    world.authorities["authorizations"][0]["secret"] = secret
    assert "authorities.json" in refused(world)
