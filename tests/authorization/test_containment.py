from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestd.authorization.containment import widenings
from attestd.authorization.scope import ScopeMismatch, match_argv, match_env, match_inputs
from attestd.authorization.statement import Scope, Statement, parse_statement
from attestd.strict import canonical
from tests.authorization.builders import HOST, OTHER_HOST, golden, put, sha256
from tests.authorization.test_pattern import PATTERNS, candidates


def parse(document: dict[str, Any]) -> Statement:
    return parse_statement(canonical(document))


def parent_document() -> dict[str, Any]:
    document = golden()
    changes = {
        "bindings.requesters": [{"uid": 1001}, {"uid": 1002}],
        "scope.env.pass": ["LANG", "TERM"],
        "validity.max_uses": 5,
        "environment.witnesses.quorum": 1,
        "enforcement.mesh_grace_s": 10,
        "governance.policy_digest": sha256("policy"),
        "lineage.delegate_to": [sha256("one"), sha256("two")],
        "secrets": ["deploy-token", "other"],
    }
    for path, value in changes.items():
        put(document, path, value)
    return document


def child_document() -> dict[str, Any]:
    return put(parent_document(), "lineage.max_depth", 1)


def resource(name: str, content: str | None = None) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256(content or name)}}


DEPLOY, PYTHON = golden()["subject"]
PLAN = golden()["predicate"]["scope"]["inputs"][0]
ARGV = golden()["predicate"]["scope"]["argv"]
ONE, TWO = sha256("one"), sha256("two")

NARROWER = [
    ("scope.argv.2", "prod"),
    ("scope.argv.3", {"prefix": "/srv/plans/a", "charset": "digits", "max": 39}),
    ("scope.argv.4", {"int": [2, 9]}),
    ("scope.env.pass", ["LANG"]),
    ("scope.env.pass", []),
    ("scope.env", {"pass": ["LANG"], "set": {"PATH": "/usr/bin:/bin", "TZ": "UTC", "TERM": "dumb"}}),
    ("scope.inputs", [PLAN, resource("/srv/more")]),
    ("bindings.host_labels", {"role": "ci", "zone": "a"}),
    ("bindings.requesters", [{"uid": 1002}]),
    ("environment.max_evidence_age_s", 59),
    ("environment.verifiers.quorum", 2),
    ("environment.witnesses.quorum", 2),
    ("governance.min_version", 13),
    ("attribution.requested_by", "mallory"),
    ("attribution.approved_by", []),
    ("attribution.reason", "another"),
    ("validity.not_before", "2026-01-31T12:00:01Z"),
    ("validity.not_after", "2026-01-31T12:59:59Z"),
    ("validity.max_uses", 4),
    ("lineage.parent", sha256("parent")),
    ("lineage.delegate_to", [TWO]),
    ("enforcement.recheck_interval_s", 29),
    ("enforcement.mesh_grace_s", 9),
    ("secrets", ["other"]),
    ("secrets", []),
    ("tool.arguments.env", "prod"),
]

