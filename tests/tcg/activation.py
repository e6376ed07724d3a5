"""TPM2_ActivateCredential, from the specification and other building blocks than the code under test."""

import hmac
import struct

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from attestd.tcg.public import Public

HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}


def read(data: bytes) -> tuple[bytes, bytes]:
    [size] = struct.unpack_from(">H", data)
    assert len(data) >= 2 + size
    return data[2 : 2 + size], data[2 + size :]


def reference_kdfa(hash_alg: str, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    return KBKDFHMAC(
        algorithm=HASHES[hash_alg], mode=Mode.CounterMode, length=bits // 8, rlen=4, llen=4,
        location=CounterLocation.BeforeFixed, label=label, context=context, fixed=None,
    ).derive(key)  # fmt: skip


def reference_kdfe(hash_alg: str, shared: bytes, other: bytes) -> bytes:
    return ConcatKDFHash(HASHES[hash_alg], HASHES[hash_alg].digest_size, other).derive(shared)


def recover(ek: Public, private: object, id_object: bytes, encrypted_secret: bytes, name: bytes) -> bytes:
    """What the TPM with that EK answers while an object of that Name is loaded; fails as it does."""
    size = HASHES[ek.name_alg].digest_size
    encrypted, rest = read(encrypted_secret)
    assert not rest
    if isinstance(private, rsa.RSAPrivateKey):
        oaep = padding.OAEP(padding.MGF1(HASHES[ek.name_alg]), HASHES[ek.name_alg], b"IDENTITY\0")
        seed = private.decrypt(encrypted, oaep)
        assert len(seed) == size
    else:
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        x, rest = read(encrypted)
        y, rest = read(rest)
        assert not rest
        numbers = ec.EllipticCurvePublicNumbers(*(int.from_bytes(n, "big") for n in (x, y)), private.curve)
        shared = private.exchange(ec.ECDH(), numbers.public_key())
        own = private.public_key().public_numbers().x.to_bytes(len(x), "big")
        seed = reference_kdfe(ek.name_alg, shared, b"IDENTITY\0" + x + own)
    contents, rest = read(id_object)
    assert not rest
    mac, identity = read(contents)
    key = reference_kdfa(ek.name_alg, seed, b"INTEGRITY", b"", size * 8)
    assert hmac.compare_digest(mac, hmac.digest(key, identity + name, ek.name_alg))
    [bits] = struct.unpack_from(">2xH", ek.parameters)
    storage = reference_kdfa(ek.name_alg, seed, b"STORAGE", name, bits)
    decryptor = Cipher(AES(storage), CFB(bytes(16))).decryptor()
    secret, rest = read(decryptor.update(identity) + decryptor.finalize())
    assert not rest
    return secret
