"""Approving a state: planned, signed and staged, and the old version kept for old receipts."""

from pathlib import Path

import pytest

from attestd.distribution.approve import Plan, plan_approval, stage_approval
from attestd.distribution.repository import Repository
from attestd.errors import MalformedError, UsageError
from attestd.governance.trust import Trust
from attestd.lineage.receipt import parse_receipt, verify_receipt
from attestd.tcg.pcr import composite
from tests.distribution.repositories import Clock, Office
from tests.world import NOW, SELECTION, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path, Clock())


@pytest.fixture
def repository(world: World, office: Office) -> Repository:
    return office.published(world)


def trust_of(repository: Repository) -> Trust:
    return repository.validate().trust


def plan(repository: Repository, values: dict[int, bytes]) -> Plan:
    return plan_approval(trust_of(repository), name="local", values=values, now=NOW)


def test_plan(world: World, repository: Repository) -> None:
    present = plan(repository, world.values)
    assert (present.is_approved, present.kept, present.epoch) == (True, 1, 0)
    new = plan(repository, {**world.values, 4: bytes(32)})
    assert not new.is_approved
    assert new.pcr_digest == composite(SELECTION, new.values)


def test_plan_for_nothing(world: World, repository: Repository) -> None:
    with pytest.raises(UsageError, match="there are: local"):
        plan_approval(trust_of(repository), name="other", values=world.values, now=NOW)
    with pytest.raises(MalformedError):
        plan(repository, {0: bytes(32)})


def test_stage_and_publish(world: World, repository: Repository, office: Office) -> None:
    receipt = world.grant().receipt
    new = {**world.values, 4: bytes(32)}
    planned = plan(repository, new)
    policy = stage_approval(planned, repository=repository, key=office.key("tpm world platform"))
    assert policy.version == 2
    assert policy.approval_for(composite(SELECTION, new), epoch=0, at=NOW) is not None
    with pytest.raises(UsageError, match="staged already"):
        stage_approval(planned, repository=repository, key=office.key("tpm world platform"))
    office.publish(repository, "alice")
    after = trust_of(repository)
    assert after.platforms["local"].digest == policy.digest
    assert verify_receipt(parse_receipt(receipt), trust=after).approval is not None
    assert plan(repository, new).is_approved
    with pytest.raises(UsageError, match="another one"):
        stage_approval(planned, repository=repository, key=office.key("tpm world platform"))


def test_a_key_that_may_not(world: World, repository: Repository, office: Office) -> None:
    planned = plan(repository, {**world.values, 4: bytes(32)})
    for name in ("stranger", "tpm world root"):
        with pytest.raises(UsageError, match="no platform authority"):
            stage_approval(planned, repository=repository, key=office.key(name))
    assert not repository.plan().drafts
