"""Trusted time, with a wall clock and a boot clock that the test sets."""

from datetime import UTC, datetime, timedelta

import pytest

from attestd.agent import clock as module
from attestd.agent.clock import TrustedClock
from attestd.appraisal.result import SKEW
from attestd.codes import Code

START = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Clocks:
    """Stands in for `time` and `datetime` of the module."""

    CLOCK_BOOTTIME = 7

    def __init__(self) -> None:
        self.wall, self.boot = START, 1000.0

    def clock_gettime(self, _: int) -> float:
        return self.boot

    def now(self, _: object) -> datetime:
        return self.wall

    def passes(self, seconds: float, *, wall: float | None = None) -> None:
        self.boot += seconds
        self.wall += timedelta(seconds=seconds if wall is None else wall)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    fake = Clocks()
    monkeypatch.setattr(module, "time", fake)
    monkeypatch.setattr(module, "datetime", fake)
    return fake


def test_wall_clock_that_goes_with_boot_time_is_trusted(clocks: Clocks) -> None:
    trusted = TrustedClock(START)
    clocks.passes(3600)
    read = trusted.read()
    assert (read.now, read.denial) == (START + timedelta(hours=1), None)


@pytest.mark.parametrize(("behind", "denied"), [(5, False), (5.001, True), (86_400, True)])
def test_wall_clock_behind_the_last_sealed_time(clocks: Clocks, behind: float, denied: bool) -> None:
    read = TrustedClock(START + timedelta(seconds=behind)).read()
    assert read.now == START + timedelta(seconds=behind)  # never before what was sealed
    assert (read.denial is not None) == denied
    if read.denial:
        assert read.denial.code is Code.CLOCK_UNTRUSTED
        assert "behind trusted time" in read.denial.sentence


@pytest.mark.parametrize(("ahead", "denied"), [(86_400, False), (86_401, True)])
def test_wall_clock_ahead_of_the_last_sealed_time(clocks: Clocks, ahead: float, denied: bool) -> None:
    read = TrustedClock(START - timedelta(seconds=ahead)).read()
    assert (read.denial is not None) == denied
    assert read.now == (START - timedelta(seconds=ahead) if denied else START)


def test_clock_set_back_while_running_does_not_take_trusted_time_back(clocks: Clocks) -> None:
    trusted = TrustedClock(START)
    clocks.passes(10, wall=-3600)
    read = trusted.read()
    assert read.now == START + timedelta(seconds=10)
    assert read.denial is not None
    clocks.passes(5, wall=3625)  # set right again
    assert trusted.read().denial is None


def test_small_steps_forward_are_followed_and_stay(clocks: Clocks) -> None:
    trusted = TrustedClock(START)
    clocks.passes(1, wall=100)
    assert trusted.read().now == START + timedelta(seconds=100)
    clocks.passes(1, wall=-50)  # and back by more than the tolerance
    assert trusted.read().denial is not None


def test_operator_accepts_a_jump_forward_and_only_forward(clocks: Clocks) -> None:
    trusted = TrustedClock(START)
    clocks.passes(0, wall=86_400 * 30)
    assert trusted.read().denial is not None
    assert trusted.accept() == START + timedelta(days=30)
    assert trusted.read().denial is None
    clocks.passes(0, wall=-86_400 * 30)
    assert trusted.accept() == START + timedelta(days=30)
    assert trusted.read().denial is not None


def test_a_verifier_says_what_time_it_is(clocks: Clocks) -> None:
    """A host that was off for long: nobody has to accept a jump that a verifier tells as well, over a fresh challenge."""
    trusted = TrustedClock(START)
    clocks.passes(1, wall=7 * 86_400)
    assert trusted.read().denial is not None
    assert trusted.latest() == clocks.wall
    trusted.heard(clocks.wall - timedelta(seconds=2))
    assert trusted.read().denial is None
    assert trusted.read().now == clocks.wall
    # What it says never takes time back, and a clock that lags behind is not believed for it.
    trusted.heard(START)
    assert trusted.read().now == clocks.wall
    clocks.passes(0, wall=-86_400)
    assert trusted.latest() == trusted.read().now > clocks.wall
    assert trusted.read().denial is not None


def test_a_verifier_that_lies_a_little_each_time_moves_nothing(clocks: Clocks) -> None:
    """Results verify that are issued 5 s ahead of the latest time that can be right: as often as a verifier is asked."""
    trusted = TrustedClock(START)
    for _ in range(60):
        clocks.passes(1)
        trusted.heard(trusted.latest() + SKEW)
    assert (trusted.read().now, trusted.read().denial) == (clocks.wall, None)
