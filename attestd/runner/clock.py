"""The runner's time: the wall clock, as long as it does not go back. The agent's trusted time is the agent's word."""

import time
from datetime import UTC, datetime, timedelta
from typing import Final

from attestd.codes import Code, Denied

__all__ = ["Clock"]

MAX_BEHIND: Final = timedelta(seconds=5)


class Clock:
    """Refuses to tell a time before one that it has told, plus what has passed since (CLOCK_BOOTTIME).

    Otherwise whoever sets the wall clock back, with an agent that seals as if it were then, revives what has expired.
    """

    def __init__(self, not_before: datetime | None) -> None:
        """Starts.

        Args:
            not_before: When the runner last released something, if it ever did.
        """
        self._latest = datetime.min.replace(tzinfo=UTC) if not_before is None else not_before
        self._at = time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self) -> datetime:
        """The wall clock.

        Raises:
            Denied: `clock_untrusted`: it went back by more than 5 s.
        """
        wall = datetime.now(UTC)
        expected = self._latest + timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME) - self._at)
        behind = expected - wall
        if behind > MAX_BEHIND:
            raise Denied(
                Code.CLOCK_UNTRUSTED,
                f"the runner refuses: the wall clock went back by {behind.total_seconds():.0f} s",
                "set the clock right; see attestd doctor",
            )
        if wall > expected:
            self._latest, self._at = wall, time.clock_gettime(time.CLOCK_BOOTTIME)
        return wall
