"""The service's layout below a directory of its own, with its agent's user: `nobody`, whom every host has."""

import os
import pwd
from collections.abc import Iterator

import pytest

from tests.host import Host
from tests.systemd.service_host import ServiceHost

NOBODY = pwd.getpwnam("nobody")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")


@pytest.fixture
def service() -> Iterator[ServiceHost]:
    """A host set up by root as a service, not started."""
    with ServiceHost.create() as host:
        yield host


@pytest.fixture
def host() -> Iterator[Host]:
    with Host.create() as host:
        yield host
