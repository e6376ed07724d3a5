"""Every command explains itself."""

from collections.abc import Iterator

import click
import pytest

from attestd.cli import command_line
from attestd.cli.base import NounGroup
from tests.cli.conftest import Cli


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = [((), command_line), *commands(command_line)]


@pytest.mark.parametrize("path", [path for path, _ in ALL], ids=" ".join)
def test_help_has_an_example(path: tuple[str, ...], nowhere: Cli, capfd: pytest.CaptureFixture[str]) -> None:
    # The client writes to the descriptor itself, the others to the stream.
    shown = nowhere.ok(*path, "--help").stdout + capfd.readouterr().out
    assert "Usage: attestd" in shown
    assert shown.partition("Example:\n")[2].strip().startswith("attestd "), shown


def test_the_commands_are_those_of_the_specification() -> None:
    specified = {
        "init", "serve", "exec", "check", "why", "status", "doctor", "quote",
        "authorization issue", "authorization approve", "authorization delegate",
        "authorization inspect", "authorization verify", "authorization revoke",
        "authorization install", "authority keygen", "authority import", "authority protect", "authority rotate", "authority show",
        "platform show", "platform approve", "platform measure", "platform diff",
        "platform boots", "platform predict", "platform rules",
        "platform extend", "verify quote", "verify receipt", "verify log", "verify artifact", "audit tail",
        "audit show", "audit confirm", "audit verify", "audit prove", "audit export", "audit rotate", "backup", "rekey", "deprovision",
        "governance init", "governance show", "governance diff", "governance add", "governance remove", "governance stage",
        "governance enroll", "governance revoke", "governance delegate", "governance role", "governance rule", "governance sign",
        "governance publish", "governance platform", "governance refresh", "governance update",
        "governance replay", "controller init", "controller serve",
    }  # fmt: skip
    found = {" ".join(path) for path, command in ALL if path and not isinstance(command, NounGroup)}
    assert found == specified


@pytest.mark.parametrize(
    "path", [path for path, command in ALL if isinstance(command, click.Group)], ids=" ".join
)
def test_summaries_fit_on_a_line(path: tuple[str, ...], nowhere: Cli) -> None:
    listed = nowhere.ok(*path, "--help").stdout.partition("Commands:")[2].partition("Example:")[0]
    assert listed.strip()
    assert "..." not in listed


def test_without_a_command_help_is_misuse(nowhere: Cli) -> None:
    result = nowhere()
    assert result.status == 64
    assert "Commands:" in result.stdout + result.stderr


def test_version(nowhere: Cli) -> None:
    assert nowhere.ok("--version").stdout.startswith("attestd 0.")
