"""At a terminal: a pty for the command, raw keys, the window's size, and the terminal given back."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.harness import FakeAgent, client_command
from tests.runner.harness import PATH, WAIT_S, read_until


class Desk:
    """A person's terminal with the client as its foreground job."""

    def __init__(self, agent: FakeAgent, *arguments: str) -> None:
        self.pid, self.keyboard = pty.fork()
        if self.pid == 0:
            environment = {"PATH": PATH, "ATTESTD_STATE_DIR": str(agent.state_dir), "TERM": "dumb"}
            command = client_command(*arguments)
            os.execve(command[0], [os.fspath(word) for word in command], environment)  # noqa: S606

    def type(self, keys: bytes) -> None:
        os.write(self.keyboard, keys)

    def see(self, wanted: bytes) -> bytes:
        return read_until(self.keyboard, wanted)

    def size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def modes(self) -> int:
        return int(termios.tcgetattr(self.keyboard)[3])

    def wait(self) -> int:
        deadline = time.monotonic() + WAIT_S
        rest = b""
        while time.monotonic() < deadline:
            if select.select([self.keyboard], [], [], 0.02)[0]:
                with contextlib.suppress(OSError):
                    rest += os.read(self.keyboard, 65536)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(rest)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.keyboard)


@pytest.fixture
def desks() -> Iterator[list[Desk]]:
    made: list[Desk] = []
    yield made
    for desk in made:
        desk.close()


def sit_down(desks: list[Desk], agent: FakeAgent, *arguments: str) -> Desk:
    desks.append(Desk(agent, *arguments))
    return desks[-1]


def test_keys_go_to_the_command_and_the_terminal_comes_back(agent: FakeAgent, desks: list[Desk]) -> None:
    desk = sit_down(desks, agent, "exec", "sh", "-c", "stty -echo; echo ready; read x; echo got=$x; exit 6")
    before = desk.modes()
    desk.see(b"ready")
    assert not desk.modes() & (termios.ICANON | termios.ECHO | termios.ISIG)
    assert agent.requests[0][1] == b"tty0,tty1,tty2"
    desk.type(b"some keys\r")
    desk.see(b"got=some keys")
    assert desk.wait() == 6
    assert desk.modes() == before
    assert before & termios.ICANON


def test_the_interrupt_key_reaches_the_command(agent: FakeAgent, desks: list[Desk]) -> None:
    wait = "import time; print('ready', flush=True); time.sleep(100)"  # a shell may be between two children
    desk = sit_down(desks, agent, "exec", "python3", "-c", wait)
    desk.see(b"ready")
    desk.type(b"\x03")
    assert desk.wait() == 130


def test_the_command_is_in_the_foreground_of_its_own_terminal(agent: FakeAgent, desks: list[Desk]) -> None:
    desk = sit_down(
        desks, agent, "exec", "sh", "-c", 'echo "at $(tty)"; test -t 0 && test -t 1 && test -t 2 && echo all'
    )
    shown = desk.see(b"all")
    assert b"at /dev/pts/" in shown
    assert os.ttyname(desk.keyboard).encode() + b"\r" not in shown
    assert desk.wait() == 0


def test_the_windows_size_at_the_start_and_when_it_changes(agent: FakeAgent, desks: list[Desk]) -> None:
    desk = sit_down(
        desks, agent, "exec", "sh", "-c", "trap 'stty size' WINCH; echo ready; while :; do sleep 0.02; done"
    )
    desk.see(b"ready")
    desk.size(31, 97)
    desk.see(b"31 97")
    desk.size(40, 100)
    desk.see(b"40 100")


def test_much_output_comes_whole(agent: FakeAgent, desks: list[Desk]) -> None:
    desk = sit_down(desks, agent, "exec", "sh", "-c", "seq 1 20000; echo END; exit 3")
    shown = desk.see(b"END")
    assert shown.split() == [*(str(number).encode() for number in range(1, 20001)), b"END"]
    assert desk.wait() == 3


def test_more_keys_than_the_command_takes_do_not_stop_its_output(agent: FakeAgent, desks: list[Desk]) -> None:
    desk = sit_down(
        desks,
        agent,
        "exec",
        "sh",
        "-c",
        "stty raw -echo; echo ready; sleep 0.5; echo shown; head -c 60000 | wc -c",
    )
    desk.see(b"ready")
    os.set_blocking(desk.keyboard, False)
    keys = b"x" * 60000
    deadline = time.monotonic() + WAIT_S
    shown = b""
    while keys or b"60000" not in shown:
        assert time.monotonic() < deadline, (len(keys), shown)
        readable, writable, _ = select.select([desk.keyboard], [desk.keyboard] if keys else [], [], 0.5)
        if readable:
            shown += os.read(desk.keyboard, 65536)
        if writable:
            keys = keys[os.write(desk.keyboard, keys[:4096]) :]
    assert b"shown" in shown


def test_only_stdout_is_a_terminal(agent: FakeAgent) -> None:
    """`producer | attestd exec consumer`: stdin stays the pipe, the terminal stays as it is."""
    keyboard, terminal = os.openpty()
    before = termios.tcgetattr(keyboard)
    environment = {"PATH": PATH, "ATTESTD_STATE_DIR": str(agent.state_dir)}
    client = subprocess.Popen(
        client_command("exec", "sh", "-c", "test -t 1 && cat"),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=terminal,
    )
    client.communicate(b"through the pipe\n", timeout=WAIT_S)
    assert client.returncode == 0
    assert b"through the pipe" in os.read(keyboard, 1000)
    assert termios.tcgetattr(keyboard) == before
    os.close(keyboard)
    os.close(terminal)


def test_a_background_job_leaves_the_terminal_alone(agent: FakeAgent) -> None:
    """Reading it or changing its modes from the background would stop the client."""
    pid, keyboard = pty.fork()
    if pid == 0:
        environment = {"PATH": PATH, "ATTESTD_STATE_DIR": str(agent.state_dir)}
        client = subprocess.Popen(
            client_command("exec", "sh", "-c", "echo done"), env=environment, process_group=0
        )
        os._exit(client.wait())
    read_until(keyboard, b"done")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(keyboard)


def test_a_terminal_that_hangs_up_ends_the_command(agent: FakeAgent, tmp_path: Path) -> None:
    pid, keyboard = pty.fork()
    if pid == 0:
        environment = {"PATH": PATH, "ATTESTD_STATE_DIR": str(agent.state_dir)}
        command = client_command(
            "exec",
            "sh",
            "-c",
            f"trap 'touch {tmp_path}/hup; exit' HUP; echo ready; while :; do sleep 0.02; done",
        )
        os.execve(command[0], [os.fspath(word) for word in command], environment)  # noqa: S606
    read_until(keyboard, b"ready")
    os.close(keyboard)
    os.waitpid(pid, 0)
    deadline = time.monotonic() + WAIT_S
    while not (tmp_path / "hup").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
