"""`attestd controller`: the mesh controller, on a machine that need not have a TPM."""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

import click

from attestd.cli.base import Command, LazyGroup, json_option, read_input, state_dir_option
from attestd.cli.output import Output, say
from attestd.errors import AttestdError, RollbackError, UsageError
from attestd.governance.signed import MAX_BYTES
from attestd.journal import event, is_journal, logging_to_stderr

__all__ = ["controller_command", "controller_module", "place_of", "system_option"]

# As `configuration.Role`, which hosts do not have.
_ROLES: Final = ("governance", "enroller", "verifier", "witness", "lineage")
EXIT_USAGE: Final = 64
EXIT_CANNOT_SERVE: Final = 69
EXIT_ROLLBACK: Final = 1  # As what does not verify: to start again would not help, and the unit does not.


def controller_module(name: str) -> ModuleType:
    """A module of the controller, whose packages hosts do not have."""
    import importlib  # noqa: PLC0415 - as what it imports: only where it is needed

    try:
        return importlib.import_module(f"attestd.controller.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("attestd"):
            raise
        package = (error.name or "").partition(".")[0]
        raise UsageError(
            f"the controller's packages are not installed ({package}): make install CONTROLLER=1"
        ) from error


@click.group(
    "controller",
    cls=LazyGroup,
    modules={
        **dict.fromkeys(("hosts", "enroll", "approve", "revoke"), "attestd.cli.controller_hosts"),
        "receipts": "attestd.cli.controller_receipts",
    },
    example="""
attestd controller init --state-dir /tmp/mesh --role witness --witness-name witness.example/1 --witness-logs logs
attestd controller serve --state-dir /tmp/mesh &
""",
)
def controller_command() -> None:
    """Enrol, verify and witness hosts: the mesh controller."""


system_option = click.option(
    "--system", is_flag=True, help="The service's places, whoever runs this (what its unit says)."
)


@controller_command.command(
    "init",
    cls=Command,
    example="""
attestd controller init --role governance --role witness --governance /srv/web --root 1.root.json \\
    --witness-name witness.example/1
attestd controller init
""",
)
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(_ROLES),
    metavar="ROLE",
    help=f"Switch a role on: {', '.join(_ROLES)}.",
)
@click.option("--listen", metavar="HOST:PORT", help="Where to listen (default: 127.0.0.1:8440).")
@click.option(
    "--database", metavar="URL", help="postgresql+psycopg://... (default: SQLite in the state directory)."
)
@click.option("--governance", metavar="DIR", help="The directory that was published.")
@click.option(
    "--root",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The root of trust of that governance, which you have by a way that you trust.",
)
@click.option("--enroller-key", metavar="URI", help="Signs host records: a file, or hsm:, awskms:, ...")
@click.option("--enroller-passphrase-file", metavar="FILE", help="File with that key's passphrase or PIN.")
@click.option(
    "--epoch-key", metavar="URI", help="The epoch authority's key, for the first write in each TPM."
)
@click.option(
    "--ak-trust-domain",
    metavar="DOMAIN",
    help="Issue certificates of hosts' attestation keys, named spiffe://DOMAIN/host/HOST-ID.",
)
@click.option("--url", metavar="URL", help="Where hosts reach it, for mesh.json (default: where it listens).")
@click.option("--verifier-name", metavar="NAME", help="The verifier's name in mesh.json.")
@click.option(
    "--verifier-key",
    metavar="URI",
    help="Signs attestation results: a file, hsm:, ... (default: it makes one).",
)
@click.option("--verifier-passphrase-file", metavar="FILE", help="File with that key's passphrase or PIN.")
@click.option("--witness-name", metavar="NAME", help="The name in this witness's signatures.")
@click.option("--witness-logs", metavar="FILE", help="Further logs to witness: a vkey a line.")
@click.option(
    "--join",
    is_flag=True,
    help="Others use this database: it is the newest there is, and their keys are here.",
)
@system_option
@json_option
@state_dir_option
def init(
    *,
    roles: tuple[str, ...],
    root: Path | None,
    join: bool,
    system: bool,
    as_json: bool,
    state_dir: str | None,
    **options: str | None,
) -> None:
    """Make configuration, database and keys; or update the database.

    With options it writes the configuration, which must not be there yet; without, it goes by the one that is there. What
    is there stays as it is: to run it again does no harm.
    """
    configurations, service = controller_module("configuration"), controller_module("service")
    layout = configurations.find_controller_layout(state_dir, system=place_of(state_dir, system=system))
    values = {name: value for name, value in options.items() if value is not None}
    is_new = bool(roles or values)
    if is_new:
        configurations.write_controller_configuration(layout.configuration, roles=roles, values=values)
    try:
        configuration = configurations.load_controller_configuration(layout.configuration, os.environ)
        if root is not None:
            service.install_root(layout, read_input(root, max_bytes=MAX_BYTES["root"]))
        done = service.initialise(layout, configuration, join=join)
    except AttestdError:
        if is_new:  # To be said again, and better.
            layout.configuration.unlink()
        raise
    output = Output(as_json=as_json)
    ak_authority = None if done.ak_authority is None else str(done.ak_authority)
    facts = {
        "configuration": str(layout.configuration),
        "state": str(layout.state),
        "database": "made or changed" if done.migrated else "as it was",
    }
    if as_json:
        node = done.verifier
        mesh = None if node is None else {node.name: {"url": node.url, "key": node.key}}
        rest = {"witness_keys": list(done.witness_keys), "mesh_verifiers": mesh, "ak_authority": ak_authority}
        output.json({**facts, **rest})
        return
    output.title("Controller")
    keys = str(layout.state / service.WITNESS_VKEYS) if done.witness_keys else None
    output.facts(
        [
            *facts.items(),
            ("witness keys", keys),
            ("Ed25519", done.witness_keys[0] if keys else None),
            ("AK authority", ak_authority),
        ]
    )
    if (node := done.verifier) is not None:
        output.title("For mesh.json")
        output.facts([("verifier", node.name), ("url", node.url), ("key", node.key)])
        public = layout.state / service.VERIFIER_PUBLIC
        witness = "" if keys is None else f" --witness {keys}"
        say(
            f"next, at the governance: attestd governance mesh {node.name} --url {node.url} --verifier {public}{witness}"
        )


