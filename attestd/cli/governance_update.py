"""`attestd governance update`: this host looks for newer governance now."""

import os

import click

from attestd.agent.ask import AgentSocket
from attestd.agent.governance import update_without_agent
from attestd.cli.base import Command, json_option, state_dir_option
from attestd.cli.output import WARN, Output, mark, say
from attestd.errors import AgentError
from attestd.paths import find_layout, load_configuration

__all__ = ["update_command"]


@click.command("update", cls=Command, example="attestd governance update\nattestd governance update --json")
@state_dir_option
@json_option
def update_command(*, state_dir: str | None, as_json: bool) -> None:
    """Have this host look for newer governance now.

    The agent does, at once instead of within its interval; if none runs, this command (as root).

    Exit status: 1 what is published does not verify; 69 it cannot be read.
    """
    try:
        found = AgentSocket.find(state_dir).ask("update_governance")
    except AgentError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        layout = find_layout(state_dir)
        updated = update_without_agent(layout, load_configuration(layout.configuration, os.environ))
        found = {"before": updated.before, "after": updated.after, "source": updated.source}
    output = Output(as_json=as_json)
    if as_json:
        output.json(found)
        return
    before, after = found["before"], found["after"]
    if before == after:
        output.line(mark(True), f" governance version {after} is the newest at {found['source']}")
    else:
        output.line(mark(True), f" governance version {before or 'none'} -> {after}, from {found['source']}")
    if found.get("epoch", {}).get("problem"):
        say(found["epoch"]["problem"], style=WARN)
