"""Approving a platform state: what a person sees before it is signed, and what is done when they agree."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from attestd.agent.boot_view import BootView, appraise_view, with_replayed
from attestd.agent.platform_state import PlatformState
from attestd.cli.base import confirm
from attestd.cli.boots import change_json
from attestd.cli.keys import ask_secret, key_options, open_key
from attestd.cli.output import DIM, HEAD, WARN, Output, mark, say
from attestd.cli.params import DURATION
from attestd.distribution.approve import Plan, stage_approval
from attestd.distribution.local import load_own_trust
from attestd.distribution.repository import Repository
from attestd.distribution.standalone import open_local_repository, publish_local
from attestd.errors import MalformedError, UsageError
from attestd.governance.trust import Trust
from attestd.paths import Layout
from attestd.plain import counted
from attestd.strict import format_time
from attestd.tcg.eventlog.diff import Change, diff_events
from attestd.tcg.eventlog.reading import Kind

__all__ = [
    "Signing",
    "approve",
    "governing",
    "plan_json",
    "platform_name",
    "platform_option",
    "signing_options",
    "staging_option",
]

_F = TypeVar("_F", bound=Callable[..., Any])
_BANK = "sha256"

platform_option = click.option(
    "--platform", "name", metavar="NAME", help="The platform policy (default: the only one)."
)


@dataclass(frozen=True)
class Signing:
    """Who signs, and where it goes.

    Attributes:
        key, public_key: The platform key; None: this host's own.
        directory: The repository to stage in; None: this host's own, published at once.
        expires: Until when the state is approved, in seconds from now; None: without end.
        until: Until when the states are approved that are so already, likewise.
    """

    key: str | None
    public_key: Path | None
    directory: Path | None
    yes: bool
    expires: int | None
    until: int | None = None


staging_option = click.option(
    "--repository",
    "directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Stage it there, to be signed and published by others (default: this host's own, published at once).",
)


def signing_options(command: _F) -> _F:
    """`--yes`, `--key`, `--public-key`, `--repository`, `--expires`."""
    for decorate in (
        click.option(
            "--expires",
            type=DURATION,
            metavar="DURATION",
            help="Approve the state for that long only: 2h, 7d.",
        ),
        staging_option,
        key_options("this host's authority/platform.pem"),
        click.option("--yes", is_flag=True, help="Do not ask."),
    ):
        command = decorate(command)
    return command


def platform_name(trust: Trust, name: str | None) -> str:
    """The platform policy that was chosen, or the only one.

    Raises:
        UsageError: There is no such policy, or there are several.
    """
    if name is None and len(trust.platforms) == 1:
        return next(iter(trust.platforms))
    if name is None or name not in trust.platforms:
        raise UsageError(f"choose a platform policy with --platform: {', '.join(trust.platforms)}")
    return name


def governing(layout: Layout, directory: Path | None) -> Trust:
    """Whose governance an approval is about: a repository's, or what this host trusts.

    Raises:
        AttestdError: As `load_own_trust`, `Repository.validate`.
    """
    return load_own_trust(layout) if directory is None else Repository(directory).validate().trust


def plan_json(plan: Plan, state: PlatformState) -> dict[str, Any]:
    """A plan, for machines."""
    return {
        "platform": plan.policy.name,
        "version": plan.policy.version,
        "approved": plan.is_approved,
        "ends": None if plan.ends is None else format_time(plan.ends),
        "attested": state.attested,
        "epoch": plan.epoch,
        "pcr_digest": plan.pcr_digest.hex(),
        "bank": plan.policy.selection.bank,
        "pcrs": {
            str(index): {
                "now": value.hex(),
                "approved": [item.hex() for item in plan.policy.values.get(index, ())],
            }
            for index, value in plan.values.items()
        },
    }


def approve(
    plan: Plan,
    state: PlatformState,
    signing: Signing,
    *,
    approved: BootView | None,
    layout: Layout,
    output: Output,
) -> None:
    """Shows a state, asks, signs, publishes or stages.

    Args:
        plan: What would be approved.
        state: How it is known.
        signing: Who signs.
        approved: The boot that was approved last, to say what changed.
        layout: Of this host.
        output: For the result.

    Raises:
        AttestdError: As `open_key`, `stage_approval`, `publish_local`.
    """
    changes = _changes(approved, state.boot, plan)
    shown = {
        **plan_json(plan, state),
        "changes": [change_json(change) for change in changes or ()],
        "unexplained": list(_unproved(state.boot, plan)),
    }
    now = datetime.now(UTC).replace(microsecond=0)
    ends, others_end = _after(now, signing.expires), _after(now, signing.until)
    _say_plan(plan, state, changes, approved)
    if plan.is_approved and (ends, others_end, plan.ends) == (None, None, None):
        say("this state is approved already: nothing was changed")
        if output.as_json:
            output.json(shown)
        return
    authority = open_key(signing.key or str(layout.authority / "platform.pem"), public_key=signing.public_key)
    _say_ends(ends, others_end)
    confirm("Approve this state?", yes=signing.yes)
    directory = signing.directory
    repository = open_local_repository(layout.authority) if directory is None else Repository(directory)
    policy = stage_approval(
        plan, repository=repository, key=authority, not_after=ends, others_not_after=others_end
    )
    if directory is None:
        publish_local(repository, layout.authority, {}, ask=ask_secret)
    else:
        say(f"staged in {directory}; next: attestd governance diff, sign, publish")
    if output.as_json:
        told = None if ends is None else format_time(ends)
        output.json({**shown, "version": policy.version, "approved": True, "ends": told})
    else:
        words = (
            f" platform {policy.name} version {policy.version}: {counted(len(policy.approvals), 'approval')}"
        )
        output.line(mark(True), words)


def _after(now: datetime, seconds: int | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=seconds)


def _changes(approved: BootView | None, boot: BootView | None, plan: Plan) -> tuple[Change, ...] | None:
    """What the state's boot measured otherwise than the approved one; None: not both are known in this bank."""
    if approved is None or boot is None or any(_BANK not in view.log.banks for view in (approved, boot)):
        return None
    lines = (*approved.command_lines, *boot.command_lines)
    found = diff_events(
        approved.meanings(_BANK, command_lines=lines), boot.meanings(_BANK, command_lines=lines)
    )
    unproved = _unproved(boot, plan)
    return tuple(change for change in found if change.pcr in plan.values and change.pcr not in unproved)


