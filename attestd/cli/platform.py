"""`attestd platform`: which states may release, and in which one this host is."""

import os
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

import click

from attestd.agent.ask import AgentSocket
from attestd.agent.measured import Measured, file_digest, measure
from attestd.cli.base import NounGroup, confirm, json_option, state_dir_option
from attestd.cli.keys import ask_secret, key_options, open_key
from attestd.cli.measure import diff_command, measure_command
from attestd.cli.output import BAD, DIM, GOOD, HEAD, WARN, Output, counted, mark, say, text
from attestd.cli.params import FILE, HEX
from attestd.distribution.approve import Plan, plan_approval, stage_approval
from attestd.distribution.local import load_own_trust
from attestd.distribution.repository import Repository
from attestd.distribution.standalone import open_local_repository, publish_local
from attestd.errors import AttestdError, UsageError
from attestd.governance.trust import Trust
from attestd.paths import Layout, find_client_layout, load_configuration

__all__ = ["platform_command"]


@click.group(
    "platform",
    cls=NounGroup,
    example="""
attestd platform show
attestd platform approve
""",
)
def platform_command() -> None:
    """Platform states: measured now, and approved."""


platform_command.add_command(measure_command)
platform_command.add_command(diff_command)


_name_option = click.option(
    "--platform", "name", metavar="NAME", help="The platform policy (default: the only one)."
)


def _trust(layout: Layout) -> Trust:
    return load_own_trust(layout)


def _name(trust: Trust, name: str | None) -> str:
    if name is None and len(trust.platforms) == 1:
        return next(iter(trust.platforms))
    if name is None or name not in trust.platforms:
        raise UsageError(f"choose a platform policy with --platform: {', '.join(trust.platforms)}")
    return name


def _measure(name: str, trust: Trust, layout: Layout, state_dir: str | None) -> Measured:
    configuration = load_configuration(layout.configuration, os.environ)
    return measure(
        name, trust=trust, agent=AgentSocket.find(state_dir), layout=layout, configuration=configuration
    )


@platform_command.command("show", example="attestd platform show\nattestd platform show --json")
@_name_option
@state_dir_option
@json_option
def show_command(*, name: str | None, state_dir: str | None, as_json: bool) -> None:
    """Compare the present PCR values with the approved ones."""
    layout = find_client_layout(state_dir)
    trust = _trust(layout)
    measured = _measure(_name(trust, name), trust, layout, state_dir)
    plan = plan_approval(trust, name=_name(trust, name), values=measured.values, now=datetime.now(UTC))
    output = Output(as_json=as_json)
    if as_json:
        output.json(_plan_json(plan, measured))
        return
    policy = plan.policy
    state = (
        text(" approved", GOOD)
        if plan.is_approved
        else text(" NOT APPROVED: the TPM refuses to release", BAD)
    )
    output.title(f"Platform {policy.name}, version {policy.version}")
    output.line("  ", mark(plan.is_approved), state)
    output.facts(
        [
            ("PCRs", f"{measured.selection}, from {measured.source}"),
            ("composite", plan.pcr_digest.hex()),
            ("approvals", f"{plan.kept} in force at epoch {plan.epoch}, {len(policy.approvals)} in all"),
            ("evidence", f"tier {policy.min_tier} or stronger, user space {', '.join(policy.userspace)}"),
        ]
    )
    output.table(("", "PCR", "now", "approved"), _rows(plan))


def _rows(plan: Plan) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for index, value in plan.values.items():
        allowed = plan.policy.values.get(index, ())
        known = value in allowed
        others = "the same" if known else [item.hex() for item in allowed] or "not recorded"
        rows.append(
            (mark(known), index, text(value.hex(), "" if known else BAD), text(others, DIM if known else ""))
        )
    return rows


