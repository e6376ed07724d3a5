"""Writing trust files: what init and approve sign is, byte for byte, what the formats say and the parsers accept."""

from datetime import timedelta
from typing import Any

import pytest

from attestd.errors import MalformedError
from attestd.governance.authorities import Authorities, parse_authorities
from attestd.governance.issue import (
    approve_platform_key,
    approve_state,
    draft_authorities,
    draft_host_record,
    draft_platform_policy,
    draft_revocations,
)
from attestd.governance.trust import parse_trust
from attestd.strict import canonical
from tests.world import SELECTION, World, key_id, signer


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
        f"hosts/{host.id}.json": draft_host_record(
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
            sign=signer(world.enrollers[0]),
        ),
    }


def test_the_files_are_those_of_the_formats(world: World, authorities: Authorities) -> None:
    """The world writes its files without this code: two implementations, the same bytes."""
    assert written(world, authorities) == world.files()


def test_the_files_verify(world: World, authorities: Authorities) -> None:
    values = {"sha256": {pcr: [bytes(32), value] for pcr, value in world.values.items()}}
    files = written(world, authorities, values=values, valid_until=world.now, writable="refuse")
    policy = parse_trust(files).platforms["local"]
    assert policy.reference() == world.values
    assert (policy.valid_until, policy.writable) == (world.now, "refuse")
    assert policy.approval_for(world.pcr_digest, epoch=1) is not None


def test_revocations_of_a_later_version(world: World) -> None:
    trust = parse_trust({**world.files(), "revocations.json": draft_revocations(version=5, epoch=2)})
    assert (trust.revocations.version, trust.revocations.epoch) == (5, 2)


def test_a_record_that_could_not_be_read_is_not_signed(world: World, authorities: Authorities) -> None:
    host = world.host
    with pytest.raises(MalformedError):
        draft_host_record(
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
            sign=signer(world.enrollers[0]),
        )