def _unproved(boot: BootView | None, plan: Plan) -> tuple[int, ...]:
    """PCRs of which nobody knows what was measured: the log that came with the values does not lead to them."""
    return () if boot is None else tuple(pcr for pcr in boot.unexplained() if pcr in plan.values)


def _say_plan(
    plan: Plan, state: PlatformState, changes: Sequence[Change] | None, approved: BootView | None
) -> None:
    policy = plan.policy
    say(f"Platform {policy.name}, version {policy.version}, at epoch {plan.epoch}", style=HEAD, prefix="")
    say(f"  PCRs {policy.selection}, from {state.source}", prefix="")
    for index, value in plan.values.items():
        is_known = value in policy.values.get(index, ())
        words = "" if is_known else "  differs from every approved state"
        say(f"  {index:>2}  {value.hex()}{words}", style="" if is_known else WARN, prefix="")
        _say_events(state.boot, index)
    say(f"  composite {plan.pcr_digest.hex()}", prefix="")
    if changes is not None and approved is not None:
        say(f"  measured otherwise than {approved.title}, approved:", prefix="")
        unknown = [f"PCR {pcr}: not known: no log explains its value" for pcr in _unproved(state.boot, plan)]
        for line in (*changes, *unknown) or ("nothing",):
            say(f"    {line}", style=WARN if changes or unknown else "", prefix="")
    stays = "stays" if plan.kept == 1 else "stay"
    say(f"  beside {counted(plan.kept, 'approval')} that {stays} in force", prefix="")
    if not state.attested:
        say(f"  no quote proves these values: they are from {state.source}", style=WARN, prefix="")
    for item in state.assumptions:
        say(f"    provided that {item}", prefix="")
    _say_rules(state.boot, plan)


def _say_events(boot: BootView | None, pcr: int) -> None:
    """What was measured into a PCR, if that explains its value."""
    if boot is None or _BANK not in boot.log.banks:
        return
    if pcr in boot.unexplained():
        say("        no log explains this value", style=WARN, prefix="")
        return
    for item in boot.meanings(_BANK):
        if item.event.pcr == pcr and item.kind != Kind.SECTION_NAME:
            say(f"        {item.name}: {item.value}", style=DIM, prefix="")


def _say_rules(boot: BootView | None, plan: Plan) -> None:
    """An approval is no release where the rules deny."""
    rules = plan.policy.boot
    if boot is None or rules is None or _BANK not in boot.log.banks:
        return
    try:
        findings = appraise_view(with_replayed(boot, rules.pcrs), rules)
    except MalformedError as error:
        say(f"  not looked at: {error}", style=WARN, prefix="")
        return
    for finding in findings:
        say(f"  the policy's boot rules deny this state: {finding}", style=WARN, prefix="")


def _say_ends(ends: datetime | None, others: datetime | None) -> None:
    if ends is not None:
        say(f"  this approval ends {format_time(ends)}", style=WARN, prefix="")
    if others is not None:
        say(f"  approvals of other states end {format_time(others)}, or before", style=WARN, prefix="")