def _plan_json(plan: Plan, measured: Measured) -> dict[str, object]:
    return {
        "platform": plan.policy.name,
        "version": plan.policy.version,
        "approved": plan.is_approved,
        "attested": measured.attested,
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


@platform_command.command("approve", example="attestd platform approve\nattestd platform approve --yes")
@click.option("--yes", is_flag=True, help="Do not ask.")
@key_options("this host's authority/platform.pem")
@click.option(
    "--repository",
    "directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Stage it there, to be signed and published by others (default: this host's own, published at once).",
)
@_name_option
@state_dir_option
@json_option
def approve_command(
    *,
    yes: bool,
    key: str | None,
    public_key: Path | None,
    directory: Path | None,
    name: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Approve the state that this host is in now.

    Once it is published the TPM releases in it. Approvals that are in force stay. The new version of the platform policy
    is signed with the platform key; the old one goes to the history, for old receipts name it.
    """
    layout = find_client_layout(state_dir)
    trust = _trust(layout)
    measured = _measure(_name(trust, name), trust, layout, state_dir)
    plan = plan_approval(trust, name=_name(trust, name), values=measured.values, now=datetime.now(UTC))
    output = Output(as_json=as_json)
    if plan.is_approved:
        _say_plan(plan, measured)
        say("this state is approved already: nothing was changed")
        if as_json:
            output.json(_plan_json(plan, measured))
        return 0
    authority = open_key(key or str(layout.authority / "platform.pem"), public_key=public_key)
    _say_plan(plan, measured)
    confirm("Approve this state?", yes=yes)
    repository = open_local_repository(layout.authority) if directory is None else Repository(directory)
    policy = stage_approval(plan, repository=repository, key=authority)
    if directory is None:
        publish_local(repository, layout.authority, {}, ask=ask_secret)
    else:
        say(f"staged in {directory}; next: attestd governance diff, sign, publish")
    if as_json:
        output.json({**_plan_json(plan, measured), "version": policy.version, "approved": True})
    else:
        output.line(
            mark(True),
            f" platform {policy.name} version {policy.version}: {counted(len(policy.approvals), 'approval')}",
        )
    return 0


def _say_plan(plan: Plan, measured: Measured) -> None:
    say(
        f"Platform {plan.policy.name}, version {plan.policy.version}, at epoch {plan.epoch}",
        style=HEAD,
        prefix="",
    )
    say(f"  PCRs {measured.selection}, from {measured.source}", prefix="")
    for index, value in plan.values.items():
        known = value in plan.policy.values.get(index, ())
        words = "" if known else "  differs from every approved state"
        say(f"  {index:>2}  {value.hex()}{words}", style="" if known else WARN, prefix="")
    say(f"  composite {plan.pcr_digest.hex()}", prefix="")
    say(
        f"  beside {counted(plan.kept, 'approval')} that {'stays' if plan.kept == 1 else 'stay'} in force",
        prefix="",
    )
    if not measured.attested:
        say("  no quote proves these values: they were read by this program", style=WARN, prefix="")


@platform_command.command(
    "extend",
    example="""
attestd platform extend --pcr 23 /etc/hostname
attestd platform extend --pcr 23 --digest e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
""",
)
@click.option("--pcr", type=click.IntRange(0, 23), required=True, help="Which PCR.")
@click.option("--digest", type=HEX, help="The SHA-256 to extend, instead of a file's.")
@state_dir_option
@json_option
@click.argument("file", required=False, type=FILE)
def extend_command(
    *, pcr: int, digest: bytes | None, state_dir: str | None, as_json: bool, file: Path | None
) -> None:
    """Measure a file or digest into a PCR.

    Through the agent; only a reboot takes it back.
    """
    if (file is None) == (digest is None):
        raise click.UsageError("either a FILE or --digest is needed")
    measured = file_digest(file) if file is not None else digest or b""
    answer = AgentSocket.find(state_dir).ask("extend", pcr=pcr, data=b64encode(measured).decode())
    output = Output(as_json=as_json)
    if as_json:
        output.json(answer)
    else:
        output.line(f"PCR {answer['pcr']} extended with sha256 {answer['sha256']}")
    _warn_if_approved(pcr, state_dir)


def _warn_if_approved(pcr: int, state_dir: str | None) -> None:
    try:
        trust = _trust(find_client_layout(state_dir))
    except AttestdError:
        return  # The extension is done; who cannot read the policies is told nothing about them.
    for name, policy in trust.platforms.items():
        if pcr in policy.selection.pcrs:
            say(
                f"PCR {pcr} is part of platform policy {name!r}: the TPM refuses to release until the new state is"
                " approved (attestd platform approve) or the host reboots",
                style=WARN,
            )
