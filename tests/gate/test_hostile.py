"""Whatever a request contains: a decision with a body that can be sealed, and a refusal by the runner; no exception."""

import json
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestd.authorization.artifact import parse_artifact
from attestd.codes import Code, Denial, Denied
from attestd.errors import MalformedError
from attestd.gate.body import as_denied
from attestd.gate.decide import decide
from attestd.gate.execution import Execution, File, plan_environment
from attestd.gate.model import Decision, Outcome
from attestd.lineage.entry import MAX_ENTRY_BYTES, format_entry, parse_entry
from attestd.strict import canonical, format_time_us
from tests.world import BOOT, NOW, World, digest, dsse

WORLD = World()
GRANTED = WORLD.grant()
TRUST = WORLD.trust()
CONTEXT = WORLD.context()
STATEMENT = json.loads(b64decode(json.loads(GRANTED.artifact)["payload"]))

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(1 - 2**53, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(
        [digest(b"x"), "2026-01-31T12:00:00Z", "/", "..", "\0", "LD_PRELOAD", "local", "x" * 5000]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def sealable(decision: Decision) -> bytes:
    """The decision as an entry of the log; raises if it could not be one."""
    entry = format_entry(
        type_=decision.entry_type,
        time=format_time_us(NOW),
        seq=2**53 - 1,
        boot=BOOT,
        body=dict(decision.body),
    )
    parse_entry(entry)
    return entry


def denied_by_both(artifact: bytes) -> None:
    decision = decide(replace(WORLD.request(), artifact=artifact), CONTEXT)
    assert decision.denial is not None
    sealable(decision)
    with pytest.raises(Denied):
        WORLD.release(GRANTED, artifact=artifact, trust=TRUST)


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes(artifact: bytes) -> None:
    denied_by_both(artifact)


@given(json_values)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_json(value: Any) -> None:
    denied_by_both(json.dumps(value).encode())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_byte_changed(data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(GRANTED.artifact) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != GRANTED.artifact[position]))
    changed = GRANTED.artifact[:position] + bytes([byte]) + GRANTED.artifact[position + 1 :]
    denied_by_both(changed)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every member and element."""
    if at:
        yield at
    if isinstance(value, dict | list):
        for name in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[name], (*at, name))


PLACES = list(places(STATEMENT))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PLACES), json_values)
def test_any_member_of_a_signed_statement(place: tuple[Any, ...], value: Any) -> None:
    """An authority that signs anything at all: what it signs is decided, or malformed, and can be recorded."""
    statement = json.loads(canonical(STATEMENT))
    target = statement
    for name in place[:-1]:
        target = target[name]
    target[place[-1]] = value
    decision = decide(replace(WORLD.request(), artifact=dsse(canonical(statement), WORLD.authors)), CONTEXT)
    sealable(decision)
    if decision.denial is None:  # what the requester, not the authority, may not decide must have stayed
        assert decision.artifact is not None
        assert decision.artifact.statement.predicate.bindings.hosts in ((), (WORLD.host.id,))


hostile_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
long_text = st.builds(lambda text, count: (text or "\x1b") * count, hostile_text, st.integers(1, 4000))
files = st.builds(File, hostile_text | long_text, st.just(digest(b"x")))


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # long strings are what it is about
@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        Execution,
        executable=files,
        interpreters=st.lists(files, max_size=2).map(tuple),
        argv=st.lists(hostile_text | long_text, min_size=1, max_size=5).map(tuple),
        cwd=hostile_text | long_text,
        uid=st.integers(0, 2**32),
        env=st.dictionaries(hostile_text, hostile_text | long_text, max_size=5),
        inputs=st.lists(files, max_size=8).map(tuple),
        requester_uid=st.integers(0, 2**32),
        writable=st.frozensets(hostile_text, max_size=3),
    )
)
def test_any_execution(execution: Execution) -> None:
    decision = decide(replace(WORLD.request(), execution=execution), CONTEXT)
    assert decision.denial is not None
    sealable(decision)
    with pytest.raises(Denied):
        WORLD.release(GRANTED, execution=execution, trust=TRUST)


def test_the_largest_request_can_be_recorded() -> None:
    """Everything at its limit at once, in characters that JSON escapes sixfold."""
    path = "/" + "\x01" * 4094
    many = tuple(File(f"{path[:-2]}{number:02}", digest(b"x")) for number in range(8))
    execution = WORLD.execution(
        argv=("\x01" * (1 << 20),),
        cwd=path,
        env={"X" * 128: "\x01" * 100_000},
        executable=many[0],
        interpreters=many[:2],
        inputs=many,
        writable=frozenset({path}),
    )

    def attribute(statement: dict[str, Any]) -> None:
        statement["predicate"]["attribution"] = {
            "requested_by": "\x01" * 1024,
            "approved_by": ["\x01" * 1024] * 16,
            "on_behalf_of": "\x01" * 1024,
            "reason": "\x01" * 1024,
        }

    artifact = WORLD.artifact(edit=attribute)
    decision = decide(replace(WORLD.request(artifact), execution=execution), CONTEXT)
    assert decision.denial is not None
    assert len(sealable(decision)) < MAX_ENTRY_BYTES
    assert decision.body["requester"] == {"uid": WORLD.uid}
    assert set(decision.body["attribution"]) == {"bytes", "sha256"}
    seen = json.loads(sealable(decision))["body"]
    assert all(check["detail"].isprintable() for check in seen["checks"])
    assert seen["denial"]["sentence"].isprintable()


def test_an_allowed_decision_with_large_attribution_can_be_recorded() -> None:
    decision = WORLD.decide(WORLD.artifact(approved_by=["\x01" * 1024] * 16))
    assert decision.denial is None
    assert len(sealable(decision)) < MAX_ENTRY_BYTES
    assert set(decision.body["attribution"]) == {"bytes", "sha256"}
    assert decision.body["cwd"] == "/srv"


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": ()},
        {"argv": ("a\0b",)},
        {"argv": ("\udc80",)},
        {"cwd": "/\udcff"},
        {"env": {"A": "\0"}},
        {"env": {"\ud800": "x"}},
        {"executable": File("/\udc80", digest(b"x"))},
        {"interpreters": (File("/\0", digest(b"x")),)},
        {"inputs": (File("/\udc80", digest(b"x")),)},
    ],
)
def test_what_cannot_be_recorded_is_no_execution(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        WORLD.execution(**changes)


@pytest.mark.parametrize(
    ("code", "check"),
    [
        (Code.ENVIRONMENT_UNTRUSTED, "environment"),
        (Code.USES_EXHAUSTED, "uses"),
        (Code.TPM_UNAVAILABLE, None),
    ],
)
def test_denied_after_the_decision(code: Code, check: str | None) -> None:
    """The TPM refuses, or the last use went to another request: the leaf says which check now rejects."""
    denial = Denial(code, "the TPM\nrefused", "see attestd doctor")
    body = as_denied(GRANTED.body, denial)
    rejected = [entry["name"] for entry in body["checks"] if entry["outcome"] == Outcome.REJECTED]
    assert rejected == ([check] if check else [])
    assert body["code"] == code.value
    assert body["denial"] == {"sentence": "the TPM\\nrefused", "hint": "see attestd doctor"}
    assert {name: body[name] for name in GRANTED.body if name not in {"checks", "code"}} == {
        name: value for name, value in GRANTED.body.items() if name not in {"checks", "code"}
    }


def test_environment_of_the_child() -> None:
    """What the artifact sets, and of the client's only what it passes."""
    artifact = WORLD.artifact(env_pass=["LANG", "TERM"], env_set={"TZ": "UTC"})
    statement = parse_artifact(artifact).statement
    offered = {"LANG": "C", "TZ": "evil", "LD_PRELOAD": "x", "HOME": "/root"}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert plan_environment(statement, offered) == {"LANG": "C", "TZ": "UTC", "PATH": path}
