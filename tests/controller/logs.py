"""Logs for a witness: of any size, forked, signed by Ed25519 keys or by a host's TPM keys."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestd.tlog._text import format_base64
from attestd.tlog.note import NoteSignature, format_note
from attestd.tlog.tree import Frontier, consistency_proof, leaf_hash
from attestd.tlog.vkey import VerifierKey, format_vkey
from attestd.tlog.witness import AddCheckpoint, format_add_checkpoint
from tests.tlog.keys import ed25519_vkey
from tests.world import ed25519_key


class Log:
    """A log that anybody may keep: it signs whatever it is told to, also two histories."""

    def __init__(self, name: str = "example.com/log", *, key: Ed25519PrivateKey | None = None) -> None:
        self.name = name
        self.private_key = key or ed25519_key(name)
        self.key: VerifierKey = ed25519_vkey(name, self.private_key.public_key().public_bytes_raw())
        self.leaves: list[bytes] = []

    @property
    def vkey(self) -> str:
        return format_vkey(self.key)

    def grow(self, count: int, *, salt: bytes = b"") -> None:
        first = len(self.leaves)
        self.leaves += [leaf_hash(b"%s %d %s" % (self.name.encode(), first + n, salt)) for n in range(count)]

    def fork(self, size: int, *, salt: bytes = b"fork") -> "Log":
        """Another history from `size` on, under the same key."""
        other = Log(self.name, key=self.private_key)
        other.leaves = self.leaves[:size]
        other.grow(len(self.leaves) - size + 1, salt=salt)
        return other

    def root(self, size: int) -> bytes:
        return Frontier().append(self.leaves[:size])[0].root()

    def proof(self, old: int, new: int) -> tuple[bytes, ...]:
        _, nodes = Frontier().append(self.leaves[:new])
        stored = {(node.level, node.index): node.hash for node in nodes}
        return tuple(consistency_proof(old, new, lambda level, index: stored[level, index]))

    def text(self, size: int, *, root: bytes | None = None, extensions: str = "") -> bytes:
        shown = format_base64(self.root(size) if root is None else root)
        return f"{self.name}\n{size}\n{shown}\n{extensions}".encode()

    def line(self, text: bytes) -> NoteSignature:
        return NoteSignature(self.key.name, self.key.key_id, self.private_key.sign(text))

    def note(self, size: int, *more: NoteSignature) -> bytes:
        text = self.text(size)
        return format_note(text, [self.line(text), *more])

    def request(self, old: int, new: int, *more: NoteSignature) -> bytes:
        return format_add_checkpoint(AddCheckpoint(old, self.proof(old, new), self.note(new, *more)))
