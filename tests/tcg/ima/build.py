"""Makes IMA lists, right and wrong."""

import hashlib
import struct

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

ZERO = bytes(20)


def digest_of(content: bytes, algorithm: str = "sha256") -> bytes:
    return hashlib.new(algorithm, content).digest()


def pack(*fields: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(field)) + field for field in fields)


def data(
    path: bytes, content: bytes = b"x", *more: bytes, algorithm: bytes = b"sha256", name: bytes | None = None
) -> bytes:
    """Template data: d-ng, n-ng and more."""
    digest = digest_of(content, algorithm.rpartition(b":")[2].decode())
    return pack(algorithm + b":\0" + digest, path + b"\0" if name is None else name, *more)


def entry(
    template_data: bytes,
    template: bytes = b"ima-ng",
    *,
    pcr: int = 10,
    violation: bool = False,
    size: int | None = None,
    name_size: int | None = None,
) -> bytes:
    digest = ZERO if violation else digest_of(template_data, "sha1")
    head = struct.pack("<I20sI", pcr, digest, len(template) if name_size is None else name_size) + template
    return head + struct.pack("<I", len(template_data) if size is None else size) + template_data


def old_entry(path: bytes, content: bytes = b"x", *, violation: bool = False) -> bytes:
    """Of the template `ima`."""
    digest = digest_of(content, "sha1")
    hashed = ZERO if violation else digest_of(digest + path.ljust(256, b"\0"), "sha1")
    return struct.pack("<I20sI", 10, hashed, 3) + b"ima" + digest + pack(path)


def pcr10(bank: str, *template_data: bytes | None, padded: bool = False, value: bytes | None = None) -> bytes:
    """What the kernel extends: None stands for a violation. Written anew, as an oracle."""
    size = hashlib.new(bank).digest_size
    found = bytes(size) if value is None else value
    for item in template_data:
        if item is None:
            extended = b"\xff" * size
        elif padded:
            extended = digest_of(item, "sha1").ljust(size, b"\0")
        else:
            extended = digest_of(item, bank)
        found = digest_of(found + extended, bank)
    return found


def ima_list(*template_data: bytes, template: bytes = b"ima-ng") -> bytes:
    return b"".join(entry(item, template) for item in template_data)


def sign(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    digest: bytes,
    *,
    kind: int = 3,
    version: int = 2,
    hash_: int = 4,
) -> bytes:
    """A `security.ima` signature over a SHA-256 digest."""
    if isinstance(key, rsa.RSAPrivateKey):
        made = key.sign(digest, padding.PKCS1v15(), Prehashed(SHA256()))
    else:
        made = key.sign(digest, ec.ECDSA(Prehashed(SHA256())))
    return struct.pack(">BBBIH", kind, version, hash_, 0xDEADBEEF, len(made)) + made
