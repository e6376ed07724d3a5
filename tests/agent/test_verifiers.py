"""What the agent keeps of verifiers: whom it asks and when, what it forgets, and what it tells the log."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

import pytest

from attestd.agent import mesh as module
from attestd.agent.attesting import Attestation
from attestd.agent.controllers import CallThreads, Controller
from attestd.agent.mesh import Verifiers
from attestd.appraisal.quote import Appraisal
from attestd.appraisal.result import AttestationResult
from attestd.codes import Code, Denial
from attestd.errors import StoreError
from attestd.governance.trust import Trust
from tests.results import result, verifiers
from tests.world import World


class Answering:
    """Attests without TPM and network: what a verifier says is what the test wants."""

    def __init__(self, world: World) -> None:
        self.world, self.asked = world, list[str]()
        self.port, self.threads = self, CallThreads()
        self.host = world.host.id
        self.says: Callable[[str], AttestationResult] = lambda name: result(world, name)

    def now(self) -> datetime:
        return self.world.now

    async def attest(self, _: Controller, *, name: str, policy: object, trust: object) -> AttestationResult:
        del policy, trust
        self.asked.append(name)
        return self.says(name)


class Bench:
    def __init__(self, *names: str) -> None:
        self.world = World()
        self.world.extra["mesh.json"] = verifiers(*names)
        self.answering = Answering(self.world)
        self.sealed: list[dict[str, Any]] = []
        self.failing = self.contradicted = 0
        self.latest: dict[str, Appraisal | Denial] = {"local": self.world.appraisal()}
        self.kept = Verifiers(
            cast(Attestation, self.answering),
            ca="",
            wait_s=0.2,
            appraisals=lambda: self.latest,
            contradicted=self.contradict,
            heard=lambda _: None,
            seal=self.seal,
            log=logging.getLogger("test"),
        )

    def contradict(self, name: str) -> None:
        self.contradicted += 1
        del self.latest[name]

    async def seal(self, body: dict[str, Any]) -> None:
        if self.failing:
            self.failing -= 1
            raise StoreError("no room")
        self.sealed.append(body)

    @property
    def trust(self) -> Trust:
        return self.world.trust()

    async def keep(self, times: int = 1) -> None:
        """So many seconds pass."""
        for _ in range(times):
            await self.kept.keep(self.trust)
            while running := [
                task for found in self.kept._verifiers.values() for task, _ in found.running.values()
            ]:
                await asyncio.wait(running)
                await asyncio.sleep(0)

    def run(self, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            asyncio.run(test())
        finally:
            self.kept.stop()


def finding(bench: Bench, *findings: str) -> Callable[[str], AttestationResult]:
    return lambda name: result(bench.world, name, findings=findings)


def test_each_is_asked_once_and_then_when_something_changes() -> None:
    bench = Bench("one", "two")

    async def test() -> None:
        await bench.keep(3)
        assert sorted(bench.answering.asked) == ["one", "two"]
        assert [item["status"] for item in bench.sealed] == ["affirming"] * 2
        assert [item["mesh"] for item in bench.sealed] == [bench.trust.mesh.named] * 2
        # One is named no longer: what it said counts for nothing.
        bench.world.extra["mesh.json"] = verifiers("two")
        await bench.keep()
        assert [found.verifier for found in bench.kept.results()] == ["two"]
        assert [found["name"] for found in bench.kept.describe()] == ["two"]

    bench.run(test)


def test_a_host_without_evidence_or_in_no_approved_state() -> None:
    bench = Bench("one")
    bench.latest = {}

    async def test() -> None:
        await bench.keep(2)
        assert bench.answering.asked == [], "nobody knows which policy it is of"
        bench.latest = {"local": Denial(Code.EVIDENCE_INVALID, "x", "y")}
        await bench.keep()
        assert bench.answering.asked == ["one"], "then it is told under all there are"
        policy = bench.trust.platforms["local"]
        assert bench.kept.vouched(policy, bench.trust).affirming == ()
        await bench.kept.ensure(policy, bench.trust, 1)
        assert bench.answering.asked == ["one"], "nobody is asked for what is denied anyway"

    bench.run(test)


def test_a_quote_of_another_state_renews_the_evidence() -> None:
    bench = Bench("one")
    bench.answering.says = lambda name: result(bench.world, name, pcr_digest=bytes(32))

    async def test() -> None:
        await bench.keep()
        assert bench.contradicted == 1
        bench.latest = {"local": replace(bench.world.appraisal(), pcr_digest=bytes(32))}
        policy = bench.trust.platforms["local"]
        assert len(bench.kept.vouched(policy, bench.trust).affirming) == 1
        # The state changes back: the result is forgotten, and another one asked for.
        bench.latest = {"local": bench.world.appraisal()}
        bench.answering.says = lambda name: result(bench.world, name)
        assert bench.kept.vouched(policy, bench.trust).affirming == ()
        await bench.keep()
        assert bench.answering.asked == ["one", "one"]
        assert len(bench.kept.vouched(policy, bench.trust).affirming) == 1

    bench.run(test)


def test_the_log_is_told_what_changes_and_is_not_flooded(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench("one")
    monkeypatch.setattr(module, "_HALF", 0.0)  # so that it is asked each time

    async def test() -> None:
        bench.failing = 1
        await bench.keep(3)
        assert len(bench.answering.asked) == 3
        assert len(bench.sealed) == 1, "told once it could be"
        for number in range(20):
            bench.answering.says = finding(bench, f"finding {number}")
            await bench.keep()
        assert len(bench.sealed) == 8
        # Later the log is told how it ended.
        monkeypatch.setattr(module, "_TOLD_SPAN_S", 0.0)
        await bench.keep()
        assert bench.sealed[-1]["findings"] == 1
        assert len(bench.sealed) == 9

    bench.run(test)


def test_an_unforeseen_error_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench("one")

    def crash(_: str) -> AttestationResult:
        raise KeyError("secret")

    async def test() -> None:
        bench.answering.says = crash
        await bench.keep()
        (found,) = bench.kept.describe()
        assert found["problem"] == "an unforeseen error: KeyError"
        assert bench.kept.up == {"one": False}
        bench.answering.says = lambda name: result(bench.world, name)
        await asyncio.sleep(0.6)
        await bench.keep()
        assert bench.kept.up == {"one": True}

    bench.run(test)
    assert [
        record.getMessage().split()[0] for record in caplog.records if record.levelno >= logging.WARNING
    ] == [
        "job.failed",
        "verifier.lost",
    ]
