"""The runner's time, with a wall clock and a boot clock that the test sets."""

from datetime import UTC, datetime, timedelta

import pytest

from attestd.codes import Code, Denied
from attestd.runner import clock as module
from attestd.runner.clock import Clock

START = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Clocks:
    """Stands in for `time` and `datetime.now` of the module."""

    CLOCK_BOOTTIME = 7
    min = datetime.min  # noqa: DTZ901 -- as the module does, which then adds the zone

    def __init__(self) -> None:
        self.wall, self.boot = START, 1000.0

    def clock_gettime(self, _: int) -> float:
        return self.boot

    def now(self, _: object) -> datetime:
        return self.wall


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    fake = Clocks()
    monkeypatch.setattr(module, "time", fake)
    monkeypatch.setattr(module, "datetime", fake)
    return fake


def test_any_time_will_do_for_a_runner_that_never_released(clocks: Clocks) -> None:
    assert Clock(None).now() == START


@pytest.mark.parametrize(("behind", "told"), [(0, True), (5, True), (5.001, False), (86_400, False)])
def test_before_the_last_release(clocks: Clocks, behind: float, told: bool) -> None:
    clock = Clock(START + timedelta(seconds=behind))
    if told:
        assert clock.now() == START
        return
    with pytest.raises(Denied) as denied:
        clock.now()
    assert denied.value.denial.code is Code.CLOCK_UNTRUSTED


def test_before_what_was_told_and_what_has_passed_since(clocks: Clocks) -> None:
    clock = Clock(None)
    clock.now()
    clocks.boot += 60
    clocks.wall += timedelta(seconds=54)
    with pytest.raises(Denied, match="went back by 6 s"):
        clock.now()
    clocks.wall += timedelta(days=400)
    assert clock.now() == clocks.wall
    clocks.wall -= timedelta(days=399)
    with pytest.raises(Denied):
        clock.now()
