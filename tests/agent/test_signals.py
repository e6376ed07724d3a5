"""Signals, terminals, and the ends of client, runner and agent while a command runs."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
import time
from pathlib import Path

import pytest

from attestd.lineage.entry import EntryType
from tests.host import Host, wait_for

TRAP = """
import signal, sys
def handler(number, frame):
    print("got", signal.Signals(number).name)
    sys.exit(5)
signal.signal(signal.{name}, handler)
print("ready", flush=True)
signal.pause()
"""


def begin(host: Host, *argv: str) -> "subprocess.Popen[bytes]":
    """Starts a shell command, and waits for its first line, `ready`."""
    process = host.client(*argv, authorization=host.issue(*argv))
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 60)[0]
    assert process.stdout.readline() == b"ready\n"
    return process


def gone(pid: int) -> bool:
    try:
        return state_of(pid) == "Z"
    except OSError:
        return True


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def pid_in(file: Path) -> int:
    """What a shell wrote there before it said that it is ready."""
    return int(file.read_text())


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"])
def test_signal_to_the_client_reaches_the_command(shared: Host, name: str) -> None:
    process = begin(shared, "/usr/bin/python3", "-I", "-c", TRAP.format(name=name))
    process.send_signal(getattr(signal, name))
    result = shared.finish(process)
    assert (result.status, result.stdout, result.stderr) == (5, f"got {name}\n".encode(), "")


@pytest.mark.parametrize("name", ["KILL", "SEGV", "TERM"])
def test_command_that_a_signal_ends(shared: Host, name: str) -> None:
    number = getattr(signal, f"SIG{name}")
    result = shared.run("/bin/sh", "-c", f"kill -{name} $$", options=["--json"])
    assert result.status == 128 + number
    end = shared.outcome(result.json["id"])
    assert (end.body["status"], end.body["signal"]) == (128 + number, number)


def test_stop_and_continue(shared: Host) -> None:
    """The command forks nothing: a shell whose child is stopped before it runs anything waits for it, and is not stopped."""
    fifo, file = shared.work / "continue", shared.work / "stopped.pid"
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR)  # both ends: neither side waits for the other to open it
    process = begin(shared, "/bin/sh", "-c", f"echo $$ > {file}; echo ready; read line < {fifo}")
    pid = pid_in(file)
    process.send_signal(signal.SIGTSTP)
    wait_for("it is stopped", lambda: state_of(pid) == "T")
    os.write(writer, b"go on\n")
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGCONT)
    assert shared.finish(process).status == 0
    os.close(writer)


def test_killed_client_hangs_up_its_command(shared: Host) -> None:
    marker, file = shared.work / "hung-up", shared.work / "hung-up.pid"
    process = begin(
        shared,
        "/bin/sh",
        "-c",
        f"trap 'echo > {marker}; exit 7' HUP; echo $$ > {file}; echo ready; while :; do sleep 0.02; done",
    )
    process.kill()
    shared.finish(process)
    wait_for("the command got HUP", marker.exists)
    wait_for("the command ended", lambda: gone(pid_in(file)))
    exits = wait_for(
        "its exit", lambda: [e for e in shared.entries(EntryType.EXECUTION_EXIT) if e.body["status"] == 7]
    )
    assert exits[-1].body["signal"] is None


def test_killed_client_kills_a_command_that_ignores_the_hangup(shared: Host) -> None:
    file = shared.work / "ignoring.pid"
    command = f"trap '' HUP; echo $$ > {file}; echo ready; while :; do sleep 0.02; done"
    process = begin(shared, "/bin/sh", "-c", command)
    killed = time.monotonic()
    process.kill()
    shared.finish(process)
    wait_for("the command ended", lambda: gone(pid_in(file)))
    assert time.monotonic() - killed > 9
    wait_for(
        "its exit",
        lambda: [e for e in shared.entries(EntryType.EXECUTION_EXIT) if e.body["status"] == 128 + 9],
    )


def read_terminal(master: int, until: bytes) -> bytes:
    seen = b""
    deadline = time.monotonic() + 60
    while until not in seen and time.monotonic() < deadline:
        if select.select([master], [], [], 0.2)[0]:
            try:
                seen += os.read(master, 4096)
            except OSError:  # the last one closed the other side
                break
    assert until in seen, seen
    return seen


def test_command_gets_a_terminal_of_its_own_and_keys_reach_it(shared: Host) -> None:
    argv = (
        "/bin/sh",
        "-c",
        "tty; stty size; read line; echo [$line]; trap 'echo int; exit 3' INT; echo ready; sleep 9",
    )
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\x21\x00\x63\x00\0\0\0\0")
    before = termios.tcgetattr(slave)
    process = shared.client(
        *argv, authorization=shared.issue(*argv), stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        prefix=["/usr/bin/setsid", "--ctty", "--wait"],
    )  # fmt: skip
    try:
        first = read_terminal(master, b"33 99")
        assert os.ttyname(slave).encode() not in first
        os.write(master, b"typed\r")
        read_terminal(master, b"ready")
        os.write(master, b"\x03")
        read_terminal(master, b"int")
        assert process.wait(20) == 3
        assert termios.tcgetattr(slave)[:4] == before[:4]
    finally:
        os.close(master)
        os.close(slave)


def test_log_is_sound_after_all_this(shared: Host) -> None:
    shared.wait_settled()
    shared.require_sound()
