"""`attestd rekey`."""

import os

import click

from attestd.agent.enrolment import Enrol, EnrolElsewhere, EnrolHere
from attestd.agent.rekey import Rekeyed, rekey
from attestd.cli.base import Command, confirm, json_option, state_dir_option
from attestd.cli.init import wait_option
from attestd.cli.keys import ask_secret, open_key, passphrase_option
from attestd.cli.output import Output, say
from attestd.distribution.keyring import Keyring
from attestd.errors import UsageError
from attestd.paths import find_layout, load_configuration

__all__ = ["rekey_command"]


@click.command(
    "rekey",
    cls=Command,
    example="""
attestd init --tpm embedded --state-dir /tmp/attestd-new
attestd rekey --yes --state-dir /tmp/attestd-new
""",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--lost",
    is_flag=True,
    help="The old keys, or the log, are gone (TPM cleared, disk lost) or not to be used.",
)
@click.option(
    "--with",
    "others",
    multiple=True,
    metavar="KEY",
    help="A key that must sign and is not in this host's authority/: an enroller, the epoch authority.",
)
@click.option(
    "--controller",
    "controllers",
    multiple=True,
    metavar="URL",
    help="Ask this enroller for the new record; once for each (default: those of mesh.json, if it names any).",
)
@wait_option
@passphrase_option
@state_dir_option
@json_option
def rekey_command(
    *,
    yes: bool,
    lost: bool,
    others: tuple[str, ...],
    controllers: tuple[str, ...],
    wait_s: int,
    state_dir: str | None,
    as_json: bool,
) -> None:
    """Make new TPM keys for this host.

    The agent must be stopped. The log is closed and goes on in a new one, sealed by the new keys; what the old keys sealed goes
    on verifying. Cut off, it is finished by the next call. Where others govern this host, controllers sign its new record, or it
    says whom to ask; when that is published, it is called again.
    """
    layout = find_layout(state_dir)
    configuration = load_configuration(layout.configuration, os.environ)
    confirm(f"Replace the TPM keys of {layout.agent}?", yes=yes)
    keyring = Keyring(layout.authority, others=[open_key(uri) for uri in others], ask=ask_secret)
    enrol: Enrol = EnrolHere(layout, keyring, ask=ask_secret)
    if configuration.governance_url:
        enrol = EnrolElsewhere(
            layout, keyring, urls=controllers, ca=configuration.mesh_ca, wait_s=wait_s, say=say
        )
    elif controllers:
        raise UsageError("--controller: this host stands alone, and signs its record itself")
    done = rekey(layout, configuration, lost=lost, enrol=enrol)
    _show(done, Output(as_json=as_json))


def _show(done: Rekeyed, output: Output) -> None:
    facts = {"host": done.host, "log": done.origin, "closed": done.closed}
    waits = [str(path) for path in done.waits]
    if waits:
        first, *ended = waits
        command = " --ended ".join(["attestd governance enroll " + first, *ended])
        say(f"next, at the governance: {command}; when it is published, attestd rekey again")
    if output.as_json:
        shown = {name: None if value is None else str(value) for name, value in facts.items()}
        output.json({**shown, "waits": waits})
        return
    output.title("Waiting to be published" if waits else "New keys")
    output.facts([(name, value) for name, value in facts.items() if value is not None])
