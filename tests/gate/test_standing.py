"""An artifact by itself, and a decision read back from its leaf."""

from typing import Any

import pytest

from attestd.authorization.artifact import parse_artifact
from attestd.codes import Code, Denial, Denied
from attestd.errors import UsageError
from attestd.gate.body import as_denied
from attestd.gate.explain import Explanation, explain
from attestd.gate.model import CHECKS, Outcome
from attestd.gate.standing import verify_standing
from attestd.lineage.entry import Entry, EntryType, format_entry, parse_entry
from attestd.strict import format_time_us
from tests.world import BOOT, NOW, World, digest, ed25519_key, key_id


@pytest.fixture
def world() -> World:
    return World(authors=2, threshold=2)


def code(world: World, artifact: bytes) -> Code | None:
    try:
        verify_standing(parse_artifact(artifact), trust=world.trust())
    except Denied as denied:
        return denied.denial.code
    return None


def test_standing(world: World) -> None:
    """Whether it is valid now, or for this host, is not asked: there is no request."""
    elsewhere = world.artifact(host_id="00" * 32, now=NOW.replace(year=2020))
    verified, rule = verify_standing(parse_artifact(elsewhere), trust=world.trust())
    assert rule.name == "local"
    assert verified.key_ids == tuple(sorted(key_id(key) for key in world.authors))


def test_not_standing(world: World) -> None:
    artifact = world.artifact()
    assert code(world, artifact) is None
    assert code(world, world.artifact(signers=world.authors[:1])) is Code.INSUFFICIENT_APPROVALS
    assert code(world, world.artifact(signers=[ed25519_key("stranger")])) is Code.INVALID_SIGNATURE
    for member, value in (
        ("artifacts", parse_artifact(artifact).id),
        ("subjects", digest(b"deploy")),
        ("keys", key_id(world.authors[0])),
    ):
        world.revocations[member] = [value]
        assert code(world, artifact) is Code.REVOKED
        world.revocations[member] = []
    world.authorities["authorizations"][0]["uids"] = [0]
    assert code(world, artifact) is Code.INVALID_SIGNATURE


# explain


def entry(body: dict[str, Any], type_: EntryType = EntryType.DECISION_DENY) -> Entry:
    return parse_entry(format_entry(type_=type_, time=format_time_us(NOW), seq=3, boot=BOOT, body=body))


def test_an_allowed_decision(world: World) -> None:
    explanation = explain(entry(dict(world.grant().body), EntryType.DECISION_ALLOW))
    assert explanation.allowed
    assert (explanation.code, explanation.sentence, explanation.failed) == ("", "", None)
    assert [check.outcome for check in explanation.checks] == [Outcome.VERIFIED] * len(CHECKS)
    assert explanation.request["argv"] == ["deploy", "--env", "prod"]


def test_a_denied_decision_is_explained_as_it_was_decided(world: World) -> None:
    decision = world.decide(execution=world.execution(cwd="/"))
    explanation = explain(entry(dict(decision.body)))
    assert not explanation.allowed
    assert explanation.checks == decision.checks
    assert decision.denial is not None
    assert (explanation.code, explanation.sentence, explanation.hint) == (
        "scope_violation",
        decision.denial.sentence,
        decision.denial.hint,
    )
    assert explanation.failed is not None
    assert explanation.failed.name == "scope"


def test_a_decision_that_the_tpm_refused(world: World) -> None:
    denial = Denial(Code.ENVIRONMENT_UNTRUSTED, "the TPM refused", "boot the approved state")
    explanation = explain(entry(as_denied(world.grant().body, denial)))
    assert explanation.failed is not None
    assert explanation.failed.name == "environment"
    assert explanation.hint == "boot the approved state"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"checks": None, "denial": [], "code": 1},
        {"checks": [1, {}, {"name": []}, {"name": "scope", "outcome": "great", "detail": 5}]},
        {"checks": [{"name": "scope", "outcome": ["verified"]}]},
        {"checks": [{"name": "unknown", "outcome": "verified"}], "denial": {"sentence": {}}},
        {"findings": 5},
        {"findings": {"first": 5, "count": "many"}},
    ],
)
def test_any_body(body: dict[str, Any]) -> None:
    """A log of another version, or of a liar: what is not there was not evaluated, and nothing is made up."""
    explanation = explain(entry(body))
    assert isinstance(explanation, Explanation)
    assert [check.name for check in explanation.checks] == list(CHECKS)
    assert {check.outcome for check in explanation.checks} == {Outcome.NOT_EVALUATED}
    assert explanation.sentence == ""
    assert explanation.request == {}


@pytest.mark.parametrize(
    "type_",
    [type_ for type_ in EntryType if not type_.value.startswith("decision.") or "void" in type_.value],
)
def test_other_entries(type_: EntryType) -> None:
    with pytest.raises(UsageError, match="not a decision"):
        explain(entry({}, type_))
