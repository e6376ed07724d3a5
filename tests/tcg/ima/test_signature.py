"""Signatures of files: by given keys, in the two forms that the kernel has."""

import hashlib
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestd.errors import MalformedError, VerificationError
from attestd.tcg.ima.entry import ImaEntry
from attestd.tcg.ima.signature import parse_ima_signature, verify_ima_signature
from tests.tcg.ima.build import digest_of, sign

ECC = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
X = digest_of(b"x")


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def entry(signature: bytes, *, kind: str = "ima", algorithm: str = "sha256", digest: bytes = X) -> ImaEntry:
    return ImaEntry(0, "ima-sig", b"/x", kind, algorithm, digest, signature)


def test_signed_by_one_of_the_keys(rsa_key):
    keys = [OTHER.public_key(), rsa_key.public_key(), ECC.public_key()]
    verify_ima_signature(entry(sign(ECC, X)), keys=keys)
    verify_ima_signature(entry(sign(rsa_key, X)), keys=keys)


def test_verity():
    signed = hashlib.sha256(bytes([6, 4]) + X).digest()
    signature = sign(ECC, signed, kind=6, version=3)
    verify_ima_signature(entry(signature, kind="verity"), keys=[ECC.public_key()])
    with pytest.raises(VerificationError, match="type 6 over a digest of type ima"):
        verify_ima_signature(entry(signature), keys=[ECC.public_key()])
    with pytest.raises(VerificationError, match="type 3 over a digest of type verity"):
        verify_ima_signature(entry(sign(ECC, X), kind="verity"), keys=[ECC.public_key()])


def test_not_signed_by_them(rsa_key):
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - it has to be refused
    for signature, keys in [
        (sign(ECC, X), [OTHER.public_key()]),
        (sign(ECC, X), [rsa_key.public_key()]),
        (sign(rsa_key, X), [ECC.public_key()]),
        (sign(weak, X), [weak.public_key()]),
        (sign(ECC, digest_of(b"y")), [ECC.public_key()]),
        (sign(ECC, X), []),
    ]:
        with pytest.raises(
            VerificationError, match="none of the keys made the signature, which names key deadbeef"
        ):
            verify_ima_signature(entry(signature), keys=keys)


def test_no_signature():
    with pytest.raises(VerificationError, match="no signature"):
        verify_ima_signature(entry(b""), keys=[ECC.public_key()])


def test_over_another_hash():
    with pytest.raises(VerificationError, match="over a sha384 digest, but the digest is sha256"):
        verify_ima_signature(entry(sign(ECC, X, hash_=5)), keys=[ECC.public_key()])


def header(kind: int = 3, version: int = 2, hash_: int = 4, size: int = 2, data: bytes = b"ab") -> bytes:
    return struct.pack(">BBBIH", kind, version, hash_, 0, size) + data


@pytest.mark.parametrize(
    "data",
    [
        b"\x03",
        header(kind=1),
        header(version=1),
        header(kind=6),
        header(hash_=2),
        header(hash_=255),
        header(size=1),
        header(size=0xFFFF),
        header(size=0, data=b""),
        header(data=b"a"),
    ],
    ids=bytes.hex,
)
def test_malformed(data):
    assert parse_ima_signature(header()).signature == b"ab"
    with pytest.raises(MalformedError, match="IMA signature"):
        parse_ima_signature(data)
    with pytest.raises(MalformedError):
        verify_ima_signature(entry(data), keys=[ECC.public_key()])
