"""The `attestd` command, with the service's places below a directory and the agent's user one that every host has.

`python -m tests.systemd.entry PREFIX USER COMMAND...`: what a test must not do to /etc, /var and /run, it does here.
"""

import sys
from dataclasses import replace
from pathlib import Path

from attestd import paths
from attestd.paths import Layout, system_layout


def below(prefix: Path, user: str) -> Layout:
    """The system's layout, moved."""
    layout = system_layout()
    moved = {
        name: prefix / str(value).lstrip("/")
        for name, value in vars(layout).items()
        if isinstance(value, Path)
    }
    return replace(layout, **moved, agent_user=user)


def main() -> int:
    prefix, user, *arguments = sys.argv[1:]
    paths._SYSTEM = below(Path(prefix), user)
    from attestd.cli import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
