"""Runners to attack: one for a module's tests, and weakened ones that show that an attack is one."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.host import Host
from tests.runner.harness import Bench


@contextlib.contextmanager
def running(check: str | None = None, *, options: Sequence[str] = ()) -> Iterator[Bench]:
    """A runner; with `check` one that lacks it (see `weakened`, also for its options)."""
    program = () if check is None else ("-m", "tests.attacks.weakened", check, *options)
    with tempfile.TemporaryDirectory(prefix="a-", dir="/tmp") as name:
        bench = Bench(Path(name))
        try:
            yield bench.start(*program)
        finally:
            bench.close_clients()
            if bench.process is not None:
                bench.process.kill()
                bench.process.wait()
                bench.log.close()


@pytest.fixture(scope="module")
def module_bench() -> Iterator[Bench]:
    with running() as bench:
        yield bench


@pytest.fixture
def bench(module_bench: Bench) -> Iterator[Bench]:
    """The module's runner, as it is shipped."""
    yield module_bench
    module_bench.close_clients()


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    """A running host for the tests of a module that leave it as it was."""
    with Host.create() as host:
        yield host.start()


@pytest.fixture
def stopped() -> Iterator[Host]:
    """A provisioned host of the test's own, not started."""
    with Host.create() as host:
        yield host


@pytest.fixture
def host(stopped: Host) -> Host:
    """A running host of the test's own."""
    return stopped.start()
