"""The runner's socket, its start and its end; what it finds after it was killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attestd.durable import write_atomic
from attestd.strict import canonical
from attestd.wire import FrameReader, Kind, send_frame
from tests.runner.harness import WAIT_S, Bench

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_what_it_says_of_itself(bench: Bench) -> None:
    info = bench.info()
    assert bench.process is not None
    assert info["pid"] == bench.process.pid
    assert info["uid"] == os.geteuid()
    assert info["isolation"] == ("user" if os.geteuid() == 0 else "none")
    assert info["governance"]["digest"] == bench.world.trust().digest
    assert len(info["spool"]) == 32
    assert info["version"]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (b"?", []),
        (Kind.ACCEPTED, []),
        (Kind.FORFEIT, [b"log"]),
        (Kind.FORFEIT, [b"log", b"-1"]),
        (Kind.ACKNOWLEDGE, []),
        (Kind.SPOOL, [b"x"]),
        (Kind.INFO, [b"more"]),
    ],
)
def test_what_is_no_request_ends_the_connection_and_nothing_else(
    bench: Bench, kind: bytes, fields: list[bytes]
) -> None:
    with pytest.raises(EOFError):
        bench.ask(kind, fields)
    assert bench.info()["uid"] == os.geteuid()


def test_one_connection_may_ask_more_than_once(bench: Bench) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(WAIT_S)
        sock.connect(str(bench.socket))
        reader = FrameReader(sock)
        for _ in range(3):
            send_frame(sock, Kind.INFO)
            frame = reader.receive()
            assert frame is not None
            assert frame.kind == Kind.INFORMED


def test_half_a_request_blocks_nobody(bench: Bench) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(bench.socket))
        sock.send(b"E\x00\x01")
        assert bench.info()["uid"] == os.geteuid()


def test_the_spool_is_emptied_by_acknowledging(bench: Bench) -> None:
    bench.run(bench.execution("/bin/true"))
    time.sleep(0.1)
    spooled = bench.spool()
    assert [item["type"] for item in spooled][-2:] == ["execution.start", "execution.exit"]
    assert bench.ask(Kind.ACKNOWLEDGE, [str(spooled[-1]["id"]).encode()]).kind == Kind.ACKNOWLEDGED
    assert bench.spool() == []


@AS_ROOT
def test_another_user_is_not_served(bench: Bench) -> None:
    """Even where the socket's mode would let them in."""
    bench.directory.chmod(0o755)
    bench.socket.chmod(0o666)
    ask = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    try:
        sock.send(b"I" + bytes(4))
        print(len(sock.recv(10)))
    except (BrokenPipeError, ConnectionResetError):
        print(0)
