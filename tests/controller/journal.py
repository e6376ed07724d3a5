"""The journal of this machine, as commands of the controller reach it."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def journal(top: Path) -> Iterator[Callable[[], str]]:
    """Takes what commands of this process say to it; gives the next record's message."""
    address = top / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taken, pytest.MonkeyPatch.context() as patch:
        taken.bind(str(address))
        taken.settimeout(10)
        patch.setattr("attestd.cli.controller_access._JOURNAL", str(address))
        try:
            yield lambda: taken.recv(65536).decode().splitlines()[0].removeprefix("MESSAGE=")
        finally:
            address.unlink()
