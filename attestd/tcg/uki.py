"""Unified kernel images: which sections systemd-stub measures into PCR 11, and in what order.

Sources: systemd-stub(7), systemd-measure(1), src/fundamental/uki.h: the order of the sections is frozen there, and new
ones came with the versions below. Each is measured as its name with a NUL, then its content.
"""

import re
from dataclasses import dataclass
from typing import Final

from attestd.errors import MalformedError
from attestd.tcg.pe import PeImage, PeSection

__all__ = ["UnifiedKernel", "parse_uki"]

# A section, and the first version of the stub that measures it. The signature of the values (.pcrsig) never is.
_MEASURED: Final = {
    ".linux": 252,
    ".osrel": 252,
    ".cmdline": 252,
    ".initrd": 252,
    ".ucode": 256,
    ".splash": 252,
    ".dtb": 252,
    ".uname": 254,
    ".sbat": 254,
    ".pcrpkey": 252,
}
# Of these the stub takes what fits the machine, or what was chosen in a menu.
_CHOSEN: Final = frozenset({".profile", ".dtbauto", ".hwids", ".efifw"})
_OLDEST: Final = min(_MEASURED.values())
_STUB: Final = re.compile(rb"#### LoaderInfo: systemd-stub ([0-9]{1,4})[^#]{0,64} ####")


@dataclass(frozen=True)
class UnifiedKernel:
    """A UKI.

    Attributes:
        image: The image.
        stub: The version of systemd-stub in it.
        measured: What the stub measures, in its order.
    """

    image: PeImage
    stub: int
    measured: tuple[PeSection, ...]

    def section(self, name: str) -> bytes | None:
        """The content of a measured section."""
        return next((section.content for section in self.measured if section.name == name), None)


def parse_uki(image: PeImage, *, what: str = "UKI") -> UnifiedKernel:
    """Finds what the stub of a UKI measures.

    Args:
        image: Parsed.
        what: What to call it in errors.

    Raises:
        MalformedError: No systemd-stub of 252 or later in it, no kernel, a section twice, or sections of which the stub
            takes what fits the machine: what it will measure cannot be told.
    """
    magic = next((section.content for section in image.sections if section.name == ".sdmagic"), b"")
    found = _STUB.search(magic)
    if found is None or int(found[1]) < _OLDEST:
        raise MalformedError(
            f"{what}: no unified kernel image: expected systemd-stub {_OLDEST} or later in it"
        )
    stub = int(found[1])
    names = [section.name for section in image.sections]
    if chosen := _CHOSEN.intersection(names):
        raise MalformedError(
            f"{what}: it has {', '.join(sorted(chosen))}: what its stub takes of that, and measures, depends on the machine"
        )
    known = [name for name, first in _MEASURED.items() if first <= stub]
    if double := next((name for name in known if names.count(name) > 1), None):
        raise MalformedError(f"{what}: two sections {double}")
    by_name = {section.name: section for section in image.sections if section.content}
    if ".linux" not in by_name:
        raise MalformedError(f"{what}: no kernel in it (section .linux)")
    measured = [by_name[name] for name in known if name in by_name]
    if short := next((section for section in measured if section.size != len(section.content)), None):
        raise MalformedError(
            f"{what}: section {short.name} has {short.size} bytes in memory, {len(short.content)} in the file"
        )
    return UnifiedKernel(image, stub, tuple(measured))