WIDER = [
    ("subject", [DEPLOY, PYTHON, resource("/bin/sh")], "subject: the parent has 2 files, the child 3"),
    # The interpreter by itself, and the program that no interpreter runs, are other executions.
    ("subject", [DEPLOY], "subject: the parent has 2 files, the child 1"),
    (
        "subject.0",
        resource("/usr/bin/deploy", "other bytes"),
        "subject[0]: expected the parent's '/usr/bin/de",
    ),
    ("subject.1", resource("/usr/bin/perl"), "subject[1]: expected the parent's '/usr/bin/python3.11'"),
    ("scope.argv", ARGV[:4], "scope.argv: the parent has 5 arguments, the child 4"),
    ("scope.argv", [*ARGV, "x"], "scope.argv: the parent has 5 arguments, the child 6"),
    ("scope.argv.2", {"one_of": ["prod", "dev"]}, "scope.argv[2]: the parent allows one of 'prod', 'stage'"),
    ("scope.argv.4", {"int": [1, 11]}, "scope.argv[4]: the parent allows an integer from 1 to 10"),
    ("scope.cwd", "/", "scope.cwd: expected the parent's '/srv', found '/'"),
    ("scope.uid", 0, "scope.uid: expected the parent's 1001, found 0"),
    ("scope.env.pass", ["LANG", "COLUMNS"], "scope.env.pass: COLUMNS is not in the parent"),
    ("scope.env.set.TZ", "CET", "scope.env.set: expected the parent's TZ='UTC', found 'CET'"),
    ("scope.env.set", {"PATH": "/usr/bin:/bin"}, "scope.env.set: expected the parent's TZ='UTC', found none"),
    ("scope.env.set.NEW", "x", "scope.env.set: NEW is not in the parent"),
    ("scope.inputs", [], "scope.inputs: '/srv/plan.json' with sha256"),
    ("scope.inputs.0", resource("/srv/plan.json", "other"), "scope.inputs: '/srv/plan.json' with sha256"),
    ("bindings.hosts", [OTHER_HOST], f"bindings.hosts: {OTHER_HOST} is not in the parent"),
    ("bindings.host_labels", {}, "bindings.host_labels: expected the parent's role='ci', found none"),
    (
        "bindings.host_labels",
        {"role": "db"},
        "bindings.host_labels: expected the parent's role='ci', found 'db'",
    ),
    ("bindings.requesters", [{"uid": 0}], "bindings.requesters: uid 0 is not in the parent"),
    ("environment.platform", "laptop", "environment.platform: expected the parent's 'prod-server'"),
    (
        "environment.max_evidence_age_s",
        61,
        "environment.max_evidence_age_s: expected at most the parent's 60",
    ),
    ("environment.verifiers.quorum", 0, "environment.verifiers.quorum: expected at least the parent's 1"),
    ("environment.witnesses.quorum", 0, "environment.witnesses.quorum: expected at least the parent's 1"),
    ("governance.policy", "other", "governance.policy: expected the parent's 'exec'"),
    ("governance.policy_digest", None, "governance.policy_digest: expected the parent's"),
    ("governance.policy_digest", sha256("x"), "governance.policy_digest: expected the parent's"),
    ("governance.min_version", 11, "governance.min_version: expected at least the parent's 12"),
    ("governance.metadata", {}, "governance.metadata: expected the parent's change='CHG-123', found none"),
    ("governance.metadata.emergency", "yes", "governance.metadata: emergency is not in the parent"),
    (
        "attribution.on_behalf_of",
        "me",
        "attribution.on_behalf_of: expected the parent's 'release team', found 'me'",
    ),
    (
        "attribution.on_behalf_of",
        None,
        "attribution.on_behalf_of: expected the parent's 'release team', found None",
    ),
    (
        "validity.not_before",
        "2026-01-31T11:59:59Z",
        "validity.not_before: the parent's is 2026-01-31T12:00:00Z",
    ),
    (
        "validity.not_after",
        "2026-01-31T13:00:00.000001Z",
        "validity.not_after: the parent's is 2026-01-31T13:00:00Z",
    ),
    ("validity.max_uses", 6, "validity.max_uses: expected at most the parent's 5, found 6"),
    ("validity.max_uses", None, "validity.max_uses: the parent allows 5, the child any number"),
    ("lineage.max_depth", 2, "lineage.max_depth: 2 links may follow the parent"),
    ("lineage.max_depth", 3, "lineage.max_depth: 2 links may follow the parent"),
    ("lineage.delegate_to", [ONE, sha256("x")], f"lineage.delegate_to: {sha256('x')} is not in the parent"),
    ("enforcement.on_trust_loss", "report", "enforcement.on_trust_loss: the parent says kill"),
    (
        "enforcement.recheck_interval_s",
        31,
        "enforcement.recheck_interval_s: expected at most the parent's 30",
    ),
    ("enforcement.mesh_grace_s", 11, "enforcement.mesh_grace_s: expected at most the parent's 10"),
    ("secrets", ["deploy-token", "root-key"], "secrets: root-key is not in the parent"),
    ("tool", None, "tool: one of parent and child is for a tool call"),
    ("tool.name", "rollback", "tool.name: expected the parent's 'deploy', found 'rollback'"),
    ("tool.arguments", {"env": "prod"}, "tool.arguments: parent and child name different arguments"),
    (
        "tool.arguments.dry_run",
        "true",
        "tool.arguments 'dry_run': the parent allows 'false', the child 'true'",
    ),
]


def test_the_same_one_link_deeper_is_no_widening():
    assert widenings(parse(parent_document()), parse(child_document())) == []


@pytest.mark.parametrize(("path", "value"), NARROWER, ids=[f"{p}-{n}" for n, (p, _) in enumerate(NARROWER)])
def test_narrower_in_one_member(path, value):
    assert widenings(parse(parent_document()), parse(put(child_document(), path, value))) == []


@pytest.mark.parametrize(
    ("path", "value", "sentence"), WIDER, ids=[f"{p}-{n}" for n, (p, _, _) in enumerate(WIDER)]
)
def test_wider_in_one_member(path, value, sentence):
    found = widenings(parse(parent_document()), parse(put(child_document(), path, value)))
    assert len(found) == 1
    assert found[0].startswith(sentence)


def test_every_member_of_the_format_has_a_row_that_shows_its_widening():
    """A member added to the format must be compared too."""
    free = {"attribution.requested_by", "attribution.approved_by", "attribution.reason", "lineage.parent"}
    predicate = {f"{group}.{name}" for group, value in golden()["predicate"].items() for name in value}
    members = {"subject", *(member for member in predicate if not member.startswith("secrets.")), "secrets"}
    shown = {".".join(path.split(".")[:2]).removesuffix(".0") for path, _, _ in WIDER}
    assert members - free - shown == set()


