"""All policies together: which count for an execution, what a verdict is, and that the index changes nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestd.errors import MalformedError
from attestd.governance import cedar
from attestd.governance.cedar import (
    DEFAULT_POLICY,
    EMPTY_ENTITIES,
    SCHEMA,
    Policies,
    PolicyRequest,
    Verdict,
    parse_policies,
)

SHAS = [character * 64 for character in "abc"]
ENTITIES = [
    ("User", "1", ["Group:a"]),
    ("User", "2", ["Group:b"]),
    ("Group", "a", ["Group:all"]),
    ("Group", "b", []),
    ("Group", "all", []),
    ("Executable", SHAS[0], ["Publisher:p"]),
    ("Publisher", "p", ["Publisher:top"]),
    ("Publisher", "top", []),
]
ALL = "permit (principal, action, resource)"
NONE = "forbid (principal, action, resource)"


def entities() -> bytes:
    return json.dumps(
        [
            {
                "uid": {"type": kind, "id": key},
                "attrs": {},
                "parents": [dict(zip(("type", "id"), parent.split(":"), strict=True)) for parent in parents],
            }
            for kind, key, parents in ENTITIES
        ]
    ).encode()


@dataclass(frozen=True)
class Team:
    path: str

    def covers(self, *, executable: str, uid: int) -> bool:
        return executable.startswith(self.path) and uid >= 1000


def load(teams: Mapping[str, Team] | None = None, **texts: str) -> Policies:
    """Policies by name, `__` for the slash of a team's."""
    files = {"policy/schema.cedarschema": SCHEMA, "policy/entities.json": entities()}
    for name, text in texts.items():
        team, _, file = name.rpartition("__")
        files[f"teams/{team}/policy/{file}.cedar" if team else f"policy/{file}.cedar"] = text.encode()
    return parse_policies(files, teams=teams or {})


def facts(**changes: Any) -> dict[str, Any]:
    """A value for each attribute of the schema, those of the artifact with a dot."""
    values: dict[str, Any] = {
        "executable": "/usr/bin/deploy",
        "directory": "/usr/bin/",
        "interpreters": [],
        "argv": ["deploy", "--env"],
        "argc": 2,
        "command_line": "deploy --env",
        "cwd": "/srv",
        "uid": 1001,
        "env": ["PATH"],
        "inputs": [],
        "host": "ab" * 32,
        "labels": ["role=ci"],
        "platform": "local",
        "tier": {"__entity": {"type": "Tier", "id": "software"}},
        "userspace": {"__entity": {"type": "Userspace", "id": "none"}},
        "findings": [],
        "depth": 0,
        "time": 1_790_000_000,
        "hour": 12,
        "weekday": 3,
        "artifact.ttl_s": 3600,
        "artifact.max_uses": None,
        "artifact.max_evidence_age_s": 60,
        "artifact.on_trust_loss": {"__entity": {"type": "TrustLoss", "id": "kill"}},
        "artifact.recheck_interval_s": 30,
        "artifact.signers": ["cd" * 32],
        "artifact.metadata": ["change=1"],
        "artifact.requested_by": "ann",
        "artifact.approved_by": [],
        "artifact.on_behalf_of": None,
        "artifact.reason": "because",
    }
    return {**values, **changes}


def request(*, requester: int = 1, sha256: str = SHAS[0], **changes: Any) -> PolicyRequest:
    values = facts(**changes)
    return PolicyRequest(
        requester=requester,
        sha256=sha256,
        executable=values["executable"],
        uid=values["uid"],
        attributes=values.__getitem__,
    )


def forbids(verdict: Verdict) -> list[str]:
    return [policy.id for policy in verdict.forbids]


# Which policies count


def test_the_default_permits_everything() -> None:
    files = {
        "policy/exec.cedar": DEFAULT_POLICY,
        "policy/schema.cedarschema": SCHEMA,
        "policy/entities.json": EMPTY_ENTITIES,
    }
    verdict = parse_policies(files, teams={}).evaluate("exec", request())
    assert verdict == Verdict(permits=("exec#all",))
    assert verdict.permitted


