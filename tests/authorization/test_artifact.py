import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestd.authorization.artifact import (
    Link,
    UntrustedArtifact,
    VerifiedArtifact,
    parse_artifact,
    verify_artifact,
)
from attestd.authorization.dsse import (
    PAYLOAD_TYPE,
    InsufficientApprovalsError,
    SignatureInvalidError,
    UntrustedEnvelope,
    format_envelope,
)
from attestd.authorization.issue import issue
from attestd.authorization.statement import artifact_id, parse_statement
from attestd.errors import MalformedError, UsageError
from attestd.strict import canonical
from tests.authorization.builders import golden, public_key, put, signer

ALICE, BOB = public_key("alice"), public_key("bob", "p256")
STATEMENT = parse_statement(canonical(golden()))
FILE = issue(STATEMENT, signers=[signer("alice"), signer("bob", "p256")])


def test_statement_and_id_come_from_the_payload():
    artifact = parse_artifact(FILE)
    assert artifact.statement == STATEMENT
    assert artifact.id == artifact_id(canonical(golden()))


def test_verified_by_both():
    verified = verify_artifact(parse_artifact(FILE), keys=[ALICE, BOB], threshold=2)
    assert verified.statement == STATEMENT
    assert verified.id == parse_artifact(FILE).id
    assert verified.key_ids == tuple(sorted([ALICE.key_id, BOB.key_id]))


def test_fewer_keys_than_the_threshold():
    with pytest.raises(InsufficientApprovalsError, match="3 distinct keys, found 2"):
        verify_artifact(parse_artifact(FILE), keys=[ALICE, BOB], threshold=3)


def test_signatures_do_not_carry_over_to_another_statement():
    other = canonical(put(golden(), "scope.uid", 0))
    envelope = UntrustedEnvelope(PAYLOAD_TYPE, other, parse_artifact(FILE).envelope.signatures)
    with pytest.raises(SignatureInvalidError):
        verify_artifact(parse_artifact(format_envelope(envelope)), keys=[ALICE, BOB], threshold=1)


def test_an_artifact_without_any_key_to_trust_is_an_error_not_a_pass():
    with pytest.raises(UsageError):
        verify_artifact(parse_artifact(FILE), keys=[], threshold=1)


def test_a_verified_artifact_cannot_be_made_otherwise():
    with pytest.raises(UsageError, match="verify_artifact"):
        VerifiedArtifact(parse_artifact(FILE), ((ALICE.key_id,),), object())
    verified = verify_artifact(parse_artifact(FILE), keys=[ALICE], threshold=1)
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(verified, signers=())
    with pytest.raises(dataclasses.FrozenInstanceError):
        verified.id = ""


def test_a_statement_cannot_be_exchanged_under_an_untrusted_artifact():
    artifact = parse_artifact(FILE)
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(artifact, statement=STATEMENT)
    assert UntrustedArtifact((Link(artifact.envelope),)) == artifact


def test_the_payload_type_is_checked_before_the_payload_is_parsed():
    envelope = UntrustedEnvelope("text/plain", b"not JSON", parse_artifact(FILE).envelope.signatures)
    with pytest.raises(MalformedError, match="payloadType"):
        parse_artifact(format_envelope(envelope))


def test_the_limit_of_a_file():
    with pytest.raises(MalformedError, match="limit is 262144"):
        parse_artifact(FILE + b" " * 262_144)


@given(st.data())
@settings(deadline=None)
def test_one_changed_byte_never_verifies_as_something_else(data):
    changed = bytearray(FILE)
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        verified = verify_artifact(parse_artifact(bytes(changed)), keys=[ALICE, BOB], threshold=1)
    except (MalformedError, SignatureInvalidError):
        return
    # Only a hint which key to try can change and leave something that verifies, and then with fewer votes.
    assert verified.statement == STATEMENT
    assert len(verified.key_ids) == 1
