"""Runs a demo as `make` does, but for where the command line's imports come from: there are sixty commands in each."""

import subprocess
import sys

from tests.docs.forked import ROOT, shared_command_line

PATIENCE_S = 500
_RUN = """
import importlib, sys
from pathlib import Path
sys.path.insert(0, "docs")
import telling
telling.ATTESTD = Path(sys.argv[2])
sys.exit(importlib.import_module(sys.argv[1]).main())
"""


def run_demo(name: str) -> str:
    """What it told; it must have been all as told."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, name, shared_command_line()],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S - 10,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "all of it happened as told" in done.stdout
    assert "internal_error" not in done.stdout
    return done.stdout