def test_only_the_named_file_permits() -> None:
    policies = load(exec=f"{ALL};", other="")
    assert policies.evaluate("exec", request()).permitted
    assert policies.evaluate("other", request()) == Verdict()
    assert not Verdict().permitted


def test_every_file_forbids() -> None:
    policies = load(exec=f"{ALL};", other=f'@id("no") {NONE};')
    verdict = policies.evaluate("exec", request())
    assert (verdict.permits, forbids(verdict), verdict.permitted) == ((), ["other#no"], False)


def test_groups_and_publishers() -> None:
    policies = load(exec='permit (principal in Group::"all", action, resource in Publisher::"top");')
    assert policies.evaluate("exec", request()).permits == ("exec#0",)
    assert not policies.evaluate("exec", request(requester=2)).permitted
    assert not policies.evaluate("exec", request(requester=3)).permitted
    assert not policies.evaluate("exec", request(sha256=SHAS[1])).permitted


def test_an_undeclared_group_is_a_typo() -> None:
    with pytest.raises(MalformedError, match=r'exec.cedar: line 2: Group::"al" is not declared'):
        load(exec=f'{ALL};\npermit (principal in Group::"al", action, resource);')
    with pytest.raises(MalformedError, match=r'Publisher::"q" is not declared'):
        load(exec=f'{ALL} when {{ resource in Publisher::"q" }};')


@pytest.mark.parametrize("attribute", [name for name, value in facts().items() if value is not None])
def test_each_attribute_of_the_schema(attribute: str) -> None:
    """Each is of the type that the schema says: comparing it with another value of the type is no error."""
    policies = load(exec=f"{ALL} when {{ context.{attribute} == context.{attribute} }};")
    assert policies.evaluate("exec", request()).permitted


def test_what_may_be_absent() -> None:
    policies = load(
        exec=f"{ALL} when {{ context.artifact has max_uses && context.artifact.max_uses < 5 }};",
        other=f"{ALL} unless {{ context.artifact has on_behalf_of }};",
    )
    assert not policies.evaluate("exec", request()).permitted
    assert policies.evaluate("exec", request(**{"artifact.max_uses": 4})).permitted
    assert policies.evaluate("other", request()).permitted
    assert not policies.evaluate("other", request(**{"artifact.on_behalf_of": "eve"})).permitted


# Teams

TEAMS = {"web": Team("/srv/web/"), "db": Team("/srv/")}
IN_WEB = "/srv/web/run"


def test_a_teams_permit_counts_only_within_its_scope() -> None:
    policies = load(TEAMS, exec="", web__deploy=f"{ALL};")
    inside, outside = request(executable=IN_WEB), request()
    assert policies.evaluate("web/deploy", inside).permits == ("web/deploy#0",)
    assert policies.evaluate("web/deploy", outside) == Verdict()
    assert policies.evaluate("web/deploy", request(executable=IN_WEB, uid=0)) == Verdict()
    assert policies.evaluate("exec", inside) == Verdict()
    assert policies.covers("web/deploy", executable=IN_WEB, uid=1001)
    assert not policies.covers("web/deploy", executable="/usr/bin/deploy", uid=1001)
    assert policies.covers("exec", executable="/usr/bin/deploy", uid=0)
    assert policies.covers("nobody/exec", executable="/usr/bin/deploy", uid=0)


def test_a_teams_forbid_counts_only_within_its_scope() -> None:
    policies = load(TEAMS, exec=f"{ALL};", web__no=f"{NONE};", db__no=f"{NONE};")
    assert policies.evaluate("exec", request()).permitted
    assert forbids(policies.evaluate("exec", request(executable=IN_WEB))) == ["db/no#0", "web/no#0"]
    assert forbids(policies.evaluate("exec", request(executable="/srv/db"))) == ["db/no#0"]
    assert policies.evaluate("exec", request(executable=IN_WEB, uid=0)).permitted


def test_another_teams_permit_opens_nothing() -> None:
    policies = load(TEAMS, exec="", web__deploy="", db__deploy=f"{ALL};")
    assert not policies.evaluate("web/deploy", request(executable=IN_WEB)).permitted


