"""The ASCII form of an IMA list, turned into the binary one.

The ASCII form is for people: a file name with a newline in it looks like two entries. So each line has to hash to its
own template digest; where it does not, the binary list is the one to give.
"""

import binascii
import hashlib
import struct
from typing import Final

from attestd.errors import MalformedError
from attestd.tcg.ima.entry import ima_template_data, pack_field
from attestd.tcg.ima.replay import IMA_PCR

__all__ = ["binary_from_ascii", "is_ascii_list"]

_HEAD: Final = struct.Struct("<I20sI")
# Fields behind digest and name, all of them bytes in hex.
_MORE: Final = {b"ima-ng": 0, b"ima-ngv2": 0, b"ima-sig": 1, b"ima-sigv2": 1, b"ima-buf": 1, b"ima-modsig": 3}


def is_ascii_list(data: bytes) -> bool:
    """Whether it is the ASCII form: the binary one has a zero in its first four bytes."""
    return data[:3] == b"%d " % IMA_PCR


def binary_from_ascii(data: bytes) -> bytes:
    """Turns `ascii_runtime_measurements` into `binary_runtime_measurements`.

    Raises:
        MalformedError: A line has another form, a template that is unknown here, or does not hash to its template
            digest (a violation's is zero, and says nothing).
    """
    if data and not data.endswith(b"\n"):
        raise MalformedError("IMA list: the last line does not end")
    return b"".join(_entry(number, line) for number, line in enumerate(data.split(b"\n")[:-1]))


def _entry(number: int, line: bytes) -> bytes:
    what = f"IMA list, line {number + 1}"
    try:
        pcr, digest_text, template, file_text, rest = line.split(b" ", 4)
        digest = binascii.unhexlify(digest_text)
        packed, hashed = _template_data(template, file_text, rest)
        head = _HEAD.pack(int(pcr), digest, len(template)) + template
    except (ValueError, KeyError, struct.error) as error:
        raise MalformedError(f"{what}: not an entry of a known form: {line[:80]!r}") from error
    if len(digest) != 20 or (any(digest) and hashlib.sha1(hashed, usedforsecurity=False).digest() != digest):
        raise MalformedError(
            f"{what}: it does not hash to its template digest (a newline in a file name?): give the binary list"
        )
    return head + packed


def _template_data(template: bytes, file_text: bytes, rest: bytes) -> tuple[bytes, bytes]:
    """The entry behind its template's name, and the bytes that the kernel hashed."""
    if template == b"ima":
        digest = binascii.unhexlify(file_text)
        return digest + pack_field(rest), ima_template_data(digest, rest)
    algorithm, _, value = file_text.rpartition(b":")
    name, *more = rest.split(b" ")
    count = _MORE[template]
    # The kernel writes a space before each field, and nothing for an empty one.
    if len(more) != count:
        raise ValueError(f"{len(more)} fields, expected {count}")
    fields = [algorithm + b":\0" + binascii.unhexlify(value), name + b"\0", *map(_more, more)]
    packed = b"".join(map(pack_field, fields))
    return struct.pack("<I", len(packed)) + packed, packed


def _more(text: bytes) -> bytes:
    algorithm, colon, value = text.rpartition(b":")
    return algorithm + b":\0" + binascii.unhexlify(value) if colon else binascii.unhexlify(text)
