"""`attestd platform measure`: what a boot measured, and reference values from it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from attestd.agent.ask import AgentSocket
from attestd.agent.boot_view import BootView, parse_boot_view
from attestd.agent.platform_state import ask_quote
from attestd.agent.state_file import evidence_json
from attestd.appraisal.boot import BootFinding
from attestd.appraisal.document import UntrustedQuoteDocument, verify_document
from attestd.appraisal.inspect import ImaInspection, Inspection, inspect_ima, inspect_log
from attestd.appraisal.reference import derive_boot_rules, derive_ima_policy
from attestd.cli.approving import platform_name, platform_option
from attestd.cli.base import Command, json_option, read_input, state_dir_option, write_output
from attestd.cli.boots import boot_in_files, event_json, present, read_lines
from attestd.cli.output import BAD, DIM, Output, mark, say, text
from attestd.cli.params import FILE
from attestd.distribution.local import load_own_trust
from attestd.errors import AgentError, UsageError
from attestd.paths import KERNEL_LOGS, find_client_layout, load_configuration
from attestd.plain import counted
from attestd.strict import canonical
from attestd.tcg.eventlog.parse import MAX_EVENTLOG_BYTES
from attestd.tcg.ima.ascii import binary_from_ascii, is_ascii_list
from attestd.tcg.ima.replay import IMA_PCR

__all__ = ["lines_option", "measure_command"]

MAX_IMA_FILE_BYTES: Final = 256 * 1024 * 1024

lines_option = click.option(
    "--cmdline",
    "command_lines",
    multiple=True,
    metavar="FILE",
    type=FILE,
    help="A kernel command line (as /proc/cmdline), to be recognised: a UKI's is in the log by its digest alone.",
)
_OUTPUT: Final = click.Path(dir_okay=False, path_type=Path)


def finding_json(item: BootFinding) -> dict[str, Any]:
    """A finding, for machines."""
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
attestd platform measure --events
attestd platform measure --json
attestd platform measure --rules boot.json
attestd platform measure --ima binary_runtime_measurements --ima-policy ima.json --exclude "/tmp/**"
""",
)
@click.option("--eventlog", type=FILE, metavar="FILE", help="A UEFI event log (default: this host's).")
@click.option("--ima", type=FILE, metavar="FILE", help="The same boot's IMA list, binary or ASCII.")
@click.option(
    "--userspace",
    type=FILE,
    metavar="FILE",
    help="What systemd measured in the same boot: /run/log/systemd/tpm2-measure.log.",
)
@lines_option
@click.option("--events", "show_events", is_flag=True, help="Every event, in words.")
@click.option(
    "--rules",
    type=_OUTPUT,
    metavar="FILE",
    help="Write rules that this boot keeps, for attestd platform rules.",
)
@click.option(
    "--ima-policy", type=_OUTPUT, metavar="FILE", help="Write an IMA policy that allows what the list has."
)
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="With --ima-policy: paths that are not looked at."
)
@click.option("--force", is_flag=True, help="Overwrite output files.")
@platform_option
@state_dir_option
@json_option
def measure_command(
    *,
    eventlog: Path | None,
    ima: Path | None,
    userspace: Path | None,
    command_lines: tuple[Path, ...],
    show_events: bool,
    rules: Path | None,
    ima_policy: Path | None,
    exclude: tuple[str, ...],
    force: bool,
    name: str | None,
    state_dir: str | None,
    as_json: bool,
) -> None:
    """Replay an event log: PCR values, and what is striking.

    Of this host, as root or by its agent; then --json holds a quote as well, for attestd platform approve
    --from-evidence elsewhere. Of files: needs no TPM and no agent, and proves nothing.

    Findings are for you to judge: the exit status is 0 if the logs parse, 65 if they do not.
    """
    if ima_policy is None and exclude:
        raise click.UsageError("--exclude goes with --ima-policy")
    boot, quote = _boot(eventlog, userspace, name, state_dir)
    lines = [*boot.command_lines, *read_lines(command_lines)]
    inspection = inspect_log(boot.log, command_lines=lines)
    list_ = _ima_list(ima, state_dir, needed=ima_policy is not None)
    measured = (
        None if list_ is None else inspect_ima(list_, pcrs=inspection.pcrs, max_bytes=MAX_IMA_FILE_BYTES)
    )
    if rules is not None:
        found, notes = derive_boot_rules(boot.log, command_lines=lines)
        _write(rules, canonical(found), notes, force=force)
    if ima_policy is not None and list_ is not None:
        policy, notes = derive_ima_policy(list_, exclude=exclude, max_bytes=MAX_IMA_FILE_BYTES)
        _write(ima_policy, policy, notes, force=force)
    seen = _Seen(inspection, measured, _pcrs(inspection, measured), boot, quote)
    if as_json:
        Output(as_json=True).json(_measure_json(seen))
    elif rules is None and ima_policy is None:
        _show(seen, Output(), show_events=show_events)


