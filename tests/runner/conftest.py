"""A runner for the tests of a module: starting one costs more than a test."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runner.harness import Bench


@pytest.fixture(scope="module")
def module_bench() -> Iterator[Bench]:
    """A world and its running runner, for a module."""
    with tempfile.TemporaryDirectory(prefix="a-", dir="/tmp") as name:
        running = Bench(Path(name)).start()
        yield running
        if running.process is not None:
            assert running.stop() == 0


@pytest.fixture
def bench(module_bench: Bench) -> Iterator[Bench]:
    """The module's runner; whatever a test leaves running gets its hangup."""
    yield module_bench
    module_bench.close_clients()


@pytest.fixture
def fresh_bench(short_dir: Path) -> Iterator[Bench]:
    """One for the test alone, not started: to be stopped, killed, or given other trust."""
    bench = Bench(short_dir)
    yield bench
    bench.close_clients()
    if bench.process is not None:
        bench.process.kill()
        bench.process.wait()
        bench.log.close()
