"""A stage that another publication has overtaken brings nothing back: it is refused, and begun anew."""

import shutil
from pathlib import Path

import pytest

from attestd.distribution import repository as module
from attestd.distribution.repository import Repository
from attestd.errors import StoreError, UsageError
from tests.distribution.repositories import Clock, Office
from tests.world import World

FORBID = b'forbid (principal == User::"7", action, resource);\n'
MORE = b'forbid (principal == User::"8", action, resource);\n'
NAME = "policy/more.cedar"
OVERTAKEN = "targets version 3 is published, and what is staged was made from another"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path, Clock())


@pytest.fixture
def desks(office: Office, world: World, tmp_path: Path) -> tuple[Repository, Repository]:
    """Two copies of one repository, with one policy."""
    first = office.published(world)
    first.stage({NAME: FORBID})
    office.publish(first, "alice")
    return first, Repository(shutil.copytree(first.path, tmp_path / "second"), clock=office.clock)


def bring(first: Repository, second: Repository) -> None:
    """What was published at the first desk is brought to the second."""
    shutil.rmtree(second.published_path)
    shutil.copytree(first.published_path, second.published_path)


def removed(office: Office, first: Repository, second: Repository) -> None:
    """A policy is removed at the first desk, and that is published."""
    first.stage({NAME: None})
    office.publish(first, "alice")
    bring(first, second)


@pytest.mark.parametrize("staged", ["by a command", "by hand", "not at all"])
def test_what_was_removed_elsewhere_does_not_come_back(
    office: Office, desks: tuple[Repository, Repository], staged: str
) -> None:
    first, second = desks
    if staged == "by a command":
        second.stage({"policy/other.cedar": MORE})
    elif staged == "by hand":
        (second.path / "staged/targets/policy/other.cedar").write_bytes(MORE)
    removed(office, first, second)
    for act in (
        second.plan,
        lambda: second.stage({"policy/third.cedar": MORE}),
        lambda: second.sign(office.key("alice")),
        lambda: second.renew("targets"),
        lambda: second.publish([office.key("online")]),
    ):
        with pytest.raises(UsageError, match=OVERTAKEN) as refused:
            act()
        assert NAME in str(refused.value)
        assert "attestd governance stage --reset" in str(refused.value)
    # One file taken back is not all.
    second.unstage([NAME])
    if staged != "not at all":
        with pytest.raises(UsageError, match=OVERTAKEN):
            second.plan()
    second.unstage()
    assert second.plan().drafts == set()
    second.stage({"policy/other.cedar": MORE})
    office.publish(second, "alice")
    assert NAME not in second.published.files


def test_a_stage_goes_on_where_its_own_role_was_not_published(
    office: Office, desks: tuple[Repository, Repository]
) -> None:
    first, second = desks
    second.stage({"policy/other.cedar": MORE})
    first.refresh([office.key("online")])
    bring(first, second)
    office.publish(second, "alice")
    assert {NAME, "policy/other.cedar"} <= second.published.files.keys()


def test_what_is_staged_elsewhere_too_goes_on(office: Office, desks: tuple[Repository, Repository]) -> None:
    """The same change at both desks, or what one desk staged and the other published: nothing is undone."""
    first, second = desks
    for desk in desks:
        desk.stage({NAME: None})
    office.publish(first, "alice")
    bring(first, second)
    assert second.plan().drafts == set()
    second.stage({"policy/other.cedar": MORE})
    assert second.plan().drafts == {"targets"}


def test_a_publication_that_was_cut_off_has_overtaken_nothing(
    office: Office, desks: tuple[Repository, Repository], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = desks
    first.stage({NAME: None})
    first.sign(office.key("alice"))

    def cut_off(*_: object, **__: object) -> None:
        raise StoreError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(module, "base_of", cut_off)
        with pytest.raises(StoreError):
            first.publish([office.key("online")])
    assert NAME not in first.published.files
    (first.path / "staged/targets/policy/other.cedar").write_bytes(MORE)
    first.stage({})
    office.publish(first, "alice")
    assert "policy/other.cedar" in first.published.files


def test_what_somebody_else_staged_meanwhile_is_not_undone(desks: tuple[Repository, Repository]) -> None:
    """At one desk: what a command writes was made from what it read before."""
    first, _ = desks
    seen = first.plan().files
    first.stage({NAME: None})
    with pytest.raises(UsageError, match=r"policy/more\.cedar was changed by somebody else meanwhile"):
        first.stage({NAME: MORE}, seen=seen)
    first.stage({"policy/other.cedar": MORE}, seen=seen)
    assert NAME not in first.plan().files


@pytest.mark.parametrize("text", [None, b"[]", b"\xff"])
def test_no_base(desks: tuple[Repository, Repository], text: bytes | None) -> None:
    """Nobody knows what the stage goes on from: that is so only as long as nothing differs, and a reset ends it."""
    first, _ = desks
    base = first.path / "staged/base.json"

    def damage() -> None:
        base.unlink()
        if text is not None:
            base.write_bytes(text)

    damage()
    first.stage({NAME: None})
    damage()
    with pytest.raises(UsageError, match="what is staged was made from another"):
        first.plan()
    first.unstage()
    assert NAME in first.plan().files
    first.stage({NAME: None})
    assert NAME not in first.plan().files
