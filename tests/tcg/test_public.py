import hashlib
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.tcg.policy import release_policy
from attestd.tcg.public import (
    Attribute,
    attestation_key_template,
    authority_name,
    authority_public,
    host_id,
    parse_public,
    release_key_template,
    require_attestation_key,
    require_release_key,
)
from tests.tcg import build

KEY = build.key(4711)
POLICY = release_policy(authority_name(KEY.public_key()))
AK, RELEASE = 0x00050472, 0x00040432  # TPMA_OBJECT, spelled out
SIGNING = struct.pack(">HHHHH", 0x10, 0x18, 0x0B, 0x0003, 0x10)


def area(
    *,
    kind: int = 0x0023,
    name_alg: int = 0x000B,
    attributes: int = AK,
    policy: bytes = b"",
    parameters: bytes = SIGNING,
    unique: bytes | None = None,
) -> bytes:
    if unique is None:
        point = KEY.public_key().public_numbers()
        unique = build.tpm2b(point.x.to_bytes(32, "big")) + build.tpm2b(point.y.to_bytes(32, "big"))
    return struct.pack(">HHI", kind, name_alg, attributes) + build.tpm2b(policy) + parameters + unique


def rsa_area(modulus: bytes, *, bits: int = 2048, exponent: int = 0, scheme: bytes = b"\x00\x10") -> bytes:
    symmetric = struct.pack(">HHH", 0x0006, 128, 0x0043)
    return area(
        kind=0x0001,
        parameters=symmetric + scheme + struct.pack(">HI", bits, exponent),
        unique=build.tpm2b(modulus),
    )


def test_ecc_key_and_name():
    public = parse_public(area())
    assert public.name == b"\x00\x0b" + hashlib.sha256(area()).digest()
    assert public.public_key() == KEY.public_key()
    assert public.attributes == Attribute(AK)


def test_p384_key_with_sha384_name():
    key = build.key(4711, ec.SECP384R1())
    point = key.public_key().public_numbers()
    unique = build.tpm2b(point.x.to_bytes(48, "big")) + build.tpm2b(point.y.to_bytes(48, "big"))
    parameters = struct.pack(">HHHHH", 0x10, 0x18, 0x0C, 0x0004, 0x10)
    data = area(name_alg=0x000C, policy=b"p" * 48, parameters=parameters, unique=unique)
    public = parse_public(data)
    assert public.public_key() == key.public_key()
    assert public.name == b"\x00\x0c" + hashlib.sha384(data).digest()


@pytest.mark.parametrize("scheme", ["0010", "0014000b", "0016000c", "0015", "0017000b"])
def test_rsa_key(rsa_key, scheme):
    modulus = rsa_key.public_key().public_numbers().n.to_bytes(256, "big")
    public = parse_public(rsa_area(modulus, exponent=65537, scheme=bytes.fromhex(scheme)))
    assert public.public_key() == rsa_key.public_key()
    assert parse_public(rsa_area(modulus)).public_key() == rsa_key.public_key()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (area(kind=0x0008), "type 0x0008"),
        (area(name_alg=0x0004), "nameAlg 0x0004"),
        (area(name_alg=0x000D), "nameAlg 0x000d"),
        (area(name_alg=0x0010), "nameAlg 0x0010"),
        (area(attributes=AK | 1), "reserved"),
        (area(policy=b"p" * 20), "authPolicy of 20"),
        (area(policy=b"p" * 33), "limit is 32"),
        (area() + b"\0", "1 trailing"),
        (b"\x00\x22" + area(), "type"),
        (area(unique=build.tpm2b(b"x" * 33) + build.tpm2b(b"y" * 32)), "limit is 32"),
        (area(parameters=bytes.fromhex("00100018000b00050010")), "curve 0x0005"),
        (area(parameters=bytes.fromhex("00100018000b00030020000b")), "kdf 0x0020"),
        (area(parameters=bytes.fromhex("00130018000b00030010")), "symmetric"),
        (area(parameters=bytes.fromhex("00100018000400030010")), "scheme hash 0x0004"),
        (area(parameters=bytes.fromhex("0010001a000b000100030010")), "scheme 0x001a"),
        (area(parameters=bytes.fromhex("00100014000b00030010")), "scheme 0x0014"),
        (rsa_area(b"\xff" * 128, bits=1024), "1024 bits"),
        (rsa_area(b"\xff" * 256, exponent=3), "exponent 3"),
        (rsa_area(b"\xff" * 255), "odd number of 2048 bits"),
        (rsa_area(b"\x7f" + b"\xff" * 255), "odd number of 2048 bits"),
        (rsa_area(b"\xff" * 255 + b"\xfe"), "odd number of 2048 bits"),
        (rsa_area(b"\xff" * 256, scheme=b"\x00\x18\x00\x0b"), "scheme 0x0018"),
    ],
)
def test_parse_refuses(data, words):
    with pytest.raises(MalformedError, match=words):
        parse_public(data)


