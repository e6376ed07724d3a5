"""Writing trust files: what init and approve sign is, byte for byte, what the formats say and the parsers accept."""

from datetime import timedelta
from typing import Any

import pytest

from attestd.appraisal.boot_rules import parse_boot_rules
from attestd.errors import MalformedError, UsageError
from attestd.governance.amend import amend_platform_policy, amend_platform_rules
from attestd.governance.authorities import Authorities, parse_authorities
from attestd.governance.issue import (
    approve_platform_key,
    approve_state,
    draft_authorities,
    draft_host_request,
    draft_platform_policy,
    draft_revocations,
    sign_host_request,
)
from attestd.governance.platform import ImaReference, PlatformPolicy, Quorums, parse_platform_policy
from attestd.strict import canonical, format_time
from attestd.tcg.pcr import PcrSelection, composite
from tests.governance.make_vectors import BOOT_RULES
from tests.world import NOW, SELECTION, World, key_id, p256, parse_files, signer


@pytest.fixture
def world() -> World:
    return World()


def public(key: Any) -> Any:
    return signer(key)(b"")[0]


@pytest.fixture
def authorities(world: World) -> Authorities:
    return parse_authorities(canonical(world.authorities))


def written(world: World, authorities: Authorities, **platform: Any) -> dict[str, bytes]:
    """All trust files, from the keys and measurements of a world."""
    host = world.host
    state = approve_state(
        authorities,
        selection=SELECTION,
        values=world.values,
        epoch=1,
        sign_platform=signer(world.platform_key),
    )
    key = approve_platform_key(
        authorities, platform=key_id(world.platform_key), max_epoch=1, sign_root=signer(world.root)
    )
    return {
        "authorities.json": draft_authorities(
            name="local",
            authorization=public(world.authors[0]),
            enroller=public(world.enrollers[0]),
            root=public(world.root),
            platform=public(world.platform_key),
            epoch=public(world.epoch_key),
        ),
        "revocations.json": draft_revocations(epoch=0),
        "platform/local.json": draft_platform_policy(
            name="local",
            version=1,
            approvals=[state],
            platform_keys=[key],
            min_tier="software",
            userspace=["none", "encrypted-tpm", "ima-appraise", "verity"],
            **{"values": {}, **platform},
        ),
        f"hosts/{host.id}.json": sign_host_request(
            draft_host_request(
                authorities,
                ek_public=host.ek_public,
                ek_chain_digest=None,
                ak_public=host.ak_public,
                release_public=host.release_public,
                certify=host.certify(),
                tier="software",
                userspace="none",
                labels={"role": "ci"},
                not_before=world.now - timedelta(days=1),
                not_after=world.now + timedelta(days=365),
            ),
            signers=[signer(world.enrollers[0])],
        ),
    }


def test_the_files_are_those_of_the_formats(world: World, authorities: Authorities) -> None:
    """The world writes its files without this code: two implementations, the same bytes."""
    world.authorities["authorizations"][0]["max_depth"] = 2
    assert written(world, authorities) | world.policies == world.files()


def test_the_files_verify(world: World, authorities: Authorities) -> None:
    values = {"sha256": {pcr: [bytes(32), value] for pcr, value in world.values.items()}}
    files = written(world, authorities, values=values, valid_until=world.now, writable="refuse")
    policy = parse_files(files | world.policies).platforms["local"]
    assert policy.reference() == world.values
    assert (policy.valid_until, policy.writable) == (world.now, "refuse")
    assert policy.approval_for(world.pcr_digest, epoch=1, at=NOW) is not None


def test_revocations_of_a_later_version(world: World) -> None:
    trust = parse_files({**world.files(), "revocations.json": draft_revocations(version=5, epoch=2)})
    assert (trust.revocations.version, trust.revocations.epoch) == (5, 2)


def test_a_record_that_could_not_be_read_is_not_signed(world: World, authorities: Authorities) -> None:
    host = world.host
    with pytest.raises(MalformedError):
        draft_host_request(
            authorities,
            ek_public=host.ek_public,
            ek_chain_digest=None,
            ak_public=host.ak_public,
            release_public=host.release_public,
            certify=host.certify(),
            tier="gold",
            userspace="none",
            labels={},
            not_before=world.now,
            not_after=world.now,
        )


# the next version of a platform policy


def amended(
    world: World, authorities: Authorities, *, state: dict[int, bytes] | None = None, **changes: Any
) -> bytes:
    values = state or world.values
    arguments: dict[str, Any] = {
        "approval": approve_state(
            authorities, selection=SELECTION, values=values, epoch=1, sign_platform=signer(world.platform_key)
        ),
        "values": values,
        "epoch": 0,
        "revoked_keys": (),
        **changes,
    }
    return amend_platform_policy(canonical(world.platforms["local"]), **arguments)


def parse(world: World, authorities: Authorities, data: bytes) -> PlatformPolicy:
    return parse_platform_policy(data, authorities=authorities, revoked_keys=world.revocations["keys"])


