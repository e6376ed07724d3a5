"""Chains as files: their form, who signed which link, and that each follows from the one above."""

import json
import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from attestd.authorization.artifact import (
    ChainBrokenError,
    UntrustedArtifact,
    parse_artifact,
    verify_artifact,
    verify_chain,
)
from attestd.authorization.delegation import delegate, draft_delegation
from attestd.authorization.dsse import SignatureInvalidError
from attestd.authorization.issue import (
    StatementDraft,
    approve,
    draft_statement,
    issue,
    link_to_approve,
    resource,
)
from attestd.authorization.pattern import ArgForm
from attestd.authorization.statement import parse_statement
from attestd.errors import MalformedError, UsageError
from attestd.strict import canonical
from tests.authorization.builders import HOST, OTHER_HOST, public_key, put, sha256, signer

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ALICE, TEAM, MEMBER = (public_key(name) for name in ("alice", "team", "member"))
DELEGATES = [TEAM.key_id, MEMBER.key_id]


def root(**changes: Any) -> bytes:
    values: dict[str, Any] = {
        "subjects": [resource("/bin/true", sha256("true"))],
        "argv": ["true", ArgForm(one_of=("a", "b", "c"))],
        "cwd": "/srv", "uid": 1001, "requester_uid": 1002, "host_id": HOST, "further_hosts": [OTHER_HOST],
        "platform": "local", "policy": "exec", "policy_version": 3, "now": NOW, "ttl_s": 7200, "requested_by": "alice",
        "max_uses": None, "env_pass": ["LANG", "TERM"], "delegate_to": DELEGATES, "max_depth": 2,
    }  # fmt: skip
    return issue(draft_statement(StatementDraft(**{**values, **changes})), signers=[signer("alice")])


def under(parent: bytes, by: str = "team", **changes: Any) -> bytes:
    artifact = parse_artifact(parent)
    values: dict[str, Any] = {
        "argv": ["true", "a"], "now": NOW, "requested_by": "bob", "hosts": [OTHER_HOST],
        "delegate_to": [MEMBER.key_id], "max_depth": 1,
    }  # fmt: skip
    statement = draft_delegation(artifact.last, **{**values, **changes})
    return delegate(artifact, statement, signers=[signer(by)])


def third() -> bytes:
    return under(under(root()), "member", delegate_to=[], max_depth=0)


def edited(data: bytes, edit: Any) -> bytes:
    value = json.loads(data)
    edit(value)
    return canonical(value)


# -- what a delegate gets ------------------------------------------------------------------------------------------------


def test_a_chain_of_three() -> None:
    artifact = parse_artifact(third())
    verify_chain(artifact)
    verified = verify_artifact(artifact, keys=[ALICE], threshold=1)
    assert verified.signers == ((ALICE.key_id,), (TEAM.key_id,), (MEMBER.key_id,))
    assert verified.key_ids == tuple(sorted([ALICE.key_id, *DELEGATES]))
    assert [link.id for link in verified.links][-1] == verified.id == artifact.id
    parents = [link.statement.predicate.lineage.parent for link in artifact.links]
    assert parents == [None, artifact.links[0].id, artifact.links[1].id]
    assert verified.statement.predicate.scope.argv == ("true", "a")
    assert verified.statement.predicate.bindings.hosts == (OTHER_HOST,)


def test_what_is_not_given_stays_or_is_the_narrowest() -> None:
    parent = parse_artifact(root())
    predicate = draft_delegation(
        parent.last, argv=["true", "b"], now=NOW + timedelta(seconds=1.5), requested_by="bob", max_uses=None
    ).predicate
    assert predicate.bindings == parent.statement.predicate.bindings
    assert predicate.scope.env.pass_ == ()
    assert predicate.scope.env.set == parent.statement.predicate.scope.env.set
    assert predicate.validity.not_before == "2026-01-31T12:00:01Z"
    assert predicate.validity.not_after == "2026-01-31T13:00:01Z"
    assert predicate.lineage.delegate_to == ()
    assert predicate.attribution.requested_by == "bob"
    late = NOW + timedelta(minutes=90)
    assert draft_delegation(
        parent.last, argv=["true", "b"], now=late, requested_by="bob", max_uses=None
    ).predicate.validity.not_after == "2026-01-31T14:00:00Z"  # fmt: skip
    early = NOW - timedelta(days=1)
    assert draft_delegation(
        parent.last, argv=["true", "b"], now=early, requested_by="bob", max_uses=None
    ).predicate.validity.not_before == "2026-01-31T12:00:00Z"  # fmt: skip
    with pytest.raises(UsageError, match="was valid until 2026-01-31T14:00:00Z"):
        draft_delegation(parent.last, argv=["true", "b"], now=NOW + timedelta(days=1), requested_by="bob")


