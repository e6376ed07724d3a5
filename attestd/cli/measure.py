"""`attestd platform measure` and `attestd platform diff`: event logs and IMA lists in files, without TPM or agent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from attestd.appraisal.boot import BootFinding
from attestd.appraisal.inspect import ImaInspection, Inspection, best_bank, inspect_ima, inspect_log
from attestd.cli.base import Command, json_option, read_input
from attestd.cli.output import BAD, DIM, GOOD, WARN, Output, counted, mark, text
from attestd.cli.params import FILE
from attestd.errors import UsageError
from attestd.tcg.eventlog.diff import Change, diff_events
from attestd.tcg.eventlog.meaning import Meaning, read_events
from attestd.tcg.eventlog.parse import MAX_EVENTLOG_BYTES, UntrustedEventLog, parse_event_log
from attestd.tcg.eventlog.types import type_name
from attestd.tcg.eventlog.userspace import parse_userspace_log, with_events
from attestd.tcg.ima.ascii import binary_from_ascii, is_ascii_list

__all__ = ["diff_command", "measure_command"]

EXIT_DIFFERS: Final = 1
THIS_HOSTS_LOG: Final = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
MAX_IMA_FILE_BYTES: Final = 256 * 1024 * 1024
MAX_LINE_BYTES: Final = 64 * 1024
IMA_PCR: Final = 10

_lines_option = click.option(
    "--cmdline",
    "command_lines",
    multiple=True,
    metavar="FILE",
    type=FILE,
    help="A kernel command line (as /proc/cmdline), to be recognised: a UKI's is in the log by its digest alone.",
)


def _log(path: Path) -> UntrustedEventLog:
    return parse_event_log(read_input(path, max_bytes=MAX_EVENTLOG_BYTES))


def _lines(paths: tuple[Path, ...]) -> list[str]:
    texts = [read_input(path, max_bytes=MAX_LINE_BYTES).decode("utf-8", "surrogateescape") for path in paths]
    return [text.rstrip("\n\0") for text in texts]


def _event_json(item: Meaning) -> dict[str, Any]:
    return {
        "event": item.event.number,
        "pcr": item.event.pcr,
        "type": type_name(item.event.type),
        "what": item.name,
        "value": item.value,
        "proved": item.proved,
        "digest": item.digest.hex(),
    }


def _finding_json(item: BootFinding) -> dict[str, Any]:
    return {
        "rule": item.rule,
        "event": item.event,
        "where": item.where,
        "expected": item.expected,
        "found": item.found,
        "text": str(item),
    }


@click.command(
    "measure",
    cls=Command,
    example="""
