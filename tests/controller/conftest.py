"""Both databases, and a controller on each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controller.running import PostgreSQL, postgresql


@pytest.fixture(scope="session")
def pg() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    server: PostgreSQL = request.getfixturevalue("pg")
    return server.database()


@pytest.fixture
def own_pg() -> Iterator[PostgreSQL]:
    """A server that may be killed."""
    with postgresql() as server:
        yield server
