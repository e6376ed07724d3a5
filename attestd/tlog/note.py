"""C2SP signed notes: text, a blank line, signature lines; and the verification of one line.

Source: https://c2sp.org/signed-note; lines of witnesses: `attestd.tlog.cosignature`. Whose signatures count is decided by the
caller's keys, never by the note: until one of them verified, the text is hostile.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import msgspec

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.tlog._text import format_base64, parse_base64
from attestd.tlog.vkey import KEY_ID_SIZE, SignatureType, VerifierKey, is_key_name

__all__ = [
    "MAX_NOTE_BYTES",
    "MAX_SIGNATURES",
    "NoteSignature",
    "UntrustedNote",
    "format_note",
    "format_signature_line",
    "parse_note",
    "parse_signature_line",
    "verify_ecdsa",
]

MAX_NOTE_BYTES: Final = 64 * 1024
MAX_SIGNATURES: Final = 16
_DASH: Final = "—".encode()
_CONTROL: Final = bytes(set(range(0x20)) - {0x0A})


class NoteSignature(msgspec.Struct, frozen=True, gc=False):
    """One signature line.

    Attributes:
        name: The key's name.
        key_id: Its 4-byte id, a hint: `VerifierKey` says what it is computed from.
        payload: The signature itself, of the form that the key's algorithm says.
    """

    name: str
    key_id: bytes
    payload: bytes


class UntrustedNote(msgspec.Struct, frozen=True, gc=False):
    """A note of which no signature has been verified.

    Attributes:
        text: The signed message, final newline included, the blank line not.
        signatures: The signature lines, in order.
    """

    text: bytes
    signatures: tuple[NoteSignature, ...]

    def signature(self, name: str, key_id: bytes) -> bytes:
        """The payload of the one line of this key.

        Raises:
            VerificationError: There is no such line, or more than one: a second could hide behind the first.
        """
        lines = [line for line in self.signatures if (line.name, line.key_id) == (name, key_id)]
        if len(lines) != 1:
            raise VerificationError(f"note: {len(lines)} signatures by {name}+{key_id.hex()}, 1 expected")
        return lines[0].payload


def parse_note(data: bytes) -> UntrustedNote:
    """Parses a signed note.

    Args:
        data: The note, at most 64 KiB and 16 signatures.

    Raises:
        MalformedError: Not a signed note.
    """
    if len(data) > MAX_NOTE_BYTES:
        raise MalformedError(f"note: {len(data)} bytes, the limit is {MAX_NOTE_BYTES}")
    text, blank, rest = data.rpartition(b"\n\n")
    if not blank or not rest.endswith(b"\n"):
        raise MalformedError("note: expected text, a blank line, and signature lines that end in newlines")
    # Of signature lines only names could have one, and those are looked at.
    if len(text.translate(None, _CONTROL)) != len(text):
        raise MalformedError("note: has a control character")
    lines = rest[:-1].split(b"\n")
    if len(lines) > MAX_SIGNATURES:
        raise MalformedError(f"note: {len(lines)} signatures, the limit is {MAX_SIGNATURES}")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"note: not UTF-8: {error}") from error
    return UntrustedNote(text + b"\n", tuple(map(parse_signature_line, lines)))


def format_note(text: bytes, signatures: Iterable[NoteSignature]) -> bytes:
    """Writes a note.

    Args:
        text: What was signed; ends in a newline.
        signatures: 1 to 16 lines, in this order.

    Raises:
        UsageError: `parse_note` would not give back just this.
    """
    note = UntrustedNote(text, tuple(signatures))
    data = (
        text + b"\n" + "".join(map(format_signature_line, note.signatures)).encode("utf-8", "surrogatepass")
    )
    try:
        parsed = parse_note(data)
    except MalformedError as error:
        raise UsageError(f"not a note that could be read again: {error}") from error
    if parsed != note:
        raise UsageError("not a note that could be read again: it would be read as another")
    return data


def parse_signature_line(line: bytes) -> NoteSignature:
    """Parses one signature line, without its newline.

    Raises:
        MalformedError: Not em dash, key name and base64, or an empty signature.
    """
    parts = line.split(b" ")
    name = _key_name(parts[1]) if len(parts) == 3 and parts[0] == _DASH else ""
    if not name:
        shown = line[:80].decode("utf-8", "backslashreplace")
        raise MalformedError(f"note: signature line {shown!r}: expected em dash, key name, base64")
    value = parse_base64(parts[2], what="note signature")
    if len(value) <= KEY_ID_SIZE:
        raise MalformedError(f"note: a signature by {name} is empty")
    return NoteSignature(name, value[:KEY_ID_SIZE], value[KEY_ID_SIZE:])


@lru_cache(maxsize=64)  # who verifies a log meets the same few
def _key_name(octets: bytes) -> str:
    """The key name that these are; empty: none."""
    try:
        name = octets.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return name if is_key_name(name) else ""


def format_signature_line(line: NoteSignature) -> str:
    """Writes one signature line, newline included."""
    return f"— {line.name} {format_base64(line.key_id + line.payload)}\n"


def verify_ecdsa(note: UntrustedNote, key: VerifierKey) -> None:
    """Verifies the line of an ECDSA key (type 0x02): DER, over SHA-256 of the text.

    Raises:
        VerificationError: The key has not exactly one line, or its signature is wrong.
        UsageError: A key of another type.
    """
    if key.algorithm is not SignatureType.ECDSA:
        raise UsageError(f"{key.name} is a key of type {key.algorithm.name}, not {SignatureType.ECDSA.name}")
    key.verify(note.signature(key.name, key.key_id), note.text)
