"""`attestd init`."""

import os

import click
import msgspec

from attestd.agent.provision import Provisioned, choose_tpm, provision_standalone
from attestd.cli.base import Command, json_option, state_dir_option
from attestd.cli.output import WARN, Output, say
from attestd.cli.params import name_values
from attestd.paths import find_layout, load_configuration

__all__ = ["init_command"]


@click.command(
    "init",
    cls=Command,
    example="""
attestd init
attestd init --tpm embedded --state-dir /tmp/attestd-demo
attestd init --tpm device:/dev/tpmrm0 --pcrs 0,2,4,7,8,9 --label role=ci
""",
)
@click.option(
    "--tpm",
    default="auto",
    show_default=True,
    metavar="auto|embedded|TCTI",
    help="auto: this host's TPM, else a software TPM in the state directory.",
)
@click.option(
    "--standalone", is_flag=True, help="A host without a controller, with authorities of its own (default)."
)
@click.option(
    "--pcrs", metavar="LIST", help="The PCRs to approve in their present state, for example 0,2,4,7,8,9."
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME=VALUE",
    callback=name_values,
    help="For the host record.",
)
@state_dir_option
@json_option
def init_command(
    *,
    tpm: str,
    standalone: bool,
    pcrs: str | None,
    labels: dict[str, str],
    state_dir: str | None,
    as_json: bool,
) -> None:
    """Provision this host, and approve the state it is in.

    Can be run again at any time: it finishes what is missing and changes nothing that is there.
    """
    del standalone  # The one way there is as yet; the flag says so in scripts.
    layout = find_layout(state_dir)
    chosen = choose_tpm(tpm, layout, os.environ)
    if chosen.fallback is not None:
        say(f"WARNING: {chosen.fallback}: using a software TPM in {layout.tpm}", style=WARN)
    configuration = msgspec.structs.replace(
        load_configuration(layout.configuration, os.environ), tpm=chosen.tpm
    )
    found = provision_standalone(layout, configuration, pcrs=pcrs, labels=labels)
    for note in found.notes:
        say(note, style=WARN)
    _show(found, chosen.tpm, state_dir, Output(as_json=as_json))


def _show(found: Provisioned, tpm: str, state_dir: str | None, output: Output) -> None:
    facts = {
        "host": found.host,
        "log": found.log_origin,
        "tpm": tpm,
        "tier": found.tier,
        "platform": found.platform,
        "pcrs": str(found.selection),
    }
    if output.as_json:
        output.json({**facts, "fresh": found.fresh, "notes": list(found.notes)})
        return
    output.title("Initialised" if found.fresh else "Initialised before: nothing was changed")
    output.facts(list(facts.items()))
    if found.fresh:
        option = f" --state-dir {state_dir}" if state_dir else ""
        say("", prefix="")
        say("Next, run the agent, authorize a command, and run it:", prefix="")
        for line in (f"serve{option} &", f"authorization issue{option} -o id.auth.json -- id -u"):
            say(f"  attestd {line}", prefix="")
        say(f"  attestd exec{option} -a id.auth.json -- id -u", prefix="")
