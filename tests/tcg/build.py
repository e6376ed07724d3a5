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


# The areas of the TCG's templates up to the key, spelled out: type, nameAlg, attributes, policy, then symmetric, scheme, key.
_POLICY_A = "0020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
_POLICY_B = "0020ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"
_POLICY_B_384 = (
    "0030b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
)
EK_AREAS = {
    "L-1": f"0001000b000300b2{_POLICY_A}0006008000430010080000000000",
    "L-2": f"0023000b000300b2{_POLICY_A}000600800043001000030010",
    "H-1": f"0001000b000300f2{_POLICY_B}0006008000430010080000000000",
    "H-2": f"0023000b000300f2{_POLICY_B}000600800043001000030010",
    "H-3": f"0023000c000300f2{_POLICY_B_384}000601000043001000040010",
    "H-6": f"0001000c000300f2{_POLICY_B_384}00060100004300100c0000000000",
    "H-7": f"0001000c000300f2{_POLICY_B_384}0006010000430010100000000000",
}


def ek_public(template: str, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    """The TPMT_PUBLIC of an endorsement key."""
    area = bytes.fromhex(EK_AREAS[template])
    numbers = key.public_numbers()
    size = (key.key_size + 7) // 8
    if isinstance(numbers, rsa.RSAPublicNumbers):
        return area + tpm2b(numbers.n.to_bytes(size, "big"))
    return area + tpm2b(numbers.x.to_bytes(size, "big")) + tpm2b(numbers.y.to_bytes(size, "big"))
