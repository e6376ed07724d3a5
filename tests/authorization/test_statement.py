from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestd.authorization.statement import Statement, artifact_id, parse_statement
from attestd.errors import MalformedError
from attestd.strict import canonical
from tests.authorization.builders import HOST, OTHER_HOST, golden, put, sha256

# Objects whose member names are data: absent or unknown members are no errors there.
_MAPS = ("set", "host_labels", "metadata", "arguments")


def parse(document: dict[str, Any]) -> Statement:
    return parse_statement(canonical(document))


def objects(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every JSON object of the document whose members the format names."""
    if isinstance(value, dict):
        if not path.endswith(_MAPS):
            yield path, value
        for name, member in value.items():
            yield from objects(member, f"{path}.{name}")
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from objects(member, f"{path}.{index}")


OBJECTS = [path for path, _ in objects(golden())]
MEMBERS = [(path, name) for path, value in objects(golden()) for name in value]


def test_the_golden_statement_has_its_values():
    statement = parse(golden())
    scope = statement.predicate.scope
    assert statement.subject[0].name == "/usr/bin/deploy"
    assert scope.env.pass_ == ("LANG",)
    assert scope.env.set["TZ"] == "UTC"
    assert scope.argv[:2] == ("/usr/bin/deploy", "--env")
    assert statement.predicate.environment.verifiers.quorum == 1
    assert statement.predicate.validity.max_uses == 1
    assert statement.predicate.tool is not None


def test_the_id_is_sha256_of_the_payload():
    assert artifact_id(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(("path", "name"), MEMBERS)
def test_every_member_is_required(path, name):
    document = golden()
    del dict(objects(document))[path][name]
    with pytest.raises(MalformedError, match=r"authorization: "):
        parse(document)


@pytest.mark.parametrize("path", OBJECTS)
def test_no_other_member_is_known(path):
    document = golden()
    dict(objects(document))[path]["extra"] = 1
    with pytest.raises(MalformedError, match="unknown field `extra`"):
        parse(document)


@pytest.mark.parametrize("value", [None, True, 7, -1, "x", [], {}, [None], {"x": 1}])
@pytest.mark.parametrize(("path", "name"), MEMBERS)
def test_a_member_of_another_type_is_never_taken_for_what_it_is_not(path, name, value):
    document = golden()
    dict(objects(document))[path][name] = value
    payload = canonical(document)
    try:
        statement = parse_statement(payload)
    except MalformedError:
        return
    assert canonical(statement) == payload


def test_bytes_that_are_not_canonical_are_malformed():
    payload = canonical(golden())
    for changed in (payload + b"\n", b" " + payload, payload.replace(b'":', b'": ', 1)):
        with pytest.raises(MalformedError, match="RFC 8785"):
            parse_statement(changed)


@given(st.binary(max_size=100))
@settings(deadline=None)
def test_bytes_from_anywhere_raise_nothing_else(data):
    with pytest.raises(MalformedError):
        parse_statement(data)


@given(st.data())
@settings(deadline=None)
def test_one_changed_byte_is_malformed_or_another_statement(data):
    payload = bytearray(canonical(golden()))
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] ^= data.draw(st.integers(1, 255))
    try:
        statement = parse_statement(bytes(payload))
    except MalformedError:
        return
    assert canonical(statement) == bytes(payload) != canonical(golden())


def resource(name: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256(name)}}


LONG = "/" + "a" * 4095
PAST, LATER = "2026-01-31T11:59:59Z", "2026-01-31T12:00:01Z"

BAD = [
    ("_type", "https://in-toto.io/Statement/v0.1", "Invalid enum value"),
    ("predicateType", "urn:attestd:authorization:v2", "Invalid enum value"),
    ("subject", [], "length >= 1"),
    ("subject", [resource(f"/{n}") for n in range(9)], "length <= 8"),
    ("subject", [resource("/a"), resource("/a")], "subject: the same entry twice"),
    ("subject.0.name", "deploy", "absolute path"),
    ("subject.0.name", "", "absolute path"),
    ("subject.0.name", "/usr/../bin/deploy", "absolute path"),
    ("subject.0.name", "/usr/./deploy", "absolute path"),
    ("subject.0.name", "/usr//deploy", "absolute path"),
    ("subject.0.name", "/usr/deploy/", "absolute path"),
    ("subject.0.name", "//usr", "absolute path"),
    ("subject.0.name", "/usr\0", "path: a NUL byte"),
    ("subject.0.name", LONG, "longer than 4095"),
    ("subject.0.digest.sha256", "A" * 64, "matching regex"),
    ("subject.0.digest.sha256", "a" * 63, "matching regex"),
    ("scope.argv", [], "length >= 1"),
    ("scope.argv.0", "a\0b", "argv: a NUL byte"),
    ("scope.argv.0", {}, "expected a string, one_of, int, or prefix"),
    ("scope.cwd", "srv", "absolute path"),
    ("scope.uid", -1, ">= 0"),
    ("scope.uid", 2**32 - 1, "<= 4294967294"),
    ("scope.uid", True, "Expected `int`"),
    ("scope.env.pass", ["LANG", "LANG"], "env.pass: the same entry twice"),
    ("scope.env.pass", ["LD_PRELOAD"], "LD_PRELOAD changes what code runs"),
    ("scope.env.pass", ["HOME"], "may set it, not pass it"),
    ("scope.env.pass", ["TZ"], "'TZ' is in pass and in set"),
    ("scope.env.pass", [f"A{n}" for n in range(65)], "length <= 64"),
    ("scope.env.set", {"PYTHONPATH": "/tmp"}, "PYTHONPATH changes what code runs"),
    ("scope.env.set", {"A=B": "c"}, "not a portable variable name"),
    ("scope.env.set", {"A": "\0"}, "env.set: a NUL byte"),
    ("scope.env.set", {"PATH": "/bin:"}, "PATH must hold absolute directories"),
    ("scope.env.set", {"PATH": "bin"}, "PATH must hold absolute directories"),
    ("scope.inputs", [resource(f"/{n}") for n in range(9)], "length <= 8"),
    ("scope.inputs", [resource("/a"), resource("/a")], "inputs: the same entry twice"),
    ("bindings.hosts", ["A" * 64], "matching regex"),
    ("bindings.hosts", [HOST, HOST], "hosts: the same entry twice"),
    ("bindings.hosts", [HOST, OTHER_HOST], "max_uses needs exactly one host"),
    ("bindings.hosts", [], "max_uses needs exactly one host"),
    ("bindings", {"hosts": [], "host_labels": {}, "requesters": [{"uid": 1}]}, "hosts, host_labels, or both"),
    ("bindings.host_labels", {"Role!": "ci"}, "matching regex"),
    ("bindings.requesters", [], "length >= 1"),
    ("bindings.requesters", [{"uid": 1}, {"uid": 1}], "requesters: the same entry twice"),
    ("environment.platform", "../local", "matching regex"),
    ("environment.platform", "", "matching regex"),
    ("environment.max_evidence_age_s", 0, ">= 1"),
    ("environment.max_evidence_age_s", 86_401, "<= 86400"),
    ("environment.verifiers.quorum", -1, ">= 0"),
    ("governance.policy", "a/b/c", "matching regex"),
    ("governance.policy", "a/", "matching regex"),
    ("governance.policy", "../b", "matching regex"),
    ("governance.policy_digest", "", "matching regex"),
    ("governance.min_version", -1, ">= 0"),
    ("governance.metadata", {"change": 1}, "Expected `str`"),
    ("attribution.reason", "x" * 1025, "length <= 1024"),
    ("validity.not_before", "2026-01-31T12:00:00+00:00", "matching regex"),
    ("validity.not_before", "2026-02-30T12:00:00Z", "day"),
    ("validity.not_after", "2026-01-31T12:00:00Z", "is not before not_after"),
    ("validity.not_after", PAST, "is not before not_after"),
    ("validity.max_uses", 0, ">= 1"),
    ("validity.max_uses", 2**31 + 1, "<= 2147483648"),
    ("lineage.parent", "", "matching regex"),
    ("lineage.delegate_to", [sha256("k")] * 2, "delegate_to: the same entry twice"),
    ("lineage.delegate_to", [], "must both allow delegation"),
    ("lineage.max_depth", 0, "must both allow delegation"),
    ("lineage.max_depth", 9, "<= 8"),
    ("enforcement.on_trust_loss", "ignore", "Invalid enum value"),
    ("enforcement.recheck_interval_s", 0, ">= 1"),
    ("enforcement.mesh_grace_s", -1, ">= 0"),
    ("secrets", ["a", "a"], "secrets: the same entry twice"),
    ("tool.name", "", "length >= 1"),
    ("tool.arguments", {"a": {}}, "expected a string, one_of, int, or prefix"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"), BAD, ids=[f"{p}-{n}" for n, (p, _, _) in enumerate(BAD)]
)
def test_a_statement_that_contradicts_itself_is_malformed(path, value, message):
    with pytest.raises(MalformedError, match=message):
        parse(put(golden(), path, value))


GOOD = [
    ("subject.0.name", LONG[:-1]),
    ("subject.0.name", "/opt/.../x"),
    ("scope.cwd", "/"),
    ("scope.uid", 2**32 - 2),
    ("scope.env.pass", []),
    ("scope.env.set", {}),
    ("scope.inputs", []),
    ("bindings.host_labels", {}),
    ("governance.policy", "payments/deploy"),
    ("governance.policy_digest", sha256("policy")),
    ("attribution.on_behalf_of", None),
    ("attribution.approved_by", []),
    ("validity.not_after", LATER),
    ("validity.max_uses", 2**31),
    ("validity.max_uses", None),
    ("lineage.parent", sha256("parent")),
    ("enforcement.on_trust_loss", "report"),
    ("secrets", []),
    ("tool", None),
]


@pytest.mark.parametrize(("path", "value"), GOOD, ids=[f"{p}-{n}" for n, (p, _) in enumerate(GOOD)])
def test_the_ends_of_each_range_are_accepted(path, value):
    document = put(golden(), path, value)
    assert canonical(parse(document)) == canonical(document)


def test_many_hosts_are_accepted_without_a_limit_of_uses():
    document = put(put(golden(), "bindings.hosts", [HOST, OTHER_HOST]), "validity.max_uses", None)
    assert parse(document).predicate.bindings.hosts == (HOST, OTHER_HOST)


def test_labels_alone_are_accepted_without_a_limit_of_uses():
    document = put(put(golden(), "bindings.hosts", []), "validity.max_uses", None)
    assert parse(document).predicate.bindings.host_labels == {"role": "ci"}


def test_nothing_delegated_is_consistent():
    document = put(put(golden(), "lineage.delegate_to", []), "lineage.max_depth", 0)
    assert parse(document).predicate.lineage.max_depth == 0


def test_a_statement_over_the_limit_is_malformed():
    with pytest.raises(MalformedError, match="limit is 262144"):
        parse(put(golden(), "scope.argv", ["a" * 262_144]))
