"""Reads a boot's logs by themselves, without a quote: what they stand for, and what in them is striking.

Nothing is proved here: reference values come out of it, for a person or an authority to approve.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from attestd.appraisal.boot import BootFinding, appraise_boot
from attestd.appraisal.boot_rules import BootRules
from attestd.errors import MalformedError, VerificationError
from attestd.plain import counted
from attestd.tcg.eventlog.covered import covered
from attestd.tcg.eventlog.meaning import Meaning, read_events
from attestd.tcg.eventlog.parse import UntrustedEventLog
from attestd.tcg.eventlog.quirks import QUIRKS, Quirk
from attestd.tcg.eventlog.reading import Kind
from attestd.tcg.eventlog.replay import initial_value, replay, verify_events
from attestd.tcg.ima.aggregate import boot_aggregates
from attestd.tcg.ima.entry import ImaEntry
from attestd.tcg.ima.replay import IMA_PCR, VerifiedImaList, replay_list

__all__ = ["ImaInspection", "Inspection", "best_bank", "inspect_ima", "inspect_log"]

Bank = Literal["sha1", "sha256", "sha384", "sha512"]
_PREFERENCE: Final[tuple[Bank, ...]] = ("sha256", "sha384", "sha512", "sha1")
_BANKS: Final = ("sha1", "sha256", "sha384", "sha512")
_MAX_FINDINGS: Final = 100


@dataclass(frozen=True)
class Inspection:
    """What an event log stands for.

    Attributes:
        pcrs: Replayed values by bank and index.
        bank: The bank in which the events were read.
        events: What they mean.
        findings: What is striking.
        notes: Quirks, and what could not be looked at.
    """

    pcrs: Mapping[str, Mapping[int, bytes]]
    bank: str
    events: tuple[Meaning, ...]
    findings: tuple[BootFinding, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ImaInspection:
    """What an IMA list stands for.

    Attributes:
        entries: How many.
        values: PCR 10 by bank, as a kernel extends it that has the bank's hash.
        padded: PCR 10 by bank, as a kernel extends it that has not: with SHA-1, padded. The list does not tell which.
        findings: What is striking.
    """

    entries: int
    values: Mapping[str, bytes]
    padded: Mapping[str, bytes]
    findings: tuple[BootFinding, ...]


def best_bank(banks: Collection[str]) -> Bank:
    """The bank to read events in: SHA-256 if there is one, SHA-1 if there is nothing else.

    Raises:
        MalformedError: There is none.
    """
    for bank in _PREFERENCE:
        if bank in banks:
            return bank
    raise MalformedError("event log: no bank that can be replayed")


def inspect_log(log: UntrustedEventLog, *, command_lines: Sequence[str] = ()) -> Inspection:
    """Replays a log in every bank and looks at its events.

    Args:
        log: Parsed.
        command_lines: Kernel command lines to recognise by their digest.

    Raises:
        MalformedError: No bank of the log can be replayed.
    """
    pcrs: dict[str, dict[int, bytes]] = {}
    notes = [QUIRKS[quirk] for quirk in log.quirks]
    for bank in log.banks:
        try:
            pcrs[bank] = replay(log, bank)
        except VerificationError as error:
            notes.append(str(error))
    notes += [f"bank {alg:#06x} is not replayed: its hash is not known here" for alg in log.skipped]
    bank = best_bank(tuple(pcrs))
    events = read_events(log.events, bank=bank, command_lines=command_lines)
    notes += _quirks(events, bank)
    return Inspection(pcrs, bank, events, tuple(_findings(log, bank, pcrs[bank], events)), tuple(notes))


def _findings(
    log: UntrustedEventLog, bank: Bank, values: Mapping[int, bytes], events: Sequence[Meaning]
) -> list[BootFinding]:
    if not values:
        return [BootFinding("events", None, "the log", "events that extend a PCR", "none")]
    firmware = {pcr: values.get(pcr, initial_value(bank, pcr, locality=log.locality)) for pcr in range(8)}
    rules = BootRules(
        v=1,
        bank=bank,
        secure_boot="required",
        separators="required",
        certificates=None,
        images=None,
        command_lines=None,
        sections=None,
        digests=None,
    )
    verified = verify_events(log, bank=bank, values={**firmware, **values})
    findings = list(appraise_boot(verified, rules=rules).findings)
    if not any(item.kind == Kind.COMMAND_LINE for item in events):
        findings.append(BootFinding("command_lines", None, "the log", "a kernel command line", "none"))
    return findings


def _quirks(events: Sequence[Meaning], bank: str) -> list[str]:
    found: dict[Quirk, list[int]] = {}
    for item in events:
        content = covered(item.event, bank)
        if content is not None and content.quirk is not None:
            found.setdefault(content.quirk, []).append(item.event.number)
    return [
        f"{QUIRKS[quirk]} ({counted(len(numbers), 'event')}, the first is event {numbers[0]})"
        for quirk, numbers in found.items()
    ]


def inspect_ima(data: bytes, *, pcrs: Mapping[str, Mapping[int, bytes]], max_bytes: int) -> ImaInspection:
    """Replays an IMA list in every bank, and holds its `boot_aggregate` against a boot.

    Args:
        data: The binary list.
        pcrs: Replayed values of the boot's event log by bank and index; PCRs that it does not extend are at zero.
        max_bytes: The limit for `data`.

    Raises:
        MalformedError: As `verify_list`.
    """
    measured = replay_list(data, bank="sha1", max_bytes=max_bytes)

    def value(bank: str, *, padded: bool) -> bytes:
        return replay_list(data, bank=bank, padded=padded, max_bytes=max_bytes).end.value

    return ImaInspection(
        entries=len(measured),
        values={bank: value(bank, padded=False) for bank in _BANKS},
        padded={bank: value(bank, padded=True) for bank in _BANKS if bank != "sha1"},
        findings=tuple(_ima_findings(measured, pcrs)),
    )


def _ima_findings(measured: VerifiedImaList, pcrs: Mapping[str, Mapping[int, bytes]]) -> list[BootFinding]:
    findings: list[BootFinding] = []
    first: ImaEntry | None = None
    for template, indices in measured.runs():
        for index in indices:
            where = f"PCR {IMA_PCR}: IMA entry {index}"
            try:
                entry = measured.entry(index, template)
            except MalformedError as error:
                findings.append(BootFinding("ima", None, where, "an entry of a known form", str(error)))
                continue
            first = entry if index == 0 else first
            if entry.violation:
                path = entry.path.decode("utf-8", "backslashreplace")
                findings.append(BootFinding("ima", None, f"{where}: {path}", "a digest", "a violation"))
    findings = findings[:_MAX_FINDINGS]
    if first is None or first.path != b"boot_aggregate":
        findings.append(
            BootFinding("ima", None, f"PCR {IMA_PCR}", "boot_aggregate as the first entry", "none")
        )
        return findings
    bank = first.algorithm
    if bank in pcrs:
        values = {index: pcrs[bank].get(index, initial_value(bank, index)) for index in range(10)}
        expected = boot_aggregates(bank, values)
        if first.digest not in expected:
            words = f"one of {', '.join(sorted(item.hex() for item in expected))}, of this boot's PCRs"
            findings.append(
                BootFinding("ima", None, "IMA entry 0: boot_aggregate", words, first.digest.hex())
            )
    return findings
