"""Whole processes: `attestd exec`, the agent's start and what it holds."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from attestd.tpm.embedded import EmbeddedTpm
from tests.bench.measure import Results, Row, median_ms, p99_ms, timed
from tests.host import Host, kill_and_wait, wait_for

ATTESTD = Path(sys.executable).with_name("attestd")
CLIENTS = 8
IDLE_S = 3.0


class Service:
    """`attestd serve` as its service manager sees it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.environment = {"PATH": os.environ["PATH"], "ATTESTD_STATE_DIR": str(host.state)}

    @contextmanager
    def running(self) -> Iterator[float]:
        """Gives how long it took from its first instruction until it was ready."""
        address = str(self.host.top / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(address)
            notify.settimeout(60)
            start = time.perf_counter()
            with (self.host.top / "agent.log").open("ab") as log:
                agent = subprocess.Popen(
                    [ATTESTD, "serve"],
                    env={**self.environment, "NOTIFY_SOCKET": address},
                    stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                )  # fmt: skip
            try:
                while b"READY=1" not in notify.recv(4096):
                    pass
                self.pid = agent.pid
                yield time.perf_counter() - start
            finally:
                agent.terminate()
                agent.wait(30)
                Path(address).unlink()

    def end_runner(self) -> None:
        kill_and_wait(self.host.runner_pid, 15)


def run(command: Sequence[str | Path], cwd: Path, env: dict[str, str]) -> None:
    subprocess.run(command, check=True, cwd=cwd, stdin=subprocess.DEVNULL, env=env)


def executions(host: Host, results: Results) -> None:
    """One after another, then eight at a time."""
    service = Service(host)
    file = host.write(host.issue("/bin/true", ttl_s=3600))
    commands: dict[str, list[str | Path]] = {
        "python": [sys.executable, "-I", "-S", "-c", "pass"],
        "sudo": ["sudo", "-n", "/bin/true"],
        "exec": [ATTESTD, "exec", "-a", file, "--", "/bin/true"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    with service.running():
        try:
            run(commands["exec"], host.work, service.environment)
            for _ in range(30 if results.quick else 150):
                for name, command in commands.items():
                    times[name].append(timed(lambda: run(command, host.work, service.environment)))  # noqa: B023
            rate = _at_once(service, commands["exec"], 10 if results.quick else 40)
        finally:
            service.end_runner()
    python, p50, p99 = median_ms(times["python"]), median_ms(times["exec"]), p99_ms(times["exec"])
    against = f"empty python {python:.1f} ms, sudo {median_ms(times['sudo']):.1f} ms"
    results.add(
        Row("exec -- /bin/true, whole process, p50", p50, "ms", against, bar=python + 20, at_most=True),
        Row("the same, p99", p99, "ms", "twice the p50", bar=2 * p50, at_most=True),
        Row(f"whole exec a second, {CLIENTS} clients in parallel", rate, "/s", bar=50),
    )


def _at_once(service: Service, command: Sequence[str | Path], each: int) -> float:
    def client() -> None:
        for _ in range(each):
            run(command, service.host.work, service.environment)

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    start = time.perf_counter()
    for item in clients:
        item.start()
    for item in clients:
        item.join()
    return CLIENTS * each / (time.perf_counter() - start)


def start(host: Host, results: Results) -> None:
    """On the log as it is: from the first instruction to ready, and what it holds once it has verified the log."""
    service, seconds, resident, size = Service(host), [], 0, 0
    for _ in range(3):
        EmbeddedTpm(host.layout.tpm).start()
        with service.running() as took:
            seconds.append(took)
            size = wait_for("the log is verified", lambda: _verified(host), timeout_s=180)
            time.sleep(IDLE_S)
            resident = psutil.Process(service.pid).memory_info().rss
            service.end_runner()
    results.add(
        Row(
            "start to ready, swtpm running",
            median_ms(seconds) / 1e3,
            "s",
            f"{size:,} entries",
            bar=1.5,
            at_most=True,
        ),
        Row(
            "agent, resident memory, idle",
            resident / 1e6,
            "MB",
            "after it has verified the log",
            bar=80,
            at_most=True,
        ),
    )


def _verified(host: Host) -> int:
    """Up to which size the running agent has verified its log, 0 until it has."""
    verified = host.status()["log"]["verified"]
    return int(verified.get("size", 0))
