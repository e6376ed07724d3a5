"""Approving a state in a trust directory: planned, signed, published, and the old version kept for old receipts."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from attestd.distribution.approve import Plan, plan_approval, publish_approval
from attestd.distribution.local import load_trust
from attestd.distribution.signer import Authority, load_authority
from attestd.errors import MalformedError, UsageError
from attestd.lineage.receipt import parse_receipt, verify_receipt
from attestd.tcg.pcr import composite
from tests.world import SELECTION, World, p256

ME = os.geteuid()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def trust(world: World, tmp_path: Path) -> Path:
    directory = world.write_trust(tmp_path / "trust")
    (directory / "platform/history").mkdir(mode=0o755)
    return directory


def authority(tmp_path: Path, name: str) -> Authority:
    path = tmp_path / "key.pem"
    path.write_bytes(p256(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    return load_authority(f"file:{path}")


def plan(directory: Path, values: dict[int, bytes]) -> Plan:
    return plan_approval(load_trust(directory, owners=[ME]), name="local", values=values)


def test_plan(world: World, trust: Path) -> None:
    present = plan(trust, world.values)
    assert (present.is_approved, present.kept, present.epoch) == (True, 1, 0)
    new = plan(trust, {**world.values, 4: bytes(32)})
    assert not new.is_approved
    assert new.pcr_digest == composite(SELECTION, new.values)


def test_plan_for_nothing(world: World, trust: Path) -> None:
    with pytest.raises(UsageError, match="there are: local"):
        plan_approval(load_trust(trust, owners=[ME]), name="other", values=world.values)
    with pytest.raises(MalformedError):
        plan(trust, {0: bytes(32)})


def test_publish(world: World, trust: Path, tmp_path: Path) -> None:
    receipt = world.grant().receipt
    new = {**world.values, 4: bytes(32)}
    planned = plan(trust, new)
    policy = publish_approval(
        planned, directory=trust, owners=[ME], key=authority(tmp_path, "world platform")
    )
    assert policy.version == 2
    assert policy.approval_for(composite(SELECTION, new), epoch=0) is not None
    after = load_trust(trust, owners=[ME])
    assert after.platforms["local"].digest == policy.digest
    assert verify_receipt(parse_receipt(receipt), trust=after).approval is not None
    assert plan(trust, new).is_approved
    with pytest.raises(UsageError, match="changed meanwhile"):
        publish_approval(planned, directory=trust, owners=[ME], key=authority(tmp_path, "world platform"))


def test_publish_with_a_key_that_may_not(world: World, trust: Path, tmp_path: Path) -> None:
    before = load_trust(trust, owners=[ME]).digest
    planned = plan(trust, {**world.values, 4: bytes(32)})
    for name in ("stranger", "world root"):
        with pytest.raises(UsageError, match="no platform authority"):
            publish_approval(planned, directory=trust, owners=[ME], key=authority(tmp_path, name))
    assert load_trust(trust, owners=[ME]).digest == before
