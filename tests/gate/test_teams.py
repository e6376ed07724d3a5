"""What a team's authority may authorize, by agent and runner; and that nobody may where its rules are not usable."""

import pytest

from attestd.authorization.artifact import parse_artifact
from attestd.codes import Code, Denied
from attestd.gate.authority import verify_authorization
from tests.world import AnyKey, World


@pytest.fixture
def world() -> World:
    """Top-level rules speak of /usr only; the team may authorize what lies in /opt/payments."""
    world = World()
    world.authorities["authorizations"][0]["paths"] = ["/usr/"]
    return world


@pytest.fixture
def team(world: World) -> AnyKey:
    return world.add_team("payments", paths=["/opt/payments/"], uids=[1001])


def authorize(world: World, key: AnyKey, *, executable: str = "/opt/payments/pay", uid: int = 1001) -> str:
    """The rule under which an artifact of that key counts for that execution."""
    artifact = parse_artifact(world.artifact(signers=[key]))
    _, rule = verify_authorization(artifact, trust=world.trust(), executable=executable, uid=uid)
    return rule.name


def denied(world: World, key: AnyKey, **where: object) -> tuple[Code, str]:
    with pytest.raises(Denied) as raised:
        authorize(world, key, **where)  # type: ignore[arg-type]
    return raised.value.denial.code, raised.value.denial.sentence


def test_within_its_scope(world: World, team: AnyKey) -> None:
    assert authorize(world, team) == "payments/all"
    assert authorize(world, world.authors[0], executable="/usr/bin/deploy") == "local"


@pytest.mark.parametrize(
    "where", [{"executable": "/usr/bin/deploy"}, {"executable": "/opt/other"}, {"uid": 0}]
)
def test_outside_of_it(world: World, team: AnyKey, where: dict[str, object]) -> None:
    code, _ = denied(world, team, **where)
    assert code is Code.INVALID_SIGNATURE


def test_another_authority_within_it(world: World, team: AnyKey) -> None:
    assert denied(world, world.authors[0])[0] is Code.INVALID_SIGNATURE


def test_nobody_where_its_rules_are_not_usable(world: World, team: AnyKey) -> None:
    world.teams["payments"]["authorizations"][0]["uids"] = None
    for key in (team, world.authors[0]):
        code, sentence = denied(world, key)
        assert code is Code.GOVERNANCE_MISMATCH
        assert "goes beyond the team's scope: any user" in sentence
    assert authorize(world, world.authors[0], executable="/usr/bin/deploy") == "local"
