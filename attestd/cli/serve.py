"""`attestd serve`."""

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Final

import click

from attestd.agent.service import serve
from attestd.cli.base import Command, state_dir_option
from attestd.cli.output import plain, say
from attestd.errors import AttestdError
from attestd.paths import find_layout, load_configuration

__all__ = ["serve_command"]

EXIT_CANNOT_SERVE: Final = 69


class _OneLine(logging.Formatter):
    """One line a record: an exception becomes its type, its words and where it came from."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{record.levelname.lower()}: {record.getMessage()}"
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            frames = traceback.extract_tb(error.__traceback__)[-4:]
            where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
            line = f"{line}: {type(error).__name__}: {error} ({where})"
        # The journal has its own clock; where stderr is a terminal or a file, time is wanted.
        stamp = "" if "JOURNAL_STREAM" in os.environ else f"{self.formatTime(record, '%H:%M:%S')} "
        return plain(f"{stamp}{line}")


@click.command(
    "serve",
    cls=Command,
    example="""
attestd serve
attestd serve --state-dir /tmp/attestd-demo &
""",
)
@click.option("--verbose", is_flag=True, help="Also say what is of interest to developers only.")
@state_dir_option
def serve_command(*, verbose: bool, state_dir: str | None) -> int:
    """Run the agent, in the foreground, until SIGTERM or SIGINT.

    A runner that answers is used; otherwise one is started, which goes on when the agent stops, so that no execution ends
    with it. Exit status 69: it cannot serve, and says why.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
    log = logging.getLogger("attestd")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    layout = find_layout(state_dir)
    configuration = load_configuration(layout.configuration, os.environ)
    try:
        serve(layout, configuration, log)
        log.info("stopped")
    except AttestdError as error:
        say(f"cannot serve: {error}")
        return EXIT_CANNOT_SERVE
    finally:
        log.removeHandler(handler)
    return 0
