"""A new unified kernel image: one image in PCR 4, its sections in PCR 11, its command line in PCR 9."""

from collections.abc import Iterator, Sequence
from typing import Final

from attestd.appraisal.predict.draft import Draft, unpredictable
from attestd.appraisal.predict.images import IMAGE_PCR, replace_image
from attestd.appraisal.predict.options import KERNEL_PCR, replace_initrd, replace_options
from attestd.tcg.eventlog.meaning import Meaning
from attestd.tcg.eventlog.parse import UntrustedEvent
from attestd.tcg.eventlog.reading import UKI_PCR, Kind
from attestd.tcg.eventlog.types import EventType
from attestd.tcg.pe import parse_pe
from attestd.tcg.uki import UnifiedKernel

__all__ = ["replace_uki"]

_LINE: Final = ".cmdline"


def replace_uki(draft: Draft, uki: UnifiedKernel, *, running: Sequence[str]) -> None:
    """Has a new UKI booted in the place of this boot's.

    Args:
        draft: The log.
        uki: The new one.
        running: This boot's command line, if it is known.

    Raises:
        VerificationError: This boot's log is not that of a UKI; as `replace_image`.
        MalformedError: The kernel in it is no PE image.
    """
    sections = [item for item in draft.of(UKI_PCR) if item.kind != Kind.PHASE]
    images = draft.of(IMAGE_PCR, Kind.IMAGE)
    started = [item for item in images if sections and item.event.number < sections[0].event.number]
    if not started or sections[0].kind != Kind.SECTION_NAME or len(sections) % 2:
        raise unpredictable("this boot's log has no UKI: an image in PCR 4, and its sections in PCR 11")
    replace_image(draft, started[-1:], uki.image, what="the UKI")
    draft.assume(
        f"the UKI is what this boot started as {started[-1].subject} (event {started[-1].event.number})"
    )
    inner = [item for item in images if item.event.number > sections[-1].event.number]
    if len(inner) > 1:
        raise unpredictable("this boot's UKI started more than its kernel")
    for item in inner:
        kernel = parse_pe(uki.section(".linux") or b"", what="the kernel in the UKI")
        draft.replace(item, kernel.digest(draft.bank))
        draft.assume(f"what this boot's UKI started (event {item.event.number}) is the kernel in it")
    draft.assume(f"the UKI's stub (systemd-stub {uki.stub}) starts the kernel as this boot's does")
    before = {name.subject: content for name, content in zip(sections[::2], sections[1::2], strict=True)}
    draft.replace_block(sections, list(_events(draft, uki)))
    _replace_kernel_view(draft, uki, before, running)


def _events(draft: Draft, uki: UnifiedKernel) -> Iterator[UntrustedEvent]:
    for section in uki.measured:
        logged = f"{section.name}\0".encode("utf-16-le")
        for content in (section.name.encode() + b"\0", section.content):
            yield UntrustedEvent(0, UKI_PCR, EventType.IPL, {draft.bank: draft.hash(content)}, logged)


def _replace_kernel_view(
    draft: Draft, uki: UnifiedKernel, before: dict[str, Meaning], running: Sequence[str]
) -> None:
    """What the kernel's own stub measures, where it does."""
    line, initrd = uki.section(_LINE), uki.section(".initrd")
    draft.command_lines.append(_text(line or b"").rstrip("\n"))
    old = before.get(_LINE)
    if (line is None) != (old is None):
        draft.cannot(KERNEL_PCR, "one of the UKIs has a command line in it, the other has none")
    elif line is not None and old is not None and draft.hash(line) != old.digest:
        replace_options(draft, list(_content_of(draft, running, old)), lambda _: _text(line))
    had = before.get(".initrd")
    if (had is None) != (initrd is None):
        draft.cannot(KERNEL_PCR, "one of the UKIs has an initrd in it, the other has none")
    elif had is not None and initrd is not None and draft.hash(initrd) != had.digest:
        replace_initrd(draft, had.digest, draft.hash(initrd))


def _content_of(draft: Draft, running: Sequence[str], item: Meaning) -> Iterator[str]:
    """The command line as it stands in the section, if it is this boot's."""
    for text in running:
        for end in ("", "\n", "\0"):
            content = (text + end).encode("utf-8", "surrogateescape")
            if draft.hash(content) == item.digest:
                yield _text(content)


def _text(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape").partition("\0")[0]
