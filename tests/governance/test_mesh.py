"""`mesh.json`: whose results and cosignatures count, and what is left out with which words."""

from base64 import b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.errors import MalformedError, VerificationError
from attestd.governance.changes import describe_changes
from attestd.governance.mesh import NO_MESH, UNUSABLE_MESH, MeshTrust, parse_mesh
from attestd.strict import canonical
from attestd.tlog.vkey import cosignature_vkey, format_vkey, mldsa_vkey
from tests.tlog.keys import ed25519_vkey
from tests.world import World, b64, ed25519_key, key_id, p256, spki


def raw(name: str) -> bytes:
    return ed25519_key(name).public_key().public_bytes_raw()


def witness(name: str, key: str | None = None) -> dict[str, str]:
    return {
        "url": f"https://{name}:8443/witness",
        "vkey": format_vkey(cosignature_vkey(name, raw(key or name))),
    }


def mesh(world: World, **members: Any) -> dict[str, Any]:
    """Two of each kind, one of them asked; `members` replace."""
    file = {
        "v": 1,
        "version": 1,
        "enrollers": {"one": {"url": "https://one.example", "key_id": key_id(world.enrollers[0])}},
        "verifiers": {
            "quorum": 1,
            "nodes": {
                "one": {"url": "https://one.example", "key": b64(spki(p256("verifier one")))},
                "two": {"url": "http://127.0.0.1:8443", "key": b64(spki(ed25519_key("verifier two")))},
            },
        },
        "witnesses": {"quorum": 1, "nodes": {"one": witness("one"), "two": witness("two")}},
    }
    return {**file, **members}


def parsed(world: World, **members: Any) -> MeshTrust:
    return parse_mesh(
        canonical(mesh(world, **members)), authorities=world.trust().authorities, revoked_keys=()
    )


def verifiers(*keys: bytes, quorum: int = 0, url: str = "https://a") -> dict[str, Any]:
    nodes = {f"n{number}": {"url": url, "key": b64encode(key).decode()} for number, key in enumerate(keys)}
    return {"quorum": quorum, "nodes": nodes}


def test_a_mesh() -> None:
    world = World()
    assert world.trust().mesh == NO_MESH
    world.extra["mesh.json"] = canonical(mesh(world))
    found = world.trust().mesh
    assert world.trust().unusable == {}
    assert found.enrollers["one"].key_id == key_id(world.enrollers[0])
    assert found.verifiers["two"].url == "http://127.0.0.1:8443"
    assert found.verifiers["one"].key.spki_der == spki(p256("verifier one"))
    assert found.witnesses["two"].key.name == "two"
    assert (found.verifier_quorum, found.witness_quorum) == (1, 1)


def test_a_witness_with_a_key_of_each_kind_counts_once() -> None:
    key = MLDSA44PrivateKey.from_seed_bytes(bytes(32)).public_key().public_bytes_raw()
    nodes = {
        "one": witness("one"),
        "one-pq": {"url": "https://one", "vkey": format_vkey(mldsa_vkey("one", key))},
    }
    found = parsed(World(), witnesses={"quorum": 1, "nodes": nodes})
    assert (len(found.witnesses), found.witness_names) == (2, {"one"})
    with pytest.raises(MalformedError, match="witnesses: a quorum of 2, and 1 to reach it"):
        parsed(World(), witnesses={"quorum": 2, "nodes": nodes})


def test_a_mesh_that_is_unusable_is_reached_by_nobody() -> None:
    world = World()
    world.extra["mesh.json"] = canonical({**mesh(world), "more": 1})
    trust = world.trust()
    assert trust.mesh == UNUSABLE_MESH
    assert trust.mesh.verifier_quorum > len(trust.mesh.verifiers)
    assert "unknown field `more`" in trust.unusable["mesh.json"]


def test_revoked_nodes_count_no_more_and_the_quorum_stays() -> None:
    world = World()
    world.extra["mesh.json"] = canonical(mesh(world))
    keys = [p256("verifier one"), ed25519_key("two"), world.enrollers[0]]
    world.revocations["keys"] = sorted(map(key_id, keys))
    found = world.trust().mesh
    assert (list(found.verifiers), list(found.witnesses), list(found.enrollers)) == (["two"], ["one"], [])
    assert (found.verifier_quorum, found.witness_quorum) == (1, 1)