attestd platform measure --eventlog binary_bios_measurements --ima binary_runtime_measurements
attestd platform measure --eventlog binary_bios_measurements --json
""",
)
@click.option(
    "--eventlog",
    type=FILE,
    metavar="FILE",
    help=f"UEFI event log (default: {THIS_HOSTS_LOG}, of this host).",
)
@click.option("--ima", type=FILE, metavar="FILE", help="The same boot's IMA list, binary or ASCII.")
@click.option(
    "--userspace",
    type=FILE,
    metavar="FILE",
    help="What systemd measured in the same boot: /run/log/systemd/tpm2-measure.log.",
)
@_lines_option
@click.option("--events", "show_events", is_flag=True, help="Every event, in words.")
@json_option
def measure_command(
    *,
    eventlog: Path | None,
    ima: Path | None,
    userspace: Path | None,
    command_lines: tuple[Path, ...],
    show_events: bool,
    as_json: bool,
) -> None:
    """Replay an event log: PCR values, and what is striking.

    Needs no TPM and no agent, and proves nothing: that these were the PCR values, only a quote shows. Findings are for
    you to judge: the exit status is 0 if the logs parse, 65 if they do not.
    """
    log = _log(eventlog or THIS_HOSTS_LOG)
    if userspace is not None:
        data = read_input(userspace, max_bytes=MAX_EVENTLOG_BYTES)
        log = with_events(log, parse_userspace_log(data, first=len(log.events)))
    inspection = inspect_log(log, command_lines=_lines(command_lines))
    measured = None if ima is None else _inspect_ima(ima, inspection)
    pcrs = _pcrs(inspection, measured)
    findings = [*inspection.findings, *(measured.findings if measured else ())]
    output = Output(as_json=as_json)
    if as_json:
        output.json(_measure_json(inspection, measured, pcrs, findings))
        return
    for bank, values in pcrs.items():
        output.title(f"PCRs of bank {bank}")
        output.table(("PCR", "value"), [(index, value.hex()) for index, value in sorted(values.items())])
    if measured is not None:
        output.title(f"IMA: {counted(measured.entries, 'entry')}")
        rows = [(f"PCR 10, {bank}", value.hex()) for bank, value in measured.values.items()]
        rows += [(f"PCR 10, {bank}, of padded SHA-1", value.hex()) for bank, value in measured.padded.items()]
        output.facts(rows)
    if show_events:
        output.title(f"Events, by their {inspection.bank} digests")
        for item in inspection.events:
            output.line("  ", mark(item.proved or None), f" {item}")
    output.title("Findings" if findings else "No findings")
    for finding in findings:
        output.line("  ", text(str(finding), BAD))
    for note in inspection.notes:
        output.line("  ", text(f"note: {note}", DIM))


def _inspect_ima(path: Path, inspection: Inspection) -> ImaInspection:
    data = read_input(path, max_bytes=MAX_IMA_FILE_BYTES)
    if is_ascii_list(data):
        data = binary_from_ascii(data)
    return inspect_ima(data, pcrs=inspection.pcrs, max_bytes=MAX_IMA_FILE_BYTES)


def _pcrs(inspection: Inspection, measured: ImaInspection | None) -> Mapping[str, Mapping[int, bytes]]:
    """The replayed values; PCR 10 where the list tells it: no kernel with IMA lacks SHA-1 and SHA-256 at its start."""
    pcrs = {bank: dict(values) for bank, values in inspection.pcrs.items()}
    if measured is not None:
        for bank in pcrs.keys() & {"sha1", "sha256"}:
            pcrs[bank][IMA_PCR] = measured.values[bank]
    return pcrs


def _measure_json(
    inspection: Inspection,
    measured: ImaInspection | None,
    pcrs: Mapping[str, Mapping[int, bytes]],
    findings: list[BootFinding],
) -> dict[str, Any]:
    return {
        "pcrs": {
            bank: {str(index): values[index].hex() for index in sorted(values)}
            for bank, values in pcrs.items()
        },
        "bank": inspection.bank,
        "events": [_event_json(item) for item in inspection.events],
        "findings": [_finding_json(item) for item in findings],
        "notes": list(inspection.notes),
        "ima": None
        if measured is None
        else {
            "entries": measured.entries,
            "pcr10": {bank: value.hex() for bank, value in measured.values.items()},
            "pcr10_of_padded_sha1": {bank: value.hex() for bank, value in measured.padded.items()},
        },
    }


@click.command(
    "diff",
    cls=Command,
    example="""
attestd platform diff yesterday.eventlog today.eventlog
""",
)
@click.argument("before", type=FILE, metavar="FILE")
@click.argument("after", type=FILE, metavar="FILE")
@_lines_option
@json_option
def diff_command(*, before: Path, after: Path, command_lines: tuple[Path, ...], as_json: bool) -> int:
    """Compare two event logs, event by event, in words.

    Exit status: 0 the same was measured; 1 it differs.
    """
    logs = (_log(before), _log(after))
    common = set(logs[0].banks) & set(logs[1].banks)
    if not common:
        raise UsageError(f"the logs have no bank in common: {logs[0].banks} and {logs[1].banks}")
    bank, lines = best_bank(common), _lines(command_lines)
    changes = diff_events(*(read_events(log.events, bank=bank, command_lines=lines) for log in logs))
    output = Output(as_json=as_json)
    if as_json:
        output.json(
            {"bank": bank, "same": not changes, "changes": [_change_json(change) for change in changes]}
        )
    elif not changes:
        output.line(mark(True), text(f" the same was measured, by {bank} digests", GOOD))
    else:
        for change in changes:
            output.line(text(str(change), WARN))
    return EXIT_DIFFERS if changes else 0


def _change_json(change: Change) -> dict[str, Any]:
    return {
        "pcr": change.pcr,
        "before": None if change.before is None else _event_json(change.before),
        "after": None if change.after is None else _event_json(change.after),
        "text": str(change),
    }
