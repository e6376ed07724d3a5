"""Reads one event: what it is, which one of its kind, and the value that its digest proves."""

import hashlib
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from attestd.plain import counted
from attestd.tcg.eventlog.covered import Covered
from attestd.tcg.eventlog.efi import (
    GLOBAL_VARIABLE,
    Variable,
    boot_option_name,
    certificate_of,
    image_path,
    parse_signature_lists,
    parse_variable,
    subject_of,
)
from attestd.tcg.eventlog.parse import UntrustedEvent
from attestd.tcg.eventlog.quirks import Quirk
from attestd.tcg.eventlog.types import EventType, type_name

__all__ = ["SECTIONS", "UKI_PCR", "Kind", "Reading", "one_line", "read_event", "read_section"]


class Kind(StrEnum):
    """What an event is."""

    FIRMWARE = "firmware"
    VARIABLE = "UEFI variable"
    AUTHORITY = "certificate that verified the boot chain"
    BOOT_OPTION = "boot option"
    ACTION = "action"
    SEPARATOR = "separator"
    IMAGE = "image"
    DRIVER = "driver"
    PARTITIONS = "partition table"
    MOK = "machine owner keys"
    GRUB_COMMAND = "GRUB command"
    GRUB_FILE = "file read by GRUB"
    COMMAND_LINE = "kernel command line"
    MODULE_LINE = "module command line"
    SECTION_NAME = "name of a UKI section"
    SECTION = "UKI section"
    INITRD = "initrd"
    PHASE = "boot phase"
    OTHER = "event"


# Of systemd's unified kernel images (UAPI group specification).
SECTIONS: Final = tuple(
    f".{name}"
    for name in (
        *("linux", "osrel", "cmdline", "initrd", "ucode", "splash", "dtb", "dtbauto", "uname", "sbat"),
        *("pcrpkey", "profile", "hwids", "efifw"),
    )
)
_MODES: Final = frozenset({"SecureBoot", "DeployedMode", "AuditMode", "SetupMode"})
_DATABASES: Final = frozenset({"PK", "KEK", "db", "dbx", "dbt", "dbr"})
_LOADER_TAGS: Final = {
    0x8F3B22EC: (Kind.INITRD, "of the kernel's EFI stub"),
    0x8F3B22ED: (Kind.COMMAND_LINE, "in the load options"),
    0xF5BC582A: (Kind.OTHER, "loader.conf"),
    0x6C46F751: (Kind.OTHER, "device tree addon"),
    0x49DFFE0F: (Kind.INITRD, "addon"),
    0xDAC08E1A: (Kind.OTHER, "microcode addon"),
}
_GRUB: Final = {
    "grub_cmd": Kind.GRUB_COMMAND,
    "kernel_cmdline": Kind.COMMAND_LINE,
    "grub_kernel_cmdline": Kind.COMMAND_LINE,
    "module_cmdline": Kind.MODULE_LINE,
    "grub_module_cmdline": Kind.MODULE_LINE,
}
_DRIVERS: Final = (EventType.EFI_BOOT_SERVICES_DRIVER, EventType.EFI_RUNTIME_SERVICES_DRIVER)
_IMAGES: Final = (EventType.EFI_BOOT_SERVICES_APPLICATION, *_DRIVERS)
_DRIVER_PCR: Final = 2
_FILES_PCR: Final = 9
_GRUB_PCR: Final = 8
_MOK_PCR: Final = 14
UKI_PCR: Final = 11
_STUB_PCR: Final = 12
_ERROR: Final = b"\1\0\0\0"
# systemd-pcrphase.service(8), -sysinit, -initrd, -factory-reset; systemd's words in PCR 11.
_PHASES: Final = frozenset({b"enter-initrd", b"leave-initrd", b"sysinit", b"ready", b"shutdown", b"final"})
_SHOWN: Final = 200


Reading = tuple[Kind, str, str | None]


def read_section(name: str, content: Covered | None) -> Reading:
    """What comes in PCR 11 behind the name of a UKI section: its content."""
    value = None if content is None else one_line(content.content)
    if name == ".cmdline":
        return Kind.COMMAND_LINE, "in section .cmdline", value
    return Kind.SECTION, name, value


def read_event(event: UntrustedEvent, content: Covered | None) -> Reading:
    """Kind, subject and proved value of one event.

    Args:
        event: The event.
        content: What its digest covers.

    Returns:
        The value is None where the digest is of something that the log does not hold.
    """
    if content is None:
        return _read_claim(event)
    found = filter(None, (read(event, content) for read in _READERS))
    return next(found, (Kind.OTHER, type_name(event.type), one_line(content.content)))


def _grub_text(event: UntrustedEvent, content: Covered) -> Reading | None:
    is_text = content.label and event.pcr == _GRUB_PCR
    return (_GRUB[content.label], "", one_line(content.content)) if is_text else None


def _separator(_: UntrustedEvent, content: Covered) -> Reading | None:
    data = content.content
    if data in (bytes(4), b"\xff" * 4):
        return Kind.SEPARATOR, "", data.hex()
    return (Kind.SEPARATOR, "", f"error {data.hex()}") if data == _ERROR else None


def _partitions(_: UntrustedEvent, content: Covered) -> Reading | None:
    data = content.content
    is_header = data.startswith(b"EFI PART")
    return (Kind.PARTITIONS, "", f"SHA-256 {hashlib.sha256(data).hexdigest()}") if is_header else None


