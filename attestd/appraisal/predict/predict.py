"""The whole prediction: each change rewrites this boot's log, and the result is replayed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from attestd.appraisal.predict.direct import (
    replace_direct_initrd,
    replace_direct_kernel,
    replace_direct_line,
)
from attestd.appraisal.predict.draft import Draft, unpredictable
from attestd.appraisal.predict.grub import GrubChange, is_grub, replace_in_grub
from attestd.appraisal.predict.images import IMAGE_PCR, replace_image, replace_named
from attestd.appraisal.predict.uki import replace_uki
from attestd.appraisal.predict.variables import replace_variable
from attestd.errors import UsageError
from attestd.tcg.eventlog.diff import Change as EventChange
from attestd.tcg.eventlog.diff import diff_events
from attestd.tcg.eventlog.meaning import read_events
from attestd.tcg.eventlog.parse import UntrustedEventLog
from attestd.tcg.eventlog.reading import UKI_PCR, Kind
from attestd.tcg.eventlog.replay import initial_value, replay
from attestd.tcg.eventlog.userspace import with_phases
from attestd.tcg.ima.replay import IMA_PCR
from attestd.tcg.pe import parse_pe
from attestd.tcg.uki import parse_uki

__all__ = ["PREDICTED", "Change", "Prediction", "Running", "predict"]

# IMA's is not one value, and those behind are for debugging and dynamic launches.
PREDICTED: Final = tuple(pcr for pcr in range(16) if pcr != IMA_PCR)
_MOK_PCR: Final = 14


@dataclass(frozen=True)
class Change:
    """What will be different at the next boot: contents of files.

    Attributes:
        uki: A unified kernel image; the kernel that it starts and its command line are in it.
        kernel: A kernel that a boot loader starts; `initrd` and `command_line` likewise.
        grub_config: GRUB's configuration, with the new names and command line in it.
        renamed: Texts in GRUB's configuration, and the texts in their place.
        shim: The first image that the firmware starts.
        images: Other images, by the end of their path in the log.
        variables: Secure Boot's key databases, by name.
    """

    uki: bytes | None = None
    kernel: bytes | None = None
    initrd: bytes | None = None
    command_line: str | None = None
    grub_config: bytes | None = None
    renamed: tuple[tuple[str, str], ...] = ()
    shim: bytes | None = None
    images: Mapping[str, bytes] = field(default_factory=dict)
    variables: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Running:
    """What is known of this boot beside its event log.

    Attributes:
        command_line: The kernel's, as `/proc/cmdline`.
        initrd: The file that it booted with.
        phases: What user space measured into PCR 11 after the log, and will again.
        values: PCR values now: what of them the log does not explain cannot be predicted.
    """

    command_line: str | None = None
    initrd: bytes | None = None
    phases: tuple[str, ...] = ()
    values: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """The next boot.

    Attributes:
        bank: The bank of the values.
        log: The log of the next boot, with the phases behind it.
        command_line: What the kernel will be started with; None: it is not known.
        values: PCR values, of those that can be predicted.
        unknown: PCRs that cannot, and why.
        changes: What it will measure otherwise than this boot.
        assumptions: What has to hold for the values to come true.
    """

    bank: str
    log: UntrustedEventLog
    command_line: str | None
    values: Mapping[int, bytes]
    unknown: Mapping[int, str]
    changes: tuple[EventChange, ...]
    assumptions: tuple[str, ...]


def predict(log: UntrustedEventLog, *, bank: str, change: Change, running: Running) -> Prediction:
    """Says which PCR values the next boot will have.

    Each change replaces events of this boot's log; all others are replayed as they are. What cannot be told from log and
    files is refused, or named in `unknown`; nothing is guessed.

    Args:
        log: This boot's.
        bank: The bank to predict.
        change: What will be different.
        running: What else is known of this boot.

    Raises:
        UsageError: Nothing changes; changes that exclude each other; the log has no such bank.
        VerificationError: It cannot be predicted; the message says why.
        MalformedError: A file is not what it should be.
    """
    if change == Change():
        raise UsageError("nothing changes: name the new kernel, UKI, command line, boot loader or variable")
    if change.uki is not None and (change.kernel, change.initrd, change.command_line) != (None, None, None):
        raise UsageError("kernel, initrd and command line of a UKI are in it: --uki alone says them")
    replay(log, bank)
    lines = () if running.command_line is None else (running.command_line,)
    draft = Draft(log, bank=bank, command_lines=lines)
    draft.assume("firmware, its settings and the order of boot options stay as they are")
    for name, value in change.variables.items():
        replace_variable(draft, name, value)
    _replace_loaders(draft, change)
    _replace_kernel(draft, change, running, lines)
    return _prediction(draft, log, running)


def _replace_loaders(draft: Draft, change: Change) -> None:
    if change.shim is not None:
        images = draft.of(IMAGE_PCR, Kind.IMAGE)
        if not draft.of(_MOK_PCR) or not images:
            raise unpredictable("this boot's log has no shim: it measures into PCR 14")
        replace_image(draft, images[:1], parse_pe(change.shim, what="shim"), what="shim")
        draft.assume(
            "the new shim measures the same of its keys (PCR 14) and its revocations (SbatLevel, PCR 7)"
        )
    for name, data in change.images.items():
        replace_named(draft, name, parse_pe(data, what=name))
        draft.assume(f"{name} measures the same as the one before it")


def _replace_kernel(draft: Draft, change: Change, running: Running, lines: tuple[str, ...]) -> None:
    if change.uki is not None:
        image = parse_pe(change.uki, what="UKI")
        replace_uki(draft, parse_uki(image), running=lines)
    elif is_grub(draft):
        new = GrubChange(
            kernel=change.kernel,
            initrd=change.initrd,
            config=change.grub_config,
            command_line=change.command_line,
            renamed=change.renamed,
        )
        replace_in_grub(draft, new)
    else:
        if change.grub_config is not None or change.renamed:
            raise unpredictable("this boot's log has no command of GRUB")
        if change.kernel is not None:
            replace_direct_kernel(draft, parse_pe(change.kernel, what="the kernel"))
        if change.initrd is not None:
            if running.initrd is None:
                raise unpredictable("the initrd: give this boot's as well, with --running-initrd")
            replace_direct_initrd(draft, running.initrd, change.initrd)
        if change.command_line is not None:
            replace_direct_line(draft, change.command_line, running=lines)


def _prediction(draft: Draft, log: UntrustedEventLog, running: Running) -> Prediction:
    bank = draft.bank
    now = replay(with_phases(log, running.phases), bank)
    after = with_phases(draft.log(), running.phases)
    values = replay(after, bank)
    for pcr, value in running.values.items():
        if pcr in PREDICTED and value != now.get(pcr, initial_value(bank, pcr, locality=log.locality)):
            draft.cannot(pcr, f"it holds {value.hex()} now, which this boot's log does not explain")
    silent = [pcr for pcr in PREDICTED if pcr not in values and pcr not in running.values]
    if silent:
        numbers = ", ".join(map(str, silent))
        draft.assume(f"nothing but what the log has is extended into PCRs {numbers}, which it does not name")
    if running.phases:
        draft.assume(
            f"systemd measures the phases {':'.join(running.phases)} into PCR {UKI_PCR} after the log"
        )
    # The phases stay, so that they are no change.
    phases = with_phases(log, running.phases).events[len(log.events) :]
    lines = draft.command_lines
    before = (*draft.before, *read_events(phases, bank=bank))
    meanings = read_events(after.events, bank=bank, command_lines=lines)
    return Prediction(
        bank=bank,
        log=after,
        command_line=draft.command_lines[-1] if draft.command_lines else None,
        values={
            pcr: values.get(pcr, initial_value(bank, pcr, locality=log.locality))
            for pcr in PREDICTED
            if pcr not in draft.unknown
        },
        unknown=dict(sorted(draft.unknown.items())),
        changes=diff_events(before, meanings),
        assumptions=tuple(draft.assumptions),
    )
