import base64
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils, x25519
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from attestd.authorization.dsse import (
    PAYLOAD_TYPE,
    EnvelopeSignature,
    InsufficientApprovalsError,
    PublicKey,
    SignatureInvalidError,
    UntrustedEnvelope,
    format_envelope,
    pae,
    parse_envelope,
    verify_threshold,
)
from attestd.errors import MalformedError, UsageError
from tests.authorization.builders import private_key, public_key, signer, spki

PAYLOAD = b'{"a":1}'
ALICE, BOB, CAROL = public_key("alice"), public_key("bob", "p256"), public_key("carol", "p384")
SIGNERS = {"alice": signer("alice"), "bob": signer("bob", "p256"), "carol": signer("carol", "p384")}


def signed(*names: str, payload: bytes = PAYLOAD, hint: bool = True) -> UntrustedEnvelope:
    made = [SIGNERS[name](pae(PAYLOAD_TYPE, payload)) for name in names]
    return UntrustedEnvelope(
        PAYLOAD_TYPE, payload, tuple(EnvelopeSignature(key.key_id if hint else "", sig) for key, sig in made)
    )


def envelope_json(**changes):
    document = {
        "payload": base64.b64encode(PAYLOAD).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": "", "sig": "AAAA"}],
    }
    return json.dumps({**document, **changes}).encode()


# --- the example of the DSSE specification (secure-systems-lab/dsse, protocol.md, "Test Vectors")


def test_pae_is_the_specifications_example():
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("http://example.com/HelloWorld", b"hello world") == expected


def test_pae_counts_bytes_not_characters():
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


def test_the_specifications_signature_verifies():
    numbers = ec.EllipticCurvePublicNumbers(
        46950820868899156662930047687818585632848591499744589407958293238635476079160,
        5640078356564379163099075877009565129882514886557779369047442380624545832820,
        ec.SECP256R1(),
    )
    raw = base64.b64decode(
        "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
    )
    # The specification writes r and s raw; attestd uses DER.
    der = utils.encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    key = PublicKey(spki(numbers.public_key()))
    envelope = UntrustedEnvelope(
        "http://example.com/HelloWorld", b"hello world", (EnvelopeSignature("", der),)
    )
    assert verify_threshold(envelope, keys=[key], threshold=1) == (key.key_id,)


@pytest.mark.parametrize("generate", [CryptoSigner.generate_ed25519, CryptoSigner.generate_ecdsa])
def test_an_envelope_made_by_securesystemslib_verifies(generate):
    other = generate()
    made = Envelope(PAYLOAD, PAYLOAD_TYPE, {})
    made.sign(other)
    document = made.to_dict()
    document["signatures"][0]["keyid"] = ""  # its ids are TUF's, ours are of the SPKI
    if other.public_key.keytype == "ed25519":
        prefix = bytes.fromhex("302a300506032b6570032100")
        key = PublicKey(prefix + bytes.fromhex(other.public_key.keyval["public"]))
    else:
        key = PublicKey.from_pem(other.public_key.keyval["public"].encode())
    envelope = parse_envelope(json.dumps(document).encode(), payload_type=PAYLOAD_TYPE)
    assert verify_threshold(envelope, keys=[key], threshold=1) == (key.key_id,)


# --- keys


@pytest.mark.parametrize("key", [ALICE, BOB, CAROL])
def test_a_key_id_is_sha256_of_the_spki(key):
    import hashlib

    assert key.key_id == hashlib.sha256(key.spki_der).hexdigest()
    assert PublicKey(key.spki_der) == key


@pytest.mark.parametrize(("seed", "kind"), [("alice", "ed25519"), ("bob", "p256"), ("carol", "p384")])
def test_from_pem_gives_the_same_key(seed, kind):
    pem = private_key(seed, kind).public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    assert PublicKey.from_pem(pem) == public_key(seed, kind)


@pytest.mark.parametrize("seed", ["alice", "bob", "carol"])
def test_a_key_verifies_its_own_signature_only(seed):
    key, signature = SIGNERS[seed](b"message")
    key.verify(b"message", signature)
    for message, bad in [(b"massage", signature), (b"message", signature[:-1]), (b"message", b"")]:
        with pytest.raises(SignatureInvalidError, match=key.key_id):
            key.verify(message, bad)


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (rsa.generate_private_key(65537, 2048).public_key(), "found .*RSA"),
        (x25519.X25519PrivateKey.generate().public_key(), "found .*X25519"),
        (ec.generate_private_key(ec.SECP521R1()).public_key(), "found secp521r1"),
        (ec.generate_private_key(ec.SECP256K1()).public_key(), "found secp256k1"),
    ],
)
def test_other_kinds_of_keys_are_refused(key, found):
    with pytest.raises(MalformedError, match=found):
        PublicKey(spki(key))


