"""Chooses the PCRs of a host that is provisioned, by its event log, and says where that and the TPM differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from attestd.agent.boot_view import BootView, parse_boot_view
from attestd.agent.measured_logs import BootReader
from attestd.agent.tpm_access import EMBEDDED
from attestd.appraisal.selection import derive_pcrs, require_command_line, require_sound_pcrs
from attestd.errors import MalformedError, StoreError, UsageError
from attestd.paths import Configuration
from attestd.tcg.eventlog.reading import Kind
from attestd.tcg.pcr import PcrSelection, selection_from_text

__all__ = ["Choice", "choose_pcrs", "differences", "require_log_of_this_boot"]

BANK: Final = "sha256"
EMBEDDED_PCRS: Final = "sha256:0,2,4,7,11,12"


@dataclass(frozen=True)
class Choice:
    """Which PCRs, and why.

    Attributes:
        boot: This boot's logs; None: there are none, or they cannot be read.
        notes: What a person should know of it.
    """

    selection: PcrSelection
    boot: BootView | None
    notes: tuple[str, ...]


def choose_pcrs(configuration: Configuration, *, pcrs: str | None) -> Choice:
    """Chooses the PCRs whose present values are approved.

    Args:
        configuration: Which TPM, and where the logs are.
        pcrs: What a person chose, such as `0,2,4,7`; None: what the event log says.

    Raises:
        UsageError: A choice is needed; or it leaves the kernel command line out, or has PCR 10.
    """
    boot, problem = _boot(configuration)
    events = () if boot is None or BANK not in boot.log.banks else boot.meanings(BANK)
    if pcrs is not None:
        selection = selection_from_text(pcrs)
        require_sound_pcrs(selection.pcrs)
        if events:
            require_command_line(events, selection.pcrs)
            return Choice(selection, boot, ())
        return Choice(selection, None, () if problem is None else (f"not checked: {problem}",))
    derived = derive_pcrs(events)
    if derived is not None:
        numbers = ",".join(map(str, derived.pcrs))
        note = f"PCRs {numbers}: this boot's event log shows {derived.loader}"
        return Choice(selection_from_text(f"{BANK}:{numbers}"), boot, (note,))
    if configuration.tpm == EMBEDDED and boot is None:
        note = f"PCRs {EMBEDDED_PCRS.partition(':')[2]}: an embedded software TPM measures no boot, they say nothing of this machine"
        return Choice(selection_from_text(EMBEDDED_PCRS), None, (note,))
    why = problem or "the event log shows neither a unified kernel image nor GRUB"
    raise UsageError(
        f"--pcrs is needed for this TPM: which PCRs hold what you boot (for example 0,2,4,7,8,9); {why}"
    )


def differences(choice: Choice, values: Mapping[int, bytes]) -> tuple[str, ...]:
    """Where the TPM's values are not those of the logs.

    Args:
        choice: From `choose_pcrs`.
        values: PCR values now.
    """
    return tuple(
        f"PCR {pcr} holds {values[pcr].hex()}, which the event log does not replay to: it is approved as it is, and"
        " changes of it cannot be told in words"
        for pcr in _unexplained(choice, values)
    )


def require_log_of_this_boot(choice: Choice, values: Mapping[int, bytes]) -> None:
    """A log that says where the kernel command line is has to lead to the TPM's value there.

    Else whoever writes the log chooses PCRs that do not hold it.

    Args:
        choice: From `choose_pcrs`.
        values: PCR values now.

    Raises:
        UsageError: It leads to another value in each PCR that it names for it.
    """
    if choice.boot is None or choice.selection.bank != BANK:
        return
    events = choice.boot.meanings(BANK)
    held = {item.event.pcr for item in events if item.kind == Kind.COMMAND_LINE} & set(choice.selection.pcrs)
    if held <= set(_unexplained(choice, values)):
        where = ", ".join(map(str, sorted(held)))
        raise UsageError(
            f"the event log has the kernel command line in PCR {where}, and does not replay to what the TPM holds there: it"
            ' is no log of this boot. Reboot and try again; if that does not help, choose with --pcrs, and eventlog = ""'
        )


def _unexplained(choice: Choice, values: Mapping[int, bytes]) -> tuple[int, ...]:
    if choice.boot is None or choice.selection.bank != BANK:
        return ()
    boot = choice.boot
    known = parse_boot_view(
        boot.title, boot.eventlog, boot.userspace, command_line=boot.command_line, pcrs=values
    )
    return known.unexplained()


def _boot(configuration: Configuration) -> tuple[BootView | None, str | None]:
    """This boot's logs, or why there are none."""
    try:
        logs = BootReader(configuration.log_paths()).read()
    except (StoreError, MalformedError) as error:
        return None, str(error)
    if logs is None:
        return None, None
    if not any(event.extends for event in logs.log.events):
        return None, "the event log is empty"
    return (
        parse_boot_view("this boot", logs.eventlog, logs.userspace, command_line=logs.command_line, pcrs={}),
        None,
    )
