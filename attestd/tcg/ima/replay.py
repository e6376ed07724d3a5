"""Replays IMA lists against a quoted PCR, from the start or from where the last replay ended.

The list's own template digests are believed in one thing, that a zero stands for a violation; if that is a lie, the
replay shows it. Every other digest is computed here, with the bank's hash, as the kernel does.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.tcg.eventlog.types import HASHES
from attestd.tcg.ima.entry import ImaEntry, ima_template_data, parse_fields

__all__ = [
    "MAX_IMA_BYTES",
    "ImaPosition",
    "VerifiedImaList",
    "find_value",
    "replay_list",
    "replay_rest",
    "start_of_list",
    "verify_list",
]

MAX_IMA_BYTES: Final = 16 * 1024 * 1024
IMA_PCR: Final = 10

_HEAD: Final = struct.Struct("<I20sI")
_U32: Final = struct.Struct("<I")
_MAX_NAME: Final = 255
_VIOLATION: Final = bytes(20)
_NO_MATCH: Final = b""
_NO_TEMPLATE: Final = b"\0"  # of a length that no layout for it reads


@dataclass(frozen=True)
class ImaPosition:
    """How far a list has been replayed: a value, to be kept and gone on from.

    Attributes:
        bank: The PCR bank.
        entries: Entries so far, and `offset` their bytes in the binary list.
        value: What the PCR held after them.
        padded: Whether the kernel extends this bank with SHA-1 digests, padded with zeros: it does if it lacked the
            bank's hash when IMA started. None until the first match shows it.
    """

    bank: str
    entries: int
    offset: int
    value: bytes
    padded: bool | None


@dataclass(frozen=True)
class VerifiedImaList:
    """Entries that a quoted PCR proves. Only `verify_list` makes one.

    Attributes:
        start, end: Where the replay began and ended; `end` is where the next one begins.
        later: Whether the data goes on beyond the quote.
        data: The template data of each entry, in order.
    """

    start: ImaPosition
    end: ImaPosition
    later: bool
    data: Sequence[bytes] = field(repr=False)
    _templates: Sequence[tuple[int, bytes]] = field(repr=False)
    _violations: frozenset[int] = field(repr=False)

    def __len__(self) -> int:
        return len(self.data)

    def runs(self) -> Iterator[tuple[bytes, range]]:
        """The templates' names, each with the indices into `data` that have it, in order."""
        ends = [index for index, _ in self._templates[1:]] + [len(self.data)] * bool(self._templates)
        for (begin, name), end in zip(self._templates, ends, strict=True):
            yield name, range(begin, end)

    def is_violation(self, index: int) -> bool:
        """Whether the entry with that index into `data` is a violation."""
        return index in self._violations

    def entry(self, index: int, template: bytes) -> ImaEntry:
        """Takes one entry apart.

        Raises:
            MalformedError: As `parse_fields`: measured, but in no form that is known here.
        """
        return parse_fields(
            self.start.entries + index, template, self.data[index], violation=index in self._violations
        )


def start_of_list(bank: str) -> ImaPosition:
    """The position before the first entry.

    Raises:
        UsageError: No such bank.
    """
    if bank not in HASHES:
        raise UsageError(f"IMA: no bank {bank!r}, expected one of {', '.join(HASHES)}")
    return ImaPosition(bank, 0, 0, bytes(HASHES[bank](b"").digest_size), padded=None)


def verify_list(
    data: bytes, *, position: ImaPosition, value: bytes, max_bytes: int = MAX_IMA_BYTES
) -> VerifiedImaList:
    """Finds the prefix of a list that a quoted PCR value proves.

    Quote first, read the list after: the kernel keeps measuring, so the list may hold more than was quoted; entries
    beyond the prefix are not looked at. Does not check what was measured (`attestd.appraisal.ima`).

    Args:
        data: The binary list (`binary_runtime_measurements`) from `position.offset` on.
        position: Where to go on: `start_of_list`, or the `end` of the last verified part, for the same boot.
        value: The quoted value of the PCR.
        max_bytes: The limit for `data`.

    Raises:
        MalformedError: Over the limit, truncated, a length beyond the end: before the value is reached.
        VerificationError: No prefix replays to the value.
    """
    if len(data) > max_bytes:
        raise MalformedError(f"IMA list: {len(data)} bytes, the limit is {max_bytes}")
    if len(value) != len(position.value):
        raise VerificationError(
            f"IMA list: a PCR value of {len(value)} bytes, expected {len(position.value)}"
        )
    count, malformed = 0, None
    for padded in (False, True) if position.padded is None else (position.padded,):
        try:
            found = _replay(data, position, value, padded=padded)
        except (
            MalformedError
        ) as error:  # behind the quoted entry, perhaps, if the bank is replayed in the other way
            malformed = error
            continue
        count = len(found)
        if found.end.value == value:
            return found
    if malformed is not None:
        raise malformed
    raise VerificationError(
        f"IMA list: it is not the list of this quote: PCR {IMA_PCR} ({position.bank}) was quoted as {value.hex()}, and"
        f" no prefix of the {count} entries from entry {position.entries} on replays to it"
    )