def wide_open() -> dict[str, Any]:
    """A parent that leaves open what may be left open."""
    document = parent_document()
    changes = {
        "bindings.hosts": [],
        "validity.max_uses": None,
        "governance.policy_digest": None,
        "attribution.on_behalf_of": None,
        "enforcement.on_trust_loss": "report",
        "tool": None,
    }
    for path, value in changes.items():
        put(document, path, value)
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("bindings.hosts", [HOST]),
        ("bindings.hosts", [HOST, OTHER_HOST]),
        ("governance.policy_digest", sha256("any")),
        ("attribution.on_behalf_of", "someone"),
        ("enforcement.on_trust_loss", "kill"),
    ],
)
def test_what_the_parent_leaves_open_the_child_may_close(path, value):
    child = put(put(wide_open(), "lineage.max_depth", 1), path, value)
    assert widenings(parse(wide_open()), parse(child)) == []


def test_uses_may_be_limited_where_the_parent_does_not():
    child = put(
        put(put(wide_open(), "lineage.max_depth", 1), "bindings.hosts", [HOST]), "validity.max_uses", 1
    )
    assert widenings(parse(wide_open()), parse(child)) == []


def test_hosts_named_by_the_parent_stay_named():
    parent = put(parent_document(), "validity.max_uses", None)
    child = put(put(child_document(), "validity.max_uses", None), "bindings.hosts", [])
    assert widenings(parse(parent), parse(child)) == [
        "bindings.hosts: the parent names hosts, the child none"
    ]


def test_a_tool_call_is_not_narrower_than_no_tool_call():
    child = put(put(wide_open(), "lineage.max_depth", 1), "tool", {"name": "deploy", "arguments": {}})
    assert widenings(parse(wide_open()), parse(child)) == [
        "tool: one of parent and child is for a tool call, the other is not"
    ]


def test_a_parent_at_the_end_of_its_chain_has_no_children():
    last = put(put(parent_document(), "lineage.delegate_to", []), "lineage.max_depth", 0)
    assert [sentence.split(":")[0] for sentence in widenings(parse(last), parse(last))] == [
        "lineage.max_depth"
    ]


# --- if the child allows it, the parent allows it

_NAMES = st.sampled_from(["A", "B", "C"])
_ENV = st.builds(
    lambda set_, pass_: {"set": set_, "pass": sorted(pass_ - set_.keys())},
    st.dictionaries(_NAMES, st.sampled_from("xy"), max_size=2),
    st.sets(_NAMES, max_size=3),
)
_FILES = st.dictionaries(
    st.sampled_from(["/a", "/b"]), st.sampled_from([sha256("1"), sha256("2")]), max_size=2
)
_INPUTS = _FILES.map(
    lambda files: [{"name": name, "digest": {"sha256": digest}} for name, digest in files.items()]
)
_SCOPES = st.fixed_dictionaries(
    {
        "argv": st.lists(PATTERNS, min_size=1, max_size=2),
        "cwd": st.just("/"),
        "uid": st.just(0),
        "env": _ENV,
        "inputs": _INPUTS,
    }
)


def allows(scope: Scope, argv: list[str], env: dict[str, str], inputs: dict[str, str]) -> bool:
    try:
        match_argv(scope.argv, argv)
        match_env(scope.env, env)
        # More pins are narrower: what is pinned must be there; the gate asks for exactly the pinned files.
        match_inputs(scope.inputs, {r.name: inputs[r.name] for r in scope.inputs if r.name in inputs})
    except ScopeMismatch:
        return False
    return True


@given(_SCOPES, _SCOPES, st.data())
@settings(deadline=None)
def test_what_a_child_allows_its_parent_allows(outer, inner, data):
    parent = parse(put(parent_document(), "scope", outer))
    # Often equal in most members, or containment would hardly ever hold.
    mixed = {name: data.draw(st.sampled_from([outer[name], inner[name]])) for name in outer}
    child = parse(put(child_document(), "scope", mixed))
    argv = [data.draw(st.sampled_from(candidates(pattern))) for pattern in child.predicate.scope.argv]
    env = data.draw(st.dictionaries(_NAMES, st.sampled_from("xy"), max_size=3))
    inputs = data.draw(_FILES)
    if not widenings(parent, child) and allows(child.predicate.scope, argv, env, inputs):
        assert allows(parent.predicate.scope, argv, env, inputs)


@given(_ENV, _ENV)
@settings(deadline=None)
def test_environment_containment_is_exact(outer, inner):
    """Over every environment of three names and two values."""
    parent = parse(put(parent_document(), "scope.env", outer))
    child = parse(put(child_document(), "scope.env", inner))
    values = [None, "x", "y"]
    every = [
        {name: value for name, value in zip("ABC", row, strict=True) if value is not None}
        for row in [(a, b, c) for a in values for b in values for c in values]
    ]
    argv = ["/usr/bin/deploy", "--env", "prod", "/srv/plans/x", "1"]
    inputs = {"/srv/plan.json": sha256("plan")}
    inside = [env for env in every if allows(child.predicate.scope, argv, env, inputs)]
    assert inside
    expected = all(allows(parent.predicate.scope, argv, env, inputs) for env in inside)
    assert (widenings(parent, child) == []) is expected
