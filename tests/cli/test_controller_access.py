"""Who decides at a controller's own machine, as its journal and its database name them."""

import os
import pwd

import pytest

from attestd.cli.controller_access import who_decides


def test_who_decides_is_whom_the_kernel_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setenv("LOGNAME", "somebody else")
    user = pwd.getpwuid(os.getuid()).pw_name
    assert who_decides() == user
    monkeypatch.setenv("SUDO_USER", "alice")
    assert who_decides() == f"alice as {user}"
    monkeypatch.delenv("SUDO_USER")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)  # of no passwd entry, as in a container
    assert who_decides() == "uid 4000000000"
