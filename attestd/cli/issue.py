"""`attestd authorization issue` and `delegate`: artifacts written from a command line."""

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from attestd.authorization.artifact import (
    MAX_ARTIFACT_BYTES,
    ChainBrokenError,
    UntrustedArtifact,
    parse_artifact,
)
from attestd.authorization.delegation import delegate
from attestd.authorization.issue import issue
from attestd.authorization.pattern import ArgForm
from attestd.cli.artifact_view import artifact_json
from attestd.cli.base import Command, json_option, read_input, state_dir_option, write_output
from attestd.cli.keys import key_options, open_key
from attestd.cli.output import Output
from attestd.cli.params import COUNT, DURATION, FILE, KEY_ID, PATTERN, USER, name_values, user_name
from attestd.client.issuing import CURRENT, Asked, Delegated, draft_for_command, draft_under, policy_pin
from attestd.codes import Code, Denied
from attestd.distribution.local import load_own_trust
from attestd.distribution.signer import Authority
from attestd.errors import StoreError, UsageError
from attestd.governance.policy_schema import DEFAULT_POLICY_NAME
from attestd.governance.trust import Trust
from attestd.paths import Layout, find_client_layout, read_pinned_host

__all__ = ["delegate_command", "issue_command", "show_written", "signer", "signing_options"]

_QUORUM: Final = click.IntRange(0, 16)
_F = TypeVar("_F", bound=Callable[..., Any])
_Option = Callable[[Callable[..., Any]], Callable[..., Any]]


def _this_host(layout: Layout, trust: Trust, labels: Mapping[str, str]) -> tuple[str, ...]:
    """The host of this installation, where it is one of several and this user may know which it is."""
    if labels:
        return ()
    try:
        host = read_pinned_host(layout.host)
    except (StoreError, UsageError):
        return ()
    return (host,) if host in trust.hosts else ()


def signer(key: str | None, public_key: Path | None, layout: Layout) -> Authority:
    """The key that signs: a URI, by default that of this host's local authority."""
    return open_key(key or str(layout.authority / "local.pem"), public_key=public_key)


signing_options = key_options("this host's local authority")


def _file_options(ttl: str | None) -> tuple[_Option, ...]:
    """How long it is valid, and where it goes."""
    return (
        click.option(
            "--ttl", type=DURATION, default=ttl, show_default=ttl is not None,
            help="How long it is valid" + (" (default: 1h, or as long as the parent)." if ttl is None else "."),
        ),
        click.option(
            "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: CMD.auth.json."
        ),
        click.option("--force", is_flag=True, help="Overwrite the output file."),
        click.option("--max-uses", type=COUNT, default="1", show_default=True, help="How often it may be used."),
    )  # fmt: skip


def _command_options(host: str, requester: str) -> tuple[_Option, ...]:
    """Who, where, and what of a command may vary."""
    return (
        click.option(
            "--requester", "requesters", type=USER, multiple=True, help=f"Who may use it (default: {requester})."
        ),
        click.option("--host", "hosts", multiple=True, metavar="ID", help=f"A host (default: {host})."),
        click.option(
            "--host-label", "host_labels", multiple=True, metavar="NAME=VALUE", callback=name_values,
            help="A label that a host must carry.",
        ),
        click.option(
            "--env-pass", multiple=True, metavar="NAME", help="A variable that is taken from the requester."
        ),
        click.option(
            "--env-set", multiple=True, metavar="NAME=VALUE", callback=name_values, help="A variable that is set."
        ),
        click.option(
            "--input", "inputs", multiple=True, type=click.Path(path_type=Path),
            help="A file whose bytes are pinned.",
        ),
        click.option(
            "--arg", "patterns", type=PATTERN, multiple=True,
            help="What argument N may be, instead of what is given.",
        ),
    )  # fmt: skip


