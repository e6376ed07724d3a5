"""Fixtures that several packages share: software TPMs, provisioned once a session and copied for each test."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestd.tpm.device import Tpm
from attestd.tpm.embedded import EmbeddedTpm
from swtpm.provision import provision
from tests.softhsm import token, token_environment

__all__ = ["embedded_tpm", "short_dir", "swtpm_tcti", "swtpm_template", "token", "token_environment", "tpm"]


@pytest.fixture(scope="session")
def swtpm_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A provisioned software TPM's directory, never started: copy it."""
    directory = tmp_path_factory.mktemp("swtpm")
    provision(directory)
    return directory


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a short path, for Unix sockets; pytest's own are too long for them."""
    with tempfile.TemporaryDirectory(prefix="a-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def embedded_tpm(swtpm_template: Path, short_dir: Path) -> Iterator[EmbeddedTpm]:
    """A software TPM of its own for the test, provisioned and not started."""
    directory = short_dir / "tpm"
    shutil.copytree(swtpm_template, directory)
    embedded = EmbeddedTpm(directory)
    yield embedded
    embedded.kill()


@pytest.fixture
def swtpm_tcti(embedded_tpm: EmbeddedTpm) -> str:
    """The TCTI string of a fresh software TPM that runs until the end of the test."""
    embedded_tpm.start()
    return embedded_tpm.tcti


@pytest.fixture
def tpm(swtpm_tcti: str) -> Iterator[Tpm]:
    """A connection to a fresh software TPM."""
    with Tpm(swtpm_tcti) as connection:
        yield connection
