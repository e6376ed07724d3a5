"""What all commands are made of: lazily loaded groups, examples in every help text, shared options."""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from attestd.cli.output import say

__all__ = [
    "Command",
    "LazyGroup",
    "NounGroup",
    "confirm",
    "json_option",
    "read_input",
    "root_options",
    "state_dir_option",
    "trust_option",
    "write_output",
]

EXIT_NOT_CONFIRMED: Final = 1

_F = TypeVar("_F", bound=Callable[..., Any])


def confirm(question: str, *, yes: bool) -> None:
    """Asks a person, who has seen what it is about; with `yes` they have said so already.

    Raises:
        click.UsageError: Nobody is there to answer.
        click.exceptions.Exit: They said no.
    """
    if yes:
        return
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        say("", prefix="")  # ends the line of the question
        raise click.UsageError(f"{question} Confirm on a terminal, or with --yes") from None
    if not agreed:
        say("nothing was done")
        raise click.exceptions.Exit(EXIT_NOT_CONFIRMED)


class _WithExample:
    """Adds a section of verbatim lines to the help text."""

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        with formatter.section("Example"):
            for line in self.example.strip().splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class Command(_WithExample, click.Command):
    """A command whose help text ends with an example."""


class NounGroup(_WithExample, click.Group):
    """A group of commands of one noun."""

    command_class = Command


class LazyGroup(NounGroup):
    """A group with commands that are imported when they are named, or listed."""

    def __init__(self, *args: Any, modules: Mapping[str, str], **kwargs: Any) -> None:
        """Takes, for each command, the module that has it under its own name (`-` for `_`)."""
        super().__init__(*args, **kwargs)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All of them, in the order in which one meets them."""
        return [*super().list_commands(ctx), *self._modules]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one."""
        if cmd_name not in self._modules:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(self._modules[cmd_name])
        found = getattr(module, f"{cmd_name}_command")
        if not isinstance(found, click.Command):
            raise TypeError(f"{cmd_name} is no command")
        return found


def state_dir_option(command: _F) -> _F:
    """`--state-dir`."""
    return click.option(
        "--state-dir",
        metavar="DIR",
        type=click.Path(file_okay=False),
        help="Everything of this installation is below DIR (default: ATTESTD_STATE_DIR, your own, the system's).",
    )(command)


def json_option(command: _F) -> _F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")(command)


def trust_option(command: _F) -> _F:
    """`--trust`, required, and `--root` and `--min-version`."""
    return click.option(
        "--trust",
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        required=True,
        help="The trust directory: authorities, host records, platform policies, revocations.",
    )(root_options(command))


def root_options(command: _F) -> _F:
    """`--root`, the anchor of a `--trust` that has none, and `--min-version`, how old it may be."""
    least = click.option(
        "--min-version",
        metavar="N",
        type=click.IntRange(min=1),
        help="Refuse governance older than version N: whoever gives a copy chooses how old it is, and nothing is remembered.",
    )
    return click.option(
        "--root",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The root of trust (1.root.json), by which DIR may be any copy of what governance publishes.",
    )(least(command))


def read_input(path: Path, *, max_bytes: int) -> bytes:
    """A file named on the command line: all of it, or one byte more than is accepted.

    Raises:
        click.UsageError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from error


def write_output(path: Path, data: bytes, *, force: bool = False) -> None:
    """Writes a result; what is there already stays, unless `force`.

    Raises:
        click.UsageError: It is there, or cannot be written.
    """
    try:
        with path.open("wb" if force else "xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise click.UsageError(f"{path} exists: name another file, or say --force") from error
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from error