def _phase(event: UntrustedEvent, content: Covered) -> Reading | None:
    is_phase = event.pcr == UKI_PCR and content.content in _PHASES
    return (Kind.PHASE, "", content.content.decode()) if is_phase else None


def _stub_line(event: UntrustedEvent, content: Covered) -> Reading | None:
    is_wide = event.pcr == _STUB_PCR and content.content.endswith(b"\0\0")
    return (Kind.COMMAND_LINE, "", one_line(content.content)) if is_wide else None


def _action(event: UntrustedEvent, content: Covered) -> Reading | None:
    is_action = event.type in (EventType.ACTION, EventType.EFI_ACTION)
    return (Kind.ACTION, "", one_line(content.content)) if is_action else None


def _version(event: UntrustedEvent, content: Covered) -> Reading | None:
    is_version = event.type == EventType.S_CRTM_VERSION
    return (Kind.FIRMWARE, "version", one_line(content.content)) if is_version else None


def _variable(_: UntrustedEvent, content: Covered) -> Reading | None:
    variable = parse_variable(content.content)
    return None if variable is None or not variable.name else _read_variable(variable)


def _boot_option(event: UntrustedEvent, content: Covered) -> Reading | None:
    """Where the digest covers the value alone, the name is a claim: good enough for what is only shown."""
    variable = parse_variable(event.data) if content.quirk == Quirk.VARIABLE_DATA_ONLY else None
    is_option = variable is not None and variable.name.startswith("Boot")
    return _read_variable(variable) if variable is not None and is_option else None


_READERS: Final[tuple[Callable[[UntrustedEvent, Covered], Reading | None], ...]] = (
    _variable,
    _grub_text,
    _boot_option,
    _separator,
    _partitions,
    _phase,
    _stub_line,
    _action,
    _version,
)


def _read_variable(variable: Variable) -> Reading:
    name, value = one_line(variable.name.encode()), variable.value
    if variable.guid == GLOBAL_VARIABLE and name in _MODES:
        return Kind.VARIABLE, name, {b"\1": "on", b"\0": "off"}.get(value, value.hex() or "absent")
    # Type and name do not tell a database from the one certificate of it that was used: their form does.
    certificate = (
        None if name in _DATABASES and parse_signature_lists(value) is not None else certificate_of(value)
    )
    if certificate is not None:
        digest = hashlib.sha256(certificate).hexdigest()
        return Kind.AUTHORITY, f"from {name}", f"{subject_of(certificate)} (SHA-256 {digest})"
    if name in _DATABASES:
        return Kind.VARIABLE, name, _database(value)
    if name == "BootOrder":
        order = [f"{value[at + 1]:02X}{value[at]:02X}" for at in range(0, len(value) - 1, 2)]
        return Kind.BOOT_OPTION, "order", ",".join(order)
    if name.startswith("Boot"):
        digest = hashlib.sha256(value).hexdigest()
        return Kind.BOOT_OPTION, name, f"{boot_option_name(value) or '?'} (SHA-256 {digest})"
    return Kind.VARIABLE, name, one_line(value)


def _database(value: bytes) -> str:
    entries = parse_signature_lists(value)
    if entries is None:
        return f"SHA-256 {hashlib.sha256(value).hexdigest()}"
    certificates = [entry for entry in entries if entry.kind == "certificate"]
    names = "; ".join(subject_of(entry.data) or entry.digest for entry in certificates[:8])
    rest = len(entries) - len(certificates)
    digest = hashlib.sha256(value).hexdigest()
    return f"{counted(len(certificates), 'certificate')} [{names}] and {counted(rest, 'hash')} (SHA-256 {digest})"


def _read_claim(event: UntrustedEvent) -> Reading:
    """What the log says of something that it does not hold."""
    data, words = event.data, one_line(event.data)
    kind, subject = Kind.OTHER, f"{type_name(event.type)} {words}".strip()
    if event.pcr == _MOK_PCR:
        kind, subject = Kind.MOK, words
    elif event.type in _IMAGES:
        kind = Kind.DRIVER if event.type in _DRIVERS or event.pcr == _DRIVER_PCR else Kind.IMAGE
        subject = image_path(data) or "from memory"
    elif event.type in (EventType.EFI_PLATFORM_FIRMWARE_BLOB, EventType.EFI_PLATFORM_FIRMWARE_BLOB2):
        kind, subject = Kind.FIRMWARE, f"blob {data.hex()[:_SHOWN]}"
    elif event.type == EventType.EVENT_TAG and len(data) >= 8:
        kind, subject = _LOADER_TAGS.get(int.from_bytes(data[:4], "little"), (kind, subject))
    elif event.type == EventType.IPL and event.pcr == _FILES_PCR:
        kind, subject = Kind.GRUB_FILE, words
    return kind, subject, None


def one_line(data: bytes) -> str:
    """Bytes as one line: ASCII, UTF-16 of ASCII or UTF-8 as text, with control characters escaped; others as hex."""
    text = data
    if len(data) > 2 and len(data) % 2 == 0 and not any(data[1::2]):
        text = data[::2]
    text = text.rstrip(b"\0")
    if not text:
        return data.hex()
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        return data.hex() if len(data) <= _SHOWN else f"SHA-256 {hashlib.sha256(data).hexdigest()}"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in decoded)