def test_a_compressed_point_is_not_a_second_identity_of_a_key():
    """Otherwise one key, written twice, would be two of two."""
    point = private_key("bob", "p256").public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )  # fmt: skip
    header = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
    assert serialization.load_der_public_key(header + point) == private_key("bob", "p256").public_key()
    with pytest.raises(MalformedError, match="plain DER form"):
        PublicKey(header + point)


@pytest.mark.parametrize("data", [b"", b"\x30", ALICE.spki_der + b"\0", ALICE.spki_der[:-1]])
def test_what_is_no_spki_is_malformed(data):
    with pytest.raises(MalformedError, match="public key"):
        PublicKey(data)


def test_what_is_no_pem_is_malformed():
    with pytest.raises(MalformedError, match="PEM"):
        PublicKey.from_pem(b"-----BEGIN PUBLIC KEY-----\n")


# --- envelopes


def test_format_and_parse_round_trip():
    envelope = signed("alice", "bob")
    assert parse_envelope(format_envelope(envelope), payload_type=PAYLOAD_TYPE) == envelope


def test_a_key_id_may_be_absent():
    document = json.loads(envelope_json())
    del document["signatures"][0]["keyid"]
    parsed = parse_envelope(json.dumps(document).encode(), payload_type=PAYLOAD_TYPE)
    assert parsed.signatures == (EnvelopeSignature("", b"\0\0\0"),)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "JSON"),
        (envelope_json() + b"x", "JSON"),
        (envelope_json(more=1), "unknown field `more`"),
        (envelope_json(payloadType="application/json"), "expected payloadType"),
        (envelope_json(payloadType=1), r"\$.payloadType"),
        (envelope_json(signatures=[]), "length >= 1"),
        (envelope_json(signatures=[{"sig": "AAAA"}] * 17), "length <= 16"),
        (envelope_json(signatures=[{"keyid": ""}]), "`sig`"),
        (envelope_json(signatures=[{"sig": "AAAA", "cert": ""}]), "unknown field `cert`"),
        (envelope_json(signatures=[{"sig": "AAAA", "keyid": "k" * 257}]), "length <= 256"),
        (envelope_json(payload="e30"), "base64"),
        (envelope_json(payload="e31="), "canonical base64"),
        (envelope_json(payload="_-8="), "payload"),
        (envelope_json(payload="e30=\n"), "payload"),
        (envelope_json(payload="A" * 262_144), "limit is 262144"),
        (b'{"payload":"","payload":"","payloadType":"x","signatures":[]}', "duplicate member 'payload'"),
    ],
)
def test_a_malformed_envelope_says_why(data, message):
    with pytest.raises(MalformedError, match=message):
        parse_envelope(data, payload_type=PAYLOAD_TYPE)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_parse_envelope_raises_nothing_else(data):
    with pytest.raises(MalformedError):
        parse_envelope(data, payload_type=PAYLOAD_TYPE)


# --- thresholds


@pytest.mark.parametrize("hint", [True, False])
@pytest.mark.parametrize("names", [("alice",), ("bob", "carol"), ("alice", "bob", "carol")])
def test_enough_distinct_keys_are_named_sorted(names, hint):
    envelope = signed(*names, hint=hint)
    ids = tuple(sorted({"alice": ALICE, "bob": BOB, "carol": CAROL}[name].key_id for name in names))
    assert verify_threshold(envelope, keys=[ALICE, BOB, CAROL], threshold=len(names)) == ids


def test_one_key_signing_twice_counts_once():
    with pytest.raises(InsufficientApprovalsError, match="expected signatures of 2 distinct keys, found 1"):
        verify_threshold(signed("alice", "alice"), keys=[ALICE, BOB], threshold=2)


def test_one_key_listed_twice_counts_once():
    with pytest.raises(InsufficientApprovalsError):
        verify_threshold(signed("alice"), keys=[ALICE, PublicKey(ALICE.spki_der)], threshold=2)


