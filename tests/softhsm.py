"""A SoftHSM token for the tests of this process; PKCS#11 reads its configuration once a process."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LIBRARY = "/usr/lib/softhsm/libsofthsm2.so"
LABEL = "attestd"
PIN = "12345678"


@contextmanager
def softhsm() -> Iterator[dict[str, str]]:
    """A token of its own, and the environment that finds it."""
    with tempfile.TemporaryDirectory(prefix="a-hsm-") as name:
        top = Path(name)
        (top / "tokens").mkdir()
        (top / "softhsm2.conf").write_text(
            f"directories.tokendir = {top}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        found = {"SOFTHSM2_CONF": str(top / "softhsm2.conf"), "PYKCS11LIB": LIBRARY}
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", "87654321"],
            env={"PATH": os.environ["PATH"], **found}, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        yield found


@pytest.fixture(scope="session")
def token_environment() -> Iterator[dict[str, str]]:
    """The token of this process."""
    if shutil.which("softhsm2-util") is None:
        pytest.fail("softhsm2 is not installed: make setup")
    with softhsm() as found:
        yield found


@pytest.fixture
def token(token_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The label of a token that this process can use."""
    for name, value in token_environment.items():
        monkeypatch.setenv(name, value)
    return LABEL
