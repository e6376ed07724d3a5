"""`attestd serve` for tests: as the command line starts it, but a crash point of sealing can be set.

`python -m tests.agent.serve_entry STATE_DIR [--crash POINT:COUNT]`
"""

import argparse
import functools
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from attestd.agent import assemble, service
from attestd.agent.service import serve
from attestd.audit.seal import CRASH_POINTS, Sealer
from attestd.errors import AttestdError
from attestd.paths import find_layout, load_configuration
from tests import forking


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("state_dir")
    parser.add_argument("--crash", help="POINT:COUNT: die there, the COUNTth time")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    layout = find_layout(options.state_dir)
    if forking.is_forked():
        service.subprocess = _Forking  # type: ignore[assignment]
    if options.crash:
        point, _, count = options.crash.partition(":")
        assemble.Sealer = functools.partial(Sealer, crash_point=_Crash(point, int(count)))
    try:
        serve(layout, load_configuration(layout.configuration, os.environ), logging.getLogger("attestd"))
    except AttestdError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


class _Forking:
    """The runner is forked too: all else that it is given is what the agent says."""

    DEVNULL = subprocess.DEVNULL

    @staticmethod
    def Popen(command: Sequence[str], *, stdout: int, **options: Any) -> forking.Child:  # noqa: N802
        module = command.index("-m") + 1
        return forking.spawn(
            *command[module:], imported=forking.AGENT, output=stdout, env=options["env"], cwd=options["cwd"],
            session=options["start_new_session"],
        )  # fmt: skip


class _Crash:
    def __init__(self, point: str, count: int) -> None:
        assert point in CRASH_POINTS
        self.point, self.left = point, count

    def __call__(self, point: str) -> None:
        if point == self.point:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