@pytest.mark.parametrize(
    "text", ["permit (", 'permit (principal in Group::"x", action, resource);', "// " + "x" * (1 << 18)]
)
def test_a_team_whose_file_cannot_be_used_runs_nothing(text: str) -> None:
    """Nobody knows what it forbids. Other scopes do not notice."""
    policies = load(TEAMS, exec=f"{ALL};", web__deploy=f"{ALL};", web__broken=text)
    assert policies.unusable.keys() == {"teams/web/policy/broken.cedar"}
    assert policies.digest("web/broken") is None
    assert policies.unusable_reason("web/broken") in policies.unusable.values()
    assert policies.unusable_reason("web/deploy") is None
    (error,) = policies.evaluate("web/deploy", request(executable=IN_WEB)).errors
    assert "teams/web/policy/broken.cedar counts here and cannot be used" in error
    assert policies.evaluate("exec", request()).permitted
    assert policies.evaluate("exec", request(executable="/srv/db")).permitted


def test_a_team_that_does_not_exist() -> None:
    policies = load(TEAMS, exec=f"{ALL};", other__no=f"{NONE};")
    assert "there is no team 'other'" in str(policies.unusable_reason("other/no"))
    assert policies.evaluate("exec", request()).permitted


def test_a_team_has_room_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cedar, "MAX_TOTAL_BYTES", 100)
    policies = load(
        TEAMS, exec=f"{ALL};", web__a=f"{NONE};", web__b=f"{NONE};", web__c=f"{NONE};", db__a=f"{NONE};"
    )
    assert list(policies.unusable) == ["teams/web/policy/c.cedar"]
    assert "team 'web' are" in policies.unusable["teams/web/policy/c.cedar"]
    with pytest.raises(MalformedError, match=r"policies of policy/ are"):
        load(exec=f"{ALL};", a=f"{NONE};", b=f"{NONE};")


# Files


@pytest.mark.parametrize(
    "target",
    [
        "policy/Exec.cedar",
        "policy/exec.cedar.bak",
        "policy/.cedar",
        "policy/a/b.cedar",
        "policy/\u0430.cedar",
        "exec.cedar",
    ],
)
def test_names(target: str) -> None:
    files = {"policy/schema.cedarschema": SCHEMA, "policy/entities.json": EMPTY_ENTITIES, target: b""}
    with pytest.raises(MalformedError, match="expected policy/<name>"):
        parse_policies(files, teams=TEAMS)


@pytest.mark.parametrize("target", ["teams/../policy/exec.cedar", "teams/web/policy/schema.cedarschema"])
def test_names_of_a_teams_files(target: str) -> None:
    files = {"policy/schema.cedarschema": SCHEMA, "policy/entities.json": EMPTY_ENTITIES, target: b""}
    assert parse_policies(files, teams=TEAMS).unusable.keys() == {target}


def test_what_must_be_there() -> None:
    files = {"policy/schema.cedarschema": SCHEMA, "policy/entities.json": EMPTY_ENTITIES}
    assert parse_policies(files, teams={}).files == {}
    for name in files:
        with pytest.raises(MalformedError, match=f"{name} is missing"):
            parse_policies({other: data for other, data in files.items() if other != name}, teams={})
    with pytest.raises(MalformedError, match="expected exactly the schema"):
        parse_policies({**files, "policy/schema.cedarschema": SCHEMA + b"\n"}, teams={})


# Errors


def test_a_forbid_that_cannot_be_evaluated_is_not_skipped() -> None:
    overflow = f'@id("sum") {NONE} when {{ context.argc + 9223372036854775807 < 0 }};'
    plain = cedarpy.is_authorized(
        {
            "principal": 'User::"1"',
            "action": 'Action::"exec"',
            "resource": 'Executable::"x"',
            "context": {"argc": 2},
        },
        f"{ALL};{overflow}",
        "[]",
    )
    assert plain.allowed  # Cedar skips it: by itself it would let this pass.
    verdict = load(exec=f"{ALL};{overflow}").evaluate("exec", request())
    assert not verdict.permitted
    assert "policy `exec#sum`: integer overflow" in verdict.errors[0]


