"""`attestd why`."""

import os
from pathlib import Path

import click

from attestd.agent.ask import AgentSocket
from attestd.agent.records import Record, find_record, record_of_receipt
from attestd.cli.base import Command, json_option, read_input, state_dir_option
from attestd.cli.entry_view import command_line, entry_facts, entry_json, user
from attestd.cli.output import BAD, DIM, GOOD, HEAD, WARN, Output, mark, say, text
from attestd.gate.explain import Explanation, explain
from attestd.gate.model import Check, Outcome
from attestd.paths import find_client_layout
from attestd.tlog.proof import MAX_PROOF_BYTES

__all__ = ["why_command"]

_OUTCOMES = {Outcome.VERIFIED: True, Outcome.REJECTED: False, Outcome.NOT_EVALUATED: None}


@click.command(
    "why",
    cls=Command,
    example="""
attestd why
attestd why 2
attestd exec --receipt run.tlog-proof -- id -u; attestd why run.tlog-proof
""",
)
@state_dir_option
@json_option
@click.argument("decision", metavar="[ID|SEQ|RECEIPT]", required=False)
def why_command(*, state_dir: str | None, as_json: bool, decision: str | None) -> None:
    """Explain one decision: every check, and what to do.

    The decision is named by its number in the log (a denial says it) or its id (exec --json tells it), or by its receipt's
    file. If none is named, it is your last one that was denied, or made void. Without an agent the log's file is read. Nothing is verified here: `attestd verify receipt` and `attestd audit verify` do.
    """
    record = _record(decision, state_dir)
    found = explain(record.entry)
    output = Output(as_json=as_json)
    if as_json:
        output.json(
            {
                **entry_json(record.entry, record.leaf),
                "decision": "allow" if found.allowed else "deny",
                "code": found.code or None,
                "sentence": found.sentence or None,
                "hint": found.hint or None,
                "void": record.void,
                "findings": list(found.findings),
                "checks": [
                    {
                        "n": check.number,
                        "name": check.name,
                        "outcome": check.outcome.value,
                        "detail": check.detail,
                    }
                    for check in found.checks
                ],
                "source": record.source,
            }
        )
        return
    _show(output, record, found)


def _record(decision: str | None, state_dir: str | None) -> Record:
    if decision is not None and ("/" in decision or "." in decision or os.path.isfile(decision)):
        data = read_input(Path(decision), max_bytes=MAX_PROOF_BYTES)
        return record_of_receipt(data, source=f"the receipt {decision}")
    return find_record(decision, agent=AgentSocket.find(state_dir), layout=find_client_layout(state_dir))


def _show(output: Output, record: Record, found: Explanation) -> None:
    body, request = record.entry.body, found.request
    output.title(f"Decision {record.entry.seq}, {record.entry.time}")
    if record.void is not None:
        verdict = text("ALLOWED, AND VOID", BAD)
    else:
        verdict = text("ALLOWED", GOOD) if found.allowed else text(f"DENIED: {found.code}", BAD)
    output.line("  ", verdict, "  ", text(command_line(request.get("argv")), HEAD))
    requester = request.get("requester")
    asked_by = user(requester.get("uid")) if isinstance(requester, dict) else "unknown"
    output.line(f"  asked by {asked_by}, in {body.get('cwd')}, to run as {user(body.get('uid'))}")
    if record.void is not None:
        output.line("  ", text(f"made void, it never ran: {record.void}", BAD))
    if not found.allowed:
        output.line("  ", text(found.sentence, BAD))
        output.line("  ", text(f"hint: {found.hint}", WARN))
    if found.findings:
        output.title("What spoke against the platform")
        for finding in found.findings:
            output.line("  ", text(finding, BAD))
        if found.finding_count > len(found.findings):
            output.line(f"  and {found.finding_count - len(found.findings)} more")
    output.title("Checks")
    output.table(("", "no", "check", "what it compared"), [_check(check) for check in found.checks])
    output.title("Record")
    shown = {
        "entry",
        "id",
        "artifact",
        "authority",
        "executable",
        "governance",
        "platform",
        "isolation",
        "origin",
        "parent",
        "verifiers",
    }
    output.facts([(name, value) for name, value in entry_facts(record.entry, record.leaf) if name in shown])
    say(f"from {record.source}; not verified here: attestd verify receipt does", style=DIM, prefix="")


def _check(check: Check) -> tuple[object, ...]:
    styles = {Outcome.VERIFIED: "", Outcome.REJECTED: BAD, Outcome.NOT_EVALUATED: DIM}
    detail = check.detail if check.outcome is not Outcome.NOT_EVALUATED else "not looked at"
    style = styles[check.outcome]
    return mark(_OUTCOMES[check.outcome]), check.number, text(check.name, style), text(detail, style)
