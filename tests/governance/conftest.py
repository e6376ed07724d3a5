"""A published repository, and two clients that saw its first version: ours and python-tuf's."""

from pathlib import Path

import pytest

from attestd.governance.metadata import Versions
from tests.governance.tuf import FILES, Oracle, verify
from tests.repository import Repository
from tests.world import NOW


@pytest.fixture
def repository() -> Repository:
    repository = Repository("tuf", now=NOW)
    repository.publish(FILES)
    return repository


@pytest.fixture
def seen(repository: Repository) -> Versions:
    """What the client saw of version 1."""
    return verify(repository).versions


@pytest.fixture
def oracle(repository: Repository, tmp_path: Path) -> Oracle:
    """python-tuf's client; it saw the same."""
    oracle = Oracle(repository, tmp_path / "oracle")
    oracle.update(*FILES)
    return oracle