def test_integers_to_the_edge() -> None:
    policies = load(
        exec=f"{ALL} when {{ context.time <= 9223372036854775807 && context.time >= -9223372036854775807 }};"
    )
    for value in (0, -(2**63), 2**63 - 1, 2**53 + 1):
        assert policies.evaluate("exec", request(time=value)).permitted is (value > -(2**63))
    verdict = policies.evaluate("exec", request(time=2**63))
    assert verdict.errors
    assert not verdict.permitted


@pytest.mark.parametrize("value", ["\0", "\u202e", "\U0001f600", '"\\', "\x7f\n\r", "__entity", "a\u0301"])
def test_strings_reach_the_policy_as_they_are(value: str) -> None:
    escaped = "".join(f"\\u{{{ord(character):x}}}" for character in value)
    policies = load(
        exec=f'{ALL} when {{ context.cwd == "{escaped}" && context.argv.contains("{escaped}") }};'
    )
    assert policies.evaluate("exec", request(cwd=value, argv=[value])).permitted
    assert not policies.evaluate("exec", request(cwd=value + "x", argv=[value])).permitted


def test_what_is_too_large_is_not_evaluated() -> None:
    policies = load(
        exec=f"{ALL};",
        argv=f'{ALL};{NONE} when {{ context.argv.containsAny(["--bad", "--worse"]) }};',
        match=f'{ALL};{NONE} when {{ context.command_line like "*{"a" * 2000}b*" }};',
    )
    large = request(argv=["x" * (3 << 20)], command_line="a" * (64 << 10))
    assert policies.files["exec"].policies
    (error,) = policies.evaluate("exec", large).errors
    assert error == "policies look at argv, command_line, which are too long to be evaluated in time"
    alone = load(exec=f"{ALL};")
    assert alone.evaluate("exec", large).permitted  # nobody looks at them
    matched = load(exec=f'{ALL};{NONE} when {{ context.command_line like "*{"a" * 2000}b*" }};')
    assert matched.evaluate("exec", request(command_line="a" * (64 << 10))).errors
    assert matched.evaluate("exec", request(command_line="a" * (16 << 10))).permitted


def test_cedar_that_does_not_decide_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    def undecided(*_: Any) -> cedarpy.AuthzResult:
        return cedarpy.AuthzResult({"decision": "NoDecision"})

    monkeypatch.setattr(cedar, "is_authorized", undecided)
    assert load(exec=f"{ALL};").evaluate("exec", request()).errors == ("Cedar did not decide",)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cedar, "MAX_SLICES", 2)
    monkeypatch.setattr(cedar, "MAX_VIEWS", 2)
    only = "".join(
        f'@id("u{uid}") permit (principal == User::"{uid}", action, resource);' for uid in range(9)
    )
    policies = load(exec=only, a=only, b=only, c=only)
    for _ in range(2):
        for name in ("exec", "a", "b", "c"):
            for uid in range(9):
                assert policies.evaluate(name, request(requester=uid)).permits == (f"{name}#u{uid}",)
    assert len(policies._views) <= 2
    assert all(len(view._slices) <= 2 for view in policies._views.values())


def test_a_verdict_is_given_again_only_to_the_very_same_question(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cedar, "MAX_VERDICTS", 4)
    text = '@id("on") permit (principal in Group::"a", action, resource) when { context.cwd == "/srv" };'
    policies = load(exec=text, other=text.replace('@id("on") permit', '@id("off") forbid'))
    for _ in range(3):
        assert policies.evaluate("exec", request(cwd="/tmp")).permits == ()
        assert policies.evaluate("exec", request(cwd="/srv", requester=2)).permits == ()
        assert [policy.id for policy in policies.evaluate("exec", request(cwd="/srv")).forbids] == [
            "other#off"
        ]
        assert policies.evaluate("exec", request(cwd="/srv", sha256=SHAS[1])).forbids
    for number in range(9):
        policies.evaluate("exec", request(cwd=f"/srv/{number}"))
    assert 0 < len(policies._verdicts) <= 4
    kept = dict(policies._verdicts)
    policies.evaluate("exec", request(cwd="/" + "x" * cedar.MAX_KEPT_CONTEXT))
    assert policies._verdicts == kept


# The index changes nothing

