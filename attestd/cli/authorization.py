"""`attestd authorization`: issue, approve, inspect, verify, install."""

import os
from datetime import UTC, datetime
from pathlib import Path

import click

from attestd.agent.ask import AgentSocket
from attestd.authorization.artifact import MAX_ARTIFACT_BYTES, UntrustedArtifact, parse_artifact
from attestd.authorization.issue import approve, issue
from attestd.authorization.pattern import ArgForm
from attestd.cli.artifact_view import artifact_json, show_artifact
from attestd.cli.base import NounGroup, json_option, read_input, state_dir_option, write_output
from attestd.cli.keys import key_options, open_key
from attestd.cli.output import WARN, Output, say
from attestd.cli.params import COUNT, DURATION, PATTERN, USER, name_values, user_name
from attestd.cli.verify import verify_artifact_file
from attestd.client.issuing import Asked, draft_for_command
from attestd.distribution.local import load_own_trust, write_atomic
from attestd.distribution.signer import Authority
from attestd.paths import Layout, find_client_layout
from attestd.strict import parse_time

__all__ = ["authorization_command"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


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


def _signer(key: str | None, public_key: Path | None, layout: Layout) -> Authority:
    return open_key(key or str(layout.authority / "local.pem"), public_key=public_key)


_key_options = key_options("this host's local authority")


@authorization_command.command(
    "issue",
    context_settings={"allow_interspersed_args": False},
    example="""
attestd authorization issue -- id -u
attestd authorization issue --ttl 15m --max-uses unlimited --reason "CHG-123" -o ls.auth.json -- ls -l /etc
attestd authorization issue --arg '1={"one_of":["prod","stage"]}' -o deploy.auth.json -- echo prod
attestd authorization issue --arg '1={"int":[1,10]}' -o count.auth.json -- seq 5
attestd authorization issue --arg '1={"prefix":"/srv/","charset":"name","max":20}' -o srv.auth.json -- stat /srv/data
""",
)
@click.option("--ttl", type=DURATION, default="1h", show_default=True, help="How long it is valid.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: CMD.auth.json."
)
@click.option("--force", is_flag=True, help="Overwrite the output file.")
@_key_options
@click.option("--max-uses", type=COUNT, default="1", show_default=True, help="How often it may be used.")
@click.option("--requester", type=USER, help="Who may use it (default: you).")
@click.option("--uid", type=USER, help="Who the command runs as (default: the requester).")
@click.option("--host", metavar="ID", help="The host (default: this one).")
@click.option(
    "--cwd", type=click.Path(path_type=Path), help="The working directory (default: the current one)."
)
@click.option(
    "--env-pass", multiple=True, metavar="NAME", help="A variable that is taken from the requester."
)
@click.option(
    "--env-set", multiple=True, metavar="NAME=VALUE", callback=name_values, help="A variable that is set."
)
@click.option(
    "--input", "inputs", multiple=True, type=click.Path(path_type=Path), help="A file whose bytes are pinned."
)
@click.option(
    "--arg", "patterns", type=PATTERN, multiple=True, help="What argument N may be, instead of what is given."
)
@click.option("--reason", default="", help="Why, for the record.")
@click.option("--requested-by", help="For whom it is issued, in words (default: your user name).")
@click.option("--on-behalf-of", help="For whom the requester acts, in words.")
@click.option("--platform", metavar="NAME", help="The platform policy (default: the only one).")
@state_dir_option
@json_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def issue_command(
    *,
    ttl: int,
    output: Path | None,
    force: bool,
    key: str | None,
    public_key: Path | None,
    max_uses: int,
    requester: int | None,
    uid: int | None,
    host: str | None,
    cwd: Path | None,
    env_pass: tuple[str, ...],
    env_set: dict[str, str],
    inputs: tuple[Path, ...],
    patterns: tuple[tuple[int, ArgForm], ...],
    reason: str,
    requested_by: str | None,
    on_behalf_of: str | None,
    platform: str | None,
    state_dir: str | None,
    as_json: bool,
    command: tuple[str, ...],
) -> None:
    """Authorize one command, as it is now, for a while.

    Its bytes, arguments, directory, user and host are pinned. What is not given gets the narrowest value: this
    host, you, the current directory, one use, one hour, an empty environment but a fixed PATH. A script's interpreter
    is pinned too. With --arg an argument may vary: the one given must be an example; the forms are one_of, int, and
    prefix with charset (digits hex lower alnum name path) and max.
    """
    layout = find_client_layout(state_dir)
    asked = Asked(
        argv=command,
        requester_uid=os.getuid() if requester is None else requester,
        requested_by=user_name(os.getuid()) if requested_by is None else requested_by,
        ttl_s=ttl,
        max_uses=max_uses or None,
        patterns=dict(patterns),
        host=host,
        platform=platform,
        uid=uid,
        cwd=cwd,
        env_pass=env_pass,
        env_set=env_set,
        inputs=inputs,
        reason=reason,
        on_behalf_of=on_behalf_of,
    )
    trust = load_own_trust(layout)
    statement = draft_for_command(asked, trust=trust, environ=os.environ, now=datetime.now(UTC))
    data = issue(statement, signers=[_signer(key, public_key, layout).sign])
    path = output or Path(f"{os.path.basename(command[0])}.auth.json")
    write_output(path, data, force=force)
    _show_written(path, parse_artifact(data), Output(as_json=as_json))


def _show_written(path: Path, artifact: UntrustedArtifact, output: Output) -> None:
    if output.as_json:
        output.json({"file": str(path), **artifact_json(artifact)})
        return
    validity = artifact.statement.predicate.validity
    output.facts(
        [
            ("authorization", path),
            ("id", artifact.id),
            ("valid until", validity.not_after),
            ("uses", "unlimited" if validity.max_uses is None else validity.max_uses),
            ("signed by", ", ".join(entry.key_id for entry in artifact.envelope.signatures)),
        ],
        indent=0,
    )


@authorization_command.command(
    "approve",
    example="""
attestd authority keygen --no-passphrase second
attestd authorization issue -o two.auth.json -- id -u
attestd authorization approve --key second.pem two.auth.json
""",
)
@_key_options
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: the file itself."
)
@state_dir_option
@json_option
@click.argument("file", type=_FILE)
def approve_command(
    *,
    key: str | None,
    public_key: Path | None,
    output: Path | None,
    state_dir: str | None,
    as_json: bool,
    file: Path,
) -> None:
    """Add your signature to an artifact.

    Inspect it first: you sign all of it.
    """
    artifact = parse_artifact(read_input(file, max_bytes=MAX_ARTIFACT_BYTES))
    authority = _signer(key, public_key, find_client_layout(state_dir))
    data = approve(artifact, signers=[authority.sign])
    if output is None or output == file:
        write_atomic(file, data, mode=file.stat().st_mode & 0o777)
    else:
        write_output(output, data)
    _show_written(output or file, parse_artifact(data), Output(as_json=as_json))


@authorization_command.command("inspect", example="attestd authorization inspect id.auth.json")
@json_option
@click.argument("file", type=_FILE)
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
@state_dir_option
@json_option
@click.argument("file", type=_FILE)
def verify_command(*, trust: Path | None, state_dir: str | None, as_json: bool, file: Path) -> int:
    """Verify who signed an artifact, and that they may.

    Whether it is valid at this moment is shown, but decides nothing here.
    """
    directory = trust or find_client_layout(state_dir).trust
    return verify_artifact_file(file, directory, Output(as_json=as_json))


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
@click.argument("file", type=_FILE)
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
