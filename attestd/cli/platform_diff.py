"""`attestd platform boots` and `attestd platform diff`: boots that are kept, and what they measured otherwise."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from attestd.agent.ask import AgentSocket
from attestd.agent.boot_logs import KeptBoot, PresentBoot, fetch_boots
from attestd.agent.boot_view import APPROVED, NOW, BootView, appraise_view, find_boot, with_replayed
from attestd.appraisal.inspect import best_bank
from attestd.cli.approving import platform_name, platform_option
from attestd.cli.base import Command, json_option, state_dir_option
from attestd.cli.boots import change_json, present, read_lines
from attestd.cli.measure import finding_json, lines_option
from attestd.cli.output import DIM, GOOD, WARN, Output, mark, text
from attestd.cli.platform_approve import present_state
from attestd.distribution.approve import plan_approval
from attestd.distribution.local import load_own_trust
from attestd.errors import UsageError
from attestd.governance.platform import PlatformPolicy
from attestd.paths import find_client_layout
from attestd.strict import format_time
from attestd.tcg.eventlog.diff import diff_events

__all__ = ["boots_command", "diff_command"]

EXIT_DIFFERS: Final = 1
POLICY: Final = "policy"


@click.command("boots", cls=Command, example="attestd platform boots\nattestd platform boots --json")
@state_dir_option
@json_option
def boots_command(*, state_dir: str | None, as_json: bool) -> None:
    """List the boots that the agent keeps, the last one first.

    Numbers and `approved` name them for attestd platform diff.
    """
    kept, now = fetch_boots(AgentSocket.find(state_dir))
    output = Output(as_json=as_json)
    if as_json:
        output.json({"boots": [_boot_json(n, boot) for n, boot in enumerate(kept, 1)], "now": now.digest})
        return
    if not kept:
        output.line(now.problem or "none is kept: no event log is configured (eventlog in attestd.toml)")
        return
    rows = [(n, *_row(boot, now)) for n, boot in enumerate(kept, 1)]
    output.table(("boot", "first seen", "last seen", "kernel", "approved by", "command line"), rows)


def _row(boot: KeptBoot, now: PresentBoot) -> tuple[Any, ...]:
    return (
        format_time(boot.first_seen),
        f"{format_time(boot.last_seen)}{' (now)' if boot.digest == now.digest else ''}",
        boot.kernel,
        ", ".join(boot.approved) or text("nobody", WARN),
        boot.command_line,
    )


def _boot_json(number: int, boot: KeptBoot) -> dict[str, Any]:
    return {
        "boot": number,
        "digest": boot.digest,
        "kernel": boot.kernel,
        "command_line": boot.command_line,
        "approved": list(boot.approved),
        "first_seen": format_time(boot.first_seen),
        "last_seen": format_time(boot.last_seen),
        "pcrs": {boot.bank: {str(pcr): value.hex() for pcr, value in boot.pcrs.items()}},
    }


@click.command(
    "diff",
    cls=Command,
    example="""