OVERFLOW = "context.argc + 9223372036854775807 > 0"
SCOPES = {
    "principal": ["principal", 'principal == User::"1"', 'principal in Group::"all"', 'principal in Group::"b"',
                  "principal is User", 'principal is User in Group::"a"'],
    "action": ["action", 'action == Action::"exec"', 'action in [Action::"exec"]'],
    "resource": ["resource", f'resource == Executable::"{SHAS[0]}"', f'resource == Executable::"{SHAS[1]}"',
                 'resource in Publisher::"top"', "resource is Executable", 'resource is Executable in Publisher::"p"'],
}  # fmt: skip
LEAVES = [
    "true",
    "false",
    OVERFLOW,
    'principal in Group::"b"',
    'resource in Publisher::"p"',
    'principal in [Group::"a", Group::"b"]',
    'context.executable == "/usr/bin/deploy"',
    '"/usr/bin/deploy" == context.executable',
    'context.cwd == "/tmp"',
    'context.cwd like "/s*v"',
    'context.executable like "/usr/*"',
    'context.executable like "/usr/bin/deploy"',
    'context.directory like "*bin/"',
    'context.cwd like ""',
    'context.tier == Tier::"software"',
    'context.tier == Tier::"hardware"',
    'context.tier in [Tier::"software", Tier::"vtpm"]',
    'context.argv.contains("--env")',
    'context.argv.contains("--force")',
    'context.labels.contains("role=ci")',
    'context.argv.containsAll(["deploy"])',
    "context.argc == 2",
    "context.argc != 2",
    "context.artifact has max_uses",
    'context.artifact.metadata.contains("change=1")',
    f'context.interpreters.contains(Executable::"{SHAS[2]}")',
]  # fmt: skip

conditions = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: f"({two[0]} && {two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]} || {two[1]})"),
        inner.map(lambda one: f"!({one})"),
        st.tuples(inner, inner, inner).map(lambda parts: "(if {} then {} else {})".format(*parts)),
    ),
    max_leaves=6,
)
clauses = st.lists(
    st.tuples(st.sampled_from(["when", "unless"]), conditions).map(
        lambda clause: f"{clause[0]} {{ {clause[1]} }}"
    ),
    max_size=3,
)
policy_texts = st.builds(
    lambda effect, principal, action, resource, parts: (
        f"{effect} ({principal}, {action}, {resource}) {' '.join(parts)};"
    ),
    st.sampled_from(["permit", "forbid"]),
    *(st.sampled_from(choices) for choices in SCOPES.values()),
    clauses,
)
requests = st.builds(
    request,
    requester=st.integers(0, 3),
    sha256=st.sampled_from(SHAS),
    executable=st.sampled_from(["/usr/bin/deploy", "/usr/bin/x", "/usr", "/srv/web/run"]),
    directory=st.sampled_from(["/usr/bin/", "/"]),
    cwd=st.sampled_from(["/srv", "/tmp", "", "/s*v"]),
    argv=st.lists(st.sampled_from(["deploy", "--env", "--force"]), min_size=1),
    argc=st.sampled_from([-1, 0, 1, 2]),
    labels=st.lists(st.sampled_from(["role=ci", "x=y"]), unique=True),
    interpreters=st.lists(
        st.sampled_from(SHAS).map(lambda key: {"__entity": {"type": "Executable", "id": key}}), max_size=2
    ),
    tier=st.sampled_from(["software", "hardware"]).map(
        lambda name: {"__entity": {"type": "Tier", "id": name}}
    ),
)


