"""A new kernel or command line where firmware or systemd-boot starts the kernel itself: PCRs 4, 9 and 12."""

from typing import Final

from attestd.appraisal.predict.draft import Draft, unpredictable
from attestd.appraisal.predict.images import IMAGE_PCR, replace_image
from attestd.appraisal.predict.options import replace_initrd, replace_options
from attestd.tcg.eventlog.reading import UKI_PCR, Kind
from attestd.tcg.pe import PeImage

__all__ = ["replace_direct_initrd", "replace_direct_kernel", "replace_direct_line"]

_LINE_PCR: Final = 12
_IN_UKI: Final = "this boot's is in its UKI: build a new one, and say --uki"


def replace_direct_kernel(draft: Draft, kernel: PeImage) -> None:
    """Has another kernel started: the image that was started last.

    Raises:
        VerificationError: It is in a UKI, or no image was started; as `replace_image`.
        MalformedError: As `replace_image`.
    """
    images = draft.of(IMAGE_PCR, Kind.IMAGE)
    if draft.of(UKI_PCR, Kind.SECTION_NAME):
        raise unpredictable(f"a kernel alone: {_IN_UKI}")
    if not images:
        raise unpredictable("this boot's log has no image in PCR 4")
    last = images[-1]
    replace_image(draft, [last], kernel, what="the kernel")
    draft.assume(f"the kernel is what this boot started last: {last.subject} (event {last.event.number})")


def replace_direct_line(draft: Draft, line: str, *, running: tuple[str, ...]) -> None:
    """Has the boot loader hand over another command line, which it measures into PCR 12.

    Args:
        draft: The log.
        line: The new one.
        running: This boot's, if it is known otherwise than by PCR 12.

    Raises:
        VerificationError: It is in a UKI; PCR 12 does not have exactly one; it is not readable.
    """
    found = draft.of(_LINE_PCR, Kind.COMMAND_LINE)
    if draft.of(UKI_PCR, Kind.COMMAND_LINE):
        raise unpredictable(f"a command line alone: {_IN_UKI}")
    if len(found) != 1 or found[0].content is None:
        raise unpredictable(
            f"the command line: expected one in PCR 12, by systemd-boot, or in PCR 8, by GRUB; found {len(found)}"
        )
    [item] = found
    text = (item.content or b"").decode("utf-16-le", "surrogatepass").rstrip("\0")
    content = f"{line}\0".encode("utf-16-le", "surrogatepass")
    draft.replace(item, draft.hash(content), data=content)
    draft.command_lines.append(line)
    replace_options(draft, (text, *running), lambda _: line)


def replace_direct_initrd(draft: Draft, running: bytes, after: bytes) -> None:
    """Has the kernel get another initrd.

    Args:
        draft: The log.
        running: This boot's: what shows that the kernel's stub measures the file as it is.
        after: The next boot's.
    """
    replace_initrd(draft, draft.hash(running), draft.hash(after))
