"""Delegated artifacts in the decision and in what the runner verifies. What a rogue delegate tries: tests/attacks."""

import pytest

from attestd.authorization.artifact import parse_artifact
from attestd.codes import Code
from attestd.gate.decide import decide
from attestd.gate.standing import verify_standing
from tests.chains import delegable, delegate_key, under
from tests.world import Granted, World, key_id

TEAM, MEMBER = delegate_key("team"), delegate_key("member")


@pytest.fixture
def world() -> World:
    return World()


def test_3_signatures_of_a_chain(world: World) -> None:
    chain = under(under(delegable(world, TEAM, MEMBER), TEAM), MEMBER)
    decision = world.decide(chain)
    assert decision.denial is None
    assert decision.checks[2].detail == (
        f"1 of 1 needed, rule 'local'; delegated by key {key_id(TEAM)}, then {key_id(MEMBER)}"
    )
    assert decision.artifact is not None
    assert decision.artifact.id == parse_artifact(chain).id


def test_11_lineage_of_a_chain(world: World) -> None:
    chain = under(delegable(world, TEAM), TEAM)
    root = parse_artifact(chain).links[0].id
    decision = world.decide(chain)
    assert decision.checks[10].detail == f"delegated 1 deep, from {root}, no parent"
    assert decision.body["artifact"]["chain"] == [root, parse_artifact(chain).id]
    world.authorities["authorizations"][0]["max_depth"] = 0
    denied = world.decide(chain)
    assert denied.denial is not None
    assert denied.denial.code is Code.LINEAGE_BROKEN
    assert "lets an artifact be delegated 0 deep, this one is 1 deep" in denied.denial.sentence


def test_16_uses_of_those_above(world: World) -> None:
    chain = under(
        delegable(world, TEAM, max_uses=3), TEAM, edit=lambda s: s["predicate"]["validity"].update(max_uses=2)
    )
    root, child = (link.id for link in parse_artifact(chain).links)
    for used, sentence in (
        ({root: 3}, f"artifact {root}, above this one, may be used 3 times and was used 3 times"),
        ({child: 2, root: 2}, "the artifact may be used 2 times and was used 2 times"),
    ):
        context = world.context(uses=lambda artifact, used=used: used.get(artifact, 0))
        decision = decide(world.request(chain), context)
        assert decision.denial is not None
        assert (decision.denial.code, decision.denial.sentence) == (Code.USES_EXHAUSTED, sentence)
    assert decide(world.request(chain), world.context(uses=lambda _: 1)).checks[15].detail == "use 2 of 2"


def test_the_runner_counts_each_link(world: World) -> None:
    chain = under(delegable(world, TEAM, max_uses=3), TEAM)
    root, child = (link.id for link in parse_artifact(chain).links)
    decision = world.decide(chain)
    released = world.release(Granted(chain, world.execution(), world.receipt(decision.body), decision.body))
    assert (released.artifact_id, released.max_uses, released.above) == (child, 3, ((root, 3),))


def test_a_chain_by_itself(world: World) -> None:
    """Offline: whoever has the chain and governance knows who delegated what to whom."""
    chain = under(delegable(world, TEAM), TEAM)
    verified, rule = verify_standing(parse_artifact(chain), trust=world.trust())
    assert rule.name == "local"
    assert verified.signers == ((key_id(world.authors[0]),), (key_id(TEAM),))
