"""The handover of `mesh.json`, held against how long hosts may go by the version before."""

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from attestd.distribution.handover import (
    find_short_handover,
    longest_handover,
    require_handover,
    usual_handover,
)
from attestd.distribution.repository import Repository
from attestd.distribution.settings import STANDALONE_DAYS, STANDALONE_ONLINE, Expiry, Settings
from attestd.errors import UsageError
from attestd.strict import format_time
from tests.distribution.repositories import Clock, Office
from tests.world import World, mesh_file, witness

WEEK = timedelta(days=7)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path, Clock())


@pytest.fixture
def repository(office: Office) -> Repository:
    """One that published version 1 of `mesh.json`, by which hosts may go for a week."""
    world = World()
    handover = format_time(office.clock.now + WEEK)
    world.extra["mesh.json"] = mesh_file([witness("one")], handover=handover)
    return office.published(world)


def stage(office: Office, repository: Repository, after: timedelta) -> None:
    handover = format_time(office.clock.now + after)
    repository.stage({"mesh.json": mesh_file([witness("two")], version=2, handover=handover)})


def test_as_long_as_a_timestamp_holds_is_enough(office: Office, repository: Repository) -> None:
    stage(office, repository, WEEK)
    assert find_short_handover(repository.plan(), repository.settings) is None
    office.publish(repository, "alice")
    assert repository.validate().trust.mesh.version == 2
    assert find_short_handover(repository.plan(), repository.settings) is None, "nothing changes"


def test_a_second_less_is_not_published_unless_it_is_meant(office: Office, repository: Repository) -> None:
    """Hosts go by version 1, rightly, until their timestamp expires: what they made last would not verify."""
    stage(office, repository, WEEK - timedelta(seconds=1))
    expires = format_time(office.clock.now + WEEK)
    with pytest.raises(UsageError, match=f"hosts may go by version 1 until {expires}") as refused:
        office.publish(repository, "alice")
    for said in ("receipts included", "attestd governance mesh --handover 14d", "--short-handover"):
        assert said in str(refused.value)
    assert repository.published.files["mesh.json"] != repository.plan().files["mesh.json"]
    office.publish(repository, is_short_meant=True)
    assert repository.published.files["mesh.json"] == repository.plan().files["mesh.json"]


def test_who_refreshes_while_others_sign_makes_it_short(office: Office, repository: Repository) -> None:
    """Long enough when it was staged; the usual one leaves a week for that."""
    for after in (WEEK, usual_handover(repository.settings)):
        stage(office, repository, after)
        repository.sign(office.key("alice"))
        office.clock.advance(days=1)
        repository.refresh([office.key("online")])
        if after == WEEK:
            with pytest.raises(UsageError, match="hosts may go by version 1 until"):
                office.publish(repository)
    office.publish(repository)


def test_the_first_is_held_against_hosts_that_have_none(office: Office) -> None:
    world = World()
    repository = office.published(world)
    handover = format_time(office.clock.now + timedelta(days=1))
    repository.stage({"mesh.json": mesh_file([witness("one")], handover=handover)})
    with pytest.raises(UsageError, match="hosts may do without one until"):
        office.publish(repository, "alice")


def test_nobody_has_anything_before_the_first_publication(office: Office) -> None:
    world = World()
    handover = format_time(office.clock.now + timedelta(days=1))
    world.extra["mesh.json"] = mesh_file([witness("one")], handover=handover)
    assert office.published(world).published.snapshot is not None


def test_one_that_is_over_is_not_published(office: Office, repository: Repository) -> None:
    """Signatures took a week, and nobody refreshed: what hosts did meanwhile by the version in force would verify no more."""
    stage(office, repository, WEEK)
    office.clock.advance(days=7)
    for is_meant in (False, True):
        with pytest.raises(UsageError, match="handover: expected a time after now, found"):
            office.publish(repository, "alice", is_short_meant=is_meant)
    stage(office, repository, WEEK)
    office.publish(repository, "alice")
    office.clock.advance(days=8)
    world = World()
    world.revocations |= {"version": 2, "requesters": [7]}
    repository.stage({"revocations.json": world.files()["revocations.json"]})
    office.publish(repository, "alice")


def test_one_that_lies_too_far_ahead_is_not_published(office: Office, repository: Repository) -> None:
    longest = longest_handover(repository.settings)
    stage(office, repository, longest + timedelta(seconds=1))
    with pytest.raises(UsageError, match="expected at most 372 days from now"):
        office.publish(repository, "alice")
    stage(office, repository, longest)
    office.publish(repository, "alice")


def test_a_host_that_stands_alone_takes_it_at_once(office: Office) -> None:
    days = STANDALONE_DAYS
    own = Settings(
        online=STANDALONE_ONLINE, expiry_days=Expiry(root=days, targets=days, snapshot=days, timestamp=days)
    )
    assert (usual_handover(own), longest_handover(own)) == (WEEK, timedelta(days=365))
    world = World()
    repository = office.published(world, online=own.online, expiry_days=own.expiry_days)
    repository.stage({"mesh.json": mesh_file(handover=format_time(office.clock.now + timedelta(hours=1)))})
    assert find_short_handover(repository.plan(), repository.settings) is None
    office.publish(repository, "alice")
    assert repository.validate().trust.mesh.version == 1
    fleet = Settings(expiry_days=own.expiry_days)
    assert usual_handover(fleet) > timedelta(days=days), "a fleet whose timestamps hold as long"


@pytest.mark.parametrize("text", [b"", b"[1]", b'{"handover":5}'])
def test_what_is_no_mesh_file_has_none(repository: Repository, text: bytes) -> None:
    """Somebody wrote it there by hand: whoever validates it says what it is."""
    (repository.path / "staged/targets/mesh.json").write_bytes(text)
    assert find_short_handover(repository.plan(), repository.settings) is None


def test_what_is_suggested_is_enough(office: Office, repository: Repository) -> None:
    """A timestamp that holds for longer than those that are made now."""
    brief = msgspec.structs.replace(repository.settings, expiry_days=Expiry(timestamp=1))
    stage(office, repository, timedelta(days=2))
    with pytest.raises(UsageError, match="--handover 8d"):
        require_handover(repository.plan(), brief, now=office.clock.now, is_short_meant=False)
    office.clock.now -= timedelta(days=5)
    with pytest.raises(UsageError, match="--handover 12d"):
        require_handover(repository.plan(), brief, now=office.clock.now, is_short_meant=False)
