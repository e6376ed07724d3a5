"""A runner and an agent for the tests of a module."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.harness import FakeAgent
from tests.runner.harness import Bench


@pytest.fixture(scope="module")
def module_agent() -> Iterator[FakeAgent]:
    with tempfile.TemporaryDirectory(prefix="a-", dir="/tmp") as name:
        bench = Bench(Path(name)).start()
        agent = FakeAgent(bench)
        yield agent
        agent.close()
        bench.stop()


@pytest.fixture
def agent(module_agent: FakeAgent) -> FakeAgent:
    """The module's agent, allowing everything."""
    module_agent.answer = module_agent.allow
    module_agent.needs = []
    module_agent.answers.clear()
    module_agent.requests.clear()
    module_agent.decision_json = b""
    return module_agent
