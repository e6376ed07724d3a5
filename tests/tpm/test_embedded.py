"""One swtpm a state directory: found again after any end of whoever started it, stopped in order."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from attestd.errors import TpmError, TpmUnavailableError, UsageError
from attestd.tcg.pcr import PcrSelection
from attestd.tpm import capabilities
from attestd.tpm.device import Tpm
from attestd.tpm.embedded import EmbeddedTpm
from tests.tpm.provisioned import provision

PCR_11 = PcrSelection("sha256", (11,))


def run_python(code: str, *arguments: str, stdout: int | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=stdout, text=True)


def test_provisions_once_and_is_found_again(short_dir: Path) -> None:
    embedded = EmbeddedTpm(short_dir / "tpm")
    assert not embedded.is_provisioned
    try:
        assert embedded.start() is True
        assert embedded.is_provisioned
        first = (short_dir / "tpm" / "state").stat().st_ino
        assert embedded.start() is False
        assert EmbeddedTpm(short_dir / "tpm").start() is False
        embedded.stop()
        assert embedded.start() is True
        assert (short_dir / "tpm" / "state").stat().st_ino == first
    finally:
        embedded.kill()
    for path in (short_dir / "tpm").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_pcrs_outlive_a_killed_starter_and_not_a_stop(embedded_tpm: EmbeddedTpm) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from attestd.tpm.embedded import EmbeddedTpm
from tests.tpm.provisioned import provision
embedded = EmbeddedTpm(Path(sys.argv[1]))
embedded.start()
tpm = embedded.open()
host = provision(tpm)
manager = tpm._channel.session(policy=True)
manager.__enter__()
tpm.extend(11, {"sha256": bytes(32)})
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = run_python(code, str(embedded_tpm._directory))
    assert killed.wait() == -signal.SIGKILL
    assert embedded_tpm.start() is False
    with Tpm(embedded_tpm.tcti) as tpm:
        left = capabilities.handles(tpm._channel, capabilities.TRANSIENT)
        assert len(left) == 2, "there is no resource manager to clean up"
        assert capabilities.handles(tpm._channel, capabilities.LOADED_SESSIONS)
    with embedded_tpm.open() as tpm:
        assert tpm.read_pcrs(PCR_11)[11] != bytes(32)
        assert capabilities.handles(tpm._channel, capabilities.TRANSIENT) == ()
        assert capabilities.handles(tpm._channel, capabilities.LOADED_SESSIONS) == ()
    embedded_tpm.stop()
    embedded_tpm.start()
    with embedded_tpm.open() as tpm:
        assert tpm.read_pcrs(PCR_11)[11] == bytes(32)


def test_many_starters_start_one(embedded_tpm: EmbeddedTpm) -> None:
    code = """
import sys
from pathlib import Path
from attestd.tpm.embedded import EmbeddedTpm
print(EmbeddedTpm(Path(sys.argv[1])).start())
"""
    starters = [run_python(code, str(embedded_tpm._directory), stdout=subprocess.PIPE) for _ in range(4)]
    answers = sorted(starter.communicate()[0].strip() for starter in starters)
    assert answers == ["False", "False", "False", "True"]


def test_one_connection_at_a_time(embedded_tpm: EmbeddedTpm) -> None:
    embedded_tpm.start()
    with embedded_tpm.open():
        for refused in (embedded_tpm.open, embedded_tpm.stop):
            with pytest.raises(TpmUnavailableError, match="in use by another process"):
                refused()
        assert embedded_tpm.start() is False
    with embedded_tpm.open() as tpm:
        assert tpm.properties().manufacturer == "IBM"


def test_open_without_start(embedded_tpm: EmbeddedTpm) -> None:
    for _ in range(2):
        with pytest.raises(TpmUnavailableError, match="no TPM at"):
            embedded_tpm.open()


def test_stop_without_start_and_twice(embedded_tpm: EmbeddedTpm) -> None:
    embedded_tpm.stop()
    embedded_tpm.start()
    embedded_tpm.stop()
    embedded_tpm.stop()
    assert embedded_tpm._daemon.pid() is None


def test_started_again_after_a_crash(embedded_tpm: EmbeddedTpm) -> None:
    embedded_tpm.start()
    pid = embedded_tpm._daemon.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert embedded_tpm.start() is True
    with embedded_tpm.open() as tpm:
        provision(tpm)


def test_one_that_hangs_is_an_outage(embedded_tpm: EmbeddedTpm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swtpm.daemon._ANSWER_S", 0.2)
    embedded_tpm.start()
    pid = embedded_tpm._daemon.pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TpmUnavailableError, match=f"pid {pid}"):
        embedded_tpm.start()
    with pytest.raises(TpmUnavailableError, match=f"pid {pid}"):
        embedded_tpm.stop()
    embedded_tpm.kill()
    assert embedded_tpm.start() is True


def test_a_path_too_long_for_sockets(tmp_path: Path) -> None:
    embedded = EmbeddedTpm(tmp_path / ("x" * 100))
    with pytest.raises(UsageError, match="at most 107 bytes: use a shorter state directory"):
        embedded.start()
    assert not embedded.is_provisioned


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TpmUnavailableError, match="cannot be used"):
        EmbeddedTpm(tmp_path / "file" / "t").open()


def test_a_directory_in_the_way(embedded_tpm: EmbeddedTpm) -> None:
    (embedded_tpm._directory / "swtpm.pid").mkdir()
    with pytest.raises(TpmError, match=r"software TPM: .*swtpm\.pid"):
        embedded_tpm.start()


def test_threads_of_one_process_exclude_each_other_too(embedded_tpm: EmbeddedTpm) -> None:
    started: list[bool] = []
    threads = [threading.Thread(target=lambda: started.append(embedded_tpm.start())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(started) == [False, False, True]
