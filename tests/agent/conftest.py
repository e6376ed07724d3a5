"""A running host: software TPM, agent, runner."""

from collections.abc import Iterator

import pytest

from tests.host import Host


@pytest.fixture
def stopped() -> Iterator[Host]:
    """A provisioned host of the test's own, not started."""
    with Host.create() as host:
        yield host


@pytest.fixture
def host(stopped: Host) -> Host:
    """A running host of the test's own."""
    return stopped.start()


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    """A running host for the tests of a module that leave it as it was."""
    with Host.create() as host:
        yield host.start()
