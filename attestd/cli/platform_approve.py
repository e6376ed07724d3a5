"""`attestd platform approve`."""

import contextlib
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from attestd.agent.ask import AgentSocket
from attestd.agent.boot_view import APPROVED, BootView, find_boot
from attestd.agent.platform_state import PlatformState, measure
from attestd.agent.state_file import MAX_STATE_BYTES, parse_state
from attestd.cli.approving import Signing, approve, governing, platform_name, platform_option, signing_options
from attestd.cli.base import Command, json_option, read_input, state_dir_option
from attestd.cli.boots import present
from attestd.cli.output import Output, say
from attestd.cli.params import FILE
from attestd.distribution.approve import plan_approval
from attestd.errors import AttestdError, MalformedError
from attestd.governance.trust import Trust
from attestd.paths import Layout, find_client_layout, load_configuration

__all__ = ["approve_command", "approved_boot", "present_state"]


@click.command(
    "approve",
    cls=Command,
    example="""
attestd platform approve --yes
attestd platform approve --yes --expires 2h
attestd platform approve --yes --from-evidence evidence.json
""",
)
@signing_options
@click.option(
    "--from-evidence",
    "evidence",
    type=FILE,
    metavar="FILE",
    help="Of another time or host: attestd platform measure --json, attestd quote, or predicted values.",
)
@platform_option
@state_dir_option
@json_option
def approve_command(
    *,
    yes: bool,
    key: str | None,
    public_key: Path | None,
    directory: Path | None,
    expires: int | None,
    evidence: Path | None,
    name: str | None,
    state_dir: str | None,
    as_json: bool,
) -> None:
    """Approve the state that this host is in now.

    Once it is published the TPM releases in it. Approvals that are in force stay. The new version of the platform policy
    is signed with the platform key; the old one goes to the history, for old receipts name it.

    With --from-evidence the state is that of a file, for a host that is denied: a quote is verified against its host's
    record, and shows no age; values without one are taken as they stand.

    What is approved is shown first: values, what was measured into them, and what changed since the last approved boot.
    """
    layout = find_client_layout(state_dir)
    # Evidence is of any host: who approves it need not be one.
    trust = governing(layout, None if evidence is None else directory)
    policy = platform_name(trust, name)
    if evidence is None:
        state = present_state(policy, trust, layout, state_dir)
    else:
        state = parse_state(read_input(evidence, max_bytes=MAX_STATE_BYTES), trust=trust)
    pcrs = trust.platforms[policy].selection.pcrs
    if missing := [pcr for pcr in pcrs if pcr not in state.values]:
        raise MalformedError(
            f"{evidence}: no value of PCR {missing[0]}, which platform policy {policy!r} selects"
        )
    values = {pcr: state.values[pcr] for pcr in pcrs}
    plan = plan_approval(trust, name=policy, values=values, now=datetime.now(UTC))
    signing = Signing(key, public_key, directory, yes, expires)
    approve(
        plan,
        state,
        signing,
        approved=approved_boot(policy, state_dir),
        layout=layout,
        output=Output(as_json=as_json),
    )


def present_state(policy: str, trust: Trust, layout: Layout, state_dir: str | None) -> PlatformState:
    """This host's state, and this boot's logs if they can be read.

    Raises:
        AttestdError: As `measure`.
    """
    configuration = load_configuration(layout.configuration, os.environ)
    measured = measure(
        policy, trust=trust, agent=AgentSocket.find(state_dir), layout=layout, configuration=configuration
    )
    try:
        boot = present(state_dir, pcrs=measured.values)
    except AttestdError as error:
        boot = None
        say(f"the logs of this boot are not known: {error}")
    return replace(measured, boot=boot)


def approved_boot(policy: str, state_dir: str | None) -> BootView | None:
    """The boot that this policy approved last, if the agent tells of one."""
    with contextlib.suppress(AttestdError):
        return find_boot(APPROVED, agent=AgentSocket.find(state_dir), present=None, platform=policy)
    return None
