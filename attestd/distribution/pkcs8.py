"""Private keys encrypted at rest: PKCS#8 with PBES2, scrypt and AES-256-CBC, as `openssl pkey` reads it.

Neither cryptography nor pyOpenSSL lets one say what guessing a passphrase shall cost: both write 2,048 rounds of PBKDF2.
"""

import hashlib
import os
from base64 import encodebytes
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

__all__ = ["MAX_PASSPHRASE_BYTES", "encrypt_pkcs8", "is_encrypted"]

MAX_PASSPHRASE_BYTES: Final = 1024
# 16 MiB and about 0.2 s a guess (OWASP's table of equals: N 2^14, p 5). More memory, and `openssl` refuses to read it.
_N: Final = 2**14
_R: Final = 8
_P: Final = 5

_BEGIN: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
_END: Final = b"-----END ENCRYPTED PRIVATE KEY-----\n"
_PBES2: Final = bytes.fromhex("06092a864886f70d01050d")  # RFC 8018, A.4
_SCRYPT: Final = bytes.fromhex("06092b06010401da47040b")  # RFC 7914, 7
_AES_256_CBC: Final = bytes.fromhex("060960864801650304012a")  # RFC 8018, B.2.5
_SEQUENCE: Final = 0x30
_INTEGER: Final = 0x02
_OCTETS: Final = 0x04


def encrypt_pkcs8(der: bytes, passphrase: bytes) -> bytes:
    """Encrypts a private key: EncryptedPrivateKeyInfo (RFC 5958, 3) in PEM (RFC 7468, 11).

    Args:
        der: PrivateKeyInfo.
        passphrase: Not empty.
    """
    salt, iv = os.urandom(16), os.urandom(16)
    key = hashlib.scrypt(passphrase, salt=salt, n=_N, r=_R, p=_P, maxmem=64 << 20, dklen=32)
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(iv)).encryptor()
    sealed = encryptor.update(padder.update(der) + padder.finalize()) + encryptor.finalize()
    cost = _tlv(_OCTETS, salt) + b"".join(map(_integer, (_N, _R, _P)))
    derivation = _tlv(_SEQUENCE, _SCRYPT + _tlv(_SEQUENCE, cost))
    cipher = _tlv(_SEQUENCE, _AES_256_CBC + _tlv(_OCTETS, iv))
    algorithm = _tlv(_SEQUENCE, _PBES2 + _tlv(_SEQUENCE, derivation + cipher))
    info = _tlv(_SEQUENCE, algorithm + _tlv(_OCTETS, sealed))
    return _BEGIN + b"".join(encodebytes(info[at : at + 48]) for at in range(0, len(info), 48)) + _END


def is_encrypted(pem: bytes) -> bool:
    """Whether a PEM file holds an encrypted private key, of this form or the one that `openssl` once wrote."""
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem or b"Proc-Type: 4,ENCRYPTED" in pem


def _integer(value: int) -> bytes:
    return _tlv(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
