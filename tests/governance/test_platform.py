"""`platform/<name>.json`: approvals as TPMs enforce them, in which nothing can be changed."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from attestd.errors import MalformedError, VerificationError
from attestd.governance.authorities import parse_authorities
from attestd.governance.platform import TIERS, PlatformPolicy, parse_platform_policy
from attestd.strict import canonical, format_time
from attestd.tcg.pcr import PcrSelection
from attestd.tcg.policy import REF_PLATFORM, REF_ROOT, approval_message
from tests.governance.make_vectors import BOOT_RULES
from tests.world import NOW, SELECTION, World, b64, digest, key_id, p256, sign, spki


@pytest.fixture
def world() -> World:
    return World()


def parse(world: World, *, revoked: tuple[str, ...] = ()) -> PlatformPolicy:
    authorities = parse_authorities(canonical(world.authorities))
    data = canonical(world.platforms["local"])
    return parse_platform_policy(data, authorities=authorities, revoked_keys=revoked)


def refused(world: World, error: type[Exception] = VerificationError) -> str:
    with pytest.raises(error) as raised:
        parse(world)
    return str(raised.value)


def approval(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.platforms["local"]["approvals"][0]
    return found


def test_verifies(world: World) -> None:
    policy = parse(world)
    (found,) = policy.approvals
    assert policy.digest == digest(canonical(world.platforms["local"]))
    assert (found.selection, found.pcr_digest) == (SELECTION, world.pcr_digest)
    assert (found.epoch, found.max_epoch) == (1, 1)
    assert (
        found.platform.name
        == parse_authorities(canonical(world.authorities)).platform[key_id(world.platform_key)].name
    )
    assert b64(found.platform_sig) == approval(world)["sig"]
    assert found.policy_digest.hex() == approval(world)["policy_digest"]


@pytest.mark.parametrize(("epoch", "max_epoch", "holds_until"), [(3, 5, 3), (5, 3, 3), (0, 0, 0), (2, 2, 2)])
def test_an_approval_holds_until_the_lower_epoch(
    world: World, epoch: int, max_epoch: int, holds_until: int
) -> None:
    world.platforms["local"] = world.platform_file(epoch=epoch, max_epoch=max_epoch)
    policy = parse(world)
    assert policy.approval_for(world.pcr_digest, epoch=holds_until, at=NOW) is policy.approvals[0]
    assert policy.approval_for(world.pcr_digest, epoch=holds_until + 1, at=NOW) is None
    assert policy.approval_for(bytes(32), epoch=0, at=NOW) is None


def test_old_and_new_state_in_an_update_window(world: World) -> None:
    """Two approvals of two states, the old one until a lower epoch."""
    old = world.platform_file(values={pcr: bytes(32) for pcr in world.values}, epoch=1, max_epoch=9)
    new = world.platform_file(epoch=2, max_epoch=9)
    world.platforms["local"] = {**new, "approvals": [*old["approvals"], *new["approvals"]]}
    policy = parse(world)
    assert [item.epoch for item in policy.approvals] == [1, 2]
    assert policy.approval_for(policy.approvals[0].pcr_digest, epoch=2, at=NOW) is None
    assert policy.approval_for(world.pcr_digest, epoch=2, at=NOW) is policy.approvals[1]


def with_reference(world: World, **members: Any) -> dict[str, Any]:
    file = world.platforms["local"]
    world.platforms["local"] = {**file, "reference": {**file["reference"], **members}}
    return world.platforms["local"]


def test_a_window_ends_the_approval_of_a_state(world: World) -> None:
    state, end = world.pcr_digest, NOW + timedelta(hours=1)
    world.platforms["local"]["lifecycle"]["windows"] = [
        {"pcr_digest": state.hex(), "not_after": format_time(end)}
    ]
    policy = parse(world)
    assert policy.windows == {state: end}
    just_before = end - timedelta(microseconds=1)
    assert policy.approval_for(state, epoch=1, at=just_before) is policy.approvals[0]
    assert policy.approval_for(state, epoch=1, at=end) is None


@pytest.mark.parametrize("what", ["of no state", "twice"])
def test_a_window_of_no_approved_state_or_twice(world: World, what: str) -> None:
    window = {"pcr_digest": world.pcr_digest.hex(), "not_after": format_time(NOW)}
    windows = [window, window] if what == "twice" else [{**window, "pcr_digest": "ab" * 32}]
    world.platforms["local"]["lifecycle"]["windows"] = windows
    assert "each window must be of a state that is approved, once" in refused(world, MalformedError)


def test_rules_say_what_evidence_quotes(world: World) -> None:
    assert parse(world).quoted == parse(world).selection == SELECTION
    ima = {"policy": "fleet", "sha256": "ab" * 32}
    with_reference(world, ima=ima)
    policy = parse(world)
    assert policy.ima is not None
    assert (policy.ima.target, policy.ima.sha256) == ("ima/fleet.json", "ab" * 32)
    assert policy.quoted.pcrs == (0, 2, 4, 7, 10, 11, 12)
    with_reference(world, ima=None, boot={**BOOT_RULES, "digests": {"2": [], "14": []}})
    assert parse(world).quoted.pcrs == (0, 2, 4, 7, 8, 11, 12, 14)
    with_reference(world, boot={**BOOT_RULES, "separators": "required"})
    assert parse(world).quoted.pcrs == (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12)
    assert parse(world).selection == SELECTION


NOTHING = dict.fromkeys(("certificates", "images", "command_lines", "sections", "digests"))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({**BOOT_RULES, "bank": "sha384", "images": None}, "boot rules of bank sha384, expected sha256"),
        ({**BOOT_RULES, **NOTHING, "secure_boot": "unchecked"}, "nothing is evaluated"),
        ({**BOOT_RULES, "images": ["ab" * 48]}, "a digest that is not of bank sha256"),
        ({**BOOT_RULES, "v": 2}, "boot"),
    ],
)
def test_rules_that_are_none(world: World, rules: dict[str, Any], expected: str) -> None:
    with_reference(world, boot=rules)
    assert expected in refused(world, MalformedError)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "pcrs": lambda pcrs: pcrs[:-1],
    "pcr_digest": lambda _: "00" * 32,
    "epoch": lambda epoch: epoch + 1,
    "policy_digest": lambda _: "00" * 32,
    "key_id": lambda _: key_id(p256("stranger")),
    "sig": lambda _: b64(sign(p256("stranger"), b"x")),
}


@pytest.mark.parametrize("member", CHANGES)
def test_every_member_of_an_approval_is_signed(world: World, member: str) -> None:
    approval(world)[member] = CHANGES[member](approval(world)[member])
    refused(world)


@pytest.mark.parametrize("member", ["max_epoch", "policy_digest", "key_id", "sig"])
def test_every_member_of_the_roots_approval_is_signed(world: World, member: str) -> None:
    entry = world.platforms["local"]["platform_keys"][0]
    change = CHANGES["epoch" if member == "max_epoch" else member]
    entry[member] = change(entry[member])
    refused(world)


def test_the_approvals_cover_each_other_s_message(world: World) -> None:
    """A root's signature is none of a platform key, and the other way round: the policyRef differs."""
    approved = bytes.fromhex(approval(world)["policy_digest"])
    for ref in (REF_ROOT, b""):
        approval(world)["sig"] = b64(sign(world.platform_key, approval_message(approved, ref)))
        refused(world)
    approval(world)["sig"] = b64(sign(world.platform_key, approval_message(approved, REF_PLATFORM)))
    assert parse(world)


