"""`attestd governance rule`, `delegate`, `role`: who authorizes what, teams, and who signs for which role."""

from pathlib import Path

import click

from attestd.cli.base import Command, json_option
from attestd.cli.governance import (
    open_repository,
    public_key,
    repository_option,
    role_keys,
    say_staged,
    staged_file,
)
from attestd.cli.keys import passphrase_option
from attestd.cli.output import Output
from attestd.cli.params import USER
from attestd.distribution.repository import ONLINE
from attestd.errors import UsageError
from attestd.governance.draft import RoleKeys
from attestd.governance.edits import with_rule, without_rule

__all__ = ["delegate_command", "role_command", "rule_command"]


@click.command(
    "delegate",
    cls=Command,
    example="""
attestd governance delegate --repository governance web --key second.pub --path /usr/bin/deploy
attestd governance delegate --repository governance web --remove
""",
)
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Signs for the team.")
@click.option("--threshold", type=int, metavar="N", help="How many of them must sign (default: all).")
@click.option(
    "--path", "paths", multiple=True, metavar="PATH", help="An executable, or a directory that ends in /."
)
@click.option("--uid", "uids", type=USER, multiple=True, help="Users that it may run as (default: any).")
@click.option(
    "--max-depth",
    type=click.IntRange(0, 8),
    default=0,
    show_default=True,
    help="How deep delegations may go.",
)
@click.option("--remove", is_flag=True, help="Take the delegation back.")
@passphrase_option
@repository_option
@json_option
@click.argument("team")
def delegate_command(
    *,
    keys: tuple[str, ...],
    threshold: int | None,
    paths: tuple[str, ...],
    uids: tuple[int, ...],
    max_depth: int,
    remove: bool,
    directory: Path | None,
    state_dir: str | None,
    as_json: bool,
    team: str,
) -> None:
    """Let a team make rules for some executables.

    The team signs teams/TEAM/authorities.json and teams/TEAM/policy/*.cedar, and nothing else.
    """
    repository = open_repository(directory, state_dir)
    if remove:
        repository.remove_team(team)
    elif not keys or not paths:
        raise UsageError(
            "a team needs --key and --path: who signs, and which executables they may speak about"
        )
    else:
        repository.set_team(
            team, role_keys(keys, threshold), paths=paths, uids=uids or None, max_depth=max_depth
        )
    say_staged(repository, Output(as_json=as_json))


@click.command(
    "rule",
    cls=Command,
    example="""
attestd governance rule --repository governance deploy --path /usr/bin/deploy --key second.pub --key third.pub --threshold 2
attestd governance rule --repository governance all --threshold 1
""",
)
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Authorizes: these keys, and no others.")
@click.option("--threshold", type=int, metavar="N", help="How many of them must sign (default: all).")
@click.option(
    "--path", "paths", multiple=True, metavar="PATH", help="An executable, or a directory that ends in /."
)
@click.option("--uid", "uids", type=USER, multiple=True, help="Users that it may run as (default: any).")
@click.option("--max-depth", type=click.IntRange(0, 8), help="How deep delegations may go (default: 0).")
@click.option(
    "--secret-arg",
    "secret_args",
    type=click.IntRange(1),
    multiple=True,
    metavar="N",
    help="The log is to hold argument N only as a salted digest.",
)
@click.option("--secret-env", multiple=True, metavar="NAME", help="Likewise the value of a variable.")
@click.option("--nothing-secret", is_flag=True, help="No argument and no variable is secret any more.")
@click.option("--last", is_flag=True, help="A new rule comes after the others, not before them.")
@click.option("--remove", is_flag=True, help="Remove the rule.")
@passphrase_option
@repository_option
@json_option
@click.argument("name")
def rule_command(
    *,
    keys: tuple[str, ...],
    threshold: int | None,
    paths: tuple[str, ...],
    uids: tuple[int, ...],
    max_depth: int | None,
    secret_args: tuple[int, ...],
    secret_env: tuple[str, ...],
    nothing_secret: bool,
    last: bool,
    remove: bool,
    directory: Path | None,
    state_dir: str | None,
    as_json: bool,
    name: str,
) -> None:
    """Say who authorizes what: a rule of authorities.

    The first rule that covers an execution decides. What is not named stays as it is.
    """
    if nothing_secret and (secret_args or secret_env):
        raise click.UsageError("--nothing-secret goes with neither --secret-arg nor --secret-env")
    repository = open_repository(directory, state_dir)
    present = staged_file(repository, "authorities.json")
    if remove:
        changed = without_rule(present, name=name)
    else:
        changed = with_rule(
            present,
            name=name,
            keys=[public_key(key) for key in keys],
            threshold=threshold,
            paths=paths,
            uids=uids,
            max_depth=max_depth,
            secret=(secret_args, secret_env) if nothing_secret or secret_args or secret_env else None,
            is_last=last,
        )
    repository.stage({"authorities.json": changed}, seen={"authorities.json": present})
    say_staged(repository, Output(as_json=as_json))


@click.command(
    "role",
    cls=Command,
    example="""
attestd governance role --repository governance targets --add third.pub --threshold 2
attestd governance role --repository governance online --add third.pem --remove second.pub
""",
)
@click.option("--add", "added", multiple=True, metavar="KEY", help="Signs from now on.")
@click.option(
    "--remove", "removed", multiple=True, metavar="KEY|ID", help="Signs no longer: a key, or its id."
)
@click.option("--threshold", type=int, metavar="N", help="How many must sign (default: as before).")
@passphrase_option
@repository_option
@json_option
@click.argument("role", type=click.Choice(["root", "targets", ONLINE]))
def role_command(
    *,
    added: tuple[str, ...],
    removed: tuple[str, ...],
    threshold: int | None,
    directory: Path | None,
    state_dir: str | None,
    as_json: bool,
    role: str,
) -> None:
    """Change who signs for a role.

    That is a new root, which the keys of the present one must sign. `online` signs snapshot and timestamp. A team's keys are changed with delegate.
    """
    repository = open_repository(directory, state_dir)
    present = repository.role_keys(role)
    gone = {_key_id(item) for item in removed}
    unknown = gone - {key.key_id for key in present.keys}
    if unknown:
        raise UsageError(
            f"key {min(unknown)} does not sign for {role}; there are: {', '.join(key.key_id for key in present.keys)}"
        )
    kept = [key for key in present.keys if key.key_id not in gone]
    keys = (*kept, *(public_key(item) for item in added))
    chosen = RoleKeys(keys, present.threshold if threshold is None else threshold)
    if chosen == present:
        raise UsageError("nothing would change: --add, --remove or --threshold")
    repository.set_keys(role, chosen)
    say_staged(repository, Output(as_json=as_json))


def _key_id(item: str) -> str:
    return item if len(item) == 64 and not Path(item).exists() else public_key(item).key_id
