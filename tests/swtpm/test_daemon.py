"""The process: it answers, outlives its starter, and nothing that is not it is ever ended."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from swtpm import daemon
from swtpm.daemon import Daemon, SwtpmError


@pytest.fixture
def state(swtpm_template: Path, short_dir: Path) -> Path:
    return Path(shutil.copytree(swtpm_template / "state", short_dir / "state"))


@pytest.fixture
def process(state: Path, short_dir: Path) -> Iterator[Daemon]:
    made = Daemon(short_dir)
    made.start(state)
    yield made
    made.kill()


def has_ended(pid: int | None) -> bool:
    """A zombie counts: it is for whoever adopted it to reap."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == b""
    except FileNotFoundError:
        return True


def test_it_is_a_daemon_of_its_own(process: Daemon) -> None:
    pid = process.pid()
    assert pid is not None
    assert os.getsid(pid) not in {os.getsid(0), 0}
    assert process.answers()
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"PPid:\t{os.getpid()}" not in status


def test_one_that_nobody_knows_of_is_replaced(process: Daemon, state: Path, short_dir: Path) -> None:
    """Its starter was killed before it was a swtpm: found by nobody who looked, it then took the lock on the state."""
    orphan = process.pid()
    (short_dir / "swtpm.pid").unlink()
    process.start(state)
    assert has_ended(orphan)
    assert process.pid() not in (None, orphan)
    assert process.answers()


def test_stop_ends_it_and_its_socket(process: Daemon) -> None:
    pid = process.pid()
    process.stop()
    assert process.pid() is None
    assert not process.answers()
    assert has_ended(pid)


def test_a_process_that_only_has_its_number_is_left_alone(process: Daemon, short_dir: Path) -> None:
    """Process ids are reused; a pid file survives a crash of the machine."""
    process.stop()
    with subprocess.Popen(["sleep", "60"]) as innocent:
        (short_dir / "swtpm.pid").write_text(f"{innocent.pid}\n")
        assert process.pid() is None
        process.stop()
        process.kill()
        assert innocent.poll() is None
        innocent.kill()


@pytest.mark.parametrize("text", ["", "x", "99999999"])
def test_a_pid_file_that_is_none(process: Daemon, short_dir: Path, text: str) -> None:
    saved = (short_dir / "swtpm.pid").read_text()
    (short_dir / "swtpm.pid").write_text(text)
    assert process.pid() is None
    (short_dir / "swtpm.pid").write_text(saved)
    assert process.pid() == int(saved)


def test_one_that_hangs_is_not_mistaken_for_none(process: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "_ANSWER_S", 0.1)
    pid = process.pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(SwtpmError, match="does not answer"):
        process.answers()
    os.kill(pid, signal.SIGCONT)
    assert process.answers()


def test_one_in_use_is_not_stopped(process: Daemon, short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        monkeypatch.context() as hurried,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other,
    ):
        hurried.setattr(daemon, "_ANSWER_S", 0.2)
        other.connect(str(short_dir / "sock"))
        with pytest.raises(SwtpmError, match="in use by another process"):
            process.stop()
        assert process.pid() is not None
    process.stop()
    assert process.pid() is None


def test_one_that_does_not_end_is_killed(process: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = process.pid()
    assert pid is not None
    monkeypatch.setattr(daemon, "_END_S", 0.2)
    monkeypatch.setattr(daemon, "_SHUTDOWN", daemon._GET_CAPABILITY)  # an swtpm deaf to the real request
    process.stop()
    assert has_ended(pid)


def test_state_that_is_none(short_dir: Path) -> None:
    with pytest.raises(SwtpmError, match=r"swtpm does not start on .*absent"):
        Daemon(short_dir).start(short_dir / "absent")


@pytest.mark.parametrize("name", ["a,b", "x" * 100])
def test_paths_that_swtpm_cannot_take(tmp_path: Path, name: str) -> None:
    with pytest.raises(SwtpmError, match="shorter directory"):
        Daemon(tmp_path / name).start(tmp_path / name / "state")
