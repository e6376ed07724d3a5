"""Which PCRs a host's state is made of, by what its boot measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from attestd.errors import UsageError
from attestd.tcg.eventlog.meaning import Meaning
from attestd.tcg.eventlog.reading import UKI_PCR, Kind
from attestd.tcg.ima.replay import IMA_PCR

__all__ = ["DerivedPcrs", "derive_pcrs", "require_command_line", "require_sound_pcrs"]

# Firmware, drivers, images, Secure Boot; then what the loader adds: the UKI's sections and what overrides them, or GRUB's
# commands and files, and shim's keys.
UKI_PCRS: Final = (0, 2, 4, 7, 11, 12)
GRUB_PCRS: Final = (0, 2, 4, 7, 8, 9, 14)
_LOADER_PCRS: Final = ((UKI_PCR, UKI_PCRS, "a unified kernel image"), (8, GRUB_PCRS, "GRUB"))
_LOADER_KINDS: Final = frozenset({Kind.SECTION_NAME, Kind.GRUB_COMMAND, Kind.COMMAND_LINE})


@dataclass(frozen=True)
class DerivedPcrs:
    """What a log says.

    Attributes:
        pcrs: The PCRs.
        loader: What booted, in words.
    """

    pcrs: tuple[int, ...]
    loader: str


def derive_pcrs(events: Sequence[Meaning]) -> DerivedPcrs | None:
    """The PCRs for a boot by a unified kernel image or by GRUB; None: the log shows neither.

    Raises:
        UsageError: The kernel command line is in none of them.
    """
    for pcr, pcrs, loader in _LOADER_PCRS:
        if any(item.event.pcr == pcr and item.kind in _LOADER_KINDS for item in events):
            require_command_line(events, pcrs)
            return DerivedPcrs(pcrs, loader)
    return None


def require_sound_pcrs(pcrs: Sequence[int]) -> None:
    """What no state can be made of.

    Raises:
        UsageError: PCR 10 is among them.
    """
    if IMA_PCR in pcrs:
        raise UsageError(
            f"PCR {IMA_PCR} changes with each file that is executed: no state can be approved by it. Leave it out; an IMA"
            " policy looks at its log (attestd platform rules)"
        )


def require_command_line(events: Sequence[Meaning], pcrs: Sequence[int]) -> None:
    """Whoever chooses the command line chooses what runs as the first process.

    Raises:
        UsageError: The log does not show the kernel command line in any of the PCRs.
    """
    held = sorted({item.event.pcr for item in events if item.kind == Kind.COMMAND_LINE})
    if not set(held) & set(pcrs):
        where = f"PCR {', '.join(map(str, held))}" if held else "no PCR, by this boot's log"
        raise UsageError(
            f"none of the PCRs {', '.join(map(str, pcrs))} holds the kernel command line: whoever changes it would go"
            f" unseen. It is in {where}: choose with --pcrs"
        )
