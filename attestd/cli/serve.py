"""`attestd serve`."""

import os
import sys
from typing import Final

import click

from attestd.agent.service import serve
from attestd.cli.base import Command, state_dir_option
from attestd.cli.output import say
from attestd.errors import AttestdError, RollbackError
from attestd.journal import event, is_journal, logging_to_stderr
from attestd.paths import find_layout, load_configuration, system_layout

__all__ = ["serve_command"]

EXIT_CANNOT_SERVE: Final = 69
EXIT_ROLLBACK: Final = 1  # As what does not verify: to start again would not help, and the unit does not.


@click.command(
    "serve",
    cls=Command,
    example="""
attestd serve
attestd serve --state-dir /tmp/attestd-demo &
""",
)
@click.option("--system", is_flag=True, help="The service's places, whoever runs this (what its unit says).")
@click.option("--verbose", is_flag=True, help="Also say what is of interest to developers only.")
@state_dir_option
def serve_command(*, system: bool, verbose: bool, state_dir: str | None) -> int:
    """Run the agent, in the foreground, until SIGTERM or SIGINT.

    A runner that answers is used; otherwise one is started, which goes on when the agent stops, so that no execution ends
    with it. Exit status 69: it cannot serve, and says why; 1: the log contradicts its TPM, which is for a person to look at.
    """
    if system and state_dir:
        raise click.UsageError("--system and --state-dir are two different places")
    layout = system_layout() if system else find_layout(state_dir)
    configuration = load_configuration(layout.configuration, os.environ)
    with logging_to_stderr(verbose=verbose) as log:
        try:
            serve(layout, configuration, log)
        except AttestdError as error:
            if is_journal(sys.stderr):
                log.critical(event("agent.cannot_serve", error=error))
            else:
                say(f"cannot serve: {error}")
            return EXIT_ROLLBACK if isinstance(error, RollbackError) else EXIT_CANNOT_SERVE
        log.info(event("agent.stopped"))
    return 0