@pytest.mark.parametrize("size", range(len(area())))
def test_parse_refuses_every_truncation(size):
    with pytest.raises(MalformedError):
        parse_public(area()[:size])


@given(st.binary(max_size=120))
def test_parse_raises_nothing_but_malformed(tail):
    for data in (tail, area()[:10] + tail):
        try:
            public = parse_public(data)
        except MalformedError:
            continue
        assert public.raw == data


def test_a_point_off_the_curve_is_no_key():
    public = parse_public(area(unique=build.tpm2b(b"\x01" * 32) + build.tpm2b(b"\x02" * 32)))
    with pytest.raises(MalformedError, match="not a public key"):
        public.public_key()


def test_authority_area_has_fixed_sizes_even_for_a_short_coordinate():
    scalar = next(n for n in range(1, 2000) if build.key(n).public_key().public_numbers().x >> 248 == 0)
    data = authority_public(build.key(scalar).public_key())
    assert len(data) == 8 + 2 + 8 + 34 + 34
    assert data[:20].hex() == "0023000b000400400000" + "0010001000030010" + "0020"
    assert parse_public(data).public_key() == build.key(scalar).public_key()
    assert authority_name(build.key(scalar).public_key()) == parse_public(data).name


def test_authorities_are_p256():
    with pytest.raises(UsageError, match="secp384r1"):
        authority_public(build.key(1, ec.SECP384R1()).public_key())


def test_host_id_is_the_hash_of_the_area_and_of_nothing_else():
    assert host_id(area()) == hashlib.sha256(area()).hexdigest()
    with pytest.raises(MalformedError):
        host_id(build.tpm2b(area()))  # the same EK as TPM2B_PUBLIC would be a second identity


def test_templates_are_what_the_architecture_says():
    assert attestation_key_template() == area(unique=bytes(4))
    assert release_key_template(POLICY) == area(attributes=RELEASE, policy=POLICY, unique=bytes(4))
    with pytest.raises(UsageError):
        release_key_template(b"")


def test_accepts_what_was_created_from_the_templates():
    require_attestation_key(parse_public(area()))
    require_release_key(parse_public(area(attributes=RELEASE, policy=POLICY)), auth_policy=POLICY)
    with pytest.raises(UsageError):
        require_release_key(parse_public(area(attributes=RELEASE)), auth_policy=b"")


@pytest.mark.parametrize("bit", [*Attribute])
def test_refuses_keys_with_one_attribute_changed(bit):
    with pytest.raises(VerificationError, match="attestation key: attributes"):
        require_attestation_key(parse_public(area(attributes=AK ^ bit)))
    with pytest.raises(VerificationError, match="release key: attributes"):
        require_release_key(parse_public(area(attributes=RELEASE ^ bit, policy=POLICY)), auth_policy=POLICY)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"policy": b"p" * 32}, "auth_policy 7070"),
        ({"parameters": bytes.fromhex("0010001000030010")}, "parameters 0010001000030010"),
        ({"name_alg": 0x000C}, "name_alg sha384"),
    ],
)
def test_refuses_keys_with_another_policy_scheme_or_name(changed, words):
    with pytest.raises(VerificationError, match=words):
        require_attestation_key(parse_public(area(**changed)))


def test_refuses_a_release_key_without_policy_and_an_rsa_key(rsa_key):
    with pytest.raises(VerificationError, match="auth_policy empty"):
        require_release_key(parse_public(area(attributes=RELEASE)), auth_policy=POLICY)
    modulus = rsa_key.public_key().public_numbers().n.to_bytes(256, "big")
    with pytest.raises(VerificationError, match="key_type 0x00000001"):
        require_attestation_key(parse_public(rsa_area(modulus)))
