"""Trusted time: the wall clock, held against what has been sealed and how long this process has been running."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from attestd.codes import Code, Denial

__all__ = ["TrustedClock", "TrustedTime"]

MAX_BEHIND: Final = timedelta(seconds=5)
MAX_AHEAD: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class TrustedTime:
    """A moment, and why the wall clock is not trusted, if it is not: then the moment is the last trusted one."""

    now: datetime
    denial: Denial | None


class TrustedClock:
    """Architecture, "Time": not behind trusted time by more than 5 s, not ahead of it by more than a day.

    Trusted time is that of the last entry, and what verifiers said since: so a host that was off for long is believed its
    clock if a verifier tells the same.

    While the process runs the reference moves on with CLOCK_BOOTTIME, which nobody can set.
    """

    def __init__(self, last_sealed: datetime) -> None:
        """Takes the time of the log's last entry as reference."""
        self._reference = last_sealed
        self._at = time.clock_gettime(time.CLOCK_BOOTTIME)

    def read(self) -> TrustedTime:
        """Trusted time now."""
        wall = datetime.now(UTC)
        elapsed = time.clock_gettime(time.CLOCK_BOOTTIME) - self._at
        expected = self._reference + timedelta(seconds=elapsed)
        if wall < expected - MAX_BEHIND:
            return TrustedTime(expected, _untrusted("behind", expected - wall))
        if wall > expected + MAX_AHEAD:
            return TrustedTime(expected, _untrusted("ahead of", wall - expected))
        if wall > expected:
            self._set(wall)
        return TrustedTime(max(wall, expected), None)

    def latest(self) -> datetime:
        """The latest time that can be right: the wall clock, even where it is not trusted, unless it lags behind."""
        return max(datetime.now(UTC), self.read().now)

    def heard(self, moment: datetime) -> None:
        """A verifier said what time it is, over a challenge that it made a moment ago: trusted time is no earlier.

        It is believed no further than the wall clock goes: else one that lies by as much as may differ, again and again,
        would take trusted time away from both, and with it the log's.
        """
        moment = min(moment, datetime.now(UTC))
        elapsed = time.clock_gettime(time.CLOCK_BOOTTIME) - self._at
        if moment > self._reference + timedelta(seconds=elapsed):
            self._set(moment)

    def accept(self) -> datetime:
        """An operator says that the wall clock is right, forward only: the log's time never decreases."""
        wall = datetime.now(UTC)
        if wall > self._reference:
            self._set(wall)
        return self._reference

    def _set(self, moment: datetime) -> None:
        self._reference = moment
        self._at = time.clock_gettime(time.CLOCK_BOOTTIME)


def _untrusted(how: str, by: timedelta) -> Denial:
    return Denial(
        Code.CLOCK_UNTRUSTED,
        f"the wall clock is {how} trusted time by {by.total_seconds():.0f} s (allowed: {MAX_BEHIND.total_seconds():.0f}"
        f" s behind, {MAX_AHEAD.total_seconds():.0f} s ahead)",
        "set the clock right; if a forward jump is real, accept it with attestd doctor --accept-clock",
    )