def _condition_options(age: int | None, loss: str | None, policy: str | None) -> tuple[_Option, ...]:
    """What has to hold."""
    return (
        click.option(
            "--max-evidence-age", "max_evidence_age_s", type=DURATION, default=age, metavar="DURATION",
            help=f"How old the TPM's evidence may be (default: {'the parent' if age is None else f'{age}s'}).",
        ),
        click.option(
            "--on-trust-loss", type=click.Choice(["kill", "report"]), default=loss,
            help=f"What happens if trust is lost while it runs (default: {loss or 'as the parent'}).",
        ),
        click.option(
            "--policy", metavar="NAME", default=policy, show_default=policy is not None,
            help="The policy that must permit it, a team's as TEAM/NAME"
            + (" (default and only choice: the parent's)." if policy is None else "."),
        ),
        click.option(
            "--policy-digest", metavar="SHA256",
            help=f"Only while the policy's text has this digest; {CURRENT}: that of now (default: "
            f"{'as the parent' if policy is None else 'any'}).",
        ),
    )  # fmt: skip


_WORDS: Final = (
    click.option(
        "--delegate-to", multiple=True, type=KEY_ID, help="A key that may issue narrower ones under it."
    ),
    click.option(
        "--max-depth", type=click.IntRange(1, 8), help="How many times in a row (default: 1, with --delegate-to)."
    ),
    click.option("--reason", default="", help="Why, for the record."),
    click.option("--requested-by", help="For whom it is issued, in words (default: your user name)."),
    click.option("--on-behalf-of", help="For whom the requester acts, in words."),
)  # fmt: skip


def _options(
    *, ttl: str | None, host: str, requester: str, age: int | None, loss: str | None, policy: str | None
) -> Callable[[_F], _F]:
    """What `issue` and `delegate` take both; the arguments say what is meant where an option is not given."""
    options = (
        *_file_options(ttl),
        *_command_options(host, requester),
        *_condition_options(age, loss, policy),
        *_WORDS,
    )

    def add(command: _F) -> _F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _depth(given: int | None, delegate_to: tuple[str, ...]) -> int:
    return (1 if delegate_to else 0) if given is None else given