def test_an_enroller_that_authorities_do_not_name() -> None:
    world = World()
    with pytest.raises(
        VerificationError, match=r"enroller 'one': expected a key of authorities\.json's enrollers"
    ):
        parsed(world, enrollers={"one": {"url": "https://one", "key_id": "ab" * 32}})


P384 = ec.derive_private_key(7, ec.SECP384R1())
COMPRESSED = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + p256(
    "verifier one"
).public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"verifiers": verifiers(spki(p256("a")), quorum=2)}, "verifiers: a quorum of 2, and 1 to reach it"),
        ({"verifiers": verifiers(spki(p256("a")), spki(p256("a")))}, "verifiers: the same key twice"),
        (
            {
                "verifiers": verifiers(
                    P384.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
                )
            },
            "verifier 'n0': expected an Ed25519 or P-256 key",
        ),
        ({"verifiers": verifiers(COMPRESSED)}, "not in its plain DER form"),
        ({"verifiers": verifiers(b"")}, "not a DER"),
        ({"witnesses": {"quorum": 1, "nodes": {}}}, "witnesses: a quorum of 1, and 0 to reach it"),
        (
            {"witnesses": {"quorum": 0, "nodes": {"a": witness("a", "k"), "b": witness("b", "k")}}},
            "witnesses: the same key twice",
        ),
        (
            {
                "witnesses": {
                    "quorum": 0,
                    "nodes": {"a": {"url": "https://a", "vkey": format_vkey(ed25519_vkey("a", raw("a")))}},
                }
            },
            "expected a key of cosignatures",
        ),
        ({"version": 0}, "version"),
        ({"verifiers": {"quorum": 17, "nodes": {}}}, "quorum"),
        ({"enrollers": {"A": {"url": "https://a", "key_id": "ab" * 32}}}, "enrollers"),
        ({"lease_keys": []}, "unknown field"),
    ],
)
def test_refused(members: dict[str, Any], reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        parsed(World(), **members)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a",
        "https://",
        "https://user@a",
        "https://a?x",
        "https://a#x",
        "https://a/",
        "https://a/../b",
        "https://A",
        "https://a:0",
        "https://a\n",
        "//a",
        "https://a/%2e",
        "https://-a",
        "https://" + "a" * 600,
    ],
)
def test_urls_that_could_be_read_in_two_ways(url: str) -> None:
    with pytest.raises(MalformedError, match="url"):
        parsed(World(), verifiers=verifiers(spki(p256("a")), url=url))


@pytest.mark.parametrize("url", ["https://[::1]:8443/v1", "http://a", "https://a.b-c.example/attestd/v1"])
def test_urls(url: str) -> None:
    assert parsed(World(), verifiers=verifiers(spki(p256("a")), url=url)).verifiers["n0"].url == url


def test_what_changes_in_words() -> None:
    world = World()
    before = mesh(world)
    after = mesh(world, version=2, verifiers=verifiers(spki(p256("a"))), enrollers={})
    after["witnesses"]["quorum"] = 2
    after["witnesses"]["nodes"]["one"] = witness("other", "one")
    said = [
        ("! " if change.is_weaker else "  ") + change.words
        for change in describe_changes({"mesh.json": canonical(before)}, {"mesh.json": canonical(after)})
    ]
    vkeys = [before["witnesses"]["nodes"]["one"]["vkey"], after["witnesses"]["nodes"]["one"]["vkey"]]
    assert sorted(said) == sorted(
        [
            "! mesh quorum: verifiers 1 -> 0",
            "  mesh quorum: witnesses 1 -> 2",
            "  enroller one: removed",
            "  verifier one: removed",
            "  verifier two: removed",
            f"! witness one: +key {vkeys[1]}",
            f"  witness one: -key {vkeys[0]}",
            "  witness one: url https://one:8443/witness -> https://other:8443/witness",
            "  mesh: version 1 -> 2",
            f"! verifier n0: added: key {b64(spki(p256('a')))}; url https://a",
        ]
    )
    gone = describe_changes({"mesh.json": canonical(before)}, {})
    assert any(change.is_weaker and change.words == "mesh quorum: removed" for change in gone)
