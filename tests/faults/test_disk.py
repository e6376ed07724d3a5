"""Disks that are full, slow or read-only, for the log and for the runner's record: denied, and then served again."""

import contextlib
import os
import resource
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from attestd.lineage.entry import EntryType
from tests.agent.test_signals import begin
from tests.faults.client import Told, execute
from tests.host import Host, wait_for


class Client:
    """Asks for a command that leaves a trace."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.traces = host.work / "traces"
        self.argv = ("/bin/sh", "-c", f"echo >> {self.traces}")
        self.artifact = host.issue(*self.argv)

    def ask(self) -> Told:
        return execute(self.host.layout.agent_socket, self.argv, cwd=self.host.work, artifact=self.artifact)

    def runs(self) -> int:
        return len(self.traces.read_text().splitlines()) if self.traces.exists() else 0

    def until_served(self) -> None:
        wait_for("service", lambda: self.ask().status == 0)

    def require_sound(self) -> None:
        """Everything ran once for each recorded exit."""
        self.host.wait_settled()
        self.host.require_sound()
        statuses = [item.body["status"] for item in self.host.entries(EntryType.EXECUTION_EXIT)]
        assert statuses.count(0) == self.runs()


@pytest.fixture
def client(host: Host) -> Client:
    client = Client(host)
    assert client.ask().status == 0
    return client


@pytest.fixture
def host() -> Iterator[Host]:
    with Host.create() as host:
        yield host.start()


@contextlib.contextmanager
def file_size_limit(pid: int, limit: int) -> Iterator[None]:
    """No file grows over the limit: what a full disk is, also for who may not mount one."""
    process = psutil.Process(pid)
    before = process.rlimit(resource.RLIMIT_FSIZE)
    process.rlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        process.rlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 5_000, 20_000])
def test_log_cannot_grow(client: Client, room: int) -> None:
    """At once, or in the middle of a transaction."""
    host = client.host
    assert host.agent is not None
    wal = host.layout.log.with_name("log.db-wal")
    runs = client.runs()
    with file_size_limit(host.agent.pid, wal.stat().st_size + room):
        told = [client.ask() for _ in range(20)]
        assert told[-1].code == "audit_unavailable"
        assert client.runs() == runs + sum(item.leaf is not None for item in told)
    client.until_served()
    client.require_sound()
    assert host.stop() == 0
    codes = [item.body["codes"] for item in host.entries(EntryType.DENIALS_AGGREGATED)]
    denied = sum(item.code == "audit_unavailable" for item in told)
    assert sum(item.get("audit_unavailable", 0) for item in codes) >= denied


@pytest.mark.parametrize("room", [0, 5_000, 20_000])
def test_runners_record_cannot_grow(client: Client, room: int) -> None:
    host = client.host
    wal = host.layout.runner / "runner.db-wal"
    runs = client.runs()
    with file_size_limit(host.runner_pid, wal.stat().st_size + room):
        told = [client.ask() for _ in range(20)]
        # The second where it cannot even take off its record what ran before: it drops the agent, which counts it as gone.
        assert told[-1].code in ("audit_unavailable", "agent_unavailable")
        assert told[-1].status is None
    client.until_served()
    assert client.runs() > runs
    client.require_sound()


def test_end_that_could_not_be_recorded_is_recorded_later(client: Client) -> None:
    """A command ends while the runner's disk is full: its client is told, and the log knows when there is room."""
    host = client.host
    gate = host.work / "gate"
    process = begin(host, "/bin/sh", "-c", f"echo ready; while ! [ -e {gate} ]; do sleep 0.02; done; exit 4")
    wal = host.layout.runner / "runner.db-wal"
    with file_size_limit(host.runner_pid, wal.stat().st_size):
        gate.touch()
        result = host.finish(process)
        assert result.status == 4
        time.sleep(0.5)
    end = host.wait_entry(EntryType.EXECUTION_EXIT, lambda item: item.body["status"] == 4)
    assert end.body["error"] is None
    client.require_sound()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """A disk that takes its time: nobody gets to write meanwhile."""
    connection = sqlite3.connect(path, isolation_level=None)
    with contextlib.closing(connection):
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("which", ["log", "runner"])
def test_slow_disk_delays_and_loses_nothing(client: Client, which: str) -> None:
    host = client.host
    told: list[Told] = []
    with locked(host.layout.log if which == "log" else host.layout.runner / "runner.db"):
        threads = [threading.Thread(target=lambda: told.append(client.ask())) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(1.5)
    for thread in threads:
        thread.join()
    assert [item.status for item in told] == [0] * 8
    client.require_sound()


@pytest.fixture
def small_disk(short_dir: Path) -> Iterator[Path]:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=72m", "tmpfs", short_dir], check=False).returncode:
        pytest.skip("no right to mount a file system here; the file size limit stands for it")
    yield short_dir
    subprocess.run(["umount", "-l", short_dir], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
@pytest.mark.parametrize("which", ["agent", "runner"])
def test_full_disk(small_disk: Path, which: str) -> None:
    """A real one, with nothing left at all."""
    with Host.create() as host:
        directory = getattr(host.layout, which)
        subprocess.run(["cp", "-a", f"{directory}/.", small_disk], check=True)
        subprocess.run(["mount", "--bind", small_disk, directory], check=True)
        try:
            host.start()
            client = Client(host)
            assert client.ask().status == 0
            block = bytes(1 << 12)
            with (directory / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
                while True:
                    filler.write(block)
            wait_for("denials", lambda: client.ask().code == "audit_unavailable")
            (directory / "filler").unlink()
            client.until_served()
            client.require_sound()
            assert host.stop() == 0
            host.kill_runner()
        finally:
            subprocess.run(["umount", "-l", directory], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_read_only_disk_is_said_at_the_start(small_disk: Path) -> None:
    with Host.create() as host:
        subprocess.run(["cp", "-a", f"{host.layout.agent}/.", small_disk], check=True)
        subprocess.run(["mount", "--bind", small_disk, host.layout.agent], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", host.layout.agent], check=True)
            host.start(wait=False)
            assert host.wait_ended() == 1
            assert "Read-only file system" in host.agent_log or "readonly database" in host.agent_log
            assert "Traceback" not in host.agent_log
            subprocess.run(["mount", "-o", "remount,rw,bind", host.layout.agent], check=True)
            host.start()
            assert Client(host).ask().status == 0
            assert host.stop() == 0
        finally:
            subprocess.run(["umount", "-l", host.layout.agent], check=True)


@contextlib.contextmanager
def disk_with_errors(image: Path, directory: Path) -> Iterator[Path]:
    """A file system that becomes read-only on errors; gives the file by which the kernel is told of one."""
    with image.open("wb") as file:
        file.truncate(160 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    place = image.with_suffix(".mnt")
    place.mkdir()
    if subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, place], check=False).returncode:
        pytest.skip("no right to mount a disk image here")
    try:
        subprocess.run(["cp", "-a", f"{directory}/.", place], check=True)
        subprocess.run(["mount", "--bind", place, directory], check=True)
        try:
            device = subprocess.run(
                ["findmnt", "-no", "SOURCE", place], capture_output=True, text=True, check=True
            ).stdout.strip()
            trigger = Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error"
            if not trigger.exists():
                pytest.skip("this kernel has no trigger for errors of ext4")
            yield trigger
        finally:
            subprocess.run(["umount", "-l", directory], check=True)
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_disk_becomes_read_only_under_a_running_agent(short_dir: Path) -> None:
    """As ext4 does on errors: denied and nothing runs; what was sealed is there once the disk is repaired."""
    with Host.create() as host:
        image = short_dir / "image"
        with disk_with_errors(image, host.layout.agent) as trigger:
            client = Client(host.start())
            assert client.ask().status == 0
            host.wait_settled()
            before, runs = [item.id for item in host.entries()], client.runs()
            trigger.write_text("1")
            told = [client.ask() for _ in range(5)]
            assert {item.code for item in told} == {"audit_unavailable"}
            assert client.runs() == runs
            assert host.status()["log"]["size"] == len(before)
            assert host.stop() == 1  # It cannot record that it stops; it does stop, and says why in one line.
            assert "cannot append to the audit log" in host.agent_log.splitlines()[-1]
            assert "Traceback" not in host.agent_log
            host.kill_runner()
            for name in ("log.db", "log.db-wal"):
                subprocess.run(["cp", "-a", host.layout.agent / name, short_dir], check=True)
        # Repaired: here it is another disk with the same files.
        (host.layout.agent / "log.db-shm").unlink(missing_ok=True)
        subprocess.run(
            ["cp", "-a", short_dir / "log.db", short_dir / "log.db-wal", host.layout.agent], check=True
        )
        host.start()
        client.until_served()
        assert [item.id for item in host.entries()][: len(before)] == before
        client.require_sound()
        assert host.stop() == 0


def test_slow_disk_under_a_running_agent(short_dir: Path) -> None:
    """100 ms a sync: who asks at the same time shares them, and everybody is served."""
    library = short_dir / "slow.so"
    source = Path(__file__).with_name("slow_sync.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    with Host.create() as host:
        client = Client(host.start(env={"LD_PRELOAD": str(library)}, forked=False))
        told: list[Told] = []
        threads = [threading.Thread(target=lambda: told.append(client.ask())) for _ in range(32)]
        before = host.checkpoints()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [item.status for item in told] == [0] * 32
        allows = host.entries(EntryType.DECISION_ALLOW)
        assert len(allows) == 32
        assert host.checkpoints() - before < 24, "they share batches"
        client.require_sound()
        assert host.stop() == 0
