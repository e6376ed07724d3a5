"""Kills agent, runner and TPM at random times while clients run commands, and then takes stock."""

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from attestd.lineage.entry import EntryType
from attestd.tpm.embedded import EmbeddedTpm
from tests.faults.client import Told, execute
from tests.host import WAIT_S, Host

ROOT = Path(__file__).parent.parent.parent
CLIENTS = 3
SERVING = 0.5  # of the kills come while commands run, the rest at any moment of a start
VICTIMS = ("agent", "agent", "agent", "runner", "runner", "tpm")


@dataclass
class Storm:
    """One host, its clients, and who kills. A context manager.

    Attributes:
        kills: How many processes were killed, by what they were.
        told: What each client was told, by the token that its command wrote.
    """

    host: Host
    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    told: dict[str, Told] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._random = random.Random(self.seed)  # noqa: S311 - not for secrets
        self._traces = self.host.work / "traces"
        script = f'echo "$0" >> {self._traces}'
        self._argv = ("/bin/sh", "-c", script)
        token = {"prefix": "t", "charset": "alnum", "max": 16}
        self._artifact = self.host.issue(*self._argv, token, files=["/bin/sh"], ttl_s=86_000)
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote", str(self.host.state)],
            cwd=ROOT, env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        self._known: list[str] = []
        self._ending = threading.Event()
        self._clients = [threading.Thread(target=self._run_client, args=(n,)) for n in range(CLIENTS)]
        for client in self._clients:
            client.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_clients()
        self._zygote.kill()  # and with the host everything that it started
        self._zygote.wait()

    def _run_client(self, number: int) -> None:
        count = 0
        while not self._ending.is_set():
            token = f"t{number}x{count}"
            count += 1
            self.told[token] = told = execute(
                self.host.layout.agent_socket,
                (*self._argv, token),
                cwd=self.host.work,
                artifact=self._artifact,
            )
            if told.leaf is None:
                time.sleep(0.005)  # no agent, for now

    # -- killing ---------------------------------------------------------------------------------------------------

    def kill(self, count: int) -> None:
        """Kills that many processes, each at a random moment, also while it starts; what a manager restarts, is."""
        goal = sum(self.kills.values()) + count
        while sum(self.kills.values()) < goal:
            if self._random.random() < SERVING:
                self._wait_run()
            time.sleep(self._random.uniform(0, 0.3) ** 2)
            victim = self._random.choice(VICTIMS)
            self.kills[victim] += _kill(self._pid(victim))

    def _wait_run(self) -> None:
        """Waits until something ran: what is killed next is killed at work."""
        before, goal = self.runs, time.monotonic() + WAIT_S
        while self.runs == before:
            assert time.monotonic() < goal, f"no service: {self.host.agent_log[-4000:]}"
            time.sleep(0.002)

    def _pid(self, what: str) -> int | None:
        path = self.host.layout.tpm / "swtpm.pid" if what == "tpm" else self.host.top / f"{what}.pid"
        with contextlib.suppress(OSError, ValueError):
            return int(path.read_text())
        return None

    # -- taking stock ----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Nobody kills any more: service resumes without help, and what was in the log still is."""
        for _ in range(3):
            self._wait_run()
        entries = [item.id for item in self.host.entries()]
        assert entries[: len(self._known)] == self._known, f"seed {self.seed}: the log lost entries"
        self._known = entries

    def require_sound(self) -> None:
        """After the clients ended: nothing ran unrecorded, nothing recorded is lost, the log verifies."""
        host, what = self.host, f"seed {self.seed}, {dict(self.kills)}"
        host.wait_settled()
        host.require_sound()
        journal = host.agent_log + host.runner_log
        for line in journal.splitlines():
            assert not any(word in line for word in ("RollbackError", "Traceback", "contradicts")), (
                f"{line} {what}"
            )
        allowed = {item.id: item.body["argv"][-1] for item in host.entries(EntryType.DECISION_ALLOW)}
        started = {allowed[item.body["leaf"]] for item in host.entries(EntryType.EXECUTION_START)}
        statuses = {item.body["leaf"]: item.body["status"] for item in host.entries(EntryType.EXECUTION_EXIT)}
        ran = self._traces.read_text().split()
        assert len(ran) == len(set(ran)), f"something ran twice: {what}"
        assert set(ran) <= started, f"something ran unrecorded: {what}"
        # A start is recorded before the command runs: of what was killed in between, there is only the record.
        unknown = {allowed[leaf] for leaf, status in statuses.items() if status is None}
        assert started - set(ran) <= unknown, f"what ended did not run: {what}"
        for token, told in self.told.items():
            assert told.leaf is None or allowed.get(told.leaf) == token, f"a decision was lost: {what}"
            if told.status is not None:
                assert told.leaf is not None
                assert statuses[told.leaf] in (told.status, None), f"another status was told: {what}"
                assert token in ran, f"told of an end that did not come: {what}"

    @property
    def runs(self) -> int:
        """How many commands ran so far."""
        return len(self._traces.read_text().splitlines()) if self._traces.exists() else 0

    def end_clients(self) -> None:
        """Lets each client finish what it does."""
        self._ending.set()
        for client in self._clients:
            client.join()


