"""A new kernel, initrd or command line where GRUB boots: its commands are in PCR 8, the files that it reads in PCR 9.

The command line stands in GRUB's configuration, which is measured as well. The new configuration is believed to run the
same commands only if it is this boot's with nothing but the texts replaced: putting the old ones back has to give the
file that was measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from attestd.appraisal.predict.draft import Draft, unpredictable
from attestd.appraisal.predict.images import FROM_MEMORY, IMAGE_PCR, replace_image
from attestd.appraisal.predict.options import replace_initrd, replace_options
from attestd.tcg.eventlog.meaning import Meaning
from attestd.tcg.eventlog.reading import Kind
from attestd.tcg.pe import parse_pe

__all__ = ["GrubChange", "is_grub", "replace_in_grub"]

_COMMANDS: Final = 8
_FILES: Final = 9


@dataclass(frozen=True)
class GrubChange:
    """What changes; None: stays.

    Attributes:
        kernel: The new kernel file; `initrd`, `config` likewise.
        command_line: The new one, without the kernel's path.
        renamed: Texts in the configuration and the texts in their place: a version in file names, for example.
    """

    kernel: bytes | None
    initrd: bytes | None
    config: bytes | None
    command_line: str | None
    renamed: tuple[tuple[str, str], ...]


def is_grub(draft: Draft) -> bool:
    """Whether GRUB booted, and measured what it did."""
    return bool(draft.of(_COMMANDS, Kind.GRUB_COMMAND))


def replace_in_grub(draft: Draft, change: GrubChange) -> None:
    """Has GRUB boot something else.

    Raises:
        VerificationError: The log has no command line, or several; the configuration differs by more than the texts; a
            file that is renamed is not given; several files where one is expected; as `replace_image`.
        MalformedError: The kernel is no PE image, though it is started as one.
    """
    lines = {item.value for item in draft.of(_COMMANDS, Kind.COMMAND_LINE)}
    if len(lines) != 1:
        raise unpredictable(f"this boot's log has {len(lines)} kernel command lines by GRUB, expected one")
    path, _, options = lines.pop().partition(" ")
    texts = list(change.renamed)
    if change.command_line is not None and change.command_line != options:
        texts.append((options, change.command_line))
    files: list[Meaning] = []
    if change.kernel is not None:
        files += _replace_kernel(draft, path, change.kernel)
    if change.initrd is not None:
        files += _replace_initrd(draft, change.initrd)
    _require_renamed(draft, change.renamed, files)
    if texts or change.config is not None:
        _replace_texts(draft, texts, change.config)
        forms = (f"BOOT_IMAGE={path} {options}", f"{path} {options}", options)
        replace_options(draft, forms, lambda line: _with(line, texts))
        draft.command_lines.append(_with(forms[0], texts))


def _replace_kernel(draft: Draft, path: str, kernel: bytes) -> list[Meaning]:
    files = _named(draft, path)
    if len({item.digest for item in files}) != 1:
        raise unpredictable(
            f"this boot's log has {len(files)} files read by GRUB of the kernel's path {path}"
        )
    for item in files:
        draft.replace(item, draft.hash(kernel))
    # GRUB starts the kernel from memory, after shim verified it there: each of them measures it.
    images = [item for item in draft.of(IMAGE_PCR, Kind.IMAGE) if item.subject == FROM_MEMORY]
    if len({item.digest for item in images}) > 1:
        raise unpredictable("this boot started several images from memory: which is the kernel is not known")
    if images:
        replace_image(draft, images, parse_pe(kernel, what="the kernel"), what="the kernel")
        draft.assume(f"what this boot started from memory (event {images[0].event.number}) is the kernel")
    return files


def _replace_initrd(draft: Draft, initrd: bytes) -> list[Meaning]:
    commands = [item.value.split() for item in draft.of(_COMMANDS, Kind.GRUB_COMMAND)]
    paths = [words[1:] for words in commands if words[:1] in (["initrd"], ["initrdefi"])]
    files = _named(draft, paths[0][0]) if len(paths) == 1 and len(paths[0]) == 1 else []
    if len({item.digest for item in files}) != 1:
        raise unpredictable("this boot's log has not exactly one initrd that GRUB loaded from one file")
    for item in files:
        draft.replace(item, draft.hash(initrd))
    replace_initrd(draft, files[0].digest, draft.hash(initrd))
    return files


def _require_renamed(draft: Draft, renamed: Sequence[tuple[str, str]], given: Sequence[Meaning]) -> None:
    for item in draft.of(_FILES, Kind.GRUB_FILE):
        if item not in given and _with(item.subject, renamed) != item.subject:
            raise unpredictable(f"{item.subject} is renamed: its new content is needed as well")


def _replace_texts(draft: Draft, texts: Sequence[tuple[str, str]], config: bytes | None) -> None:
    if config is None:
        raise unpredictable(
            "the command line and the names of files stand in GRUB's configuration, which is measured: give the new one"
            " with --grub-config"
        )
    new = config.decode("utf-8", "surrogateescape")
    old = _with(new, [(new_text, old_text) for old_text, new_text in reversed(texts)])
    before = draft.hash(old.encode("utf-8", "surrogateescape"))
    found = [item for item in draft.of(_FILES, Kind.GRUB_FILE) if item.digest == before]
    if not found or _with(old, texts) != new:
        raise unpredictable(
            "the new configuration is not the one that this boot read with nothing but these texts replaced"
            f" ({_said(texts)}): which commands GRUB will run is not known"
        )
    for item in found:
        draft.replace(item, draft.hash(config))
    for item in draft.of(_COMMANDS):
        if item.content is None:
            draft.cannot(_COMMANDS, f"a command that the log does not show ({item})")
            continue
        text = item.content.decode("utf-8", "surrogateescape")
        content = _with(text, texts).encode("utf-8", "surrogateescape")
        data = item.event.data.replace(item.content, content)
        draft.replace(item, draft.hash(content), data=data)


def _said(texts: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"`{old}` by `{new}`" for old, new in texts) or "none"


def _with(text: str, texts: Sequence[tuple[str, str]]) -> str:
    for old, new in texts:
        text = text.replace(old, new)
    return text


def _named(draft: Draft, path: str) -> list[Meaning]:
    """Files that GRUB read by a path, with or without the device before it."""
    files = draft.of(_FILES, Kind.GRUB_FILE)
    return [item for item in files if item.subject == path or item.subject.endswith(f"){path}")]
