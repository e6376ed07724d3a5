"""Keys of other logs: attestd reads them and makes none."""

from attestd.tlog.note import UntrustedNote
from attestd.tlog.vkey import SignatureType, VerifierKey


def ed25519_vkey(name: str, public_key: bytes) -> VerifierKey:
    """A key of type 0x01, from its 32 bytes (RFC 8032)."""
    return VerifierKey(name, bytes([SignatureType.ED25519]) + public_key)


def verify_ed25519(note: UntrustedNote, key: VerifierKey) -> None:
    """Verifies its line."""
    key.verify(note.signature(key.name, key.key_id), note.text)