def plainly(
    texts: Mapping[str, list[str]], name: str, asked: PolicyRequest
) -> tuple[bool, set[str], set[str]]:
    """What Cedar says to everything at once, with the whole context: permitted, who forbids, who fails."""
    counting = [
        (f"{file}#{place}", text)
        for file, policies in texts.items()
        for place, text in enumerate(policies)
        if text.startswith("forbid") or file == name
    ]
    context: dict[str, Any] = {"artifact": {}}
    for attribute in facts():
        group, _, member = attribute.partition(".")
        if (value := asked.attributes(attribute)) is not None:
            (context["artifact"] if member else context)[member or group] = value
    result = cedarpy.is_authorized(
        {
            "principal": {"type": "User", "id": str(asked.requester)},
            "action": {"type": "Action", "id": "exec"},
            "resource": {"type": "Executable", "id": asked.sha256},
            "context": context,
        },
        "\n".join(text for _, text in counting),
        entities().decode(),
        schema=SCHEMA.decode(),
    )
    assert result.decision is not cedarpy.Decision.NoDecision, result.diagnostics.errors
    ids = {f"policy{place}": id_ for place, (id_, _) in enumerate(counting)}
    reasons = {ids[reason] for reason in result.diagnostics.reasons}
    failed = {ids[error.split("`")[1]] for error in result.diagnostics.errors}
    return result.allowed and not failed, reasons, failed


def test_attributes_in_a_row_are_those_of_one_expression() -> None:
    """However many expressions follow each other, as no bracket between them need do."""
    asked = "context.argc == 2"
    last = 'context.artifact.metadata.contains("change=1")'
    load(exec=f"{NONE} when {{ if {asked} then {asked} else {last} }};")
    with pytest.raises(MalformedError, match="more than 4 attributes in a row"):
        load(exec=f"{NONE} when {{ context has a.b.c.d.e.f }};")


@pytest.mark.parametrize("max_slice", [0, 64])
@settings(max_examples=100, deadline=None)
@given(
    exec_=st.lists(policy_texts, max_size=5),
    other=st.lists(policy_texts, max_size=3),
    asked=st.lists(requests, min_size=1, max_size=4),
)
def test_the_index_changes_nothing(
    max_slice: int, exec_: list[str], other: list[str], asked: list[PolicyRequest]
) -> None:
    policies = load(exec="\n".join(exec_), other="\n".join(other))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cedar, "MAX_SLICE", max_slice)
        for one in asked:
            permitted, reasons, failed = plainly({"exec": exec_, "other": other}, "exec", one)
            verdict = policies.evaluate("exec", one)
            assert verdict.permitted is permitted
            assert {*verdict.permits, *forbids(verdict)} == reasons
            assert {error.split("`")[1] for error in verdict.errors} == failed


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(policy_texts, max_size=4),
    forbid=policy_texts,
    one=requests,
    place=st.sampled_from(["exec", "other"]),
)
def test_a_further_forbid_never_permits(
    texts: list[str], forbid: str, one: PolicyRequest, place: str
) -> None:
    before = {"exec": "\n".join(texts), "other": ""}
    after = {**before, place: before[place] + forbid.replace("permit", "forbid", 1)}
    if not load(**before).evaluate("exec", one).permitted:
        assert not load(**after).evaluate("exec", one).permitted


def test_the_index_leaves_out_what_cannot_have_a_say() -> None:
    """That it is there at all: of a thousand policies those of one request are evaluated."""
    lines = [
        *(f'permit (principal == User::"{uid}", action, resource);' for uid in range(300)),
        *(f'{NONE} when {{ context.executable like "/opt/{app}/*" }};' for app in range(300)),
        *(f'{NONE} when {{ context.argv.contains("--bad{number}") }};' for number in range(300)),
        *(f'{NONE} when {{ "/{number}" == context.cwd }};' for number in range(99)),
        f'{NONE} when {{ context.executable like "/opt/exactly" }};',
        f'{NONE} when {{ principal in Group::"b" }};',
        f'{NONE} when {{ resource == Executable::"{SHAS[1]}" && context.argc > 1 }};',
        f'{NONE} when {{ Group::"a" in Group::"b" }};',
        f"{NONE} when {{ context.argc > 100 }};",
    ]
    policies = load(exec="\n".join(lines))
    assert policies.evaluate("exec", request(requester=7)).permits == ("exec#7",)
    (view,) = policies._views.values()
    assert list(view._slices) == [(7, 1002, 1003)]
    assert forbids(policies.evaluate("exec", request(executable="/", sha256=SHAS[1]))) == ["exec#1001"]
    assert forbids(policies.evaluate("exec", request(executable="/opt/5/x", argv=["--bad1"], cwd="/3"))) == [
        "exec#305",
        "exec#601",
        "exec#903",
    ]
