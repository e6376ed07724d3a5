"""Every command explains itself, and what messages tell people to run is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import attestd
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


PACKAGE = Path(attestd.__file__).parent
COMMANDS = {" ".join(path): command for path, command in ALL if path not in {("exec",), ("check",)}}
NAMED = re.compile(
    rf"attestd ({'|'.join(sorted(COMMANDS, key=len, reverse=True))})((?: --[a-z-]+(?: [A-Z]+)?)+)"
)


def said(tree: ast.AST) -> Iterator[str]:
    """The texts in a module, each on one line, without what is put into them at run time."""
    for node in ast.walk(tree):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        texts = [
            part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)
        ]
        yield " ".join("".join(texts).split())


def test_options_that_messages_name_are_there() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    named = {
        match.groups()
        for path in modules
        for text in said(ast.parse(path.read_text()))
        for match in NAMED.finditer(text)
    }
    assert len(named) > 20
    for name, options in sorted(named):
        known = {
            option
            for parameter in COMMANDS[name].params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        assert set(re.findall("--[a-z-]+", options)) <= {"--help", *known}, f"attestd {name}{options}"


def test_the_commands_are_those_of_the_specification() -> None:
    specified = {
        "init", "serve", "exec", "check", "why", "status", "doctor", "quote",
        "authorization issue", "authorization approve", "authorization delegate",
        "authorization inspect", "authorization verify", "authorization revoke",
        "authorization install", "authority keygen", "authority import", "authority protect", "authority rotate", "authority show",
        "platform show", "platform approve", "platform measure", "platform diff",
        "platform boots", "platform predict", "platform rules",
        "platform extend", "verify quote", "verify receipt", "verify log", "verify artifact", "verify result", "audit tail",
        "audit show", "audit confirm", "audit verify", "audit prove", "audit export", "audit rotate", "backup", "rekey", "deprovision",
        "governance init", "governance show", "governance diff", "governance add", "governance remove", "governance stage",
        "governance enroll", "governance revoke", "governance delegate", "governance role", "governance rule", "governance sign",
        "governance mesh", "governance allow",
        "governance publish", "governance platform", "governance refresh", "governance update",
        "governance replay", "controller init", "controller serve",
        "controller hosts", "controller enroll", "controller approve", "controller revoke", "controller receipts",
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