def test_a_platform_key_that_the_root_did_not_approve(world: World) -> None:
    other = p256("second platform key")
    world.authorities["keys"][key_id(other)] = {"spki": b64(spki(other))}
    world.authorities["tpm"]["platform"].append(key_id(other))
    mixed = world.platform_file(platform_key=other)
    world.platforms["local"]["approvals"] = mixed["approvals"]
    assert "does not approve" in refused(world)
    world.platforms["local"]["platform_keys"] += mixed["platform_keys"]
    assert parse(world).approvals[0].platform.key_id == key_id(other)


def test_a_platform_key_that_is_no_authority(world: World) -> None:
    world.platforms["local"] = world.platform_file(platform_key=p256("stranger"))
    assert "no platform authority" in refused(world)


def test_an_unused_root_approval_is_verified_too(world: World) -> None:
    other = p256("second platform key")
    world.authorities["keys"][key_id(other)] = {"spki": b64(spki(other))}
    world.authorities["tpm"]["platform"].append(key_id(other))
    (entry,) = world.platform_file(platform_key=other, root=p256("stranger"))["platform_keys"]
    world.platforms["local"]["platform_keys"].append(entry)
    assert "does not verify" in refused(world)


def test_a_platform_key_twice(world: World) -> None:
    """Which of its epochs would hold?"""
    world.platforms["local"]["platform_keys"] *= 2
    assert "twice" in refused(world, MalformedError)


