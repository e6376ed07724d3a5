"""`attestd exec` and `attestd check`, where they come through the command line's group; normally `__main__` runs them."""

import click

from attestd.client.options import HELP
from attestd.client.run import main as run

__all__ = ["check_command", "exec_command"]

_AS_GIVEN = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}


class _Client(click.Command):
    """A command whose words are the client's own business, its help text too."""

    def get_help(self, ctx: click.Context) -> str:  # noqa: ARG002 - click's
        return HELP


@click.command("exec", cls=_Client, context_settings=_AS_GIVEN, add_help_option=False)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def exec_command(words: tuple[str, ...]) -> int:
    """Run a command if an authorization allows it."""
    return run(["exec", *words])


@click.command("check", cls=_Client, context_settings=_AS_GIVEN, add_help_option=False)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def check_command(words: tuple[str, ...]) -> int:
    """Say whether a command would run; run nothing."""
    return run(["check", *words])
