"""The heart of delegation: whatever a child allows that its parent does not, the child is refused."""

from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestd.authorization import containment
from attestd.authorization.containment import widenings
from attestd.authorization.statement import Statement
from tests.authorization.occasions import (
    HOSTS,
    MEMBERS,
    Occasion,
    allows,
    build,
    case,
    occasion,
    pair,
    some,
)

SEEDS = st.integers(0, 2**64)
AT_ONCE = 10  # cases a seed: they cost less than hypothesis does


def escapes(parent: Statement, child: Statement, what: Occasion) -> bool:
    """The child does what the parent could not, and nobody objects."""
    return allows(child, what) and not allows(parent, what, above=1) and not widenings(parent, child)


@given(SEEDS)
@settings(deadline=None, max_examples=150)
def test_what_a_child_allows_and_its_parent_does_not_is_refused(seed: int) -> None:
    for number in range(AT_ONCE):
        parent, child, what = case(seed + number)
        assert allows(child, what), "an occasion is drawn from what the child allows"
        assert not escapes(parent, child, what), (parent, child, what)


def test_there_are_children_of_each_kind() -> None:
    """Both branches of the property are walked, often."""
    found = [
        (allows(parent, what, above=1), not widenings(parent, child))
        for parent, child, what in map(case, range(500))
    ]
    assert found.count((True, True)) > 50, "narrower, and accepted"
    assert found.count((False, False)) > 50, "wider, shown by an occasion, and refused"
    assert (False, True) not in found


def _nothing(*_: Any, **__: Any) -> Iterator[str]:
    return iter(())


RULES = [name for name, value in vars(containment).items() if name.startswith("_") and callable(value)]
WORDS = {"_file", "_files", "_show"}


@pytest.mark.parametrize("rule", sorted(set(RULES) - WORDS))
def test_the_property_finds_each_rule_that_is_missing(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not vacuous: without any one of the rules there is an escape, and it is found."""
    monkeypatch.setattr(containment, rule, _nothing)
    assert any(escapes(*case(seed)) for seed in range(10_000))


def test_the_property_finds_that_patterns_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containment, "contains", lambda *_: True)
    assert any(escapes(*case(seed)) for seed in range(10_000))


# -- what is narrower is accepted ----------------------------------------------------------------------------------------


@given(SEEDS)
@settings(deadline=None)
def test_a_child_that_takes_something_away_is_accepted(seed: int) -> None:
    """Each member narrowed at random, by a step that is a narrowing."""
    random = Random(seed)  # noqa: S311 - for a test
    parent, _ = pair(random)
    above = parent.predicate
    hosts, environment, enforcement = above.bindings.hosts, above.environment, above.enforcement
    values: dict[str, Any] = {
        "subject": parent.subject,
        "scope.argv": above.scope.argv,
        "scope.cwd": above.scope.cwd,
        "scope.uid": above.scope.uid,
        "scope.env": {"set": above.scope.env.set, "pass": some(random, above.scope.env.pass_)},
        "scope.inputs": above.scope.inputs,
        "bindings.hosts": some(random, hosts, 1) if hosts else HOSTS[1:2],
        "bindings.host_labels": {**above.bindings.host_labels, "c": "z"},
        "bindings.requesters": some(random, above.bindings.requesters, 1),
        "environment.platform": environment.platform,
        "environment.max_evidence_age_s": random.randint(1, environment.max_evidence_age_s),
        "environment.verifiers": {"quorum": environment.verifiers.quorum + random.randint(0, 1)},
        "environment.witnesses": {"quorum": environment.witnesses.quorum + random.randint(0, 1)},
        "governance.policy": above.governance.policy,
        "governance.policy_digest": above.governance.policy_digest or "ab" * 32,
        "governance.min_version": above.governance.min_version + random.randint(0, 1),
        "governance.metadata": above.governance.metadata,
        "attribution.on_behalf_of": above.attribution.on_behalf_of or "x",
        "validity.not_before": "2026-01-31T11:30:00Z",
        "validity.not_after": "2026-01-31T12:30:00Z",
        "validity.max_uses": random.choice(
            [above.validity.max_uses, random.randint(1, above.validity.max_uses or 9)]
        ),
        "lineage.delegate_to": some(random, above.lineage.delegate_to, 1),
        "lineage.max_depth": random.randrange(above.lineage.max_depth),
        "enforcement.on_trust_loss": "kill",
        "enforcement.recheck_interval_s": random.randint(1, enforcement.recheck_interval_s),
        "enforcement.mesh_grace_s": random.randint(0, enforcement.mesh_grace_s),
        "secrets": some(random, above.secrets),
        "tool": above.tool,
    }
    assert values.keys() == MEMBERS.keys(), "a member added to the format has a narrowing here"
    child = build(values)
    assert widenings(parent, child) == []
    assert allows(parent, occasion(random, child), above=1)


@given(SEEDS)
@settings(deadline=None)
def test_the_same_one_link_deeper_is_accepted(seed: int) -> None:
    parent, _ = pair(Random(seed))  # noqa: S311 - for a test
    lineage = parent.predicate.lineage
    deeper = msgspec.structs.replace(
        lineage,
        max_depth=lineage.max_depth - 1,
        delegate_to=lineage.delegate_to if lineage.max_depth > 1 else (),
    )
    predicate = msgspec.structs.replace(parent.predicate, lineage=deeper)
    assert widenings(parent, msgspec.structs.replace(parent, predicate=predicate)) == []