def test_approved_by_another_root(world: World) -> None:
    world.platforms["local"] = world.platform_file(root=p256("stranger"))
    assert "does not verify" in refused(world)


def test_another_epoch_authority(world: World) -> None:
    """The Name of the epoch index is in every approval."""
    other = p256("epoch of others")
    world.authorities["keys"][key_id(other)] = {"spki": b64(spki(other))}
    world.authorities["tpm"]["epoch"] = key_id(other)
    assert "is not the one its approval describes" in refused(world)


@pytest.mark.parametrize("pcrs", [[4, 2, 0], [0, 0, 2], []])
def test_pcrs_that_are_no_selection(world: World, pcrs: list[int]) -> None:
    approval(world)["pcrs"] = pcrs
    refused(world, MalformedError)


def test_approvals_over_different_pcrs(world: World) -> None:
    other = world.platform_file(selection=PcrSelection("sha256", (0, 2)))
    world.platforms["local"]["approvals"] += other["approvals"]
    assert "same PCRs" in refused(world, MalformedError)


@pytest.mark.parametrize("who", ["platform", "root"])
def test_revoked_keys_approve_nothing(world: World, who: str) -> None:
    key = world.root if who == "root" else world.platform_key
    policy = parse(world, revoked=(key_id(key),))
    assert policy.approvals == ()
    assert policy.approval_for(world.pcr_digest, epoch=0, at=NOW) is None
    assert policy.selection == SELECTION


def test_only_the_approvals_of_a_revoked_key_are_left_out(world: World) -> None:
    other = p256("second platform key")
    world.authorities["keys"][key_id(other)] = {"spki": b64(spki(other))}
    world.authorities["tpm"]["platform"].append(key_id(other))
    second = world.platform_file(platform_key=other)
    for member in ("approvals", "platform_keys"):
        world.platforms["local"][member] += second[member]
    policy = parse(world, revoked=(key_id(world.platform_key),))
    assert [item.platform.key_id for item in policy.approvals] == [key_id(other)]


@pytest.mark.parametrize("sig", ["", "AAAA", "AA==", b64(b"\x30\x02\x00\x00")])
def test_signatures_that_are_none(world: World, sig: str) -> None:
    approval(world)["sig"] = sig
    refused(world)


def test_signature_that_is_not_base64(world: World) -> None:
    approval(world)["sig"] = "AAA"
    refused(world, MalformedError)


def test_tiers_are_never_rounded_up(world: World) -> None:
    policy = parse(world)
    for least in TIERS:
        asked = replace(policy, min_tier=least)
        accepted = [tier for tier in TIERS if asked.accepts_tier(tier)]
        assert accepted == list(TIERS[TIERS.index(least) :])
        assert not asked.accepts_tier("quantum")


def test_reference_values(world: World) -> None:
    """Of several allowed values the last is shown; PCRs that no approval selects are not."""
    reference = world.platforms["local"]["reference"]
    reference["pcrs"] = {"sha256": {"0": ["00" * 32, "11" * 32], "23": ["22" * 32]}}
    policy = parse(world)
    assert policy.values == {0: (bytes(32), b"\x11" * 32), 23: (b"\x22" * 32,)}
    assert policy.reference() == {0: b"\x11" * 32}


@pytest.mark.parametrize(
    "pcrs",
    [{"sha1": {}}, {"sha256": {"24": ["00" * 32]}}, {"sha256": {"07": ["00" * 32]}}, {"sha256": {"7": []}}],
)
def test_reference_values_of_no_pcr(world: World, pcrs: Any) -> None:
    world.platforms["local"]["reference"]["pcrs"] = pcrs
    refused(world, MalformedError)


@pytest.mark.parametrize("name", ["", "Local", "../x", "a/b", "-a", "x" * 65])
def test_names(world: World, name: str) -> None:
    world.platforms["local"]["name"] = name
    refused(world, MalformedError)
