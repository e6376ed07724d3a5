"""Event types and hash algorithms of event logs (PC Client Platform Firmware Profile 1.06, 10.4.1; Algorithm Registry).

An event's type is not covered by its digest: whoever can write the log can write any type. It is a word to describe an
event with, and says which check of the digest to try; it never decides whether an event counts.
"""

import hashlib
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

__all__ = ["BANKS", "HASHES", "EventType", "type_name"]

# Banks that are replayed. What else a log declares is skipped by the size that it declares.
HASHES: Final[dict[str, Callable[[bytes], Any]]] = {
    "sha1": hashlib.sha1,
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
}
BANKS: Final = {0x0004: ("sha1", 20), 0x000B: ("sha256", 32), 0x000C: ("sha384", 48), 0x000D: ("sha512", 64)}


class EventType(IntEnum):
    """TCG_EVENTTYPE, with the specification's names less their `EV_`."""

    PREBOOT_CERT = 0x00
    POST_CODE = 0x01
    UNUSED = 0x02
    NO_ACTION = 0x03
    SEPARATOR = 0x04
    ACTION = 0x05
    EVENT_TAG = 0x06
    S_CRTM_CONTENTS = 0x07
    S_CRTM_VERSION = 0x08
    CPU_MICROCODE = 0x09
    PLATFORM_CONFIG_FLAGS = 0x0A
    TABLE_OF_DEVICES = 0x0B
    COMPACT_HASH = 0x0C
    IPL = 0x0D
    IPL_PARTITION_DATA = 0x0E
    NONHOST_CODE = 0x0F
    NONHOST_CONFIG = 0x10
    NONHOST_INFO = 0x11
    OMIT_BOOT_DEVICE_EVENTS = 0x12
    POST_CODE2 = 0x13
    EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
    EFI_VARIABLE_BOOT = 0x80000002
    EFI_BOOT_SERVICES_APPLICATION = 0x80000003
    EFI_BOOT_SERVICES_DRIVER = 0x80000004
    EFI_RUNTIME_SERVICES_DRIVER = 0x80000005
    EFI_GPT_EVENT = 0x80000006
    EFI_ACTION = 0x80000007
    EFI_PLATFORM_FIRMWARE_BLOB = 0x80000008
    EFI_HANDOFF_TABLES = 0x80000009
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000000A
    EFI_HANDOFF_TABLES2 = 0x8000000B
    EFI_VARIABLE_BOOT2 = 0x8000000C
    EFI_GPT_EVENT2 = 0x8000000D
    EFI_HCRTM_EVENT = 0x80000010
    EFI_VARIABLE_AUTHORITY = 0x800000E0
    EFI_SPDM_FIRMWARE_BLOB = 0x800000E1
    EFI_SPDM_FIRMWARE_CONFIG = 0x800000E2
    EFI_SPDM_DEVICE_POLICY = 0x800000E3
    EFI_SPDM_DEVICE_AUTHORITY = 0x800000E4


_NAMES: Final = {int(kind): f"EV_{kind.name}" for kind in EventType}


def type_name(number: int) -> str:
    """The specification's name of an event type, or its number."""
    return _NAMES.get(number) or f"{number:#010x}"
