"""The `attestd` command: `exec` and `check` take the short way in, everything else the command line's.

Start-up is most of a request's latency, so nothing but `sys` is imported before that is known.
"""

import posix
import sys

__all__ = ["main"]


def main() -> int:
    """Runs the command line in `sys.argv`.

    Returns:
        The exit status.
    """
    if sys.argv[1:2] in (["exec"], ["check"]):
        from attestd.client.run import main as run  # noqa: PLC0415 - not loaded by the other commands

        # Nothing is buffered: taking the interpreter apart would cost more than all that was imported.
        posix._exit(run(sys.argv[1:]))  # noqa: SLF001 - its documented name
    from attestd.cli import run as command_line  # noqa: PLC0415 - click costs five times a whole `exec`

    return command_line(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
