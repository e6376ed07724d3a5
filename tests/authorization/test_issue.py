from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from attestd.authorization.artifact import parse_artifact, verify_artifact
from attestd.authorization.dsse import SignatureInvalidError
from attestd.authorization.issue import (
    DEFAULT_PATH,
    StatementDraft,
    approve,
    draft_statement,
    issue,
    resource,
)
from attestd.authorization.pattern import ArgForm
from attestd.errors import MalformedError, UsageError
from attestd.strict import canonical
from tests.authorization.builders import HOST, public_key, sha256, signer

NOW = datetime(2026, 1, 31, 12, 0, 0, 999_999, tzinfo=UTC)


def draft(**changes):
    arguments = {
        "subjects": [resource("/usr/bin/true", sha256("true"))],
        "argv": ["true"],
        "cwd": "/root",
        "uid": 1001,
        "requester_uid": 1002,
        "host_id": HOST,
        "platform": "local",
        "policy": "exec",
        "policy_version": 3,
        "now": NOW,
        "ttl_s": 3600,
        "requested_by": "alice",
    }
    return draft_statement(StatementDraft(**{**arguments, **changes}))


def test_what_is_not_given_gets_the_narrowest_value_and_is_written_out():
    written = msgspec.json.decode(canonical(draft()))
    assert written == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "/usr/bin/true", "digest": {"sha256": sha256("true")}}],
        "predicateType": "urn:attestd:authorization:v1",
        "predicate": {
            "scope": {
                "argv": ["true"],
                "cwd": "/root",
                "uid": 1001,
                "env": {"pass": [], "set": {"PATH": DEFAULT_PATH}},
                "inputs": [],
            },
            "bindings": {"hosts": [HOST], "host_labels": {}, "requesters": [{"uid": 1002}]},
            "environment": {
                "platform": "local",
                "max_evidence_age_s": 60,
                "verifiers": {"quorum": 0},
                "witnesses": {"quorum": 0},
            },
            "governance": {"policy": "exec", "policy_digest": None, "min_version": 3, "metadata": {}},
            "attribution": {"requested_by": "alice", "approved_by": [], "on_behalf_of": None, "reason": ""},
            "validity": {
                "not_before": "2026-01-31T12:00:00Z",
                "not_after": "2026-01-31T13:00:00Z",
                "max_uses": 1,
            },
            "lineage": {"parent": None, "delegate_to": [], "max_depth": 0},
            "enforcement": {"on_trust_loss": "kill", "recheck_interval_s": 30, "mesh_grace_s": 0},
            "secrets": [],
            "tool": None,
        },
    }


def test_what_is_given_is_taken():
    statement = draft(
        argv=["true", ArgForm(bounds=(1, 3))],
        inputs=[resource("/srv/plan", sha256("plan"))],
        env_pass=["LANG"],
        env_set={"TZ": "UTC", "PATH": "/bin"},
        max_uses=None,
        reason="test",
        on_behalf_of="bob",
        approved_by=["carol"],
        policy_digest=sha256("policy"),
        metadata={"change": "1"},
        max_evidence_age_s=5,
        verifiers=2,
        witnesses=3,
        on_trust_loss="report",
        recheck_interval_s=7,
        mesh_grace_s=8,
    ).predicate
    assert statement.scope.argv == ("true", ArgForm(bounds=(1, 3)))
    assert statement.scope.inputs[0].name == "/srv/plan"
    assert statement.scope.env.pass_ == ("LANG",)
    assert statement.scope.env.set == {"TZ": "UTC", "PATH": "/bin"}
    assert statement.validity.max_uses is None
    assert canonical(statement.attribution) == (
        b'{"approved_by":["carol"],"on_behalf_of":"bob","reason":"test","requested_by":"alice"}'
    )
    assert canonical(statement.governance) == (
        b'{"metadata":{"change":"1"},"min_version":3,"policy":"exec","policy_digest":"'
        + sha256("policy").encode()
        + b'"}'
    )
    assert canonical(statement.environment) == (
        b'{"max_evidence_age_s":5,"platform":"local","verifiers":{"quorum":2},"witnesses":{"quorum":3}}'
    )
    assert canonical(statement.enforcement) == (
        b'{"mesh_grace_s":8,"on_trust_loss":"report","recheck_interval_s":7}'
    )


def test_times_are_written_in_utc():
    there = NOW.astimezone(timezone(timedelta(hours=9)))
    assert draft(now=there) == draft()


def test_a_naive_time_is_refused():
    with pytest.raises(UsageError, match="aware"):
        draft(now=NOW.replace(tzinfo=None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"argv": []}, "argv"),
        ({"subjects": []}, "subject"),
        ({"cwd": "relative"}, "absolute path"),
        ({"ttl_s": 0}, "is not before"),
        ({"host_id": "me"}, "matching regex"),
        ({"env_pass": ["LD_PRELOAD"]}, "changes what code runs"),
        ({"env_pass": ["PATH"]}, "in pass and in set"),
        ({"on_trust_loss": "ignore"}, "Invalid enum value"),
        ({"requested_by": "\ud800"}, "canonical"),
    ],
)
def test_what_a_reader_would_refuse_is_not_issued(changes, message):
    with pytest.raises(MalformedError, match=message):
        draft(**changes)


# --- signing


def test_an_issued_artifact_verifies():
    artifact = parse_artifact(issue(draft(), signers=[signer("alice"), signer("bob", "p256")]))
    verified = verify_artifact(artifact, keys=[public_key("alice"), public_key("bob", "p256")], threshold=2)
    assert verified.statement == draft()


def test_approvals_are_added_one_after_the_other():
    first = parse_artifact(issue(draft(), signers=[signer("alice")]))
    second = parse_artifact(approve(first, signers=[signer("bob", "p384")]))
    assert second.id == first.id
    assert second.envelope.signatures[:1] == first.envelope.signatures
    keys = [public_key("alice"), public_key("bob", "p384")]
    assert len(verify_artifact(second, keys=keys, threshold=2).key_ids) == 2


def test_one_key_does_not_sign_twice():
    artifact = parse_artifact(issue(draft(), signers=[signer("alice")]))
    with pytest.raises(UsageError, match="signs twice"):
        approve(artifact, signers=[signer("alice")])
    with pytest.raises(UsageError, match="signs twice"):
        issue(draft(), signers=[signer("alice"), signer("alice")])


@pytest.mark.parametrize("count", [0, 17])
def test_the_number_of_signatures_is_bounded(count):
    with pytest.raises(UsageError, match="1 to 16"):
        issue(draft(), signers=[signer(f"key {n}") for n in range(count)])


def test_sixteen_signatures_are_read_back():
    artifact = parse_artifact(issue(draft(), signers=[signer(f"key {n}") for n in range(16)]))
    keys = [public_key(f"key {n}") for n in range(16)]
    assert len(verify_artifact(artifact, keys=keys, threshold=16).key_ids) == 16


def test_a_signer_that_returns_another_keys_signature_is_found_at_once():
    def faulty(message):
        return public_key("alice"), signer("bob")(message)[1]

    with pytest.raises(SignatureInvalidError):
        issue(draft(), signers=[faulty])


def test_a_statement_changed_into_one_that_does_not_parse_is_not_signed():
    statement = draft()
    enforcement = msgspec.structs.replace(statement.predicate.enforcement, recheck_interval_s=0)
    predicate = msgspec.structs.replace(statement.predicate, enforcement=enforcement)
    with pytest.raises(MalformedError, match=">= 1"):
        issue(msgspec.structs.replace(statement, predicate=predicate), signers=[signer("alice")])
