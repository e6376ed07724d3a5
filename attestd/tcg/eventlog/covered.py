"""Binds an event's data to its digest: which bytes of it were really measured.

The type says nothing here, for no digest covers it. Each way in which firmware and loaders are known to hash what they
log is tried; one that gives the digest is proof, whatever the type says. Data without such proof is only a claim: so it
is, for example, for images, whose digest covers the file and whose data is its path.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from attestd.tcg.eventlog.parse import UntrustedEvent
from attestd.tcg.eventlog.quirks import Quirk
from attestd.tcg.eventlog.types import HASHES, EventType

__all__ = ["Covered", "covered", "split_variable"]

_VARIABLE: Final = struct.Struct("<16sQQ")
_MAX_PADDING: Final = 8
# GRUB's labels; the oldest ones come from Red Hat's patches. The label itself is not measured.
_LABELS: Final = (
    b"grub_cmd: ",
    b"kernel_cmdline: ",
    b"module_cmdline: ",
    b"grub_cmd ",
    b"grub_kernel_cmdline ",
    b"grub_module_cmdline ",
)
# These types are defined to have their data hashed (10.4.1, "Digest" column), so not to find it so is a finding.
DEFINED: Final = frozenset(
    {
        EventType.SEPARATOR,
        EventType.ACTION,
        EventType.S_CRTM_VERSION,
        EventType.NONHOST_INFO,
        EventType.EFI_VARIABLE_DRIVER_CONFIG,
        EventType.EFI_VARIABLE_BOOT,
        EventType.EFI_VARIABLE_BOOT2,
        EventType.EFI_VARIABLE_AUTHORITY,
        EventType.EFI_GPT_EVENT,
        EventType.EFI_ACTION,
        EventType.EFI_HCRTM_EVENT,
    }
)


@dataclass(frozen=True)
class Covered:
    """What of an event's data its digest covers.

    Attributes:
        content: The bytes that were measured.
        label: What the log calls them, if that stands before them; not measured.
        quirk: How this departs from the specification.
    """

    content: bytes
    label: str = ""
    quirk: Quirk | None = None


def covered(event: UntrustedEvent, bank: str) -> Covered | None:
    """Finds the bytes of an event's data that hash to its digest.

    Args:
        event: An event; that its digest was extended is for `verify_events` to say.
        bank: Whose digest.

    Returns:
        None: the digest is of something that is not in the log, or the data is not what was measured. For the types
        in `DEFINED` it is the latter.
    """
    digest = event.digests.get(bank)
    if digest is None or not event.extends:
        return None
    hash_ = HASHES[bank]
    return next((item for item in _readings(event.data) if hash_(item.content).digest() == digest), None)


def split_variable(data: bytes) -> tuple[bytes, bytes, bytes] | None:
    """The GUID, the name (UTF-16) and the value of a UEFI_VARIABLE_DATA (10.2.6).

    Returns:
        None: The lengths are not those of the data, give or take shim's padding (`Quirk.STRUCTURE_PADDING`).
    """
    if len(data) < _VARIABLE.size:
        return None
    guid, name_length, length = _VARIABLE.unpack_from(data)
    name_end = _VARIABLE.size + 2 * name_length
    if not 0 <= len(data) - name_end - length <= _MAX_PADDING:
        return None
    return guid, data[_VARIABLE.size : name_end], data[name_end : name_end + length]


def _readings(data: bytes) -> Iterator[Covered]:
    yield Covered(data)
    variable = split_variable(data)
    if variable is not None:
        yield Covered(variable[2], quirk=Quirk.VARIABLE_DATA_ONLY)
        yield Covered(data[:-1], quirk=Quirk.STRUCTURE_PADDING)
        return
    for label in _LABELS:
        if data.startswith(label):
            text, name = data[len(label) :], label.rstrip(b": ").decode()
            yield Covered(text, name)
            yield Covered(text.removesuffix(b"\0"), name, Quirk.WITHOUT_NUL)
    if data.endswith(b"\0"):
        yield Covered(data[:-1], quirk=Quirk.WITHOUT_NUL)
    section = _ascii(data)
    if section is not None:  # systemd's stub logs a section's name in UTF-16 and measures it in ASCII
        yield Covered(section)


def _ascii(data: bytes) -> bytes | None:
    if len(data) % 2 or any(data[1::2]) or not data:
        return None
    return data[::2]