@click.command(
    "issue",
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    example="""
attestd authorization issue -- id -u
attestd authorization issue --ttl 15m --max-uses unlimited --reason "CHG-123" -o ls.auth.json -- ls -l /etc
attestd authorization issue --arg '1={"one_of":["prod","stage"]}' -o deploy.auth.json -- echo prod
attestd authorization issue --arg '1={"int":[1,10]}' -o count.auth.json -- seq 5
attestd authorization issue --arg '1={"prefix":"/srv/","charset":"name","max":20}' -o srv.auth.json -- stat /srv/data
""",
)
@_options(ttl="1h", host="this one", requester="you", age=60, loss="kill", policy=DEFAULT_POLICY_NAME)
@signing_options
@click.option("--uid", type=USER, help="Who the command runs as (default: the requester).")
@click.option(
    "--cwd", type=click.Path(path_type=Path), help="The working directory (default: the current one)."
)
@click.option("--platform", metavar="NAME", help="The platform policy (default: the only one).")
@click.option(
    "--verifiers",
    type=_QUORUM,
    default=0,
    metavar="N",
    help="How many verifiers it takes (default: as governance says).",
)
@click.option(
    "--witnesses",
    type=_QUORUM,
    default=0,
    metavar="N",
    help="How many witnesses it takes (default: as governance says).",
)
@state_dir_option
@json_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def issue_command(
    *,
    command: tuple[str, ...],
    patterns: tuple[tuple[int, ArgForm], ...],
    requesters: tuple[int, ...],
    requested_by: str | None,
    max_uses: int,
    delegate_to: tuple[str, ...],
    max_depth: int | None,
    ttl: int,
    output: Path | None,
    force: bool,
    key: str | None,
    public_key: Path | None,
    state_dir: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Authorize one command, as it is now, for a while.

    Its bytes, arguments, directory, user and host are pinned. What is not given gets the narrowest value: this
    host, you, the current directory, one use, one hour, an empty environment but a fixed PATH. A script's interpreter
    is pinned too. With --arg an argument may vary: the one given must be an example; the forms are one_of, int, and
    prefix with charset (digits hex lower alnum name path) and max. With --delegate-to whoever has that key may issue
    narrower authorizations under this one (attestd authorization delegate).
    """
    layout = find_client_layout(state_dir)
    trust = load_own_trust(layout)
    given["hosts"] = given["hosts"] or _this_host(layout, trust, given["host_labels"])
    asked = Asked(
        argv=command,
        requesters=requesters or (os.getuid(),),
        requested_by=user_name(os.getuid()) if requested_by is None else requested_by,
        ttl_s=ttl,
        max_uses=max_uses or None,
        patterns=dict(patterns),
        delegate_to=delegate_to,
        max_depth=_depth(max_depth, delegate_to),
        **given,
    )
    statement = draft_for_command(asked, trust=trust, environ=os.environ, now=datetime.now(UTC))
    data = issue(statement, signers=[signer(key, public_key, layout).sign])
    _write(command[0], data, output=output, force=force, as_json=as_json)


@click.command(
    "delegate",
    cls=Command,
    example="""
attestd authority keygen --no-passphrase ci
attestd authorization issue --delegate-to ci.pub --max-uses 5 --arg '1={"int":[1,9]}' -o team.auth.json -- sleep 5
attestd authorization delegate team.auth.json --key ci.pem -o one.auth.json -- sleep 1
attestd authorization verify one.auth.json
""",
)
@click.argument("parent", type=FILE)
@_options(
    ttl=None, host="those of the parent", requester="those of the parent", age=None, loss=None, policy=None
)
@signing_options
@state_dir_option
@json_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def delegate_command(
    *,
    parent: Path,
    command: tuple[str, ...],
    patterns: tuple[tuple[int, ArgForm], ...],
    requested_by: str | None,
    max_uses: int,
    delegate_to: tuple[str, ...],
    max_depth: int | None,
    ttl: int | None,
    output: Path | None,
    force: bool,
    key: str | None,
    public_key: Path | None,
    policy_digest: str | None,
    state_dir: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Issue a narrower artifact under another, as its delegate.

    PARENT is the artifact; the new file has its whole chain and runs on each host that trusts the parent's authorities. It
    allows what the parent allows, or less: whatever is not given stays as it is there, but for arguments (as given),
    variables taken from the requester (none), uses (one) and time (an hour at most). Each use is charged to the parent
    too. Wider in anything is refused: scope_violation, exit 77.
    """
    if key is None:
        raise click.UsageError("--key is needed: the key of a delegate that the parent names")
    artifact = parse_artifact(read_input(parent, max_bytes=MAX_ARTIFACT_BYTES))
    if policy_digest == CURRENT:
        named = given["policy"] or artifact.statement.predicate.governance.policy
        trust = load_own_trust(find_client_layout(state_dir))
        policy_digest = policy_pin(named, policy_digest, trust=trust)
    asked = Delegated(
        argv=command,
        requested_by=user_name(os.getuid()) if requested_by is None else requested_by,
        ttl_s=ttl,
        max_uses=max_uses or None,
        patterns=dict(patterns),
        policy_digest=policy_digest,
        delegate_to=delegate_to,
        max_depth=_depth(max_depth, delegate_to),
        **given,
    )
    statement = draft_under(artifact.last, asked, now=datetime.now(UTC))
    try:
        data = delegate(artifact, statement, signers=[open_key(key, public_key=public_key).sign])
    except ChainBrokenError as error:
        raise Denied(
            Code.SCOPE_VIOLATION,
            f"what would be delegated does not follow from {parent}: {error}",
            "narrow it to what the parent allows (attestd authorization inspect), or ask its authority for more",
        ) from error
    _write(command[0], data, output=output, force=force, as_json=as_json)


def _write(command: str, data: bytes, *, output: Path | None, force: bool, as_json: bool) -> None:
    path = output or Path(f"{os.path.basename(command)}.auth.json")
    write_output(path, data, force=force)
    show_written(path, parse_artifact(data), Output(as_json=as_json))


def show_written(path: Path, artifact: UntrustedArtifact, output: Output) -> None:
    """Says what is in a file that was just written."""
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
            ("issued under", artifact.statement.predicate.lineage.parent),
        ],
        indent=0,
    )
