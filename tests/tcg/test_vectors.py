"""The golden vectors: what is computed today is what was frozen, and the frozen signatures verify."""

import hashlib
import json

import pytest

from attestd.tcg.attest import parse_attest
from attestd.tcg.pcr import selection_from_text
from attestd.tcg.policy import approval_message
from attestd.tcg.public import parse_public
from attestd.tcg.quote import verify_quote
from attestd.tcg.signature import parse_signature
from tests.tcg import build, make_vectors

VECTORS = {path.name: path.read_text() for path in make_vectors.DIRECTORY.glob("*.json")}


@pytest.fixture(scope="module")
def rendered():
    return make_vectors.render()


def test_no_vector_file_is_missing_or_left_over(rendered):
    assert VECTORS.keys() == rendered.keys()


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_regenerated_vectors_are_those_checked_in(rendered, name):
    assert rendered[name] == VECTORS[name]


def test_frozen_policies_by_hand():
    """The release policy and the platform policy, spelled out from the specification."""

    def sha256(*parts: bytes) -> bytes:
        return hashlib.sha256(b"".join(parts)).digest()

    keys, policies = json.loads(VECTORS["keys.json"]), json.loads(VECTORS["policies.json"])
    name = {who: bytes.fromhex(value) for who, value in keys["authority_name"].items()}
    epoch = bytes.fromhex(json.loads(VECTORS["indices.json"])["epoch_name"])
    authorize = sha256(sha256(bytes(32), bytes.fromhex("0000016a"), name["root"]), b"attestd.root.v1")
    assert authorize.hex() == keys["release_policy"]
    at_most_7 = sha256(bytes.fromhex("0000000000000007" + "0000" + "0009"))
    digest = sha256(bytes(32), bytes.fromhex("00000149"), at_most_7, epoch)
    leased = sha256(sha256(digest, bytes.fromhex("00000160"), name["lease"]), b"attestd.lease.v1")
    for start, what in ((digest, "platform"), (leased, "platform_with_lease")):
        state = sha256(start, bytes.fromhex("0000016c0000015d"))
        state = sha256(state, bytes.fromhex("0000016b"))
        selected = bytes.fromhex(policies["selection_bytes"] + policies["pcr_digest"])
        state = sha256(state, bytes.fromhex("0000017f"), selected)
        assert state.hex() == policies["approvals"][what]["policy_digest"]


@pytest.mark.parametrize(
    ("what", "who"),
    [
        ("platform", "platform"),
        ("platform_with_lease", "platform"),
        ("root", "root"),
        ("epoch_set_8", "epoch"),
    ],
)
def test_frozen_approvals_verify(what, who):
    approval = json.loads(VECTORS["policies.json"])["approvals"][what]
    area = parse_public(bytes.fromhex(json.loads(VECTORS["keys.json"])["authority_public"][who]))
    message = approval_message(bytes.fromhex(approval["policy_digest"]), approval["policy_ref"].encode())
    parse_signature(bytes.fromhex(approval["signature"])).verify(area.public_key(), message)
    assert area.name.hex() == json.loads(VECTORS["keys.json"])["authority_name"][who]


def test_frozen_quote_verifies():
    quotes = json.loads(VECTORS["quotes.json"])
    verified = verify_quote(
        ak_public_key=build.key(quotes["ak_scalar"]).public_key(),
        attest=bytes.fromhex(quotes["attest"]),
        signature=bytes.fromhex(quotes["signature"]),
        extra_data=bytes.fromhex(quotes["extra_data"]["checkpoint"]),
        selection=selection_from_text("0,2,4,7,11,12"),
        values={index: bytes([index]) * 32 for index in (0, 2, 4, 7, 11, 12)},
    )
    assert verified.pcr_digest.hex() == quotes["pcr_digest"]
    assert verified.clock == parse_attest(bytes.fromhex(quotes["attest"])).clock
