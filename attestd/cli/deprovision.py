"""`attestd deprovision`."""

import os

import click

from attestd.agent.deprovision import deprovision
from attestd.cli.base import Command, confirm, json_option, state_dir_option
from attestd.cli.output import WARN, Output, say
from attestd.paths import find_layout, load_configuration

__all__ = ["deprovision_command"]


@click.command(
    "deprovision",
    cls=Command,
    example="""
attestd init --tpm embedded --state-dir /tmp/attestd-gone
attestd deprovision --yes --state-dir /tmp/attestd-gone
""",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--purge", is_flag=True, help="Remove the log, trust and authority keys too: nothing is left.")
@state_dir_option
@json_option
def deprovision_command(*, yes: bool, purge: bool, state_dir: str | None, as_json: bool) -> None:
    """Take this host out of service.

    Undefines attestd's indices in the TPM and removes the keys; the agent must be stopped. Log and trust are kept as evidence.
    """
    layout = find_layout(state_dir)
    configuration = load_configuration(layout.configuration, os.environ)
    what = "everything, the log included," if purge else "the keys"
    confirm(f"Remove {what} of {layout.agent}?", yes=yes)
    done = deprovision(layout, configuration, purge=purge)
    for note in done.notes:
        say(note, style=WARN)
    output = Output(as_json=as_json)
    evidence = None if done.evidence is None else str(done.evidence)
    if as_json:
        output.json({"undefined": list(done.undefined), "evidence": evidence, "notes": list(done.notes)})
        return
    output.title("Deprovisioned")
    output.facts([("undefined", list(done.undefined) or None), ("evidence", evidence)])