def test_one_signature_under_two_claimed_ids_counts_once():
    """securesystemslib's trap: the same key under two key ids as two of two."""
    (real,) = signed("alice").signatures
    envelope = UntrustedEnvelope(PAYLOAD_TYPE, PAYLOAD, (real, EnvelopeSignature("", real.sig)))
    with pytest.raises(InsufficientApprovalsError):
        verify_threshold(envelope, keys=[ALICE, BOB], threshold=2)


def test_another_signers_key_id_is_not_believed():
    (real,) = signed("alice").signatures
    envelope = UntrustedEnvelope(PAYLOAD_TYPE, PAYLOAD, (EnvelopeSignature(BOB.key_id, real.sig),))
    with pytest.raises(SignatureInvalidError, match=BOB.key_id):
        verify_threshold(envelope, keys=[ALICE, BOB], threshold=1)


def test_a_signature_that_names_an_unknown_key_is_tried_with_no_other():
    (real,) = signed("alice").signatures
    envelope = UntrustedEnvelope(PAYLOAD_TYPE, PAYLOAD, (EnvelopeSignature(CAROL.key_id, real.sig),))
    with pytest.raises(SignatureInvalidError, match=r"none of the signatures \(1\)"):
        verify_threshold(envelope, keys=[ALICE, BOB], threshold=1)


def test_a_broken_signature_of_a_known_key_is_never_skipped_over():
    good, other = signed("alice", "bob").signatures
    broken = EnvelopeSignature(other.key_id, other.sig[:-1] + bytes([other.sig[-1] ^ 1]))
    envelope = UntrustedEnvelope(PAYLOAD_TYPE, PAYLOAD, (good, broken))
    with pytest.raises(SignatureInvalidError):
        verify_threshold(envelope, keys=[ALICE, BOB], threshold=1)


@pytest.mark.parametrize("hint", [True, False])
def test_a_strangers_signature_does_not_count(hint):
    with pytest.raises(SignatureInvalidError, match=r"none of the signatures \(1\)"):
        verify_threshold(signed("alice", hint=hint), keys=[BOB, CAROL], threshold=1)
    assert verify_threshold(signed("alice", "bob", hint=hint), keys=[BOB], threshold=1) == (BOB.key_id,)


@pytest.mark.parametrize(("name", "key"), [("alice", ALICE), ("bob", BOB), ("carol", CAROL)])
def test_other_bytes_or_another_type_do_not_verify(name, key):
    envelope = signed(name)
    for changed in (
        UntrustedEnvelope(PAYLOAD_TYPE, PAYLOAD + b" ", envelope.signatures),
        UntrustedEnvelope(PAYLOAD_TYPE + "x", PAYLOAD, envelope.signatures),
    ):
        with pytest.raises(SignatureInvalidError):
            verify_threshold(changed, keys=[key], threshold=1)


def test_an_envelope_without_signatures_does_not_verify():
    with pytest.raises(SignatureInvalidError, match=r"none of the signatures \(0\)"):
        verify_threshold(UntrustedEnvelope(PAYLOAD_TYPE, PAYLOAD, ()), keys=[ALICE], threshold=1)


@pytest.mark.parametrize(("keys", "threshold"), [([], 1), ([], 0), ([ALICE], 0), ([ALICE], -1)])
def test_nothing_empty_means_pass(keys, threshold):
    with pytest.raises(UsageError, match="would verify nothing"):
        verify_threshold(signed("alice"), keys=keys, threshold=threshold)


def test_signatures_that_name_no_key_are_not_tried_without_end():
    """Anybody may send the agent an artifact: sixteen signatures and sixty-four keys took it more than a second."""
    keys = [ALICE, *(public_key(f"other {number}") for number in range(4))]
    stranger = EnvelopeSignature("", signed("bob").signatures[0].sig)
    envelope = UntrustedEnvelope(
        PAYLOAD_TYPE, PAYLOAD, (*signed("alice", hint=False).signatures, *[stranger] * 12)
    )
    with pytest.raises(SignatureInvalidError, match="each must name its key"):
        verify_threshold(envelope, keys=keys, threshold=1)
    assert verify_threshold(envelope, keys=keys[:4], threshold=1) == (ALICE.key_id,)
    named = UntrustedEnvelope(PAYLOAD_TYPE, PAYLOAD, signed("alice").signatures)
    assert verify_threshold(named, keys=keys * 13, threshold=1) == (ALICE.key_id,)