def test_one_state_more(world: World, authorities: Authorities) -> None:
    """In an update window old and new state are both approved; the newest explains differences."""
    old = dict(world.values)
    reference = {str(pcr): [value.hex()] for pcr, value in old.items()}
    world.platforms["local"]["reference"]["pcrs"] = {"sha256": reference}
    new = {**old, 4: bytes(32)}
    policy = parse(world, authorities, amended(world, authorities, state=new))
    assert policy.version == 2
    assert [item.pcr_digest for item in policy.approvals] == [
        composite(SELECTION, old),
        composite(SELECTION, new),
    ]
    assert policy.values[4] == (old[4], bytes(32))
    assert policy.values[7] == (old[7],)
    assert policy.reference() == new


def test_a_state_until(world: World, authorities: Authorities) -> None:
    """The window goes with its state, and ends when the state is approved without one."""
    old, new = world.pcr_digest, {**world.values, 4: bytes(32)}
    new_state = composite(SELECTION, new)
    window = {"pcr_digest": old.hex(), "not_after": format_time(world.now)}
    world.platforms["local"]["lifecycle"]["windows"] = [window]
    until = world.now + timedelta(days=1)
    policy = parse(world, authorities, amended(world, authorities, state=new, not_after=until))
    assert policy.windows == {old: world.now, new_state: until}
    policy = parse(world, authorities, amended(world, authorities, state=new, epoch=2, not_after=until))
    assert policy.windows == {new_state: until}, "the old state is gone, and so is its window"
    assert parse(world, authorities, amended(world, authorities)).windows == {}
    assert parse(world, authorities, amended(world, authorities, not_after=until)).windows == {old: until}


def test_other_states_end(world: World, authorities: Authorities) -> None:
    """An update window: what was approved before ends, at the latest then; a state is never approved twice."""
    old, new = world.pcr_digest, {**world.values, 4: bytes(32)}
    end, before = world.now + timedelta(days=1), world.now
    policy = parse(world, authorities, amended(world, authorities, state=new, others_not_after=end))
    assert policy.windows == {old: end}
    world.platforms["local"]["lifecycle"]["windows"] = [
        {"pcr_digest": old.hex(), "not_after": format_time(before)}
    ]
    policy = parse(world, authorities, amended(world, authorities, state=new, others_not_after=end))
    assert policy.windows == {old: before}, "it ended before, and does not go on"
    again = parse(world, authorities, amended(world, authorities, others_not_after=end))
    assert (len(again.approvals), again.windows) == (1, {})


NONE = Quorums(verifiers=0, witnesses=0)


def test_rules_of_a_platform_policy(world: World, authorities: Authorities) -> None:
    rules = parse_boot_rules(canonical(BOOT_RULES))
    ima = ImaReference(policy="fleet", sha256="ab" * 32)
    data = amend_platform_rules(
        canonical(world.platforms["local"]), boot=rules, ima=ima, quorums=Quorums(verifiers=2, witnesses=1)
    )
    policy = parse(world, authorities, data)
    assert (policy.version, policy.boot, policy.ima) == (2, rules, ima)
    assert (policy.verifier_quorum, policy.witness_quorum) == (2, 1)
    assert len(policy.approvals) == 1
    policy = parse(world, authorities, amend_platform_rules(data, boot=None, ima=None, quorums=NONE))
    assert (policy.version, policy.boot, policy.ima) == (3, None, None)
    first = written(world, authorities, boot=rules, ima=ima)["platform/local.json"]
    assert parse(world, authorities, first).boot == rules
    assert parse(world, authorities, first).ima == ima


def test_what_no_longer_holds_is_left_out(world: World, authorities: Authorities) -> None:
    new = {**world.values, 4: bytes(32)}
    for changes in ({"epoch": 2}, {"revoked_keys": [key_id(world.platform_key)]}):
        policy = parse(world, authorities, amended(world, authorities, state=new, **changes))
        assert [item.pcr_digest for item in policy.approvals] == [composite(SELECTION, new)]
        assert policy.reference() == new, "values of states that are gone explain nothing"


def test_approvals_that_would_approve_nothing(world: World, authorities: Authorities) -> None:
    sign = signer(world.platform_key)
    narrow = PcrSelection("sha256", (0, 2))
    values = {pcr: world.values[pcr] for pcr in (0, 2)}
    other = approve_state(authorities, selection=narrow, values=values, epoch=1, sign_platform=sign)
    late = approve_state(authorities, selection=SELECTION, values=world.values, epoch=2, sign_platform=sign)
    stranger = approve_state(
        authorities, selection=SELECTION, values=world.values, epoch=1, sign_platform=signer(p256("stranger"))
    )
    for approval, message in ((other, "other PCRs"), (late, "beyond epoch 1"), (stranger, "did not approve")):
        with pytest.raises(UsageError, match=message):
            amended(world, authorities, approval=approval)


def test_amending_what_is_no_policy(world: World, authorities: Authorities) -> None:
    world.platforms["local"] = {}
    with pytest.raises(MalformedError):
        amended(world, authorities)
