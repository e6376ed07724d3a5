"""Check 10, in the decision and in the runner: what policies see, and what each outcome says."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from attestd.authorization.artifact import parse_artifact
from attestd.codes import Code, Denied
from attestd.errors import MalformedError
from attestd.gate.decide import decide
from attestd.gate.execution import File
from attestd.gate.policy import artifact_terms, policy_request, require_verdict
from attestd.governance.cedar import Policies
from attestd.governance.policy_schema import DEFAULT_POLICY
from tests.governance.test_cedar import TEAMS, load
from tests.world import NOW, World, digest, key_id

ALL = "permit (principal, action, resource)"
NONE = "forbid (principal, action, resource)"


@pytest.fixture
def world() -> World:
    return World()


def says(world: World, text: str, **changes: Any) -> tuple[Code | None, str]:
    """Code and sentence of the decision under one policy."""
    world.policies["policy/exec.cedar"] = text.encode()
    decision = world.decide(**changes)
    if decision.denial is None:
        return None, decision.checks[9].detail
    assert [check.number for check in decision.checks if check.outcome.value == "rejected"] == [10]
    return decision.denial.code, decision.denial.sentence


def test_permitted(world: World) -> None:
    assert says(world, f'@id("a") {ALL};\n{ALL};') == (None, "permitted by exec#1, exec#a")


def test_no_permit(world: World) -> None:
    sentence = "no permit of policy 'exec' holds for running /usr/bin/deploy for uid 1001"
    assert says(world, "") == (Code.POLICY_DENIED, sentence)


def test_a_forbid_is_named_with_its_reason(world: World) -> None:
    text = f'{ALL};@id("freeze") @reason("Not today.") {NONE};@id("b") {NONE};'
    assert says(world, text) == (
        Code.POLICY_CONFLICT,
        "forbidden by policy exec#b; exec#freeze (Not today.)",
    )


def test_a_policy_that_fails_denies(world: World) -> None:
    code, sentence = says(
        world, f'{ALL};@id("sum") {NONE} when {{ context.time + 9223372036854775807 < 0 }};'
    )
    assert code is Code.POLICY_CONFLICT
    assert "a policy cannot be evaluated" in sentence
    assert "`exec#sum`" in sentence


def test_the_runner_evaluates_too(world: World) -> None:
    granted = world.grant()
    assert world.release(granted).seq == 1
    for text, code in ((b"", Code.POLICY_DENIED), (f"{ALL};{NONE};".encode(), Code.POLICY_CONFLICT)):
        world.policies["policy/exec.cedar"] = text
        with pytest.raises(Denied) as raised:
            world.release(granted)
        assert raised.value.denial.code is code


def test_the_runner_goes_by_its_own_clock(world: World) -> None:
    granted = world.grant()
    world.policies["policy/exec.cedar"] = (
        f"{ALL} when {{ context.time < {int(NOW.timestamp()) + 5} }};".encode()
    )
    assert world.release(granted)
    with pytest.raises(Denied):
        world.release(granted, now=NOW + timedelta(seconds=5))


def test_the_runner_sees_the_bytes_itself(world: World) -> None:
    """A policy by executable is about what the runner hashed, whatever the agent says."""
    granted = world.grant()
    good = digest(b"deploy")
    world.policies["policy/exec.cedar"] = (
        f'permit (principal, action, resource == Executable::"{good}");'.encode()
    )
    assert world.release(granted)
    other = replace(granted.execution, executable=File("/usr/bin/deploy", digest(b"other")))
    with pytest.raises(Denied) as raised:
        world.release(granted, execution=other)
    assert raised.value.denial.code is Code.POLICY_DENIED


# What policies see

SEEN = {
    "context.executable": '"/usr/bin/deploy"',
    "context.directory": '"/usr/bin/"',
    "context.argc": "3",
    "context.command_line": '"deploy --env prod"',
    "context.cwd": '"/srv"',
    "context.uid": "1001",
    "context.platform": '"local"',
    "context.tier": 'Tier::"software"',
    "context.userspace": 'Userspace::"none"',
    "context.depth": "0",
    "context.artifact.ttl_s": "3600",
    "context.artifact.on_trust_loss": 'TrustLoss::"kill"',
    "context.artifact.requested_by": '"somebody"',
    "context.artifact.reason": '"CHG-123"',
    "principal": 'User::"1001"',
    "action": 'Action::"exec"',
}
SEEN_SETS = {
    "context.argv": '["deploy", "--env", "prod"]',
    "context.env": '["PATH"]',
    "context.labels": '["role=ci"]',
}


@pytest.mark.parametrize(("attribute", "value"), [*SEEN.items(), *SEEN_SETS.items()])
def test_what_policies_see(world: World, attribute: str, value: str) -> None:
    assert says(world, f"{ALL} when {{ {attribute} == {value} }};")[0] is None


@pytest.mark.parametrize(
    "empty",
    ["interpreters", "inputs", "findings", "artifact.metadata", "artifact.approved_by"],
)
def test_what_is_empty(world: World, empty: str) -> None:
    assert says(world, f"{ALL} when {{ context.{empty}.isEmpty() }};")[0] is None


def test_host_and_signers(world: World) -> None:
    signer = key_id(world.authors[0])
    text = f'{ALL} when {{ context.host == "{world.host.id}" && context.artifact.signers == ["{signer}"] }};'
    assert says(world, text)[0] is None


def test_time_of_day(world: World) -> None:
    text = (
        f"{ALL} when {{ context.time == {int(NOW.timestamp())} && context.hour == {NOW.hour}"
        f" && context.weekday == {NOW.isoweekday()} }};"
    )
    assert says(world, text)[0] is None


def test_a_script_and_what_it_reads(world: World) -> None:
    execution = world.execution(
        interpreters=(File("/usr/bin/bash", digest(b"bash")),),
        inputs=(File("/srv/plan", digest(b"plan")),),
    )
    artifact = world.artifact(execution)
    text = (
        f'{ALL} when {{ context.interpreters == [Executable::"{digest(b"bash")}"]'
        ' && context.inputs == ["/srv/plan"] };'
    )
    assert says(world, text, artifact=artifact, execution=execution)[0] is None


def test_what_the_artifact_carries(world: World) -> None:
    artifact = world.artifact(
        metadata={"change": "CHG=1"},
        approved_by=["bob"],
        on_behalf_of="eve",
        max_uses=2,
        max_evidence_age_s=9,
    )
    text = (
        f'{ALL} when {{ context.artifact.metadata == ["change=CHG=1"] }}'
        ' when { context.artifact.approved_by == ["bob"] }'
        ' when { context.artifact has on_behalf_of && context.artifact.on_behalf_of == "eve" }'
        " when { context.artifact has max_uses && context.artifact.max_uses == 2 }"
        " when { context.artifact.max_evidence_age_s == 9 };"
    )
    assert says(world, text, artifact=artifact)[0] is None


def test_what_is_found_is_seen(world: World) -> None:
    world.policies["policy/exec.cedar"] = f"{ALL} when {{ context.findings.isEmpty() }};".encode()
    context = world.context()
    bad = replace(context.appraisals["local"], findings=("PCR 4 differs",))
    decision = decide(world.request(), replace(context, appraisals={"local": bad}))
    assert decision.denial is not None
    assert decision.denial.code is Code.POLICY_DENIED


def test_terms_are_those_of_the_schema(world: World) -> None:
    """Each attribute of `context.artifact` in the schema is recorded, and the other way round."""
    statement = parse_artifact(world.artifact()).statement
    terms = artifact_terms(statement, origin=statement, signers=["b", "a"])
    assert terms["signers"] == ["a", "b"]
    assert set(terms) == {
        "ttl_s", "max_uses", "max_evidence_age_s", "on_trust_loss", "recheck_interval_s", "signers", "metadata",
        "requested_by", "approved_by", "on_behalf_of", "reason",
    }  # fmt: skip
    assert world.decide().body["terms"] == artifact_terms(
        statement, origin=statement, signers=[key_id(world.authors[0])]
    )


def test_command_lines_never_look_the_same(world: World) -> None:
    seen = set()
    host = world.trust().hosts[world.host.id]
    vectors = [
        ("rm", "a b"),
        ("rm", "a", "b"),
        ("rm", "'a", "b'"),
        ("rm a", "b"),
        ("rm", "a b", ""),
        ("rm", "'a b'"),
    ]
    for argv in vectors:
        asked = policy_request(
            world.execution(argv=argv), terms={}, platform="local", host=host, findings=(), depth=0, now=NOW
        )
        seen.add(asked.attributes("command_line"))
    assert len(seen) == len(vectors)


@pytest.mark.parametrize(
    "changes",
    [{"argv": ("deploy", "\udcff")}, {"cwd": "/\udcff"}, {"env": {"\udcff": ""}}, {"env": {"A": "\udcff"}}],
)
def test_what_is_not_utf_8_reaches_no_policy(world: World, changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError, match="not UTF-8"):
        world.execution(**changes)


def test_a_label_is_one_pair(world: World) -> None:
    """`a=b` = `c` and `a` = `b=c` would look the same to a policy: no name holds a "="."""
    world.records[world.host.id]["labels"] = {"a=b": "c"}
    assert world.trust().hosts.get(world.host.id) is None
    with pytest.raises(MalformedError):
        parse_artifact(
            world.artifact(edit=lambda value: value["predicate"]["governance"].update(metadata={"a=b": "c"}))
        )


def test_an_enormous_command_line(world: World) -> None:
    execution = world.execution(argv=("deploy", *("x" * 1000 for _ in range(100))))
    artifact = world.artifact(execution)
    assert says(world, DEFAULT_POLICY.decode(), artifact=artifact, execution=execution)[0] is None
    text = f'{ALL} unless {{ context.argv.contains("--force") }};'
    assert says(world, text, artifact=artifact, execution=execution)[0] is None
    text = f'{ALL};{NONE} when {{ context.command_line like "*--force*--now*" || context.command_line like "*{"a" * 999}*" }};'
    code, sentence = says(world, text, artifact=artifact, execution=execution)
    assert code is Code.POLICY_CONFLICT
    assert "command_line, which are too long" in sentence


# Files by name


def test_the_named_file_must_permit(world: World) -> None:
    world.policies["policy/other.cedar"] = b""
    assert world.decide().denial is None
    decision = world.decide(world.artifact(policy="other"))
    assert decision.denial is not None
    assert decision.denial.code is Code.POLICY_DENIED
    world.policies["policy/other.cedar"] = f"{NONE};".encode()
    assert world.decide().denial is not None


def refused(policies: Policies, name: str, world: World, **changes: Any) -> tuple[Code, str]:
    trust = world.trust()
    statement = parse_artifact(world.artifact()).statement
    asked = policy_request(
        world.execution(**changes),
        terms=artifact_terms(statement, origin=statement, signers=()),
        platform="local",
        host=trust.hosts[world.host.id],
        findings=(),
        depth=0,
        now=NOW,
    )
    with pytest.raises(Denied) as raised:
        require_verdict(name, asked, policies=policies)
    return raised.value.denial.code, raised.value.denial.sentence


def test_an_artifact_that_names_another_teams_policy(world: World) -> None:
    policies = load(TEAMS, exec="", web__deploy=f"{ALL};")
    code, sentence = refused(policies, "web/deploy", world)
    assert code is Code.POLICY_DENIED
    assert "is not its team's to govern" in sentence


def test_a_broken_team(world: World) -> None:
    policies = load(TEAMS, exec=f"{ALL};", web__broken="permit (")
    execution = {"executable": File("/srv/web/run", digest(b"run"))}
    code, sentence = refused(policies, "exec", world, **execution)
    assert code is Code.POLICY_CONFLICT
    assert "teams/web/policy/broken.cedar counts here and cannot be used" in sentence


def test_an_unusable_policy_is_not_in_force(world: World) -> None:
    world.policies["policy/exec.cedar"] = DEFAULT_POLICY
    trust = replace(world.trust(), policies=load(TEAMS, exec=f"{ALL};", web__broken="permit ("))
    for name, found in (("web/broken", "the policy does not end"), ("web/other", "not in force here")):
        decision = decide(world.request(world.artifact(policy=name)), replace(world.context(), trust=trust))
        assert decision.denial is not None
        assert decision.denial.code is Code.GOVERNANCE_MISMATCH
        assert found in decision.denial.sentence


def test_policies_are_part_of_the_digest(world: World) -> None:
    before = world.trust().digest
    world.policies["policy/exec.cedar"] += b"// changed\n"
    assert world.trust().digest != before


def test_the_body_is_json(world: World) -> None:
    assert json.loads(msgspec.json.encode(world.decide().body))["policy"] == "exec"
