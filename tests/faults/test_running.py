"""What happens around a running agent: its directory, its clock, its runner."""

import itertools
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from attestd.lineage.entry import EntryType
from tests.faults.test_disk import Client
from tests.host import ENTRY, Host, wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def host() -> Iterator[Host]:
    with Host.create() as host:
        yield host


def serve_again(host: Host) -> subprocess.CompletedProcess[str]:
    """A second agent on the same state directory."""
    return subprocess.run(
        [sys.executable, "-m", ENTRY, str(host.state)],
        cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_second_agent_is_refused_whatever_was_deleted(host: Host) -> None:
    """Whoever tidies up lock files, sockets and pid files does not make room for a second agent, nor harm the first."""
    client = Client(host.start())
    assert client.ask().status == 0
    for path in [*host.layout.agent.iterdir(), *host.layout.tpm.iterdir(), *host.layout.runner.iterdir()]:
        if "lock" in path.name or path.suffix == ".pid":
            path.unlink()
    second = serve_again(host)
    assert second.returncode == 1
    assert "an agent is running" in second.stderr
    assert "Traceback" not in second.stderr
    assert client.ask().status == 0, "the first one still has its socket"
    client.require_sound()
    assert host.stop() == 0
    assert client.ask().leaf is None
    host.start()
    assert client.ask().status == 0
    client.require_sound()


class Clock:
    """The wall clock of an agent that was started with it."""

    def __init__(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.host.ENTRY", "tests.attacks.shifted")
        self._path = host.top / "shift"
        self.set(timedelta(0))
        host.start("--shift", str(self._path))

    def set(self, by: timedelta) -> None:
        draft = self._path.with_suffix(".new")
        draft.write_bytes(struct.pack("=d", by.total_seconds()))
        draft.rename(self._path)


@pytest.mark.parametrize(
    "by", [timedelta(hours=-1), timedelta(days=-400), timedelta(days=2), timedelta(days=4000)]
)
def test_clock_set_wrong_and_right_again(host: Host, monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Denied and recorded as long as it is wrong; served at once when it is right, by the same agent."""
    clock = Clock(host, monkeypatch)
    client = Client(host)
    assert client.ask().status == 0
    clock.set(by)
    told = [client.ask() for _ in range(3)]
    assert {item.code for item in told} == {"clock_untrusted"}
    assert host.status()["conditions"]["clock"]["code"] == "clock_untrusted"
    clock.set(timedelta(0))
    assert client.ask().status == 0
    client.require_sound()
    denied = [
        item for item in host.entries(EntryType.DECISION_DENY) if item.body["code"] == "clock_untrusted"
    ]
    assert len(denied) == 3
    times = [item.entry.time for item in host.entries()]
    assert times == sorted(times)
    assert times[-1] < "2030", "the wrong clock is nowhere in the log"


def test_clock_that_is_corrected_a_little(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """By seconds, back and forth, as NTP steps it: nobody notices, and no time in the log goes back."""
    clock = Clock(host, monkeypatch)
    client = Client(host)
    for seconds in (0, 3, -1, 2, -1.5, 0):  # behind by less than 5: time passes between two readings
        clock.set(timedelta(seconds=seconds))
        assert client.ask().status == 0, seconds
    client.require_sound()
    times = [item.entry.time for item in host.entries()]
    assert times == sorted(times)


@pytest.mark.parametrize("round_", range(3))
def test_runner_that_dies_while_the_agent_starts(host: Host, round_: int) -> None:
    """At any moment of the start: the agent serves in the end, without help, with a runner of its own."""
    rng = random.Random(round_)  # noqa: S311 - not for secrets
    host.start(wait=False)
    killed = 0
    for _ in itertools.count():
        assert host.agent is not None
        if killed == 3 or host.agent.poll() is not None:
            break
        try:
            pid = host.runner_pid
        except OSError:
            time.sleep(0.002)
            continue
        time.sleep(rng.uniform(0, 0.3))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        killed += 1
        wait_for("it is gone", lambda gone=pid: not _alive(gone))
    assert host.agent is not None
    assert host.agent.poll() is None, host.agent_log
    client = Client(host)
    client.until_served()
    assert "Traceback" not in host.agent_log
    client.require_sound()


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"
