"""Recorded decisions against other policies: what would differ, what would not, and what cannot be said."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from attestd.errors import MalformedError, UsageError
from attestd.gate.execution import File
from attestd.gate.model import Decision
from attestd.gate.replay import Replay, replay
from attestd.lineage.entry import Entry, EntryType, format_entry, parse_entry
from attestd.strict import format_time_us
from tests.governance.test_cedar import load
from tests.world import BOOT, NOW, World, digest

ALL = "permit (principal, action, resource)"
NONE = "forbid (principal, action, resource)"


@pytest.fixture
def world() -> World:
    return World()


def logged(decision: Decision | Mapping[str, Any], type_: EntryType = EntryType.DECISION_ALLOW) -> Entry:
    """The entry of a decision, as it is read from a log."""
    body = decision.body if isinstance(decision, Decision) else decision
    kind = decision.entry_type if isinstance(decision, Decision) else type_
    return parse_entry(format_entry(type_=kind, time=format_time_us(NOW), seq=7, boot=BOOT, body=dict(body)))


def replayed(world: World, entry: Entry, text: str, **texts: str) -> Replay:
    return replay(entry, policies=load(exec=text, **texts), host=world.trust().hosts[world.host.id])


def test_the_same(world: World) -> None:
    found = replayed(world, logged(world.decide()), f"{ALL};")
    assert found == Replay("permitted by exec#all", True, False, "permitted by exec#0")


def test_would_be_denied(world: World) -> None:
    entry = logged(world.decide())
    found = replayed(world, entry, f'{ALL};@id("no") {NONE} when {{ context.argv.contains("prod") }};')
    assert (found.permitted, found.differs) == (False, True)
    assert found.words == "policy_conflict: forbidden by policy exec#no"
    assert replayed(world, entry, "").words.startswith("policy_denied: no permit")
    gone = replay(entry, policies=load(other=f"{ALL};"), host=world.trust().hosts[world.host.id])
    assert (gone.differs, gone.words) == (True, "governance_mismatch: policy 'exec' is not in force here")


def test_would_be_permitted(world: World) -> None:
    world.policies["policy/exec.cedar"] = b""
    entry = logged(world.decide())
    assert entry.type is EntryType.DECISION_DENY
    assert replayed(world, entry, f"{ALL};").differs
    assert not replayed(world, entry, f"{ALL};{NONE};").differs  # for another reason, but denied


def test_denied_before_a_policy_was_asked(world: World) -> None:
    found = replayed(world, logged(world.decide(execution=world.execution(cwd="/tmp"))), "")
    assert (found.permitted, found.differs) == (None, False)
    assert found.words == "it was denied before a policy was asked"


def test_everything_is_in_the_log(world: World) -> None:
    """Whatever a policy looks at, it sees what it saw: each attribute has the value of the decision."""
    execution = world.execution(
        interpreters=(File("/usr/bin/bash", digest(b"bash")),), inputs=(File("/srv/plan", digest(b"plan")),)
    )
    artifact = world.artifact(execution, metadata={"change": "1"}, on_behalf_of="eve", max_uses=3)
    seconds = int(NOW.timestamp())
    text = (
        f'{ALL} when {{ context.executable == "/usr/bin/deploy" && context.command_line == "deploy --env prod" }}'
        f' when {{ context.interpreters == [Executable::"{digest(b"bash")}"] && context.inputs == ["/srv/plan"] }}'
        f' when {{ context.env == ["PATH"] && context.cwd == "/srv" && context.time == {seconds} }}'
        ' when { context.artifact.metadata == ["change=1"] && context.labels == ["role=ci"] }'
        ' when { context.artifact has on_behalf_of && context.artifact.on_behalf_of == "eve" }'
        " when { context.artifact has max_uses && context.artifact.max_uses == 3 && context.depth == 0 };"
    )
    world.policies["policy/exec.cedar"] = text.encode()
    entry = logged(world.decide(artifact, execution=execution))
    assert entry.type is EntryType.DECISION_ALLOW
    assert not replayed(world, entry, text).differs
    late = parse_entry(
        format_entry(
            type_=entry.type,
            time=format_time_us(NOW + timedelta(seconds=1)),
            seq=7,
            boot=BOOT,
            body=dict(entry.body),
        )
    )
    assert replayed(world, late, text).differs


def test_what_is_not_in_the_log_cannot_be_said(world: World) -> None:
    execution = world.execution(argv=("deploy", *("x" * 1000 for _ in range(40))))
    entry = logged(world.decide(world.artifact(execution), execution=execution))
    assert set(entry.body["argv"]) == {"bytes", "sha256"}
    found = replayed(world, entry, f'{ALL} unless {{ context.argv.contains("--force") }};')
    assert (found.permitted, found.differs) == (None, False)
    assert found.words == "a policy looks at argv, which is not in the log"
    assert replayed(world, entry, f"{ALL};").permitted


def test_terms_that_are_not_in_the_log(world: World) -> None:
    metadata = {f"m{number}": "x" * 1000 for number in range(40)}
    decision = world.decide(world.artifact(metadata=metadata))
    entry = logged(decision)
    assert set(entry.body["terms"]) == {"bytes", "sha256"}
    assert "artifact.ttl_s" in replayed(world, entry, f"{ALL} when {{ context.artifact.ttl_s > 5 }};").words
    assert replayed(world, entry, f"{ALL};").permitted


@pytest.mark.parametrize(
    "change",
    [
        {"policy": []},
        {"terms": None},
        {"terms": {}},
        {"executable": "/bin/true"},
        {"executable": {"path": "/bin/true"}},
        {"argv": None},
        {"requester": 7},
        {"platform": None},
        {"artifact": None},
        {"interpreters": ["x"]},
    ],
)
def test_another_body(world: World, change: dict[str, Any]) -> None:
    body = {**world.decide().body, **change}
    for other in (body, {name: value for name, value in body.items() if name not in change}):
        with pytest.raises(MalformedError, match="entry 7"):
            replayed(world, logged(other), f"{ALL} when {{ context.artifact.ttl_s > 5 }};")


def test_no_decision(world: World) -> None:
    with pytest.raises(UsageError):
        replayed(world, logged({}, EntryType.AGENT_START), "")


def test_a_chain(world: World) -> None:
    body = dict(world.decide(world.artifact()).body)
    body["artifact"] = {**body["artifact"], "chain": ["aa" * 32, "bb" * 32, "cc" * 32]}
    assert replayed(world, logged(body), f"{ALL} when {{ context.depth == 2 }};").permitted