@dataclass(frozen=True)
class _Seen:
    """All that was found."""

    inspection: Inspection
    measured: ImaInspection | None
    pcrs: Mapping[str, Mapping[int, bytes]]
    boot: BootView
    quote: UntrustedQuoteDocument | None

    @property
    def findings(self) -> list[BootFinding]:
        return [*self.inspection.findings, *(self.measured.findings if self.measured else ())]


def _boot(
    eventlog: Path | None, userspace: Path | None, name: str | None, state_dir: str | None
) -> tuple[BootView, UntrustedQuoteDocument | None]:
    """The boot of files, or of this host with a quote, if its agent answers."""
    if eventlog is not None:
        return boot_in_files(eventlog, userspace), None
    quote, pcrs = _quote(name, state_dir)
    boot = present(state_dir, pcrs=pcrs)
    if boot is None:
        raise UsageError(
            "this host has no event log: name one with --eventlog, or in attestd.toml (eventlog)"
        )
    if userspace is not None:
        data = read_input(userspace, max_bytes=MAX_EVENTLOG_BYTES)
        boot = parse_boot_view(boot.title, boot.eventlog, data, command_line=boot.command_line, pcrs=pcrs)
    return boot, quote


def _quote(
    name: str | None, state_dir: str | None
) -> tuple[UntrustedQuoteDocument | None, Mapping[int, bytes]]:
    layout = find_client_layout(state_dir)
    if not os.path.lexists(layout.configuration):
        return None, {}
    trust = load_own_trust(layout)
    try:
        quote, challenge = ask_quote(platform_name(trust, name), agent=AgentSocket.find(state_dir))
    except AgentError as error:
        say(f"no quote: {error}")
        return None, {}
    return quote, verify_document(quote, trust=trust, challenge=challenge).values


def _ima_list(path: Path | None, state_dir: str | None, *, needed: bool) -> bytes | None:
    """The list, binary; this host's if a policy is to be made of it."""
    if path is None and needed:
        layout = find_client_layout(state_dir)
        configured = load_configuration(layout.configuration, os.environ).log_paths().ima_list
        path = configured or KERNEL_LOGS["ima_list"]
    if path is None:
        return None
    data = read_input(path, max_bytes=MAX_IMA_FILE_BYTES)
    return binary_from_ascii(data) if is_ascii_list(data) else data


def _write(path: Path, data: bytes, notes: Sequence[str], *, force: bool) -> None:
    for note in notes:
        say(f"left out: {note}")
    write_output(path, data, force=force)
    say(f"{path}: written; look at it before it is published (attestd platform rules)")


def _pcrs(inspection: Inspection, measured: ImaInspection | None) -> Mapping[str, Mapping[int, bytes]]:
    """The replayed values; PCR 10 where the list tells it: no kernel with IMA lacks SHA-1 and SHA-256 at its start."""
    pcrs = {bank: dict(values) for bank, values in inspection.pcrs.items()}
    if measured is not None:
        for bank in pcrs.keys() & {"sha1", "sha256"}:
            pcrs[bank][IMA_PCR] = measured.values[bank]
    return pcrs


def _show(seen: _Seen, output: Output, *, show_events: bool) -> None:
    for bank, values in seen.pcrs.items():
        output.title(f"PCRs of bank {bank}")
        output.table(("PCR", "value"), [(index, value.hex()) for index, value in sorted(values.items())])
    measured = seen.measured
    if measured is not None:
        output.title(f"IMA: {counted(measured.entries, 'entry')}")
        rows = [(f"PCR 10, {bank}", value.hex()) for bank, value in measured.values.items()]
        rows += [(f"PCR 10, {bank}, of padded SHA-1", value.hex()) for bank, value in measured.padded.items()]
        output.facts(rows)
    if show_events:
        output.title(f"Events, by their {seen.inspection.bank} digests")
        for item in seen.inspection.events:
            output.line("  ", mark(item.proved or None), f" {item}")
    pcrs = seen.boot.pcrs
    findings = [str(finding) for finding in seen.findings]
    findings += [
        f"PCR {pcr}: it holds {pcrs[pcr].hex()}, which no log explains" for pcr in seen.boot.unexplained()
    ]
    output.title("Findings" if findings else "No findings")
    for finding in findings:
        output.line("  ", text(finding, BAD))
    for note in seen.inspection.notes:
        output.line("  ", text(f"note: {note}", DIM))


def _measure_json(seen: _Seen) -> dict[str, Any]:
    inspection, measured = seen.inspection, seen.measured
    return {
        "pcrs": {
            bank: {str(index): values[index].hex() for index in sorted(values)}
            for bank, values in seen.pcrs.items()
        },
        "bank": inspection.bank,
        "events": [event_json(item) for item in inspection.events],
        "findings": [finding_json(item) for item in seen.findings],
        "unexplained": list(seen.boot.unexplained()),
        "notes": list(inspection.notes),
        "evidence": None if seen.quote is None else evidence_json(seen.quote, seen.boot),
        "ima": None
        if measured is None
        else {
            "entries": measured.entries,
            "pcr10": {bank: value.hex() for bank, value in measured.values.items()},
            "pcr10_of_padded_sha1": {bank: value.hex() for bank, value in measured.padded.items()},
        },
    }