def _kill(pid: int | None) -> bool:
    """kill -9; False if there was nobody."""
    if pid is None:
        return False
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
        assert select.select([process], [], [], 60)[0], f"{pid} did not end"
    except ProcessLookupError:
        return False
    finally:
        os.close(process)
    return True


@dataclass
class SealingStorm:
    """A process that seals and releases, killed again and again; no clients, no runner. A context manager."""

    host: Host
    seed: int
    kills: int = 0

    def __enter__(self) -> Self:
        self._random = random.Random(self.seed)  # noqa: S311 - not for secrets
        self._traces = self.host.work / "sealed"
        log = (self.host.top / "sealing.log").open("wb")
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.sealing_loop", str(self.host.state), str(self._traces)],
            cwd=ROOT, env={"PATH": os.environ["PATH"]}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log,
        )  # fmt: skip
        log.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._zygote.kill()
        self._zygote.wait()
        for stream in (self._zygote.stdin, self._zygote.stdout):
            assert stream is not None
            stream.close()

    def kill(self, count: int) -> None:
        """Kills that often; three in four while it seals, the others while it recovers."""
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        for _ in range(count):
            print("go", file=self._zygote.stdin, flush=True)
            pid = int(self._zygote.stdout.readline())
            if self._random.random() < 0.75:
                self._wait_release(pid)
            time.sleep(self._random.uniform(0, 0.03))
            power_cut = self._random.random() < 0.05
            if power_cut:
                EmbeddedTpm(self.host.layout.tpm).kill()
            killed = _kill(pid)
            assert killed or power_cut, f"it ended by itself: {self._journal[-2000:]}"
            self.kills += killed + power_cut

    @property
    def _journal(self) -> str:
        return (self.host.top / "sealing.log").read_text()

    def _wait_release(self, pid: int) -> None:
        before, goal = self._size(), time.monotonic() + WAIT_S
        while self._size() == before and time.monotonic() < goal and Path(f"/proc/{pid}").exists():
            time.sleep(0.001)

    def _size(self) -> int:
        return self._traces.stat().st_size if self._traces.exists() else 0

    @property
    def released(self) -> int:
        """How many allows were released."""
        return len(self._traces.read_text().split())

    def require_sound(self) -> None:
        """Whatever was released is in the log, once, and never void; the log verifies."""
        what = f"seed {self.seed}, {self.kills} kills"
        assert "RollbackError" not in self._journal, f"{self._journal[-2000:]} {what}"
        self.host.verify_log()
        allowed = {item.body["token"]: item.id for item in self.host.entries(EntryType.DECISION_ALLOW)}
        void = {item.body["leaf"] for item in self.host.entries(EntryType.DECISION_VOID)}
        released = self._traces.read_text().split()
        assert len(released) == len(set(released)), what
        assert set(released) <= set(allowed), f"released unrecorded: {what}"
        assert not {allowed[token] for token in released} & void, f"released and void: {what}"
