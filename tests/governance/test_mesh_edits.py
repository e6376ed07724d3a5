"""What `attestd governance mesh` and `allow` write is what hosts read."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from attestd.authorization.dsse import PublicKey
from attestd.errors import MalformedError, UsageError
from attestd.governance.edits import with_allowed_eks
from attestd.governance.ek_trust import EkAllow, parse_ek_file
from attestd.governance.mesh import MeshTrust, parse_mesh
from attestd.governance.mesh_edits import MeshNode, amend_mesh, with_enroller_key
from attestd.tlog.vkey import cosignature_vkey, format_vkey
from tests.world import World, ed25519_key, p256, spki

WORLD = World()
ENROLLER = PublicKey(spki(WORLD.enrollers[0]))
VERIFIER, OTHER = PublicKey(spki(p256("verifier one"))), PublicKey(spki(p256("verifier two")))
WITNESS = format_vkey(cosignature_vkey("one.example/1", ed25519_key("one").public_key().public_bytes_raw()))
ONE = MeshNode("http://127.0.0.1:8441/", ENROLLER, VERIFIER, WITNESS)
HOST = "8" * 64


HANDOVER = datetime(2026, 3, 8, 12, tzinfo=UTC)


def amended(mesh: bytes | None, *, published: bytes | None = None, **members: Any) -> bytes:
    return amend_mesh(mesh, published=published, handover=HANDOVER, **members)


def parsed(data: bytes) -> MeshTrust:
    return parse_mesh(data, authorities=WORLD.trust().authorities, revoked_keys=())


def test_a_controller() -> None:
    data = amended(None, name="one", node=ONE, verifier_quorum=1, witness_quorum=1)
    found = parsed(data)
    assert (found.verifier_quorum, found.witness_quorum) == (1, 1)
    assert (found.enrollers["one"].url, found.enrollers["one"].key_id) == (
        "http://127.0.0.1:8441",
        ENROLLER.key_id,
    )
    assert (found.verifiers["one"].url, found.verifiers["one"].key) == ("http://127.0.0.1:8441", VERIFIER)
    assert found.witnesses["one"].url == "http://127.0.0.1:8441/witness"
    assert found.witnesses["one"].key.name == "one.example/1"
    assert b'"version":1' in data
    assert found.handover == HANDOVER, "until when there was none"


def test_the_version_follows_the_published_one() -> None:
    """However often it was edited before it is published."""
    first = amended(amended(None, name="one", node=ONE), verifier_quorum=1)
    assert parsed(first).version == 1
    second = amended(amended(first, published=first, verifier_quorum=0), published=first, name="one")
    assert (parsed(second).version, parsed(second).handover) == (2, HANDOVER)


def test_an_enroller_with_another_key() -> None:
    data = amended(None, name="one", node=ONE)
    changed = with_enroller_key(
        data, published=data, handover=HANDOVER, old=ENROLLER.key_id, new=OTHER.key_id
    )
    assert changed is not None
    found = json.loads(changed)
    assert found["enrollers"] == {"one": {"url": "http://127.0.0.1:8441", "key_id": OTHER.key_id}}
    assert (found["version"], found["handover"]) == (2, "2026-03-08T12:00:00Z")
    assert found["witnesses"] == json.loads(data)["witnesses"]
    again = with_enroller_key(
        changed, published=data, handover=HANDOVER, old=ENROLLER.key_id, new=OTHER.key_id
    )
    assert again is None


def test_what_is_not_named_stays() -> None:
    data = amended(None, name="one", node=ONE, verifier_quorum=1)
    moved = parsed(amended(data, name="one", node=MeshNode("https://b")))
    assert moved.enrollers["one"].url == moved.verifiers["one"].url == "https://b"
    assert moved.witnesses["one"].url == "https://b/witness"
    assert moved.verifier_quorum == 1
    other = parsed(amended(data, name="one", node=MeshNode(verifier=OTHER)))
    assert other.verifiers["one"].key == OTHER
    assert other.witnesses["one"].url == "http://127.0.0.1:8441/witness"


def test_a_role_more() -> None:
    """Where the controller is already known it need not be said again."""
    data = amended(None, name="one", node=MeshNode("http://a", witness=WITNESS))
    found = parsed(amended(data, name="one", node=MeshNode(verifier=VERIFIER)))
    assert found.verifiers["one"].url == "http://a"
    assert found.witnesses["one"].url == "http://a/witness"
    assert found.enrollers == {}


def test_one_that_goes() -> None:
    data = amended(None, name="one", node=ONE)
    data = amended(data, name="two", node=MeshNode("http://b", verifier=OTHER))
    found = parsed(amended(data, name="one"))
    assert (set(found.enrollers), set(found.verifiers), set(found.witnesses)) == (set(), {"two"}, set())
    with pytest.raises(UsageError, match="no controller 'three'; there are: one, two"):
        amended(data, name="three")
    with pytest.raises(UsageError, match="there are: none"):
        amended(None, name="three")


@pytest.mark.parametrize("node", [MeshNode("http://a"), MeshNode(verifier=VERIFIER)])
def test_too_little_for_a_new_one(node: MeshNode) -> None:
    with pytest.raises(UsageError, match="'one' is new: it needs --url, and a key"):
        amended(None, name="one", node=node)


def test_what_the_file_cannot_hold() -> None:
    for name, node in (("One", ONE), ("one", MeshNode("http://a?b", ENROLLER))):
        with pytest.raises(MalformedError, match=r"mesh\.json"):
            amended(None, name=name, node=node)
    with pytest.raises(MalformedError, match=r"mesh\.json"):
        amended(None, verifier_quorum=17)
    with pytest.raises(MalformedError, match=r"mesh\.json"):
        amended(b"{}")


def test_allowed_eks() -> None:
    data = with_allowed_eks(None, [HOST], tier="software")
    both = with_allowed_eks(data, ["9" * 64], tier="uncertified")
    found = parse_ek_file("ek-allow.json", both)
    assert isinstance(found, EkAllow)
    assert found.hosts == {HOST: "software", "9" * 64: "uncertified"}
    assert with_allowed_eks(both, ["9" * 64], tier=None) == data
    with pytest.raises(UsageError, match="does not stand"):
        with_allowed_eks(data, ["9" * 64], tier=None)
    for host, tier in (("x", "software"), (HOST, "hardware")):
        with pytest.raises(MalformedError, match=r"ek-allow\.json"):
            with_allowed_eks(data, [host], tier=tier)
