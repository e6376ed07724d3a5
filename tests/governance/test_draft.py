"""Drafts and signatures: what several people sign in different places becomes what hosts and python-tuf accept."""

import json

import pytest
from tuf.api.metadata import Metadata
from tuf.api.metadata import Root as TufRoot

from attestd.authorization.dsse import PublicKey
from attestd.errors import MalformedError, UsageError
from attestd.governance.draft import (
    Delegation,
    RoleKeys,
    add_signature,
    draft_root,
    draft_snapshot,
    draft_targets,
    draft_timestamp,
    merge_signatures,
    read_draft,
    tuf_key,
)
from attestd.governance.metadata import verify_metadata
from tests.world import NOW, ed25519_key, p256, signer, spki

KEYS = {"a": ed25519_key("draft a"), "b": p256("draft b"), "c": ed25519_key("draft c")}
PUBLIC = {name: PublicKey(spki(key)) for name, key in KEYS.items()}
ONE = RoleKeys((PUBLIC["a"],))
TWO = RoleKeys((PUBLIC["a"], PUBLIC["b"]), 2)


def root(threshold: RoleKeys = TWO, **changes: RoleKeys) -> bytes:
    roles = {"root": threshold, "targets": ONE, "snapshot": ONE, "timestamp": ONE, **changes}
    return draft_root(version=1, expires=NOW, **roles)


def signed(data: bytes, *names: str) -> bytes:
    for name in names:
        data = add_signature(data, signer(KEYS[name]))
    return data


def test_two_sign_in_turn_and_a_set_comes_of_it() -> None:
    anchor = signed(root(), "a", "b")
    team = signed(draft_targets(version=7, expires=NOW, targets={"teams/x/a.json": b"x"}), "c")
    delegation = Delegation("team-x", RoleKeys((PUBLIC["c"],)), ("teams/x/*",), terminating=True)
    targets = signed(
        draft_targets(version=3, expires=NOW, targets={"a.json": b"a"}, delegations=[delegation]), "a"
    )
    snapshot = signed(draft_snapshot(version=5, expires=NOW, roles={"targets": targets, "team-x": team}), "a")
    timestamp = signed(draft_timestamp(version=9, expires=NOW, issued=NOW, snapshot=snapshot), "a")
    files = {
        "timestamp.json": timestamp,
        "5.snapshot.json": snapshot,
        "3.targets.json": targets,
        "7.team-x.json": team,
    }
    found = verify_metadata(lambda name, _: files.get(name), root=anchor, floor=None)
    assert found.versions.to_json() == {
        "root": 1,
        "timestamp": 9,
        "snapshot": 5,
        "targets": {"targets": 3, "team-x": 7},
    }
    assert {name: file.role for name, file in found.targets.items()} == {
        "a.json": "targets",
        "teams/x/a.json": "team-x",
    }


def test_signatures_of_copies_are_merged() -> None:
    draft = root()
    merged = merge_signatures(signed(draft, "a"), signed(draft, "b"))
    assert merged == signed(draft, "a", "b")
    value = Metadata[TufRoot].from_bytes(merged)
    value.signed.verify_delegate("root", value.signed_bytes, value.signatures)


def test_signatures_of_another_draft_are_not_merged() -> None:
    with pytest.raises(UsageError, match="two different drafts"):
        merge_signatures(signed(root(), "a"), signed(root(ONE), "b"))


def test_signing_again_replaces_ones_own_signature() -> None:
    once = signed(root(), "a", "b")
    assert signed(once, "a") == once
    assert len(json.loads(once)["signatures"]) == 2


def test_a_stranger_may_sign_and_counts_for_nothing() -> None:
    assert len(read_draft(signed(root(), "c")).signatures) == 1


def test_tuf_has_ids_of_its_own() -> None:
    for public in PUBLIC.values():
        assert tuf_key(public).keyid != public.key_id
        assert tuf_key(public).keyid == tuf_key(public).keyid


def test_one_role_twice() -> None:
    roles = [Delegation("team-x", ONE, ("x/*",)), Delegation("team-x", TWO, ("x/*",))]
    with pytest.raises(UsageError, match="two delegations"):
        draft_targets(version=1, expires=NOW, targets={}, delegations=roles)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"signed":[]}', b'{"signed":{"_type":[]}}', b'{"signed":{"_type":"root"}}', b"1"],
)
def test_what_is_no_draft(data: bytes) -> None:
    with pytest.raises(MalformedError):
        read_draft(data)
    with pytest.raises(MalformedError):
        add_signature(data, signer(KEYS["a"]))


def test_only_what_can_be_read_is_named() -> None:
    for make in (
        lambda data: draft_snapshot(version=1, expires=NOW, roles={"targets": data}),
        lambda data: draft_timestamp(version=1, expires=NOW, issued=NOW, snapshot=data),
    ):
        with pytest.raises(MalformedError):
            make(root())
