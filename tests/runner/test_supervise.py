"""A running command: signals, a client that dies, trees of processes."""

import os
import signal
import time
from pathlib import Path

import pytest

from attestd.runner import execution as execution_module
from attestd.wire import Kind, encode_fields, send_frame
from tests.runner.harness import WAIT_S, Bench, Submitted, read_until

TRAPS = """
for name in INT TERM HUP QUIT USR1 USR2 CONT TSTP WINCH; do trap "echo $name" $name; done
echo ready
while :; do sleep 0.05; done
"""


def start(bench: Bench, *arguments: str, path: str = "/bin/sh") -> tuple[Submitted, int, int]:
    """Starts a command; returns it, its stdout, and its pid."""
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    submitted = bench.submit(bench.grant(bench.execution(path, *arguments)), stdio=(null, writer, null))
    os.close(writer)
    os.close(null)
    pid = int(submitted.start().fields(1)[0])
    return submitted, reader, pid


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} is still there")


def test_signals_are_passed_on(bench: Bench) -> None:
    submitted, output, _ = start(bench, "-c", TRAPS)
    read_until(output, b"ready")
    for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "CONT", "TSTP", "WINCH"):
        submitted.signal(getattr(signal, f"SIG{name}"))
        read_until(output, name.encode() + b"\n")
    submitted.client.close()
    os.close(output)


def test_the_whole_group_gets_them(bench: Bench) -> None:
    submitted, output, _ = start(bench, "-c", "sleep 100 & echo ready; sleep 100; echo never")
    read_until(output, b"ready")
    submitted.signal(signal.SIGTERM)
    assert submitted.end() == (143, "")
    with os.fdopen(output, "rb") as stream:  # its end: no process of the group holds it any more
        assert stream.read() in (b"", b"\n")


def test_stop_and_continue(bench: Bench) -> None:
    """TSTP has no handler here: the kernel would not stop an orphaned group, so the runner does."""
    submitted, output, pid = start(bench, "100", path="/bin/sleep")

    def state() -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    def wait_state(wanted: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while state() != wanted:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    wait_state("S")
    submitted.signal(signal.SIGTSTP)
    wait_state("T")
    submitted.signal(signal.SIGCONT)
    wait_state("S")
    submitted.client.close()
    wait_gone(pid)
    os.close(output)


@pytest.mark.parametrize("number", [b"9", b"19", b"0", b"64", b"x", b"-1", b""])
def test_other_signals_are_refused_and_end_the_connection(bench: Bench, number: bytes) -> None:
    submitted, output, pid = start(bench, "100", path="/bin/sleep")
    send_frame(submitted.client, Kind.SIGNAL, encode_fields([number]))
    wait_gone(pid)  # as if the client had died
    submitted.client.close()
    os.close(output)


def test_a_dead_client_hangs_up_the_command(bench: Bench) -> None:
    submitted, output, pid = start(
        bench, "-c", "trap 'echo hung up; exit 3' HUP; echo ready; while :; do sleep 0.05; done"
    )
    read_until(output, b"ready")
    submitted.client.close()
    read_until(output, b"hung up")
    wait_gone(pid)
    assert bench.wait_spooled("execution.exit", bench.last_leaf())["status"] == 3, "it was not killed"
    os.close(output)


def test_what_ignores_the_hangup_is_killed(bench: Bench) -> None:
    submitted, output, pid = start(bench, "-c", "trap '' HUP; echo ready; sleep 100; sleep 100")
    read_until(output, b"ready")
    began = time.monotonic()
    submitted.client.close()
    wait_gone(pid)
    assert time.monotonic() - began >= execution_module.HANGUP_GRACE_S
    os.close(output)


def test_commands_run_side_by_side(bench: Bench) -> None:
    running = [start(bench, "-c", f"sleep 0.2; exit {number}") for number in range(1, 8)]
    statuses = []
    for submitted, output, _ in running:
        statuses.append(submitted.end()[0])
        submitted.client.close()
        os.close(output)
    assert statuses == [1, 2, 3, 4, 5, 6, 7]


def test_a_child_in_the_background_delays_nobody(bench: Bench) -> None:
    submitted, output, _ = start(bench, "-c", "sleep 30 >/dev/null 2>&1 & echo $!")
    assert submitted.end() == (0, "")
    os.kill(int(read_until(output, b"\n")), signal.SIGKILL)
    os.close(output)


def test_a_waiting_execution_keeps_nobody_elses_pipe_open(bench: Bench) -> None:
    """The end of a command's output shows at once, also while another client makes the runner wait for its go."""
    submitted, output, _ = start(bench, "-c", "echo done")
    waiting = bench.submit(bench.grant(bench.execution("/bin/true")))
    assert waiting.receive().kind == Kind.READY
    submitted.end()
    with os.fdopen(output, "rb") as stream:
        assert stream.read() == b"done\n"
    waiting.go()
    assert waiting.receive().kind == Kind.STARTED, "it waited all the time"
    waiting.client.close()
