"""`attestd rekey`."""

import os

import click

from attestd.agent.enrolment import enrol_elsewhere, enrol_here
from attestd.agent.rekey import Rekeyed, rekey
from attestd.cli.base import Command, confirm, json_option, state_dir_option
from attestd.cli.keys import ask_secret, open_key, passphrase_option
from attestd.cli.output import Output, say
from attestd.distribution.keyring import Keyring
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
@passphrase_option
@state_dir_option
@json_option
def rekey_command(
    *, yes: bool, lost: bool, others: tuple[str, ...], state_dir: str | None, as_json: bool
) -> None:
    """Make new TPM keys for this host.

    The agent must be stopped. The log is closed and goes on in a new one, sealed by the new keys; what the old keys sealed goes
    on verifying. Cut off, it is finished by the next call. Where others govern this host, it says whom to ask, and is
    called again.
    """
    layout = find_layout(state_dir)
    configuration = load_configuration(layout.configuration, os.environ)
    confirm(f"Replace the TPM keys of {layout.agent}?", yes=yes)
    keyring = Keyring(layout.authority, others=[open_key(uri) for uri in others], ask=ask_secret)
    here = not configuration.governance_url
    done = rekey(
        layout,
        configuration,
        lost=lost,
        enrol=enrol_here(layout, keyring, ask=ask_secret) if here else enrol_elsewhere(layout),
        epoch_key=keyring.open,
    )
    _show(done, Output(as_json=as_json))


def _show(done: Rekeyed, output: Output) -> None:
    if done.request is not None:
        say(
            f"the enrollers are to sign {done.request} (attestd governance enroll); then run attestd rekey again"
        )
    facts = {"host": done.host, "log": done.origin, "closed": done.closed, "request": done.request}
    if output.as_json:
        output.json({name: None if value is None else str(value) for name, value in facts.items()})
        return
    output.title("New keys" if done.request is None else "Waiting for the enrollers")
    output.facts([(name, value) for name, value in facts.items() if value is not None])
