"""`mesh.json`: whose results and cosignatures count, and what is left out with which words."""

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.errors import MalformedError, VerificationError
from attestd.governance.changes import describe_changes
from attestd.governance.mesh import NO_MESH, UNUSABLE_MESH, MeshTrust, parse_mesh
from attestd.governance.trust import parse_trust
from attestd.strict import canonical, format_time
from attestd.tlog.vkey import cosignature_vkey, format_vkey, mldsa_vkey
from tests.tlog.keys import ed25519_vkey
from tests.world import NOW, World, b64, described, ed25519_key, key_id, p256, spki


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


# --- earlier versions


END = NOW + timedelta(days=7)


def twice_replaced(world: World) -> None:
    """Version 3 is in force; the enroller of the first two is one no longer."""
    world.extra["mesh.json"] = canonical(mesh(world))
    world.replace_mesh(canonical(mesh(world, verifiers=verifiers(spki(p256("a"))))), handover=END)
    nobody = {"quorum": 0, "nodes": {}}
    last = canonical(mesh(world, verifiers=nobody, witnesses=nobody, enrollers={}))
    world.replace_mesh(last, handover=END + timedelta(days=1))


def test_earlier_versions_each_end_with_the_handover_of_the_next() -> None:
    world = World()
    twice_replaced(world)
    first = world.extra["mesh/history/1.json"]
    trust = world.trust()
    assert (trust.unusable, sorted(trust.mesh_history)) == ({}, [1, 2])
    found = trust.mesh_version(1)
    assert (found.version, found.digest, found.until) == (1, hashlib.sha256(first).hexdigest(), END)
    assert (set(found.verifiers), found.witness_names) == ({"one", "two"}, {"one", "two"})
    assert found.counts_at(END - timedelta(microseconds=1))
    assert not found.counts_at(END)
    assert trust.mesh_version(2).until == END + timedelta(days=1)
    assert (trust.mesh_version(3), trust.mesh.until) == (trust.mesh, None)
    assert trust.mesh.counts_at(END + timedelta(days=4000))
    for version, hint in ((0, "$"), (4, "; a newer copy")):
        with pytest.raises(
            VerificationError, match=rf"version {version} .* not in the trust .* one of 1, 2, 3{hint}"
        ):
            trust.mesh_version(version)
    with pytest.raises(VerificationError, match=r"one of none$"):
        World().trust().mesh_version(0)


def test_a_handover_that_is_too_far_ahead_is_shortened_by_the_next() -> None:
    world = World()
    world.extra["mesh.json"] = canonical(mesh(world, handover=format_time(END + timedelta(days=2))))
    world.replace_mesh(canonical(mesh(world)), handover=END + timedelta(days=9999))
    assert world.trust().mesh_version(1).until == END + timedelta(days=9999)
    world.replace_mesh(canonical(mesh(world)), handover=END)
    trust = world.trust()
    assert {version: found.until for version, found in trust.mesh_history.items()} == {0: END, 1: END, 2: END}
    world.replace_mesh(canonical(mesh(world)), handover=END + timedelta(days=1))
    assert world.trust().mesh_version(2).until == END, "an end only moves earlier"
    assert world.trust().mesh_version(3).until == END + timedelta(days=1)


def test_nobody_asks_the_enrollers_of_earlier_versions() -> None:
    """An enroller that is replaced is no longer in authorities.json: what its controller verified stands."""
    world = World()
    gone = {"one": {"url": "https://one.example", "key_id": "ab" * 32}}
    world.extra["mesh.json"] = canonical(mesh(world, enrollers=gone))
    assert world.trust().mesh == UNUSABLE_MESH
    world.replace_mesh(canonical(mesh(world)))
    assert world.trust().unusable == {}
    assert world.trust().mesh_version(1).enrollers == {}


def test_a_revoked_key_counts_in_no_version() -> None:
    world = World()
    twice_replaced(world)
    world.revocations["keys"] = sorted(map(key_id, [p256("verifier one"), ed25519_key("two")]))
    found = world.trust().mesh_version(1)
    assert (list(found.verifiers), list(found.witnesses)) == (["two"], ["one"])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda found: {"mesh/history/9.json": found["mesh/history/1.json"]},
            "it holds what belongs in mesh/history/1",
        ),
        (
            lambda found: {"mesh/history/01.json": found["mesh/history/1.json"]},
            "it holds what belongs in mesh/history/1",
        ),
        (
            lambda found: {"mesh/history/3.json": found["mesh.json"]},
            "expected a version 4 of mesh.json .* found none",
        ),
        (lambda _: {"mesh/history/4.json": b"{}"}, "mesh.json: "),
    ],
)
def test_a_history_that_is_none(spoil: Callable[[dict[str, bytes]], dict[str, bytes]], reason: str) -> None:
    """Left out with a reason; the rest counts."""
    world = World()
    twice_replaced(world)
    spoilt = spoil(world.extra)
    world.extra |= spoilt
    trust = world.trust()
    [name] = spoilt
    assert list(trust.unusable) == [name]
    assert re.search(reason, trust.unusable[name])
    assert sorted(trust.mesh_history) == [1, 2]


def test_a_gap_in_the_history() -> None:
    """Until when a version counts, its follower says: without that, or without a handover in it, it counts for nothing."""
    world = World()
    twice_replaced(world)
    second = world.extra.pop("mesh/history/2.json")
    trust = world.trust()
    assert (
        "expected a version 2 of mesh.json with a handover, found none"
        in trust.unusable["mesh/history/1.json"]
    )
    assert trust.mesh_history == {}
    with pytest.raises(VerificationError, match=r"one of 3$") as raised:
        trust.mesh_version(1)
    assert "for mesh/history/1.json cannot be used: until when it counts" in str(raised.value)
    without = {member: value for member, value in json.loads(second).items() if member != "handover"}
    world.extra["mesh/history/2.json"] = canonical(without)
    trust = world.trust()
    assert "found one without" in trust.unusable["mesh/history/1.json"]
    assert sorted(trust.mesh_history) == [2]


def test_an_update_that_leaves_the_history_alone_does_not_verify_it_again() -> None:
    world = World()
    twice_replaced(world)
    before = world.trust()
    world.revocations["version"] += 1
    metadata, files = described(world.files()), world.files()
    after = parse_trust(files.__getitem__, metadata=metadata, previous=before)
    assert after.mesh_history == before.mesh_history
    assert after.mesh_history[1].verifiers is before.mesh_history[1].verifiers


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
        ({"handover": "tomorrow"}, "handover"),
        ({"handover": "2026-02-30T12:00:00Z"}, "2026-02-30T12:00:00Z"),
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
    kept = {"mesh/history/1.json": canonical(before)}
    [change] = describe_changes({}, kept)
    assert (change.words, change.is_weaker) == ("kept, for old receipts name it", False)
    [change] = describe_changes(kept, {})
    assert (change.words, change.is_weaker) == ("removed", True)
    gone = describe_changes({"mesh.json": canonical(before)}, {})
    assert any(change.is_weaker and change.words == "mesh quorum: removed" for change in gone)
