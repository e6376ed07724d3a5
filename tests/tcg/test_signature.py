import struct

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import MalformedError, VerificationError
from attestd.tcg.signature import EcdsaSignature, parse_signature
from tests.tcg import build
from tests.tcg.parsing import ecdsa_from_der

KEY = build.key(99)
MESSAGE = b"what was signed"
RFC_6979 = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
DER = KEY.sign(MESSAGE, RFC_6979)
ECDSA = build.ecdsa(KEY, MESSAGE)


@pytest.mark.parametrize("hash_alg", ["sha256", "sha384"])
@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_ecdsa(curve, hash_alg):
    key = build.key(99, curve)
    signature = parse_signature(build.ecdsa(key, MESSAGE, hash_alg))
    signature.verify(key.public_key(), MESSAGE)
    with pytest.raises(VerificationError, match="does not verify"):
        signature.verify(key.public_key(), MESSAGE + b"!")
    with pytest.raises(VerificationError, match="does not verify"):
        signature.verify(build.key(98, curve).public_key(), MESSAGE)


@pytest.mark.parametrize("hash_alg", ["sha256", "sha384"])
@pytest.mark.parametrize("sign", [build.rsassa, build.rsapss])
def test_rsa(rsa_key, sign, hash_alg):
    signature = parse_signature(sign(rsa_key, MESSAGE, hash_alg))
    signature.verify(rsa_key.public_key(), MESSAGE)
    with pytest.raises(VerificationError, match="does not verify"):
        signature.verify(rsa_key.public_key(), MESSAGE + b"!")


def test_rsapss_with_a_salt_as_long_as_the_digest(rsa_key):
    data = build.rsapss(rsa_key, MESSAGE, salt=padding.PSS.DIGEST_LENGTH)
    parse_signature(data).verify(rsa_key.public_key(), MESSAGE)


def test_rsassa_does_not_pass_for_rsapss(rsa_key):
    data = bytearray(build.rsassa(rsa_key, MESSAGE))
    data[:2] = b"\x00\x16"
    with pytest.raises(VerificationError, match="does not verify"):
        parse_signature(bytes(data)).verify(rsa_key.public_key(), MESSAGE)


def test_the_key_must_be_of_the_signatures_kind(rsa_key):
    with pytest.raises(VerificationError, match="not an ECC key"):
        parse_signature(ECDSA).verify(rsa_key.public_key(), MESSAGE)
    with pytest.raises(VerificationError, match="not RSA"):
        parse_signature(build.rsassa(rsa_key, MESSAGE)).verify(KEY.public_key(), MESSAGE)


def test_weak_keys_do_not_verify():
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - the point of the test
    with pytest.raises(VerificationError, match="not RSA of 2048"):
        parse_signature(build.rsassa(weak, MESSAGE)).verify(weak.public_key(), MESSAGE)
    small = build.key(99, ec.SECP224R1())
    with pytest.raises(VerificationError, match="secp224r1"):
        parse_signature(build.ecdsa(small, MESSAGE)).verify(small.public_key(), MESSAGE)


def test_numbers_may_lack_their_leading_zeros_but_not_be_padded():
    n, message = 0, b""
    short = EcdsaSignature("sha256", b"", b"")
    while len(short.r) != 31:
        n, message = n + 1, str(n).encode()
        full = parse_signature(build.ecdsa(KEY, message))
        assert isinstance(full, EcdsaSignature)
        short = EcdsaSignature("sha256", full.r.lstrip(b"\0"), full.s)
    full.verify(KEY.public_key(), message)
    parse_signature(short.marshal()).verify(KEY.public_key(), message)
    padded = EcdsaSignature("sha256", full.r.rjust(33, b"\0"), full.s)
    with pytest.raises(VerificationError, match="larger"):
        padded.verify(KEY.public_key(), message)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "truncated"),
        (ECDSA[:-1], "truncated"),
        (ECDSA + b"\0", "1 trailing"),
        (build.ecdsa(KEY, MESSAGE, "sha1"), "hash 0x0004"),
        (build.ecdsa(KEY, MESSAGE, "sha512"), "hash 0x000d"),
        (b"\x00\x1a" + ECDSA[2:], "scheme 0x001a"),
        (b"\x00\x10\x00\x0b", "scheme 0x0010"),
        (struct.pack(">HH", 0x18, 0x0B) + build.tpm2b(b"r" * 49) + build.tpm2b(b"s"), "limit is 48"),
        (struct.pack(">HH", 0x18, 0x0B) + build.tpm2b(b"") + build.tpm2b(b"s"), "empty"),
        (struct.pack(">HH", 0x18, 0x0B) + build.tpm2b(b"r") + build.tpm2b(b""), "empty"),
        (struct.pack(">HH", 0x14, 0x0B) + build.tpm2b(b""), "empty"),
        (struct.pack(">HH", 0x14, 0x0B) + build.tpm2b(bytes(513)), "limit is 512"),
    ],
)
def test_parse_refuses(data, words):
    with pytest.raises(MalformedError, match=words):
        parse_signature(data)


@given(st.binary(max_size=80), st.sampled_from([b"", ECDSA[:4], ECDSA[:38]]))
def test_hostile_bytes_parse_or_are_malformed_and_never_verify(tail, head):
    try:
        signature = parse_signature(head + tail)
    except MalformedError:
        return
    with pytest.raises(VerificationError):
        signature.verify(KEY.public_key(), b"something else")


@pytest.mark.parametrize("number", [bytes(32), b"\xff" * 32])
def test_numbers_out_of_range_do_not_verify(number):
    with pytest.raises(VerificationError):
        EcdsaSignature("sha256", number, number).verify(KEY.public_key(), MESSAGE)


def test_der_goes_both_ways():
    assert ecdsa_from_der(DER).der() == DER
    assert ecdsa_from_der(DER).marshal() == ECDSA


@given(r=st.integers(0, 2**384 - 1), s=st.integers(0, 2**256 - 1), zeros=st.integers(0, 8))
def test_der_is_that_of_x509(r: int, s: int, zeros: int):
    signature = EcdsaSignature("sha256", bytes(zeros) + r.to_bytes(48, "big"), s.to_bytes(32, "big"))
    assert signature.der() == encode_dss_signature(r, s)
