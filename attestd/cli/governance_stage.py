"""`attestd governance add`, `remove`, `stage`: what the next version will hold."""

from pathlib import Path

import click

from attestd.cli.base import Command, json_option, read_input
from attestd.cli.governance import open_repository, repository_option, say_staged
from attestd.cli.output import Output
from attestd.cli.params import FILE
from attestd.governance.signed import MAX_TARGET_BYTES

__all__ = ["add_command", "remove_command", "stage_command"]


@click.command(
    "add",
    cls=Command,
    example="""
attestd governance add --repository governance policy/night.cedar night.cedar
""",
)
@repository_option
@json_option
@click.argument("name")
@click.argument("file", type=FILE)
def add_command(
    *, directory: Path | None, state_dir: str | None, as_json: bool, name: str, file: Path
) -> None:
    """Stage FILE as the target NAME.

    If hosts would accept it.

    NAME is authorities.json, revocations.json, platform/NAME.json, ima/NAME.json, hosts/HOST-ID.json,
    policy/NAME.cedar, policy/entities.json, ek-roots/index.json, ek-roots/NAME.pem, ek-allow.json, mesh.json, or below
    teams/TEAM/ authorities.json or policy/NAME.cedar.
    """
    repository = open_repository(directory, state_dir)
    repository.stage({name: read_input(file, max_bytes=MAX_TARGET_BYTES)})
    say_staged(repository, Output(as_json=as_json))


@click.command(
    "remove", cls=Command, example="attestd governance remove --repository governance policy/exec.cedar"
)
@repository_option
@json_option
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def remove_command(
    *, directory: Path | None, state_dir: str | None, as_json: bool, names: tuple[str, ...]
) -> None:
    """Stage a version without these targets."""
    repository = open_repository(directory, state_dir)
    repository.stage(dict.fromkeys(names))
    say_staged(repository, Output(as_json=as_json))


@click.command(
    "stage",
    cls=Command,
    example="""
attestd governance stage --repository governance
attestd governance stage --repository governance --renew targets
attestd governance stage --repository governance --reset
""",
)
@click.option("--reset", is_flag=True, help="Take changes back: of these targets, or all.")
@click.option(
    "--renew",
    "renewed",
    multiple=True,
    metavar="ROLE",
    help="A version of root, targets or team-NAME that holds longer.",
)
@repository_option
@json_option
@click.argument("names", nargs=-1, metavar="[NAME...]")
def stage_command(
    *,
    reset: bool,
    renewed: tuple[str, ...],
    directory: Path | None,
    state_dir: str | None,
    as_json: bool,
    names: tuple[str, ...],
) -> None:
    """Take up what was edited in staged/targets.

    If hosts would accept it. JSON is put in the form that hosts read.
    """
    repository = open_repository(directory, state_dir)
    if names and not reset:
        raise click.UsageError(
            "names go with --reset: without it all that lies in staged/targets is taken up"
        )
    if reset:
        repository.unstage(names or None)
    else:
        repository.stage({})
    for role in renewed:
        repository.renew(role)
    say_staged(repository, Output(as_json=as_json))