def replay_list(
    data: bytes, *, bank: str, padded: bool = False, max_bytes: int = MAX_IMA_BYTES
) -> VerifiedImaList:
    """Replays a whole list, against nothing: what the PCR would hold, if the list were true.

    Raises:
        MalformedError: As `verify_list`.
        UsageError: No such bank.
    """
    if len(data) > max_bytes:
        raise MalformedError(f"IMA list: {len(data)} bytes, the limit is {max_bytes}")
    return _replay(data, start_of_list(bank), _NO_MATCH, padded=padded)


def replay_rest(data: bytes, *, position: ImaPosition, max_bytes: int = MAX_IMA_BYTES) -> VerifiedImaList:
    """Goes on with a list, against nothing: what it says now, to be looked at before a quote proves it.

    Its `end` says where the next call goes on; of the value there nothing is known before `verify_list`.

    Args:
        data: The binary list from `position.offset` on.
        position: Where to go on.
        max_bytes: The limit for `data`.

    Raises:
        MalformedError: As `verify_list`.
    """
    if len(data) > max_bytes:
        raise MalformedError(f"IMA list: {len(data)} bytes, the limit is {max_bytes}")
    return _replay(data, position, _NO_MATCH, padded=bool(position.padded))


def find_value(data: bytes, *, position: ImaPosition, matches: Callable[[bytes], bool]) -> bytes | None:
    """The PCR's value at the moment of a quote, if it was extended before it could be read.

    The quote shows it only within a composite: the values that the list leads to are tried. While files are executed
    without pause there is no other way to know it.

    Args:
        data: The binary list from `position.offset` on.
        position: The end of what was proved.
        matches: Whether the quote is over that value.

    Returns:
        The value after the first prefix that matches; None: no prefix does.

    Raises:
        MalformedError: The data is not a list of whole entries.
    """
    if matches(position.value):
        return position.value
    for padded in (False, True) if position.padded is None else (position.padded,):
        for value in _values(_replay(data, position, _NO_MATCH, padded=padded), padded=padded):
            if matches(value):
                return value
    return None


def _values(replayed: VerifiedImaList, *, padded: bool) -> Iterator[bytes]:
    """The PCR's value after each entry, as `_replay` extends it."""
    value = replayed.start.value
    extend, size = HASHES[replayed.start.bank], len(value)
    hash_ = HASHES["sha1"] if padded else extend
    for index, item in enumerate(replayed.data):
        digest = b"\xff" * size if replayed.is_violation(index) else hash_(item).digest().ljust(size, b"\0")
        value = extend(value + digest).digest()
        yield value


def _replay(data: bytes, position: ImaPosition, target: bytes, *, padded: bool) -> VerifiedImaList:
    """The loop that has to be fast: one pass, and of each entry only its bytes are kept."""
    extend = HASHES[position.bank]
    hash_ = HASHES["sha1"] if padded else extend
    pad = bytes(len(position.value) - 20) if padded else b""
    ones = b"\xff" * len(
        position.value
    )  # ima_init_digests: a violation extends ones, however digests are padded
    value, offset, size = position.value, 0, len(data)
    items: list[bytes] = []
    append = items.append
    templates: list[tuple[int, bytes]] = []
    violations: list[int] = []
    name, layout = _NO_TEMPLATE, _layout(0)
    try:
        while offset < size and value != target:
            head = layout.unpack_from(data, offset)
            if head[3] != name or head[2] != len(name):
                name, layout = _template(data, offset, position.entries + len(items))
                templates.append((len(items), name))
                continue
            if head[0] != IMA_PCR:
                raise MalformedError(
                    f"IMA list: entry {position.entries + len(items)} is of PCR {head[0]}, expected {IMA_PCR}"
                )
            if name == b"ima":
                item, offset = _old_item(data, offset)
            else:
                begin = offset + layout.size
                offset = begin + head[4]
                item = data[begin:offset]
            if offset > size:
                raise _truncated(position, len(items))
            if head[1] == _VIOLATION:
                violations.append(len(items))
                value = extend(value + ones).digest()
            else:
                value = extend(value + hash_(item).digest() + pad).digest()
            append(item)
    except struct.error as error:
        raise _truncated(position, len(items)) from error
    end = ImaPosition(position.bank, position.entries + len(items), position.offset + offset, value, padded)
    return VerifiedImaList(position, end, offset < size, items, templates, frozenset(violations))


def _template(data: bytes, offset: int, number: int) -> tuple[bytes, struct.Struct]:
    """The template's name of the entry there, and the layout of entries with it."""
    _, _, length = _HEAD.unpack_from(data, offset)
    start = offset + _HEAD.size
    if not 1 <= length <= _MAX_NAME or start + length > len(data):
        raise MalformedError(f"IMA list: entry {number} has a template name of {length} bytes")
    return data[start : start + length], _layout(length)


@cache
def _layout(length: int) -> struct.Struct:
    return struct.Struct(f"<I20sI{length}sI")


def _old_item(data: bytes, offset: int) -> tuple[bytes, int]:
    """An entry of the template `ima`, which has no lengths but the name's."""
    begin = offset + _HEAD.size + len(b"ima")
    (length,) = _U32.unpack_from(data, begin + 20)
    end = begin + 24 + length
    return ima_template_data(data[begin : begin + 20], data[begin + 24 : end]), end


def _truncated(position: ImaPosition, count: int) -> MalformedError:
    return MalformedError(f"IMA list: truncated in entry {position.entries + count}")
