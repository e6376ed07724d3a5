"""TPM 2.0 commands as bytes (TPM 2.0 Part 1, 18; codes from Part 2, 6.5)."""

import struct
from enum import IntEnum
from typing import Final

from attestd.errors import TpmError

__all__ = [
    "HEADER_SIZE",
    "Answer",
    "Cc",
    "Hierarchy",
    "build",
    "password",
    "sized",
    "u16",
    "u32",
]

HEADER_SIZE: Final = 10
_HEADER: Final = struct.Struct(">HII")
_NO_SESSIONS: Final = 0x8001
_SESSIONS: Final = 0x8002
_PASSWORD_SESSION: Final = 0x40000009


class Cc(IntEnum):
    """TPM_CC: the commands used here."""

    NV_UNDEFINE_SPACE = 0x122
    NV_DEFINE_SPACE = 0x12A
    CREATE_PRIMARY = 0x131
    NV_INCREMENT = 0x134
    NV_WRITE = 0x137
    SELF_TEST = 0x143
    SHUTDOWN = 0x145
    ACTIVATE_CREDENTIAL = 0x147
    CERTIFY = 0x148
    POLICY_NV = 0x149
    NV_READ = 0x14E
    POLICY_SECRET = 0x151
    CREATE = 0x153
    LOAD = 0x157
    QUOTE = 0x158
    SIGN = 0x15D
    POLICY_SIGNED = 0x160
    CONTEXT_LOAD = 0x161
    CONTEXT_SAVE = 0x162
    FLUSH_CONTEXT = 0x165
    LOAD_EXTERNAL = 0x167
    NV_READ_PUBLIC = 0x169
    POLICY_AUTHORIZE = 0x16A
    POLICY_AUTH_VALUE = 0x16B
    POLICY_COMMAND_CODE = 0x16C
    POLICY_CP_HASH = 0x16E
    POLICY_OR = 0x171
    START_AUTH_SESSION = 0x176
    VERIFY_SIGNATURE = 0x177
    GET_CAPABILITY = 0x17A
    GET_TEST_RESULT = 0x17C
    PCR_READ = 0x17E
    POLICY_PCR = 0x17F
    POLICY_RESTART = 0x180
    READ_CLOCK = 0x181
    PCR_EXTEND = 0x182


class Hierarchy(IntEnum):
    """TPM_RH: hierarchies and the null handle."""

    OWNER = 0x40000001
    NULL = 0x40000007
    ENDORSEMENT = 0x4000000B


def u16(value: int) -> bytes:
    """Marshals a UINT16."""
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    """Marshals a UINT32, a handle or a command code."""
    return value.to_bytes(4, "big")


def sized(data: bytes) -> bytes:
    """Marshals a TPM2B."""
    return len(data).to_bytes(2, "big") + data


def password(value: bytes = b"") -> bytes:
    """A TPMS_AUTH_COMMAND that shows an auth value in the clear: what only local users must not know."""
    return u32(_PASSWORD_SESSION) + b"\0\0\x01" + sized(value)


def build(code: Cc, *, handles: bytes = b"", auth: bytes = b"", params: bytes = b"") -> bytes:
    """A whole command.

    Args:
        code: The command.
        handles: Its handle area.
        auth: Its authorizations (TPMS_AUTH_COMMAND), one after the other; empty for none.
        params: Its parameter area.
    """
    area = handles + u32(len(auth)) + auth + params if auth else handles + params
    return _HEADER.pack(_SESSIONS if auth else _NO_SESSIONS, HEADER_SIZE + len(area), code) + area


class Answer:
    """Reads a response front to back."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self._data = data
        self._offset = offset

    def take(self, size: int) -> bytes:
        """Reads `size` bytes.

        Raises:
            TpmError: The response ends before: the TPM, or what stands between, is not one.
        """
        end = self._offset + size
        if end > len(self._data):
            raise TpmError(f"the TPM's response of {len(self._data)} bytes is truncated")
        value = self._data[self._offset : end]
        self._offset = end
        return value

    def number(self, size: int) -> int:
        """Reads a big-endian integer of `size` bytes."""
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        """Reads a TPM2B."""
        return self.take(self.number(2))

    def rest(self) -> bytes:
        """Reads what is left."""
        return self.take(len(self._data) - self._offset)