def test_a_use_limit_needs_one_host() -> None:
    with pytest.raises(MalformedError, match="exactly one host"):
        draft_delegation(parse_artifact(root()).last, argv=["true", "a"], now=NOW, requested_by="bob")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"argv": ["true", "d"]}, r"link 2 is wider.*scope\.argv\[1\]"),
        ({"hosts": [sha256("elsewhere")]}, r"bindings\.hosts"),
        ({"requesters": [0]}, r"bindings\.requesters"),
        ({"ttl_s": 7201}, r"validity\.not_after"),
        ({"env_pass": ["COLUMNS"]}, r"scope\.env\.pass"),
        ({"max_evidence_age_s": 61}, "max_evidence_age_s"),
        ({"on_trust_loss": "report"}, "on_trust_loss"),
        ({"max_depth": 2}, r"lineage\.max_depth"),
        ({"delegate_to": [sha256("x")]}, r"lineage\.delegate_to"),
    ],
)
def test_wider_is_refused_when_issuing(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ChainBrokenError, match=words):
        under(root(), **changes)


def test_only_named_keys_delegate() -> None:
    with pytest.raises(UsageError, match="is no delegate of artifact"):
        under(root(), "stranger")
    with pytest.raises(UsageError, match="expected one of none"):
        under(root(delegate_to=[], max_depth=0))
    with pytest.raises(UsageError, match="is no delegate"):
        under(under(root()), "team")


def test_a_statement_under_another_parent_is_refused() -> None:
    statement = parse_artifact(under(root())).statement
    with pytest.raises(ChainBrokenError, match="the link above it is"):
        delegate(parse_artifact(root(reason="another")), statement, signers=[signer("team")])


def test_nothing_is_issued_under_a_broken_chain() -> None:
    child = parse_artifact(under(root()))
    alone = UntrustedArtifact(child.links[1:])
    statement = parse_artifact(third()).statement
    with pytest.raises(ChainBrokenError, match="the chain to that is missing"):
        delegate(alone, statement, signers=[signer("member")])


def test_eight_links_may_follow_and_no_more() -> None:
    statement = parse_artifact(root(max_depth=8)).statement
    data = issue(statement, signers=[signer("alice")])
    for depth in range(7, -1, -1):
        data = under(data, delegate_to=[TEAM.key_id] if depth else [], max_depth=depth)
    artifact = parse_artifact(data)
    assert len(artifact.links) == 9
    verify_chain(artifact)
    more = edited(data, lambda value: value["chain"].append(value["chain"][-1]))
    with pytest.raises(MalformedError, match="length <= 9"):
        parse_artifact(more)


# -- the file ------------------------------------------------------------------------------------------------------------


def test_one_link_is_one_envelope() -> None:
    value = json.loads(under(root()))
    assert set(value) == {"v", "chain", "keys"}
    assert set(value["keys"]) == {TEAM.key_id}
    assert set(json.loads(root())) == {"payload", "payloadType", "signatures"}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda v: v.update(v=2), "v"),
        (lambda v: v.update(note="x"), "unknown field"),
        (lambda v: v.pop("keys"), "missing required field `keys`"),
        (lambda v: v.update(chain=v["chain"][:1]), "length >= 2"),
        (lambda v: v.update(chain=[]), "length >= 2"),
        (lambda v: v.update(chain={}), "Expected `array`"),
        (lambda v: v["chain"].append({}), "link 3: Object missing required field"),
        (lambda v: v["chain"][1].update(payloadType="text/plain"), "link 2: expected payloadType"),
        (lambda v: v["chain"][1].update(signatures=[]), "link 2.*length >= 1"),
        (lambda v: v["keys"].update({"ab" * 32: v["keys"][TEAM.key_id]}), "has the id"),
        (lambda v: v["keys"].update({TEAM.key_id: "AAAA"}), "not a DER SubjectPublicKeyInfo"),
        (lambda v: v["keys"].update({TEAM.key_id: v["keys"][TEAM.key_id] + "="}), "base64"),
        (lambda v: v["keys"].update({ALICE.key_id: b64encode(ALICE.spki_der).decode()}), "no link names the key"),
        (lambda v: v["chain"].reverse(), "no link names the key"),
    ],
)  # fmt: skip
def test_malformed_chains(edit: Any, words: str) -> None:
    with pytest.raises(MalformedError, match=words):
        parse_artifact(edited(under(root()), edit))


def test_a_key_that_the_last_link_names_is_no_delegate_of_this_chain() -> None:
    extra = {MEMBER.key_id: b64encode(MEMBER.spki_der).decode()}
    child = under(root(delegate_to=[TEAM.key_id], max_depth=1), delegate_to=[], max_depth=0)
    with pytest.raises(MalformedError, match="no link names the key"):
        parse_artifact(edited(child, lambda value: value["keys"].update(extra)))


def test_the_limit_of_a_file() -> None:
    with pytest.raises(MalformedError, match="limit is 262144"):
        parse_artifact(third() + b" " * 262_144)
    large = root(argv=["true", *["x" * 1000] * 100])
    with pytest.raises(MalformedError, match="limit is 262144"):
        under(large, argv=["true", *["x" * 1000] * 100])


# -- signatures ----------------------------------------------------------------------------------------------------------


def check(data: bytes, **options: Any) -> None:
    verify_artifact(parse_artifact(data), **{"keys": [ALICE], "threshold": 1, **options})


