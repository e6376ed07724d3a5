"""Pairs of statements, and occasions to use them: material for the property that a child never allows more.

Drawn by a `Random`, for speed: a property test gives it seeds.

An occasion is everything that a statement decides about: what runs, where, for whom, when, under which governance, what
happens when trust is lost, who delegates on. `allows` says whether a statement lets it happen. It uses the gate's own
functions where the gate has one, and none of `containment`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeVar

from attestd.authorization.pattern import ArgForm, ArgPattern, matches
from attestd.authorization.secret import NOTHING_SECRET
from attestd.authorization.statement import Statement, parse_statement
from attestd.codes import Denied
from attestd.gate.execution import Execution, File, require_binding, require_scope
from attestd.gate.requirements import require_validity
from attestd.strict import canonical, convert, format_time, parse_time
from tests.authorization.builders import golden, sha256
from tests.authorization.test_pattern import candidates

T = TypeVar("T")

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
HOSTS = [sha256(f"host {n}") for n in range(3)]
KEYS = [sha256(f"key {n}") for n in range(3)]
FILES = [{"name": name, "digest": {"sha256": sha256(name)}} for name in ("/bin/a", "/bin/b", "/bin/c")]


@dataclass(frozen=True)
class Occasion:
    """One thing that could happen."""

    files: tuple[File, ...]
    argv: tuple[str, ...]
    cwd: str
    uid: int
    env: dict[str, str]
    contents: dict[str, str]
    host: str
    labels: dict[str, str]
    requester: int
    now: datetime
    used: int
    counted: bool
    platform: str
    evidence_age_s: int
    verifiers: int
    witnesses: int
    policy: str
    policy_digest: str
    version: int
    metadata: dict[str, str]
    on_behalf_of: str
    goes_on_without_trust: bool
    unwatched_s: int
    mesh_away_s: int
    secrets: frozenset[str]
    tool: tuple[str, tuple[tuple[str, str], ...]] | None
    delegate: str | None
    depth: int


def allows(statement: Statement, at: Occasion, *, above: int = 0) -> bool:
    """Whether a statement lets it happen.

    Args:
        statement: A parent or a child.
        at: What would happen.
        above: How many links the statement is above the one by which it would happen.
    """
    predicate = statement.predicate
    pinned = predicate.scope.inputs
    if any(item.name not in at.contents for item in pinned):
        return False
    execution = Execution(
        executable=at.files[0], interpreters=at.files[1:], argv=at.argv, cwd=at.cwd, uid=at.uid, env=at.env,
        inputs=tuple(File(item.name, at.contents[item.name]) for item in pinned), requester_uid=at.requester,
    )  # fmt: skip
    try:
        require_binding(statement, execution, host=at.host, labels=at.labels)
        require_scope(statement, execution, secrets=NOTHING_SECRET)
        require_validity(statement, now=at.now, tolerance=timedelta(0))
    except Denied:
        return False
    return _conditions(statement, at) and _enforcement(statement, at, above) and _tool(statement, at)


def _conditions(statement: Statement, at: Occasion) -> bool:
    environment, governance = statement.predicate.environment, statement.predicate.governance
    most, behalf = statement.predicate.validity.max_uses, statement.predicate.attribution.on_behalf_of
    return (
        environment.platform == at.platform
        and at.evidence_age_s <= environment.max_evidence_age_s
        and environment.verifiers.quorum <= at.verifiers
        and environment.witnesses.quorum <= at.witnesses
        and governance.policy == at.policy
        and governance.policy_digest in (None, at.policy_digest)
        and governance.min_version <= at.version
        and governance.metadata == at.metadata
        and behalf in (None, at.on_behalf_of)
        and (most is None or (at.counted and at.used < most))
    )


def _enforcement(statement: Statement, at: Occasion, above: int) -> bool:
    enforcement, lineage = statement.predicate.enforcement, statement.predicate.lineage
    return (
        not (at.goes_on_without_trust and enforcement.on_trust_loss == "kill")
        and at.unwatched_s <= enforcement.recheck_interval_s
        and at.mesh_away_s <= enforcement.mesh_grace_s
        and at.secrets <= set(statement.predicate.secrets)
        and (
            at.delegate is None
            or (at.delegate in lineage.delegate_to and at.depth + above <= lineage.max_depth)
        )
    )


def _tool(statement: Statement, at: Occasion) -> bool:
    tool = statement.predicate.tool
    if tool is None or at.tool is None:
        return tool is None and at.tool is None
    name, arguments = at.tool
    return (
        name == tool.name
        and {argument for argument, _ in arguments} == tool.arguments.keys()
        and all(matches(tool.arguments[argument], value) for argument, value in arguments)
    )


# -- statements -------------------------------------------------------------------------------------------------------

# Which pattern holds which is test_pattern's matter, exactly; here are some of each form that hold each other or do not.
PATTERNS: list[Any] = [
    "a", "b", "", "7", "ab", {"one_of": ["a"]}, {"one_of": ["a", "b"]}, {"one_of": ["a", "b", "c"]}, {"int": [1, 9]},
    {"int": [5, 12]}, {"prefix": "", "charset": "lower", "max": 1}, {"prefix": "a", "charset": "digits", "max": 2},
    {"prefix": "a", "charset": "hex", "max": 2},
]  # fmt: skip
_VALUES: dict[ArgPattern, list[str]] = {
    pattern: candidates(pattern)
    for pattern in (convert(value, str | ArgForm, what="pattern") for value in PATTERNS)
}


def some(random: Random, values: Sequence[T], least: int = 0) -> list[T]:
    """Some of them, in their order, at least so many."""
    chosen = set(random.sample(range(len(values)), random.randint(least, len(values))))
    return [value for index, value in enumerate(values) if index in chosen]


def _mapping(random: Random, names: str = "ab") -> dict[str, str]:
    return {name: random.choice("xy") for name in some(random, names)}


def _env(random: Random) -> dict[str, Any]:
    fixed = _mapping(random, "ABC")
    return {"set": fixed, "pass": [name for name in some(random, "ABC") if name not in fixed]}


def _inputs(random: Random) -> list[Any]:
    return [
        {"name": name, "digest": {"sha256": sha256(random.choice("12"))}}
        for name in some(random, ["/a", "/b"])
    ]


def _tool_call(random: Random) -> Any:
    arguments = {name: random.choice(PATTERNS) for name in some(random, "pq")}
    return random.choice([None, {"name": random.choice("tu"), "arguments": arguments}])


def _among(*values: Any) -> Callable[[Random], Any]:
    return lambda random: random.choice(values)


def _hour(*hours: int) -> Callable[[Random], str]:
    return lambda random: format_time(NOON + timedelta(hours=random.choice(hours)))


_QUORUM = _among({"quorum": 0}, {"quorum": 1}, {"quorum": 2})
MEMBERS: dict[str, Callable[[Random], Any]] = {
    "subject": lambda random: some(random, FILES, 1),
    "scope.argv": lambda random: random.choices(PATTERNS, k=random.randint(1, 2)),
    "scope.cwd": _among("/", "/srv"),
    "scope.uid": _among(0, 1),
    "scope.env": _env,
    "scope.inputs": _inputs,
    "bindings.hosts": lambda random: some(random, HOSTS),
    "bindings.host_labels": _mapping,
    "bindings.requesters": lambda random: some(random, [{"uid": uid} for uid in range(3)], 1),
    "environment.platform": _among("prod", "stage"),
    "environment.max_evidence_age_s": _among(1, 2, 3),
    "environment.verifiers": _QUORUM,
    "environment.witnesses": _QUORUM,
    "governance.policy": _among("exec", "other"),
    "governance.policy_digest": _among(None, sha256("p"), sha256("q")),
    "governance.min_version": _among(0, 1, 2),
    "governance.metadata": _mapping,
    "attribution.on_behalf_of": _among(None, "x", "y"),
    "validity.not_before": _hour(-3, -2, -1),
    "validity.not_after": _hour(1, 2, 3),
    "validity.max_uses": _among(None, 1, 2, 3),
    "lineage.delegate_to": lambda random: some(random, KEYS),
    "lineage.max_depth": _among(0, 1, 2, 3),
    "enforcement.on_trust_loss": _among("kill", "report"),
    "enforcement.recheck_interval_s": _among(1, 2, 3),
    "enforcement.mesh_grace_s": _among(0, 1, 2),
    "secrets": lambda random: some(random, ["s", "t"]),
    "tool": _tool_call,
}


# In the middle of what there is, so that a change can go either way.
BASE: dict[str, Any] = {
    "subject": FILES[:2],
    "scope.argv": ["a", {"one_of": ["a", "b", "c"]}],
    "scope.cwd": "/srv",
    "scope.uid": 1,
    "scope.env": {"set": {"A": "x"}, "pass": ["B"]},
    "scope.inputs": [{"name": "/a", "digest": {"sha256": sha256("1")}}],
    "bindings.hosts": HOSTS[:2],
    "bindings.host_labels": {"a": "x"},
    "bindings.requesters": [{"uid": 0}, {"uid": 1}],
    "environment.platform": "prod",
    "environment.max_evidence_age_s": 2,
    "environment.verifiers": {"quorum": 1},
    "environment.witnesses": {"quorum": 1},
    "governance.policy": "exec",
    "governance.policy_digest": None,
    "governance.min_version": 1,
    "governance.metadata": {"a": "x"},
    "attribution.on_behalf_of": None,
    "validity.not_before": "2026-01-31T10:00:00Z",
    "validity.not_after": "2026-01-31T14:00:00Z",
    "validity.max_uses": None,
    "lineage.delegate_to": KEYS[:2],
    "lineage.max_depth": 2,
    "enforcement.on_trust_loss": "report",
    "enforcement.recheck_interval_s": 2,
    "enforcement.mesh_grace_s": 1,
    "secrets": ["s"],
    "tool": {"name": "t", "arguments": {"p": {"one_of": ["a", "b"]}}},
}


def build(values: dict[str, Any]) -> Statement:
    """A statement with these members; what would contradict itself is made consistent in the same way for all."""
    document = golden()
    for path, value in values.items():
        group, _, name = path.partition(".")
        if path == "subject":
            document["subject"] = value
        elif name:
            document["predicate"][group][name] = value
        else:
            document["predicate"][group] = value
    predicate = document["predicate"]
    bindings, lineage = predicate["bindings"], predicate["lineage"]
    if not bindings["hosts"] and not bindings["host_labels"]:
        bindings["hosts"] = HOSTS[:1]
    if predicate["validity"]["max_uses"] is not None:
        bindings["hosts"] = (bindings["hosts"] or HOSTS)[:1]
    if not lineage["delegate_to"] or not lineage["max_depth"]:
        lineage["delegate_to"], lineage["max_depth"] = [], 0
    return parse_statement(canonical(document))


def pair(random: Random) -> tuple[Statement, Statement]:
    """A parent, and a child that differs from it in a few members, now and then in all."""
    members = list(MEMBERS)
    outer = {**BASE, **{path: MEMBERS[path](random) for path in random.sample(members, random.randint(0, 4))}}
    outer["lineage.max_depth"] = outer["lineage.max_depth"] or 1
    outer["lineage.delegate_to"] = outer["lineage.delegate_to"] or KEYS[:1]
    changed = members if random.random() < 0.1 else random.sample(members, random.randint(0, 2))
    inner = {**outer, **{path: MEMBERS[path](random) for path in changed}}
    if "lineage.max_depth" not in changed:
        inner["lineage.max_depth"] = outer["lineage.max_depth"] - 1
    return build(outer), build(inner)


def occasion(random: Random, statement: Statement) -> Occasion:
    """Something that the statement allows: each part is drawn from what it allows, up to its very edge."""
    predicate = statement.predicate
    scope, bindings, environment, governance, enforcement, lineage, tool = (
        predicate.scope, predicate.bindings, predicate.environment, predicate.governance, predicate.enforcement,
        predicate.lineage, predicate.tool,
    )  # fmt: skip
    start, end = parse_time(predicate.validity.not_before), parse_time(predicate.validity.not_after)
    most = predicate.validity.max_uses
    delegate = random.choice([None, *lineage.delegate_to])
    return Occasion(
        files=tuple(File(item.name, item.digest.sha256) for item in statement.subject),
        argv=tuple(random.choice(_VALUES[pattern]) for pattern in scope.argv),
        cwd=scope.cwd,
        uid=scope.uid,
        env={**{name: random.choice("xy") for name in some(random, scope.env.pass_)}, **scope.env.set},
        contents={
            **{name: sha256(random.choice("12")) for name in ("/a", "/b")},
            **{item.name: item.digest.sha256 for item in scope.inputs},
        },
        host=random.choice(bindings.hosts or HOSTS),
        labels={**_mapping(random), **bindings.host_labels},
        requester=random.choice(bindings.requesters).uid,
        now=random.choice([start, end - timedelta(microseconds=1), NOON]),
        used=random.randrange(6 if most is None else most),
        counted=most is not None or random.random() < 0.5,
        platform=environment.platform,
        evidence_age_s=random.randint(0, environment.max_evidence_age_s),
        verifiers=environment.verifiers.quorum + random.randint(0, 1),
        witnesses=environment.witnesses.quorum + random.randint(0, 1),
        policy=governance.policy,
        policy_digest=governance.policy_digest or sha256(random.choice("pq")),
        version=governance.min_version + random.randint(0, 1),
        metadata=governance.metadata,
        on_behalf_of=predicate.attribution.on_behalf_of or random.choice("xy"),
        goes_on_without_trust=enforcement.on_trust_loss == "report" and random.random() < 0.5,
        unwatched_s=random.randint(0, enforcement.recheck_interval_s),
        mesh_away_s=random.randint(0, enforcement.mesh_grace_s),
        secrets=frozenset(some(random, predicate.secrets)),
        tool=None
        if tool is None
        else (
            tool.name,
            tuple((name, random.choice(_VALUES[pattern])) for name, pattern in tool.arguments.items()),
        ),
        delegate=delegate,
        depth=0 if delegate is None else random.randint(1, lineage.max_depth),
    )


def case(seed: int) -> tuple[Statement, Statement, Occasion]:
    """A parent, a child, and an occasion that the child allows."""
    random = Random(seed)  # noqa: S311 - for a test
    parent, child = pair(random)
    return parent, child, occasion(random, child)
