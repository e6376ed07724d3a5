"""MakeCredential: another implementation, of the other side, recovers the secret; TPMs do in `test_tools` and `tests/tpm`."""

import hashlib
import json
import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from attestd.errors import MalformedError, UsageError
from attestd.tcg.credential import kdfa, kdfe, make_credential
from attestd.tcg.public import Public, attestation_key_template, parse_public
from tests.tcg import build, make_vectors
from tests.tcg.activation import HASHES, recover, reference_kdfa, reference_kdfe

NAME, SECRET = b"\x00\x0b" + bytes(range(32)), bytes(range(50, 82))
PRIVATE = {
    "L-1": rsa.generate_private_key(65537, 2048),
    "L-2": build.key(21),
    "H-1": rsa.generate_private_key(65537, 2048),
    "H-2": build.key(22),
    "H-3": build.key(23, ec.SECP384R1()),
    "H-6": rsa.generate_private_key(65537, 3072),
}


def public_of(template: str) -> Public:
    return parse_public(build.ek_public(template, PRIVATE[template].public_key()))


@pytest.mark.parametrize("template", PRIVATE)
@settings(max_examples=20, deadline=None)
@given(secret=st.binary(min_size=1, max_size=32), name=st.binary(min_size=1, max_size=50))
def test_the_other_side_recovers_the_secret(template, secret, name):
    ek = public_of(template)
    made = make_credential(ek, name=name, secret=secret, random=os.urandom)
    assert recover(ek, PRIVATE[template], made.id_object, made.encrypted_secret, name) == secret


def test_frozen_credentials_open():
    frozen = json.loads((make_vectors.DIRECTORY / "credentials.json").read_text())
    for template, (scalar, curve) in make_vectors.EKS.items():
        made = {
            key: bytes.fromhex(value)
            for key, value in frozen["credentials"][template].items()
            if key != "ek_scalar"
        }
        ek = parse_public(made["ek_public"])
        private = build.key(scalar, curve)
        found = recover(
            ek, private, made["id_object"], made["encrypted_secret"], bytes.fromhex(frozen["name"])
        )
        assert found.hex() == frozen["secret"]


@pytest.mark.parametrize("template", PRIVATE)
def test_tpm2_pytss_makes_what_the_reference_opens(template):
    """The reference above is no mirror of our own mistakes."""
    from tpm2_pytss.types import TPM2B_NAME, TPM2B_PUBLIC, TPMT_PUBLIC
    from tpm2_pytss.utils import make_credential as other

    ek = public_of(template)
    area = TPM2B_PUBLIC(TPMT_PUBLIC.unmarshal(ek.raw)[0])
    id_object, encrypted_secret = other(area, SECRET, TPM2B_NAME(NAME))
    found = recover(ek, PRIVATE[template], id_object.marshal(), encrypted_secret.marshal(), NAME)
    assert found == SECRET


def test_each_is_another_one():
    made = [make_credential(public_of("L-2"), name=NAME, secret=SECRET, random=os.urandom) for _ in range(2)]
    assert made[0].id_object != made[1].id_object
    assert made[0].encrypted_secret != made[1].encrypted_secret


@given(
    hash_alg=st.sampled_from(sorted(HASHES)),
    key=st.binary(min_size=1, max_size=64),
    context=st.binary(max_size=60),
    octets=st.integers(1, 200),
)
def test_kdfa_is_that_of_sp_800_108(hash_alg, key, context, octets):
    bits = octets * 8
    expected = reference_kdfa(hash_alg, key, b"STORAGE", context, bits)
    assert kdfa(hash_alg, key, label="STORAGE", context=context, bits=bits) == expected


def test_kdfe_is_that_of_sp_800_56a():
    z, u, v = b"z" * 32, b"u" * 32, b"v" * 32
    by_hand = hashlib.sha256(b"\0\0\0\1" + z + b"IDENTITY\0" + u + v).digest()
    assert kdfe("sha256", z, label="IDENTITY", party_u=u, party_v=v) == by_hand
    assert by_hand == reference_kdfe("sha256", z, b"IDENTITY\0" + u + v)


@pytest.mark.parametrize("size", [0, 33])
def test_a_secret_of_another_size(size):
    with pytest.raises(UsageError, match="expected 1 to 32"):
        make_credential(public_of("L-2"), name=NAME, secret=bytes(size), random=os.urandom)


@pytest.mark.parametrize("size", [0, 51])
def test_a_name_of_another_size(size):
    with pytest.raises(UsageError, match="a Name of"):
        make_credential(public_of("L-2"), name=bytes(size), secret=SECRET, random=os.urandom)


def test_a_key_that_stores_nothing():
    numbers = build.key(9).public_key().public_numbers()
    point = build.tpm2b(numbers.x.to_bytes(32, "big")) + build.tpm2b(numbers.y.to_bytes(32, "big"))
    ak = parse_public(attestation_key_template()[:-4] + point)
    with pytest.raises(UsageError, match="not a storage key"):
        make_credential(ak, name=NAME, secret=SECRET, random=os.urandom)


@pytest.mark.parametrize(("old", "new"), [("0043", "0042"), ("0080", "00c0")])
def test_a_cipher_that_is_none_of_the_templates(old, new):
    cipher = "000600800043"
    area = public_of("L-2").raw.hex().replace(cipher, cipher.replace(old, new))
    with pytest.raises(UsageError, match="AES-128 or AES-256 in CFB"):
        make_credential(parse_public(bytes.fromhex(area)), name=NAME, secret=SECRET, random=os.urandom)


def test_a_point_that_is_on_no_curve():
    area = bytes.fromhex(build.EK_AREAS["L-2"]) + build.tpm2b(b"\1" * 32) * 2
    with pytest.raises(MalformedError, match="not a public key"):
        make_credential(parse_public(area), name=NAME, secret=SECRET, random=os.urandom)
