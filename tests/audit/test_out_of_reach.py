"""A log that an auditor can read, in a place where nothing can be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attestd.audit.store import LogStore
from attestd.errors import StoreError
from tests.audit.harness import Log, record

READ = "import sys; from attestd.audit.store import LogStore; print(LogStore.open(sys.argv[1], readonly=True).size)"


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("runuser") is None, reason="root may write anywhere")
def test_a_copy_where_nothing_can_be_written(log: Log, short_dir: Path) -> None:
    log.seal([record()])
    log.close()
    short_dir.chmod(0o755)
    copy = short_dir / "log.db"
    shutil.copy(log.path, copy)
    copy.chmod(0o644)
    command = ["runuser", "-u", "nobody", "--", sys.executable, "-c", READ, str(copy)]
    environment = {"PATH": "/usr/sbin:/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}

    def read() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=60
        )

    assert read().stdout == "1\n"
    # Entries that wait in a write-ahead log would not be seen: better none than too few.
    Path(f"{copy}-wal").write_bytes(b"something")
    refused = read()
    assert refused.returncode == 1
    assert "cannot open the audit log" in refused.stderr


def test_why_it_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        LogStore.open(str(tmp_path / "log.db"), readonly=True)