"""
    shown = [
        subprocess.run(
            ["/usr/bin/python3", "-c", ask, bench.socket], user=uid, check=True, capture_output=True
        )
        for uid in (0, 65534)
    ]
    assert [int(done.stdout) > 0 for done in shown] == [True, False]


def test_trust_is_read_again_for_each_request(fresh_bench: Bench) -> None:
    """A revocation holds from the next request on; damaged trust refuses everything."""
    bench = fresh_bench.start()
    granted = bench.grant(bench.execution("/bin/true"), max_uses=3)
    timestamp = bench.trust / "metadata" / "timestamp.json"
    good = timestamp.read_bytes()
    write_atomic(timestamp, good[:-1], mode=0o644)
    assert bench.submit(granted).refusal() == "governance_mismatch"
    assert "timestamp.json" in bench.info()["governance"]["problem"]
    write_atomic(timestamp, good, mode=0o644)
    (bench.trust / "root.json").chmod(0o666)
    assert bench.submit(granted).refusal() == "governance_mismatch"
    (bench.trust / "root.json").chmod(0o644)
    assert bench.submit(granted).answer.kind == Kind.ACCEPTED
    for version, requesters, refusal in (
        (2, [os.getuid()], "revoked"),
        (3, [], "governance_mismatch"),  # What was revoked stays revoked.
        (4, [os.getuid(), 65534], "revoked"),
    ):
        bench.world.revocations |= {"version": version, "requesters": requesters}
        bench.world.write_trust(bench.trust)
        assert bench.submit(granted).refusal() == refusal


def test_writable_files_are_refused_where_the_platform_policy_says_so(
    fresh_bench: Bench, tmp_path: Path
) -> None:
    bench = fresh_bench
    bench.world.platforms["local"]["writable"] = "refuse"
    path = tmp_path / "true"
    path.write_bytes(Path("/bin/true").read_bytes())
    path.chmod(0o755)
    writable = bench.execution(path, cwd="/")
    path.chmod(0o777)
    # The agent decided as if it were not: the runner looks for itself.
    from dataclasses import replace

    granted = bench.grant(replace(writable, writable=frozenset()))
    bench.world.write_trust(bench.trust)
    bench.start()
    assert bench.submit(granted).refusal() == "identity_mismatch"


def test_it_ends_in_order_and_voids_what_waits(fresh_bench: Bench) -> None:
    bench = fresh_bench.start()
    submitted = bench.submit(bench.grant(bench.execution("/bin/true")))
    leaf = submitted.receive().fields(1)[0].decode()
    assert bench.stop() == 0
    assert submitted.receive().kind == Kind.REFUSED
    bench.start()
    assert "was stopped" in bench.wait_spooled("decision.void", leaf)["reason"]


def test_a_claim_that_never_started_is_void_after_a_crash(fresh_bench: Bench) -> None:
    bench = fresh_bench.start()
    submitted = bench.submit(bench.grant(bench.execution("/bin/true")))
    leaf = submitted.receive().fields(1)[0].decode()
    assert bench.process is not None
    children = Path(f"/proc/{bench.process.pid}/task/{bench.process.pid}/children").read_text().split()
    assert children
    assert bench.stop(signal.SIGKILL) == -signal.SIGKILL
    bench.start()
    assert (
        bench.wait_spooled("decision.void", leaf)["reason"] == "the runner stopped before the command started"
    )
    # Its waiting children went with it.
    deadline = time.monotonic() + WAIT_S
    while any(state(int(child)) not in ("", "Z") for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_a_command_outlives_the_runner_and_its_end_is_found(fresh_bench: Bench, tmp_path: Path) -> None:
    """It is watched again; its status went with the old runner, and the log says so."""
    bench = fresh_bench.start()
    flag = tmp_path / "flag"
    execution = bench.execution("/bin/sh", "-c", f"while [ ! -e {flag} ]; do sleep 0.05; done; exit 5")
    submitted = bench.submit(bench.grant(execution))
    leaf = submitted.receive().fields(1)[0].decode()
    submitted.go()
    pid = int(submitted.receive().fields(1)[0])
    bench.stop(signal.SIGKILL)
    assert state(pid) not in ("", "Z")
    bench.start()
    assert " still_running=1 " in (bench.directory / "runner.log").read_text()
    assert not [item for item in bench.spool() if item["type"] == "execution.exit"]
    flag.touch()
    end = bench.wait_spooled("execution.exit", leaf)
    assert (end["status"], end["signal"]) == (None, None)
    assert "replaced while it ran" in end["error"]


def test_a_command_that_ended_while_no_runner_watched(fresh_bench: Bench) -> None:
    bench = fresh_bench.start()
    submitted = bench.submit(bench.grant(bench.execution("/bin/sleep", "100")))
    leaf = submitted.receive().fields(1)[0].decode()
    submitted.go()
    pid = int(submitted.receive().fields(1)[0])
    bench.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + WAIT_S
    while state(pid) not in ("", "Z"):
        assert time.monotonic() < deadline
    bench.start()
    assert bench.wait_spooled("execution.exit", leaf)["status"] is None


def test_a_receipt_stays_used_after_a_crash(fresh_bench: Bench) -> None:
    bench = fresh_bench.start()
    granted = bench.grant(bench.execution("/bin/true"), max_uses=5)
    bench.submit(granted)
    bench.stop(signal.SIGKILL)
    bench.start()
    assert bench.submit(granted).refusal() == "identity_mismatch"


def runner(bench: Bench, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-I", "-m", "attestd.runner", *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
        cwd=bench.directory,
    )


def required(bench: Bench) -> list[str | Path]:
    return ["--state-dir", bench.state, "--trust", bench.trust, "--socket", bench.socket]


def test_two_runners_do_not_share_a_record(fresh_bench: Bench) -> None:
    bench = fresh_bench.start()
    second = runner(bench, *required(bench))
    assert second.returncode == 64
    assert "another runner is using it" in second.stderr
    assert bench.info()["running"] == 0


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (lambda bench: (bench.state / "host.json").unlink(), 64, "attestd init"),
        (lambda bench: (bench.state / "host.json").write_text("{}"), 1, "host.json"),
        (
            lambda bench: (bench.state / "host.json").write_bytes(canonical({"v": 1, "host": "short"})),
            1,
            "host.json",
        ),
        (lambda bench: bench.state.chmod(0o755), 64, "mode 0700"),
        (lambda bench: (bench.state / "runner.db").write_bytes(b"x" * 4096), 1, "runner.db"),
    ],
)
def test_it_does_not_start_with_a_state_that_is_not_its_own(
    fresh_bench: Bench, change: "object", status: int, words: str
) -> None:
    assert callable(change)
    change(fresh_bench)
    done = runner(fresh_bench, *required(fresh_bench))
    assert done.returncode == status
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--bogus"], ["--state-dir", "x"]])
def test_misuse_is_64(fresh_bench: Bench, arguments: list[str]) -> None:
    done = runner(fresh_bench, *arguments)
    assert done.returncode == 64
    assert "usage:" in done.stderr


def test_a_socket_path_that_is_too_long(fresh_bench: Bench) -> None:
    done = runner(fresh_bench, *required(fresh_bench)[:-1], fresh_bench.directory / ("x" * 107))
    assert done.returncode == 64
    assert "107 bytes" in done.stderr


@pytest.mark.parametrize("limit", ["-1", str(2**62), str(2**80)])
def test_a_descriptor_limit_that_the_kernel_refuses(fresh_bench: Bench, limit: str) -> None:
    done = runner(fresh_bench, *required(fresh_bench), "--descriptor-limit", limit)
    assert done.returncode == 64
    assert f"--descriptor-limit {limit}: expected a number up to the hard limit" in done.stderr


def test_no_socket_at_all(fresh_bench: Bench) -> None:
    assert runner(fresh_bench, *required(fresh_bench)[:-2]).returncode == 64


def test_systemd_hands_over_the_socket_and_is_told(fresh_bench: Bench) -> None:
    bench = fresh_bench
    notify = bench.directory / "notify"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        listener.bind(str(bench.socket))
        listener.listen()
        told.bind(str(notify))
        told.settimeout(WAIT_S)
        pass_on = "import os,sys; os.dup2(int(sys.argv[1]),3); os.environ['LISTEN_PID']=str(os.getpid()); os.execv(sys.executable,[sys.executable,*sys.argv[2:]])"
        command = [
            sys.executable,
            "-c",
            pass_on,
            str(listener.fileno()),
            "-I",
            "-m",
            "attestd.runner",
            *required(bench)[:-2],
        ]
        environment = {**os.environ, "LISTEN_FDS": "1", "NOTIFY_SOCKET": str(notify)}
        bench.log = (bench.directory / "runner.log").open("ab")
        bench.process = subprocess.Popen(
            command, env=environment, pass_fds=[listener.fileno()], stderr=bench.log
        )
        assert told.recv(100) == b"READY=1"
    assert bench.info()["pid"] == bench.process.pid
    assert bench.stop() == 0
