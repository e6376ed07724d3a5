import base64
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.errors import MalformedError
from attestd.tlog.vkey import (
    SignatureType,
    VerifierKey,
    cosignature_vkey,
    ecdsa_vkey,
    format_vkey,
    mldsa_vkey,
    parse_vkey,
    tpm_quote_vkey,
)
from tests.tlog.keys import ed25519_vkey
from tests.tlog.test_note import CT_LOG_VKEY, ECDSA_NOTES, ED25519_RAW, GO_VKEY, P256, SPKI, WITNESS_VKEY

NAME = "attestd/host/log"
MLDSA_RAW = MLDSA44PrivateKey.from_seed_bytes(bytes(32)).public_key().public_bytes_raw()


@pytest.mark.parametrize("text", [GO_VKEY, CT_LOG_VKEY, WITNESS_VKEY, *ECDSA_NOTES])
def test_vkeys_of_others_are_written_back(text: str):
    key = parse_vkey(text)
    assert format_vkey(key) == text
    assert f"{key.name}+{key.key_id.hex()}+" == text[: text.rindex("+", 0, len(key.name) + 10) + 1]


def test_key_ids():
    """Each as signed-note, tlog-cosignature and our own format define it."""
    ids = {
        ed25519_vkey(NAME, ED25519_RAW): NAME.encode() + b"\n\x01" + ED25519_RAW,
        cosignature_vkey(NAME, ED25519_RAW): NAME.encode() + b"\n\x04" + ED25519_RAW,
        mldsa_vkey(NAME, MLDSA_RAW): NAME.encode() + b"\n\x06" + MLDSA_RAW,
        ecdsa_vkey(NAME, SPKI): SPKI,
        tpm_quote_vkey(NAME, SPKI): NAME.encode() + b"\n\xff" + b"attestd.tpm2-quote.v1" + SPKI,
    }
    for key, hashed in ids.items():
        assert key.key_id == sha256(hashed).digest()[:4]
        assert parse_vkey(format_vkey(key)) == key
    assert [key.algorithm for key in ids] == [
        SignatureType.ED25519,
        SignatureType.COSIGNATURE,
        SignatureType.MLDSA_COSIGNATURE,
        SignatureType.ECDSA,
        SignatureType.TPM_QUOTE,
    ]


def test_a_post_quantum_key_of_another_length():
    assert len(MLDSA_RAW) == 1312
    for key in (MLDSA_RAW[:-1], MLDSA_RAW + b"\0", b""):
        with pytest.raises(MalformedError, match="not an ML-DSA-44 key"):
            mldsa_vkey(NAME, key)


def test_bodies():
    assert ecdsa_vkey(NAME, SPKI).body == b"\x02" + SPKI
    assert tpm_quote_vkey(NAME, SPKI).body == b"\xffattestd.tpm2-quote.v1" + SPKI
    assert tpm_quote_vkey(NAME, SPKI).public_key == P256.public_key()


def test_every_single_change_of_a_vkey_is_noticed():
    text = format_vkey(ecdsa_vkey(NAME, SPKI))
    for position in range(len(text)):
        other = "B" if text[position] == "A" else "A"
        if position >= len(NAME):  # The 0x02 id does not cover the name: see below.
            with pytest.raises(MalformedError):
                parse_vkey(text[:position] + other + text[position + 1 :])
        with pytest.raises(MalformedError):
            parse_vkey(text[:position])


def test_the_id_of_an_ecdsa_key_does_not_cover_its_name():
    """As signed-note defines type 0x02; so lines are looked up by name and id, never by the id alone."""
    assert ecdsa_vkey("a", SPKI).key_id == ecdsa_vkey("b", SPKI).key_id
    assert tpm_quote_vkey("a", SPKI).key_id != tpm_quote_vkey("b", SPKI).key_id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+c74f20a3",
        GO_VKEY.replace("c74f20a3", "C74F20A3"),
        GO_VKEY.replace("c74f20a3", "0c74f20a3"),
        GO_VKEY.replace("c74f20a3", "00000000"),
        GO_VKEY + "\n",
        GO_VKEY.replace("PeterNeumann", "Peter Neumann"),
        GO_VKEY.replace("PeterNeumann", ""),
        "PeterNeumann+c74f20a3+",
        # github.com/golang/mod, sumdb/note/note_test.go: wrong length and unknown algorithm, each with its key id.
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        # github.com/transparency-dev/formats, note/note_verifier_test.go.
        "rekor.sigstore.dev+12345678+THIS_IS_NOT_BASE64!",
        "rekor.sigstore.dev+12345678+AwEB",
    ],
)
def test_malformed(text: str):
    with pytest.raises(MalformedError, match="vkey"):
        parse_vkey(text)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\nb", "a\u200bb", "a\x7f"])
def test_names(name: str):
    with pytest.raises(MalformedError, match="not a key name"):
        ed25519_vkey(name, ED25519_RAW)


def spki(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def compressed(key: ec.EllipticCurvePublicKey) -> bytes:
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point


@pytest.mark.parametrize("make", [ecdsa_vkey, tpm_quote_vkey])
@pytest.mark.parametrize(
    "key",
    [
        b"",
        SPKI[:-1],
        SPKI + b"\x00",
        ED25519_RAW,
        compressed(P256.public_key()),
        spki(ec.generate_private_key(ec.SECP384R1()).public_key()),
        spki(rsa.generate_private_key(65537, 2048).public_key()),
    ],
    ids=["empty", "short", "long", "ed25519", "compressed", "p384", "rsa"],
)
def test_only_p256_in_its_usual_spelling(make, key: bytes):
    with pytest.raises(MalformedError, match=f"vkey {NAME}: not a"):
        make(NAME, key)


def test_the_compressed_key_above_is_a_key():
    """Or the test above would show nothing: OpenSSL reads it, attestd does not."""
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    assert load_der_public_key(compressed(P256.public_key())) == P256.public_key()


@pytest.mark.parametrize("make", [ed25519_vkey, cosignature_vkey])
def test_ed25519_keys_have_32_bytes(make):
    for key in (b"", ED25519_RAW[:-1], ED25519_RAW + b"\x00"):
        with pytest.raises(MalformedError, match="not an Ed25519 key"):
            make(NAME, key)


def test_type_0xff_is_only_ours():
    body = b"\xffattestd.tpm2-quote.v2" + SPKI
    key_id = sha256(NAME.encode() + b"\n" + body).hexdigest()[:8]
    with pytest.raises(MalformedError, match=r"not attestd\.tpm2-quote\.v1"):
        parse_vkey(f"{NAME}+{key_id}+{base64.b64encode(body).decode()}")


def test_no_key_without_a_type():
    with pytest.raises(MalformedError, match="unknown signature type none"):
        VerifierKey(NAME, b"")
