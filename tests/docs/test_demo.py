"""`make demo`: all of it happens as it tells."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 300


@pytest.mark.timeout(PATIENCE_S)
def test_demo() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/demo.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S - 10,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "all of it happened as told" in done.stdout
    assert "internal_error" not in done.stdout
