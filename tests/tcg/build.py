"""Builds what a TPM would sign, from the specification's words and not with the code under test."""

import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

MAGIC = 0xFF544347
QUOTE, CERTIFY, NV = 0x8018, 0x8017, 0x8014
HASH_ID = {"sha1": 0x0004, "sha256": 0x000B, "sha384": 0x000C, "sha512": 0x000D}
HASHES = {"sha1": hashes.SHA1, "sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512}


def tpm2b(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def key(scalar: int, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """A fixed key: its public area, Name and deterministic signatures can stand in vectors."""
    return ec.derive_private_key(scalar, curve or ec.SECP256R1())


def selection(*banks: tuple[str, tuple[int, ...]]) -> bytes:
    data = struct.pack(">I", len(banks))
    for bank, pcrs in banks:
        octets = bytearray(3)
        for pcr in pcrs:
            octets[pcr // 8] |= 1 << pcr % 8
        data += struct.pack(">HB", HASH_ID[bank], 3) + bytes(octets)
    return data


def attest(
    body: bytes,
    *,
    kind: int = QUOTE,
    extra_data: bytes = b"e" * 32,
    magic: int = MAGIC,
    signer: bytes = b"\x00\x0b" + b"s" * 32,
    safe: int = 1,
) -> bytes:
    head = struct.pack(">IH", magic, kind) + tpm2b(signer) + tpm2b(extra_data)
    return head + struct.pack(">QIIBQ", 123_456, 7, 2, safe, 0x2019102300163636) + body


def quote_body(pcrs: bytes, digest: bytes) -> bytes:
    return pcrs + tpm2b(digest)


def ecdsa(private: ec.EllipticCurvePrivateKey, message: bytes, hash_alg: str = "sha256") -> bytes:
    """TPMT_SIGNATURE, ECDSA with a deterministic nonce (RFC 6979)."""
    r, s = decode_dss_signature(
        private.sign(message, ec.ECDSA(HASHES[hash_alg](), deterministic_signing=True))
    )
    size = (private.key_size + 7) // 8
    return (
        struct.pack(">HH", 0x0018, HASH_ID[hash_alg])
        + tpm2b(r.to_bytes(size, "big"))
        + tpm2b(s.to_bytes(size, "big"))
    )


def rsassa(private: rsa.RSAPrivateKey, message: bytes, hash_alg: str = "sha256") -> bytes:
    octets = private.sign(message, padding.PKCS1v15(), HASHES[hash_alg]())
    return struct.pack(">HH", 0x0014, HASH_ID[hash_alg]) + tpm2b(octets)


def rsapss(
    private: rsa.RSAPrivateKey,
    message: bytes,
    hash_alg: str = "sha256",
    salt: object = padding.PSS.MAX_LENGTH,
) -> bytes:
    pss = padding.PSS(mgf=padding.MGF1(HASHES[hash_alg]()), salt_length=salt)
    octets = private.sign(message, pss, HASHES[hash_alg]())
    return struct.pack(">HH", 0x0016, HASH_ID[hash_alg]) + tpm2b(octets)
