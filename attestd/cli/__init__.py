"""The command line: parses, calls one library function, renders. Only this package prints or exits."""

import secrets
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

import attestd
from attestd.cli.base import LazyGroup
from attestd.cli.output import say
from attestd.codes import EXIT_MALFORMED, EXIT_USAGE, Denied
from attestd.errors import (
    AttestdError,
    ForbiddenError,
    MalformedError,
    UsageError,
    VerificationError,
)

__all__ = ["run"]

EXIT_NOT_VERIFIED: Final = 1
EXIT_UNAVAILABLE: Final = 69
EXIT_INTERNAL: Final = 70
EXIT_FORBIDDEN: Final = 77
EXIT_INTERRUPTED: Final = 130
EXIT_PIPE: Final = 141  # 128 + SIGPIPE, as other commands end whose reader went away

# The first family that an error belongs to decides.
_STATUS: Final[tuple[tuple[type[AttestdError], int], ...]] = (
    (UsageError, EXIT_USAGE),
    (MalformedError, EXIT_MALFORMED),
    (ForbiddenError, EXIT_FORBIDDEN),
    (VerificationError, EXIT_NOT_VERIFIED),
    (AttestdError, EXIT_UNAVAILABLE),  # TPM, agent, store
)
_MODULES: Final = {
    name: f"attestd.cli.{module}"
    for name, module in (
        ("init", "init"),
        ("serve", "serve"),
        ("exec", "execute"),
        ("check", "execute"),
        ("why", "why"),
        ("status", "status"),
        ("doctor", "doctor"),
        ("authorization", "authorization"),
        ("authority", "authority"),
        ("platform", "platform"),
        ("governance", "governance"),
        ("quote", "quote"),
        ("verify", "verify"),
        ("audit", "audit"),
        ("backup", "backup"),
        ("rekey", "rekey"),
        ("deprovision", "deprovision"),
        ("controller", "controller"),
    )
}


@click.command(
    cls=LazyGroup,
    modules=_MODULES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    example="""
attestd init --tpm embedded --state-dir /tmp/attestd-demo
attestd serve --state-dir /tmp/attestd-demo &
attestd authorization issue --state-dir /tmp/attestd-demo -o id.auth.json -- id -u
attestd exec --state-dir /tmp/attestd-demo -a id.auth.json -- id -u
attestd why --state-dir /tmp/attestd-demo 2
""",
)
@click.version_option(attestd.__version__, message="attestd %(version)s")
def command_line() -> None:
    """Runs only what is authorized, in a measured state, and seals every decision before it acts.

    Exit status: 0 done; 1 does not verify, or findings; 64 usage; 65 malformed input; 69 agent, TPM or log unavailable;
    70 internal error; 77 denied.
    """


def run(arguments: Sequence[str]) -> int:
    """Runs one command; every error becomes one line and an exit status here.

    Returns:
        The exit status.
    """
    try:
        # Not `main`: it would deal with some of the errors below in its own way.
        with command_line.make_context("attestd", list(arguments)) as context:
            status = command_line.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as done:  # --help, --version
        status = done.exit_code
    except (click.ClickException, click.Abort, KeyboardInterrupt) as error:
        return _misused(error)
    except BrokenPipeError:
        sys.stdout = None  # or the interpreter would flush it once more, and complain
        return EXIT_PIPE
    except Denied as denied:
        say(f"denied: {denied.denial.code}: {denied.denial.sentence}")
        say(f"hint: {denied.denial.hint}")
        return denied.denial.exit_status
    except AttestdError as error:
        say(str(error))
        return next(status for family, status in _STATUS if isinstance(error, family))
    except Exception as error:  # noqa: BLE001 - the edge of the process: a bug is one line, never a traceback
        return _bug(error)
    return status if isinstance(status, int) else 0


def _misused(error: click.ClickException | click.Abort | KeyboardInterrupt) -> int:
    if not isinstance(error, click.ClickException):
        say("interrupted")
        return EXIT_INTERRUPTED
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return EXIT_USAGE
    say(error.format_message())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        say(f"hint: {error.ctx.command_path} --help")
    return EXIT_USAGE


def _bug(error: Exception) -> int:
    if isinstance(error, PermissionError) and error.filename is not None:
        say(f"{error.filename}: {error.strerror}: be who it belongs to, or name a directory of your own")
        return EXIT_UNAVAILABLE
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    say(
        f"internal error {secrets.token_hex(4)}: {type(error).__name__}: {error} ({where}): please report this line, and"
        " what you did"
    )
    return EXIT_INTERNAL
