"""Agents and runners to be killed by the thousand: forked from a process that has everything imported.

`python -m tests.faults.zygote STATE_DIR` stands for the service manager: it starts one of each, and again what died. The
processes are the real ones, less the 0.4 s of imports.
"""

import logging
import os
import sys
import time
from pathlib import Path

from attestd.agent.service import serve
from attestd.errors import AttestdError
from attestd.paths import Layout, find_layout, load_configuration
from attestd.runner.__main__ import main as run_runner
from attestd.tpm._tcti import _binding

PAUSE_S = 0.2  # before what ended by itself is started again


def main() -> None:
    layout = find_layout(sys.argv[1])
    _binding()
    running = {_start(layout, what): what for what in ("runner", "agent")}
    while True:
        pid, status = os.wait()
        if not os.WIFSIGNALED(status):
            time.sleep(PAUSE_S)
        what = running.pop(pid)
        running[_start(layout, what)] = what


def _start(layout: Layout, what: str) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(_child(layout, what))
    pid_file = layout.agent.parent.parent / f"{what}.pid"
    pid_file.with_suffix(".new").write_text(str(pid))
    pid_file.with_suffix(".new").rename(pid_file)
    return pid


def _child(layout: Layout, what: str) -> int:
    os.setsid()
    _redirect(layout.runner / "runner.log" if what == "runner" else layout.agent.parent.parent / "agent.log")
    if what == "runner":
        words = ["--state-dir", str(layout.runner), "--trust", str(layout.trust)]
        sys.argv = ["attestd-runner", *words, "--socket", str(layout.runner_socket)]
        return run_runner()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", force=True)
    try:
        serve(layout, load_configuration(layout.configuration, os.environ), logging.getLogger("attestd"))
    except AttestdError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


def _redirect(log: Path) -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(output)


if __name__ == "__main__":
    main()