@controller_command.command(
    "serve",
    cls=Command,
    example="""
attestd controller serve
attestd controller serve --state-dir /tmp/mesh &
""",
)
@click.option("--verbose", is_flag=True, help="Also say what is of interest to developers only.")
@system_option
@state_dir_option
def serve(*, verbose: bool, system: bool, state_dir: str | None) -> int:
    """Run the controller, until SIGTERM or SIGINT.

    Exit status 69: it cannot serve, and says why; 64: its configuration is not usable; 1: the database is older than what
    the witness has cosigned, which is for a person to look at.
    """
    configurations, service = controller_module("configuration"), controller_module("service")
    layout = configurations.find_controller_layout(state_dir, system=place_of(state_dir, system=system))
    with logging_to_stderr(verbose=verbose) as log:
        try:
            configuration = configurations.load_controller_configuration(layout.configuration, os.environ)
            service.serve(layout, configuration, log)
        except AttestdError as error:
            if is_journal(sys.stderr):
                log.critical(event("controller.cannot_serve", error=error))
            else:
                say(f"cannot serve: {error}")
            if isinstance(error, RollbackError):
                return EXIT_ROLLBACK
            return EXIT_USAGE if isinstance(error, UsageError) else EXIT_CANNOT_SERVE
        log.info(event("controller.stopped"))
    return 0


def place_of(state_dir: str | None, *, system: bool) -> bool:
    """Whether the service's places are meant.

    Raises:
        click.UsageError: Two places are.
    """
    if system and state_dir:
        raise click.UsageError("--system and --state-dir are two different places")
    return system
