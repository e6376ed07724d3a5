"""What a kernel's own stub measures into PCR 9: its load options, that is the command line, and its initrd.

How the loader hands them over is not in the log. So the digest of this boot's is looked for among the forms that are
known; the next boot's are handed over in the same form. Where none fits, PCR 9 is given up.
"""

from collections.abc import Callable, Iterable
from typing import Final

from attestd.appraisal.predict.draft import Draft
from attestd.tcg.eventlog.reading import Kind

__all__ = ["KERNEL_PCR", "replace_initrd", "replace_options"]

KERNEL_PCR: Final = 9
_LINE: Final = "in the load options"
_INITRD: Final = "of the kernel's EFI stub"


def _forms(line: str) -> tuple[bytes, ...]:
    """As handed over: as it is, or as systemd-stub cleans it since 254; with its NUL, or without."""
    clean = "".join(max(char, " ") for char in line).strip()
    return tuple(
        (text + end).encode("utf-16-le", "surrogatepass") for text in (line, clean) for end in ("\0", "")
    )


def replace_options(draft: Draft, before: Iterable[str], after: Callable[[str], str]) -> None:
    """Has the kernel's stub measure another command line, if it measures one.

    Args:
        draft: The log.
        before: What this boot's may be.
        after: From what it is now, what it will be.
    """
    known = list(before)
    for item in draft.of(KERNEL_PCR, Kind.COMMAND_LINE):
        found = {
            new
            for line in known
            for old, new in zip(_forms(line), _forms(after(line)), strict=True)
            if draft.hash(old) == item.digest
        }
        if len(found) != 1:
            draft.cannot(
                KERNEL_PCR,
                f"the kernel measures its load options ({item}), and it is not known how they come from its command"
                " line: give this boot's with --running-cmdline",
            )
        for content in found:
            draft.replace(item, draft.hash(content))


def replace_initrd(draft: Draft, before: bytes, after: bytes) -> None:
    """Has the kernel's stub measure another initrd, if it measures one.

    Args:
        draft: The log.
        before: Digest of this boot's.
        after: Digest of the next boot's.
    """
    for item in draft.of(KERNEL_PCR, Kind.INITRD):
        if item.digest == before:
            draft.replace(item, after)
        else:
            draft.cannot(
                KERNEL_PCR,
                f"the kernel measures its initrd ({item}), and it is put together of more than one file",
            )
