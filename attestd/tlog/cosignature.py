"""What a witness says about a checkpoint: that it is the largest it saw of a log, and continues all it saw before.

    Ed25519 (0x04)      u64 time ‖ signature over "cosignature/v1", "time <time>" and the whole note text
    ML-DSA-44 (0x06)    u64 time ‖ signature over the witness's name, time, origin, size and root (no extension line)

Source: https://c2sp.org/tlog-cosignature.
"""

import struct
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from attestd.errors import UsageError, VerificationError
from attestd.tlog._text import MAX_SIZE
from attestd.tlog.checkpoint import TreeHead, parse_tree_head
from attestd.tlog.note import NoteSignature, UntrustedNote
from attestd.tlog.vkey import SignatureType, VerifierKey, cosignature_vkey, mldsa_vkey

__all__ = ["Cosigner", "cosignature_message", "cosigner", "mldsa_cosignature_message", "verify_cosignature"]

_TIME: Final = struct.Struct(">Q")
_LABEL: Final = b"subtree/v1\n\0"
_MAX_NAME_BYTES: Final = 255


@dataclass(frozen=True, slots=True)
class Cosigner:
    """A witness's private key of one kind. `cosigner` makes it.

    Attributes:
        key: What others verify its cosignatures by.
        private_key: Signs.
    """

    key: VerifierKey
    private_key: Ed25519PrivateKey | MLDSA44PrivateKey

    def cosign(self, text: bytes, *, time: int) -> NoteSignature:
        """Signs a checkpoint. That it continues what was cosigned before is the caller's affair.

        Args:
            text: The note text.
            time: Now, in seconds since the epoch; not 0, which would say that nothing is said about the time.

        Raises:
            MalformedError: Not a checkpoint.
            UsageError: A time out of range, or an origin too long for ML-DSA-44.
        """
        if not 0 < time <= MAX_SIZE:
            raise UsageError(f"time {time}: expected seconds since the epoch")
        signature = self.private_key.sign(_message(self.key, parse_tree_head(text), text, time))
        return NoteSignature(self.key.name, self.key.key_id, _TIME.pack(time) + signature)


def cosigner(name: str, private_key: Ed25519PrivateKey | MLDSA44PrivateKey) -> Cosigner:
    """A witness's private key under its name.

    Raises:
        MalformedError: Not the name of a key.
    """
    public = private_key.public_key().public_bytes_raw()
    vkey = cosignature_vkey if isinstance(private_key, Ed25519PrivateKey) else mldsa_vkey
    return Cosigner(vkey(name, public), private_key)


def verify_cosignature(note: UntrustedNote, key: VerifierKey) -> int:
    """Verifies the line of a witness (type 0x04 or 0x06).

    Does not check that the time is not in the future: the caller must. An ML-DSA-44 cosignature does not cover the
    checkpoint's extension lines.

    Returns:
        When the witness saw the checkpoint, in seconds since the epoch.

    Raises:
        MalformedError: The text is not a checkpoint.
        VerificationError: The key has not exactly one line, its signature is wrong, or its time is 0 or beyond 2^63 - 1.
        UsageError: A key of another type.
    """
    if key.algorithm not in (SignatureType.COSIGNATURE, SignatureType.MLDSA_COSIGNATURE):
        raise UsageError(f"{key.name} is a key of type {key.algorithm.name}, not a witness's")
    payload = note.signature(key.name, key.key_id)
    if len(payload) <= _TIME.size:
        raise VerificationError(f"note: the cosignature by {key.name} has no signature")
    [time] = _TIME.unpack(payload[: _TIME.size])
    if not 0 < time <= MAX_SIZE:
        raise VerificationError(f"note: the time of {key.name} is 0, or beyond 2^63 - 1")
    try:
        message = _message(key, parse_tree_head(note.text), note.text, time)
    except UsageError as error:
        raise VerificationError(f"note: {error}") from error
    key.verify(payload[_TIME.size :], message)
    return int(time)


def cosignature_message(text: bytes, time: int) -> bytes:
    """What a witness signs with Ed25519 (tlog-cosignature, Ed25519 signed message)."""
    return b"cosignature/v1\ntime %d\n%s" % (time, text)


def mldsa_cosignature_message(name: str, head: TreeHead, time: int) -> bytes:
    """What a witness signs with ML-DSA-44 (tlog-cosignature, ML-DSA-44 signed message).

    Raises:
        UsageError: The witness's name or the origin has more than 255 bytes.
    """
    return (
        _LABEL
        + _short(name, "the witness's name")
        + _TIME.pack(time)
        + _short(head.origin, "the origin")
        + struct.pack(">QQ", 0, head.size)
        + head.root
    )


def _message(key: VerifierKey, head: TreeHead, text: bytes, time: int) -> bytes:
    if key.algorithm is SignatureType.COSIGNATURE:
        return cosignature_message(text, time)
    return mldsa_cosignature_message(key.name, head, time)


def _short(text: str, what: str) -> bytes:
    data = text.encode()
    if not 0 < len(data) <= _MAX_NAME_BYTES:
        raise UsageError(f"{what} has {len(data)} bytes, 1 to {_MAX_NAME_BYTES} expected")
    return bytes([len(data)]) + data
