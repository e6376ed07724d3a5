"""`attestd platform`: which states may release, and in which one this host is."""

import os
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

import click

from attestd.agent.ask import AgentSocket
from attestd.agent.platform_state import file_digest, measure
from attestd.cli.approving import plan_json, platform_name, platform_option
from attestd.cli.base import NounGroup, json_option, state_dir_option
from attestd.cli.measure import measure_command
from attestd.cli.output import BAD, DIM, GOOD, WARN, Output, mark, say, text
from attestd.cli.params import FILE, HEX
from attestd.cli.platform_approve import approve_command
from attestd.cli.platform_diff import boots_command, diff_command
from attestd.cli.platform_predict import predict_command
from attestd.cli.platform_rules import rules_command
from attestd.distribution.approve import Plan, plan_approval
from attestd.distribution.local import load_own_trust
from attestd.errors import AttestdError
from attestd.paths import find_client_layout, load_configuration
from attestd.strict import format_time

__all__ = ["platform_command"]


@click.group(
    "platform",
    cls=NounGroup,
    example="""
attestd platform show
attestd platform approve --yes
""",
)
def platform_command() -> None:
    """Platform states: measured now, and approved."""


platform_command.add_command(measure_command)
platform_command.add_command(diff_command)
platform_command.add_command(boots_command)
platform_command.add_command(predict_command)
platform_command.add_command(approve_command)
platform_command.add_command(rules_command)


@platform_command.command("show", example="attestd platform show\nattestd platform show --json")
@platform_option
@state_dir_option
@json_option
def show_command(*, name: str | None, state_dir: str | None, as_json: bool) -> None:
    """Compare the present PCR values with the approved ones."""
    layout = find_client_layout(state_dir)
    trust = load_own_trust(layout)
    chosen = platform_name(trust, name)
    configuration = load_configuration(layout.configuration, os.environ)
    measured = measure(
        chosen, trust=trust, agent=AgentSocket.find(state_dir), layout=layout, configuration=configuration
    )
    plan = plan_approval(trust, name=chosen, values=measured.values, now=datetime.now(UTC))
    output = Output(as_json=as_json)
    if as_json:
        output.json(plan_json(plan, measured))
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
            ("PCRs", f"{policy.selection}, from {measured.source}"),
            ("composite", plan.pcr_digest.hex()),
            ("until", None if plan.ends is None else format_time(plan.ends)),
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
        trust = load_own_trust(find_client_layout(state_dir))
    except AttestdError:
        return  # The extension is done; who cannot read the policies is told nothing about them.
    for name, policy in trust.platforms.items():
        if pcr in policy.selection.pcrs:
            say(
                f"PCR {pcr} is part of platform policy {name!r}: the TPM refuses to release until the new state is"
                " approved (attestd platform approve) or the host reboots",
                style=WARN,
            )