attestd platform diff yesterday.eventlog today.eventlog
attestd platform diff
attestd platform diff 1 now
attestd platform diff now policy
""",
)
@click.argument("before", default=APPROVED, metavar="[BEFORE")
@click.argument("after", default=NOW, metavar="[AFTER]]")
@lines_option
@platform_option
@state_dir_option
@json_option
def diff_command(
    *,
    before: str,
    after: str,
    command_lines: tuple[Path, ...],
    name: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Compare two boots, event by event, in words.

    A boot is `now`, `approved` (the last whose state was), a number of attestd platform boots, or a file with an event
    log. Without any: approved and now. AFTER may be `policy`: then a boot is held against the platform policy, its
    approved values and its rules.

    Exit status: 0 the same was measured, or it is as approved; 1 it differs.
    """
    output, lines = Output(as_json=as_json), read_lines(command_lines)
    if after == POLICY:
        return _against_policy(before, name, state_dir, output)
    views = [_find(boot, name, state_dir) for boot in (before, after)]
    common = set(views[0].log.banks) & set(views[1].log.banks)
    if not common:
        raise UsageError(f"the logs have no bank in common: {views[0].log.banks} and {views[1].log.banks}")
    bank = best_bank(common)
    known = [*views[0].command_lines, *views[1].command_lines, *lines]
    changes = diff_events(*(view.meanings(bank, command_lines=known) for view in views))
    silent = _silent(views[0], views[1])
    if as_json:
        output.json(
            {
                "bank": bank,
                "before": views[0].title,
                "after": views[1].title,
                "same": not changes and not silent,
                "changes": [change_json(change) for change in changes],
                "unexplained": [{"pcr": pcr, "text": words} for pcr, words in silent.items()],
            }
        )
    elif not changes and not silent:
        output.line(mark(True), text(f" the same was measured, by {bank} digests", GOOD))
    for change in () if as_json else changes:
        output.line(text(str(change), WARN))
    for words in () if as_json else silent.values():
        output.line(text(words, WARN))
    return EXIT_DIFFERS if changes or silent else 0


def _find(boot: str, name: str | None, state_dir: str | None) -> BootView:
    view = None
    if boot == NOW:
        layout = find_client_layout(state_dir)
        if layout.configuration.exists():
            trust = load_own_trust(layout)
            view = present_state(platform_name(trust, name), trust, layout, state_dir).boot
        else:
            view = present(state_dir, pcrs={})
    return find_boot(boot, agent=AgentSocket.find(state_dir), present=view, platform=name)


def _silent(before: BootView, after: BootView) -> Mapping[int, str]:
    """PCRs that differ, where the logs do not say why, or not all of it."""
    return {
        pcr: f"PCR {pcr}: extended after the boot, by nothing that a log tells"
        for pcr in after.unexplained()
        if before.pcrs.get(pcr) != after.pcrs[pcr]
    }


def _against_policy(boot: str, name: str | None, state_dir: str | None, output: Output) -> int:
    trust = load_own_trust(find_client_layout(state_dir))
    policy = trust.platforms[platform_name(trust, name)]
    view = with_replayed(_find(boot, name, state_dir), policy.quoted.pcrs)
    findings = appraise_view(view, policy.boot)
    notes = [f"PCR {pcr}: no log explains its value" for pcr in view.unexplained()]
    notes += [] if policy.boot else ["the policy has no boot rules"]
    plan = plan_approval(
        trust,
        name=policy.name,
        values={pcr: view.pcrs[pcr] for pcr in policy.selection.pcrs},
        now=datetime.now(UTC),
    )
    wrong = [] if plan.is_approved else _values(view, policy)
    if output.as_json:
        output.json(
            {
                "platform": policy.name,
                "version": policy.version,
                "boot": view.title,
                "approved": plan.is_approved,
                "values": wrong,
                "findings": [finding_json(item) for item in findings],
                "notes": notes,
            }
        )
        return EXIT_DIFFERS if findings or not plan.is_approved else 0
    words = "is approved" if plan.is_approved else "is not approved"
    output.line(
        mark(plan.is_approved),
        f" the state of {view.title} {words} by platform {policy.name} {policy.version}",
    )
    for line in wrong:
        output.line("  ", text(line, WARN))
    for finding in findings:
        output.line(mark(False), text(f" {finding}", WARN))
    for note in notes:
        output.line("  ", text(note, DIM))
    return EXIT_DIFFERS if findings or not plan.is_approved else 0


def _values(view: BootView, policy: PlatformPolicy) -> list[str]:
    return [
        f"PCR {pcr}: {view.pcrs[pcr].hex()}, approved: {', '.join(item.hex() for item in policy.values.get(pcr, ())) or 'not recorded'}"
        for pcr in policy.selection.pcrs
        if view.pcrs[pcr] not in policy.values.get(pcr, ())
    ]
