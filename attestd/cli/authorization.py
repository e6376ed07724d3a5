"""`attestd authorization`: issue, delegate, approve, inspect, verify, install."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from attestd.agent.ask import AgentSocket
from attestd.authorization.artifact import MAX_ARTIFACT_BYTES, UntrustedArtifact, parse_artifact
from attestd.authorization.issue import approve, link_to_approve
from attestd.cli.artifact_view import artifact_json, show_artifact
from attestd.cli.base import (
    NounGroup,
    confirm,
    json_option,
    read_input,
    root_options,
    state_dir_option,
    write_output,
)
from attestd.cli.given_trust import named_trust
from attestd.cli.governance_revoke import revoke_artifacts_command
from attestd.cli.issue import delegate_command, issue_command, show_written, signer, signing_options
from attestd.cli.output import WARN, Output, say
from attestd.cli.params import FILE, user_name
from attestd.cli.verify import verify_artifact_file
from attestd.distribution.local import load_own_trust
from attestd.durable import write_atomic
from attestd.paths import find_client_layout
from attestd.strict import parse_time

__all__ = ["authorization_command"]


@click.group(
    "authorization",
    cls=NounGroup,
    example="""
attestd authorization issue -o id.auth.json -- id -u
attestd authorization inspect id.auth.json
""",
)
def authorization_command() -> None:
    """Artifacts that say what may run."""


authorization_command.add_command(issue_command)
authorization_command.add_command(delegate_command)
authorization_command.add_command(revoke_artifacts_command)


@authorization_command.command(
    "approve",
    example="""
attestd authority keygen --no-passphrase second
attestd authorization issue -o two.auth.json -- id -u
attestd authorization approve --yes --key second.pem two.auth.json
""",
)
@signing_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: the file itself."
)
@state_dir_option
@json_option
@click.argument("file", type=FILE)
def approve_command(
    *,
    key: str | None,
    public_key: Path | None,
    yes: bool,
    output: Path | None,
    state_dir: str | None,
    as_json: bool,
    file: Path,
) -> None:
    """Add your signature to an artifact, once you have seen all of it.

    Shows what you sign and asks; without a terminal, say --yes. Of a delegated artifact you sign the link under which your
    key is a delegate, else the first one, which is the authorities'.
    """
    artifact = parse_artifact(read_input(file, max_bytes=MAX_ARTIFACT_BYTES))
    authority = signer(key, public_key, find_client_layout(state_dir))
    link = link_to_approve(artifact, authority.public.key_id)
    _confirm(artifact, link, authority.public.key_id, yes=yes, as_json=as_json)
    data = approve(artifact, signers=[authority.sign], link=link)
    if output is None or output == file:
        write_atomic(file, data, mode=file.stat().st_mode & 0o777)
    else:
        write_output(output, data)
    show_written(output or file, parse_artifact(data), Output(as_json=as_json))


def _confirm(artifact: UntrustedArtifact, link: int, key_id: str, *, yes: bool, as_json: bool) -> None:
    """Shows exactly what would be signed, from the bytes that would be signed, and asks."""
    if not as_json:
        output = Output()
        show_artifact(output, UntrustedArtifact(artifact.links[: link + 1]), now=datetime.now(UTC))
        if len(artifact.links) > 1:
            output.line(f"You sign link {link + 1} of {len(artifact.links)}, with key {key_id}.")
    if not yes and (as_json or not sys.stdin.isatty()):
        raise click.UsageError("whoever approves sees what it is, and confirms: on a terminal, or with --yes")
    confirm(f"Sign all of this with key {key_id}?", yes=yes)


@authorization_command.command("inspect", example="attestd authorization inspect id.auth.json")
@json_option
@click.argument("file", type=FILE)
def inspect_command(*, as_json: bool, file: Path) -> None:
    """Show everything an artifact says.

    Verifies no signature: `attestd authorization verify` does.
    """
    artifact = parse_artifact(read_input(file, max_bytes=MAX_ARTIFACT_BYTES))
    output = Output(as_json=as_json)
    if as_json:
        output.json(artifact_json(artifact))
    else:
        show_artifact(output, artifact, now=datetime.now(UTC))


@authorization_command.command(
    "verify",
    example="""
attestd authorization verify id.auth.json
attestd authorization verify --trust /etc/attestd/trust id.auth.json
""",
)
@click.option(
    "--trust",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The trust directory (default: this host's).",
)
@root_options
@state_dir_option
@json_option
@click.argument("file", type=FILE)
def verify_command(
    *,
    trust: Path | None,
    root: Path | None,
    min_version: int | None,
    state_dir: str | None,
    as_json: bool,
    file: Path,
) -> int:
    """Verify who signed an artifact, and that they may.

    Whether it is valid at this moment is shown, but decides nothing here.
    """
    if trust is None and (root, min_version) != (None, None):
        raise click.UsageError("--root and --min-version are about what --trust DIR names: name that too")
    found = (
        load_own_trust(find_client_layout(state_dir))
        if trust is None
        else named_trust(trust, root, min_version)
    )
    return verify_artifact_file(file, found, Output(as_json=as_json))


@authorization_command.command(
    "install",
    example="""
attestd authorization install id.auth.json
attestd exec -- id -u
""",
)
@click.option("--everyone", is_flag=True, help="For all users of this host (root only).")
@state_dir_option
@json_option
@click.argument("file", type=FILE)
def install_command(*, everyone: bool, state_dir: str | None, as_json: bool, file: Path) -> None:
    """Give an artifact to the agent, for `exec` to find it."""
    data = read_input(file, max_bytes=MAX_ARTIFACT_BYTES)
    artifact = parse_artifact(data)
    answer = AgentSocket.find(state_dir).ask("install", artifact=data.decode("utf-8"), everyone=everyone)
    output = Output(as_json=as_json)
    if as_json:
        output.json(answer)
        return
    for_whom = "everyone" if everyone else user_name(os.geteuid())
    output.line(f"installed {answer['id']} for {for_whom}")
    if datetime.now(UTC) >= parse_time(artifact.statement.predicate.validity.not_after):
        say("it has expired: it authorizes nothing", style=WARN)
