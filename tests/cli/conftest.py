"""A running host, and the command line called in this process."""

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from attestd.cli import run
from attestd.lineage.entry import EntryType
from tests.cli.fleet import FLEET, NAMES, create, publish
from tests.distribution.repositories import write_key
from tests.host import Host
from tests.measured import UKI, MeasuredHost


@dataclass(frozen=True)
class Result:
    """What a command said, and its exit status."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.stdout))


class Cli:
    """The command line of one state directory, in a working directory of its own."""

    def __init__(self, state: Path, work: Path) -> None:
        self.state, self.work = state, work

    def __call__(self, *arguments: str | Path) -> Result:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run([str(argument) for argument in arguments])
        return Result(status, *(stream.buffer.getvalue().decode() for stream in (out, err)))

    def ok(self, *arguments: str | Path) -> Result:
        """A command that must succeed."""
        result = self(*arguments)
        assert result.status == 0, f"{result.status}\n{result.stdout}{result.stderr}"
        return result


@pytest.fixture(scope="session")
def running() -> Iterator[Host]:
    """One host for all tests that leave it as it was: a few entries are in its log."""
    with MeasuredHost.create() as host:
        host.configure()
        host.reboot(UKI)
        host.start()
        host.approve_present_state()
        allowed = host.run("/usr/bin/id", "-u")
        assert allowed.status == 0, allowed
        assert host.exec("/usr/bin/id").status == 77
        host.wait_settled()
        yield host


def ran(host: Host) -> str:
    """The number of what ran: what else was told the log before depends on how fast the machine is."""
    return str(host.entries(EntryType.DECISION_ALLOW)[0].seq)


def cli_of(host: Host, work: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line of a host."""
    monkeypatch.setenv("ATTESTD_STATE_DIR", str(host.state))
    monkeypatch.delenv("ATTESTD_SOCKET", raising=False)
    monkeypatch.chdir(work)
    return Cli(host.state, work)


@pytest.fixture
def cli(running: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line of the shared host, in an empty directory."""
    return cli_of(running, tmp_path, monkeypatch)


@pytest.fixture
def own() -> Iterator[Host]:
    """A provisioned host of the test's own, not started."""
    with Host.create() as host:
        yield host


@pytest.fixture
def own_cli(own: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line of the test's own host."""
    return cli_of(own, tmp_path, monkeypatch)


@pytest.fixture
def nowhere(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line where nothing is initialised."""
    monkeypatch.setenv("ATTESTD_STATE_DIR", str(short_dir / "none"))
    monkeypatch.delenv("ATTESTD_SOCKET", raising=False)
    monkeypatch.chdir(short_dir)
    return Cli(short_dir / "none", short_dir)


@pytest.fixture
def office(nowhere: Cli) -> Cli:
    """The command line in an empty directory with keys; nothing is initialised there."""
    for name in NAMES:
        write_key(Path(), name)
    return nowhere


@pytest.fixture
def repository(office: Cli) -> Cli:
    """The same, with a published repository of a fleet: two persons sign targets."""
    create(office, *FLEET)
    publish(office, "root", "alice", "bob")
    return office