def resigned(data: bytes, link: int, *names: str) -> bytes:
    """The same chain, one link signed by others."""
    from attestd.authorization.dsse import EnvelopeSignature, pae

    value = json.loads(data)
    envelope = parse_artifact(data).links[link].envelope
    message = pae(envelope.payload_type, envelope.payload)
    lines = [EnvelopeSignature(key.key_id, sig) for key, sig in (signer(name)(message) for name in names)]
    value["chain"][link]["signatures"] = [
        {"keyid": line.key_id, "sig": b64encode(line.sig).decode()} for line in lines
    ]
    return canonical(value)


def test_the_root_is_for_authorities_alone() -> None:
    with pytest.raises(SignatureInvalidError, match=r"none of the signatures \(1\)"):
        check(resigned(under(root()), 0, "team"))


@pytest.mark.parametrize("who", ["alice", "stranger", "member"])
def test_a_link_is_for_delegates_of_the_one_above(who: str) -> None:
    """Not even for an authority that the link above does not name, nor for a delegate that is not carried."""
    with pytest.raises(SignatureInvalidError, match=r"link 2: none of the signatures \(1\)"):
        check(resigned(under(root()), 1, who))


def test_one_delegate_is_enough_and_a_damaged_signature_too_much() -> None:
    check(resigned(under(root()), 1, "stranger", "team"))
    broken = resigned(under(root()), 1, "stranger", "team")
    value = json.loads(broken)
    value["chain"][1]["signatures"][0]["keyid"] = TEAM.key_id
    with pytest.raises(SignatureInvalidError, match="link 2: signature does not verify"):
        check(canonical(value))


def test_a_chain_without_its_keys() -> None:
    without = edited(under(root()), lambda value: value["keys"].clear())
    with pytest.raises(SignatureInvalidError, match="link 2: the chain has no key of a delegate"):
        check(without)


def test_a_revoked_delegate_counts_for_nothing() -> None:
    with pytest.raises(SignatureInvalidError, match="link 3"):
        check(third(), revoked={MEMBER.key_id})
    check(third(), revoked={sha256("another")})


# -- approvals -----------------------------------------------------------------------------------------------------------


def test_each_key_approves_the_link_that_it_counts_for() -> None:
    data = root()
    child = parse_artifact(under(data))
    grandchild = parse_artifact(under(under(data), "member", delegate_to=[], max_depth=0))
    assert link_to_approve(child, TEAM.key_id) == link_to_approve(child, MEMBER.key_id) == 1
    assert link_to_approve(child, ALICE.key_id) == 0
    assert link_to_approve(grandchild, MEMBER.key_id) == 2
    assert link_to_approve(grandchild, TEAM.key_id) == 1
    both = parse_artifact(approve(child, signers=[signer("member")], link=1))
    assert both.id == child.id
    assert set(both.keys) == set(DELEGATES)
    assert verify_artifact(both, keys=[ALICE], threshold=1).signers[1] == tuple(sorted(DELEGATES))
    with pytest.raises(UsageError, match="signs twice"):
        approve(both, signers=[signer("member")], link=1)
    with pytest.raises(UsageError, match="is no delegate"):
        approve(both, signers=[signer("alice")], link=1)


def test_the_root_of_a_chain_gets_its_second_approval() -> None:
    child = parse_artifact(under(root()))
    second = approve(child, signers=[signer("carol")], link=0)
    keys = [ALICE, public_key("carol")]
    assert len(verify_artifact(parse_artifact(second), keys=keys, threshold=2).signers[0]) == 2
    assert parse_artifact(second).id == child.id


def test_a_wider_member_of_each_kind_breaks_the_chain() -> None:
    """What `delegate` refuses, a delegate with a tool of its own may sign: the chain does not hold."""
    from attestd.authorization.dsse import (
        PAYLOAD_TYPE,
        EnvelopeSignature,
        UntrustedEnvelope,
        pae,
        write_envelope,
    )

    data = under(root())
    document = json.loads(parse_artifact(data).envelope.payload)
    payload = canonical(put(document, "scope.cwd", "/"))
    parse_statement(payload)
    key, sig = signer("team")(pae(PAYLOAD_TYPE, payload))
    envelope = UntrustedEnvelope(PAYLOAD_TYPE, payload, (EnvelopeSignature(key.key_id, sig),))
    forged = edited(
        data, lambda value: value["chain"].__setitem__(1, json.loads(canonical(write_envelope(envelope))))
    )
    check(forged)
    with pytest.raises(ChainBrokenError, match=r"link 2 is wider than the one above it: scope\.cwd"):
        verify_chain(parse_artifact(forged))


def test_a_delegate_cannot_make_the_comparison_slow() -> None:
    """2,500 ranges that lie within as many prefixes: compared by their ends, not value by value."""
    free = ArgForm(prefix="", charset="digits", most=17)
    parent = root(argv=["true", *[free] * 2500])
    child = parse_artifact(under(parent, argv=["true", *(ArgForm(bounds=(n, n + 255)) for n in range(2500))]))
    start = time.process_time()
    assert child.fault is None
    assert time.process_time() - start < 0.8
