"""`attestd init`."""

import os
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from attestd.agent.enrollers import Enroller
from attestd.agent.joining import Controllers
from attestd.agent.provision import Provisioned, choose_tpm, provision_joining, provision_standalone
from attestd.cli.base import Command, json_option, read_input, state_dir_option
from attestd.cli.keys import open_key, passphrase_option
from attestd.cli.output import WARN, Output, say
from attestd.cli.params import FILE, name_values
from attestd.distribution.signer import Authority
from attestd.errors import UsageError
from attestd.governance.signed import MAX_BYTES
from attestd.paths import find_layout, load_configuration

__all__ = ["init_command", "wait_option"]

wait_option = click.option(
    "--wait",
    "wait_s",
    type=click.IntRange(0, 604_800),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="With --controller: for how long to wait for operators' decisions.",
)


@click.command(
    "init",
    cls=Command,
    example="""
attestd init
attestd init --tpm embedded --state-dir /tmp/attestd-demo
attestd init --tpm device:/dev/tpmrm0 --pcrs 0,2,4,7,8,9 --label role=ci
attestd init --governance https://governance.example/v1 --root 1.root.json --epoch-key epoch.pem
attestd init --controller https://one.example:8440 --controller https://two.example:8440 --root 1.root.json
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
    "--governance",
    metavar="URL",
    help="Join the repository that is published there: https://, http://, or an absolute directory.",
)
@click.option(
    "--controller",
    "controllers",
    multiple=True,
    metavar="URL",
    help="Ask this enroller for the host record; once for each (governance: the first one's, unless named).",
)
@wait_option
@click.option(
    "--root",
    type=FILE,
    metavar="FILE",
    help="With --governance, --controller: the root of trust (N.root.json).",
)
@click.option(
    "--governance-ca",
    type=FILE,
    metavar="FILE",
    help="PEM of the authorities that may vouch for the server (default: the system's).",
)
@click.option(
    "--epoch-key",
    metavar="URI",
    help="With --governance: the epoch authority's key, which signs once for each TPM.",
)
@passphrase_option
@click.option(
    "--pcrs",
    metavar="LIST",
    help="The PCRs to approve in their present state, for example 0,2,4,7,8,9 (default: as the event log shows).",
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
    governance: str | None,
    root: Path | None,
    governance_ca: Path | None,
    controllers: tuple[str, ...],
    wait_s: int,
    epoch_key: str | None,
    pcrs: str | None,
    labels: dict[str, str],
    state_dir: str | None,
    as_json: bool,
) -> None:
    """Provision this host, and approve the state it is in.

    Can be run again at any time: it finishes what is missing and changes nothing that is there.
    """
    if controllers and governance is None:
        governance = f"{controllers[0].rstrip('/')}/governance"
    if governance is not None and (standalone or pcrs is not None):
        raise UsageError(
            "a host that joins a repository is measured as that says: no --standalone, no --pcrs"
        )
    if governance is None and (root, governance_ca, epoch_key) != (None, None, None):
        raise UsageError("--root, --governance-ca and --epoch-key go with --governance URL")
    layout = find_layout(state_dir)
    chosen = choose_tpm(tpm, layout, os.environ)
    if chosen.fallback is not None:
        say(f"WARNING: {chosen.fallback}: using a software TPM in {layout.tpm}", style=WARN)
    configuration = msgspec.structs.replace(
        load_configuration(layout.configuration, os.environ), tpm=chosen.tpm
    )
    if governance is None:
        found = provision_standalone(layout, configuration, pcrs=pcrs, labels=labels)
    else:
        if root is None:
            raise UsageError("--root FILE is needed: everything that is published is verified from it")
        if configuration.governance_url not in ("", governance):
            raise UsageError(
                f"this installation joins {configuration.governance_url} ({layout.configuration}), not {governance}"
            )
        configuration = msgspec.structs.replace(
            configuration,
            governance_url=governance,
            governance_ca=str(governance_ca.absolute()) if governance_ca else configuration.governance_ca,
        )
        found = provision_joining(
            layout,
            configuration,
            root=read_input(root, max_bytes=MAX_BYTES["root"]),
            epoch_key=None if controllers and epoch_key is None else _epoch_key(epoch_key),
            labels=labels,
            controllers=_asked(controllers, configuration.mesh_ca, wait_s) if controllers else None,
        )
    for note in found.notes:
        say(note, style=WARN)
    _show(found, chosen.tpm, state_dir, Output(as_json=as_json))


def _asked(urls: tuple[str, ...], ca: str, wait_s: int) -> Controllers:
    if len(set(urls)) != len(urls):
        raise UsageError("--controller: one of them is named twice")
    return Controllers([Enroller(url, ca=ca) for url in urls], wait_s, say)


def _epoch_key(uri: str | None) -> Callable[[], Authority]:
    def find() -> Authority:
        if uri is None:
            raise UsageError(
                "--epoch-key KEY is needed: this TPM's epoch is new, and only the epoch authority may set it"
            )
        return open_key(uri)

    return find


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
        request = None if found.request is None else str(found.request)
        record = None if found.record is None else str(found.record)
        ended = None if found.ended is None else str(found.ended)
        rest = {
            "request": request,
            "record": record,
            "ended": ended,
            "fresh": found.fresh,
            "notes": list(found.notes),
        }
        output.json({**facts, **rest})
        return
    output.title("Initialised" if found.fresh else "Initialised before: nothing was changed")
    output.facts(list(facts.items()))
    if found.record is not None:
        say("", prefix="")
        say(
            "The enrollers signed this host's record. Next, have it published; then run the agent:", prefix=""
        )
        ended = "" if found.ended is None else f" --ended {found.ended}"
        say(f"  attestd governance enroll {found.record}{ended}", prefix="")
    elif found.request is not None:
        say("", prefix="")
        say("Next, have the enrollers sign this host's record and publish it; then run the agent:", prefix="")
        say(f"  attestd governance enroll {found.request}", prefix="")
    elif found.fresh:
        option = f" --state-dir {state_dir}" if state_dir else ""
        say("", prefix="")
        say("Next, run the agent, authorize a command, and run it:", prefix="")
        for line in (f"serve{option} &", f"authorization issue{option} -o id.auth.json -- id -u"):
            say(f"  attestd {line}", prefix="")
        say(f"  attestd exec{option} -a id.auth.json -- id -u", prefix="")
