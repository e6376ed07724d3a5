"""What a crash left behind does not keep the next agent from serving."""

import asyncio

import pytest

from attestd.lineage.entry import EntryType
from tests.faults.inside import inside, released
from tests.host import Host

LEFT = 200


def test_many_allows_without_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are void before anything else is decided; together, not each in a batch of its own (0.5 s each)."""

    async def seal(host: Host) -> None:
        async with inside(host, monkeypatch) as agent:
            answers, _ = await agent.ask_many(LEFT)
            released(answers)

    with Host.create() as host:
        asyncio.run(seal(host))
        before = host.checkpoints()
        host.start()
        assert len(host.entries(EntryType.DECISION_VOID)) == LEFT
        assert host.checkpoints() - before <= 40, "each in a batch of its own"
        host.require_sound()
