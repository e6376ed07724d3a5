"""One machine a session; each test gets it as it was when attestd had been set up, running, within two seconds."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from swtpm.vm.machine import Machine
from tests.vm.prepared import READY, copy_prepared


@pytest.fixture(scope="session")
def switched_off() -> Iterator[Machine]:
    # A short path, for it holds sockets.
    with tempfile.TemporaryDirectory(prefix="vm-", dir="/tmp") as name, copy_prepared(Path(name)) as machine:
        yield machine


@pytest.fixture
def machine(switched_off: Machine) -> Iterator[Machine]:
    """Booted, initialised, agent and runner running as services."""
    switched_off.restore(READY)
    yield switched_off
    switched_off.cut()
