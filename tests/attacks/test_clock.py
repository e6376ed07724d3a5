"""Somebody who sets the wall clock: by NTP, or as root; alone, or together with an agent that was broken into."""

import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from attestd.agent import clock as agent_clock
from attestd.agent.clock import TrustedClock
from attestd.codes import Code
from attestd.lineage.entry import EntryType
from attestd.wire import Kind
from tests.attacks.conftest import running
from tests.host import Host
from tests.runner.harness import Bench

HOUR = timedelta(hours=1)


class Shift:
    """How far the wall clock is off, for processes that are started with it (see `shifted`)."""

    def __init__(self, path: Path) -> None:
        self.options = ("--shift", str(path))
        self._path = path
        self.set(timedelta(0))

    def set(self, by: timedelta) -> None:
        draft = self._path.with_suffix(".new")
        draft.write_bytes(struct.pack("=d", by.total_seconds()))
        draft.rename(self._path)


@pytest.fixture
def shifted(tmp_path: Path) -> Shift:
    return Shift(tmp_path / "shift")


def test_set_back_to_when_an_artifact_was_valid(
    stopped: Host, shifted: Shift, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It expires; then the clock goes back: neither the running agent, nor the next one, nor the runner goes with it."""
    monkeypatch.setattr("tests.host.ENTRY", "tests.attacks.shifted")
    host = stopped.start(*shifted.options)
    artifact = host.issue("/bin/true", ttl_s=600)
    assert host.exec("/bin/true", authorization=artifact).status == 0
    shifted.set(HOUR)
    expired = host.exec("/bin/true", authorization=artifact)
    assert (expired.status, "expired" in expired.stderr) == (77, True)
    shifted.set(timedelta(0))
    assert "clock_untrusted" in host.exec("/bin/true", authorization=artifact).stderr
    host.wait_settled()
    assert host.stop() == 0
    host.start(*shifted.options)
    assert "clock_untrusted" in host.exec("/bin/true", authorization=artifact).stderr
    assert len(host.entries(EntryType.EXECUTION_START)) == 1


def test_set_back_with_an_agent_that_seals_as_if_it_were_then(shifted: Shift) -> None:
    """The receipt is fresh by the wall clock, the artifact valid: only the runner's own memory says that it is not."""
    with running("clock", options=shifted.options) as weakened:
        assert revive(weakened, shifted) == "released"
    shifted.set(timedelta(0))
    with running("nothing", options=shifted.options) as bench:
        assert revive(bench, shifted) == "clock_untrusted"
        shifted.set(HOUR)
        bench.world.now = datetime.now(UTC) + HOUR
        granted = bench.world.grant(bench.execution("/bin/true"), reason="again")
        assert bench.submit(granted).start().kind == Kind.STARTED, "it goes on when the clock is right"
        # A restart makes it forget nothing.
        bench.stop()
        shifted.set(timedelta(0))
        bench.start("-m", "tests.attacks.weakened", "nothing", *shifted.options)
        submitted = bench.submit(bench.grant(bench.execution("/bin/true")))
        assert submitted.refusal() == Code.CLOCK_UNTRUSTED.value


def revive(bench: Bench, shifted: Shift) -> str:
    """What becomes of an artifact of an hour ago, once something was released since."""
    shifted.set(HOUR)
    bench.world.now = datetime.now(UTC) + HOUR
    execution = bench.execution("/bin/true")
    artifact = bench.world.artifact(execution, now=datetime.now(UTC), ttl_s=600)
    now = bench.world.grant(execution)
    assert bench.submit(now).start()
    shifted.set(timedelta(0))
    bench.world.now = datetime.now(UTC)
    decision = bench.world.decide(artifact, execution=execution)
    assert decision.denial is None, "the broken agent's clock says so"
    submitted = bench.submit(now, artifact=artifact, receipt=bench.world.receipt(decision.body))
    return submitted.refusal() if submitted.answer.fields(3) else "released"


def test_forward_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Residual: steps of less than a day each are accepted, one after the other, as a host that sleeps needs it.

    Nothing is revived by it: everything expires, and afterwards the right clock is behind, so everything is denied.
    """
    start = datetime(2026, 1, 31, 12, tzinfo=UTC)

    class Wall:
        now_ = start

        def now(self, _: object) -> datetime:
            return self.now_

    wall = Wall()
    monkeypatch.setattr(agent_clock, "datetime", wall)
    trusted = TrustedClock(start)
    wall.now_ = start + timedelta(days=2)
    assert trusted.read().denial is not None
    for days in range(1, 30):
        wall.now_ = start + timedelta(days=days) - timedelta(minutes=days)
        assert trusted.read().denial is None
    wall.now_ = start
    behind = trusted.read()
    assert behind.denial is not None
    assert behind.denial.code is Code.CLOCK_UNTRUSTED
    assert behind.now > start + timedelta(days=28)
