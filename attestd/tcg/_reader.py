"""A bounded, big-endian reader: the only way in which this package takes bytes apart."""

import struct
from typing import Any, Final

from attestd.errors import MalformedError

__all__ = ["Reader", "sized"]

_U16: Final = struct.Struct(">H")
_read_u16: Final = _U16.unpack_from


class Reader:
    """Reads a TPM structure front to back; every byte must be accounted for (`end`)."""

    __slots__ = ("_data", "_offset", "_what")

    def __init__(self, data: bytes, what: str, offset: int = 0) -> None:
        """Args: the bytes from outside, the structure's name in the specification, for errors, and how many are read."""
        self._data = data
        self._offset = offset
        self._what = what

    @property
    def offset(self) -> int:
        """How many bytes have been read."""
        return self._offset

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Reads fixed-size integers.

        Raises:
            MalformedError: The structure ends before.
        """
        try:
            values = layout.unpack_from(self._data, self._offset)
        except struct.error as error:
            raise self._truncated(layout.size) from error
        self._offset += layout.size
        return values

    def u16(self) -> int:
        """Reads a UINT16.

        Raises:
            MalformedError: The structure ends before.
        """
        try:
            value: int = _read_u16(self._data, self._offset)[0]
        except struct.error as error:
            raise self._truncated(_U16.size) from error
        self._offset += _U16.size
        return value

    def sized(self, max_bytes: int) -> bytes:
        """Reads a TPM2B: a UINT16 size and as many bytes.

        Raises:
            MalformedError: The structure ends before, or the size is over the limit.
        """
        data, start = self._data, self._offset + _U16.size
        size: int
        try:  # as u16: most of a structure is read by this method, and a call would double its cost
            (size,) = _read_u16(data, self._offset)
        except struct.error as error:
            raise self._truncated(_U16.size) from error
        if size > max_bytes:
            raise MalformedError(f"{self._what}: a buffer of {size} bytes, the limit is {max_bytes}")
        end = start + size
        if end > len(data):
            raise self._truncated(_U16.size + size)
        self._offset = end
        return data[start:end]

    def take(self, size: int) -> bytes:
        """Reads so many bytes.

        Raises:
            MalformedError: The structure ends before.
        """
        end = self._offset + size
        if end > len(self._data):
            raise self._truncated(size)
        value = self._data[self._offset : end]
        self._offset = end
        return value

    def end(self) -> None:
        """Checks that nothing follows.

        Raises:
            MalformedError: Trailing bytes.
        """
        if self._offset != len(self._data):
            raise MalformedError(f"{self._what}: {len(self._data) - self._offset} trailing bytes")

    def _truncated(self, wanted: int) -> MalformedError:
        return MalformedError(
            f"{self._what}: truncated: {wanted} bytes expected at offset {self._offset}, "
            f"{len(self._data) - self._offset} found"
        )


def sized(data: bytes) -> bytes:
    """Marshals a TPM2B: a UINT16 size and the bytes."""
    return _U16.pack(len(data)) + data
