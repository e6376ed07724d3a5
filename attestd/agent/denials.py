"""Keeps floods of denials from costing disk and TPM: singles up to a rate, then one aggregated leaf."""

from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

__all__ = ["DenialMeter"]

MAX_SINGLE: Final = 20
WINDOW_S: Final = 60.0
MAX_UIDS: Final = 4096


class DenialMeter:
    """Counts denials a user. Formats, "Denial reasons": the first 20 a uid and minute are leaves of their own."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Takes the clock that rates are measured with, in seconds."""
        self._monotonic = monotonic
        self._singles: dict[int, deque[float]] = {}
        self._aggregated: dict[int, Counter[str]] = {}

    def admit(self, uid: int) -> bool:
        """Whether the next denial of this user gets a leaf of its own; if so it is counted."""
        now = self._monotonic()
        recent = self._singles.setdefault(uid, deque())
        while recent and now - recent[0] >= WINDOW_S:
            recent.popleft()
        if len(recent) >= MAX_SINGLE:
            return False
        recent.append(now)
        self._forget_idle(now)
        return True

    def aggregate(self, uid: int, code: str) -> None:
        """Counts a denial that gets no leaf of its own, or that could not be sealed."""
        self._aggregated.setdefault(uid, Counter())[code] += 1

    def drain(self) -> list[dict[str, Any]]:
        """The bodies of the aggregated leaves that are due, one a user; empty if nothing was aggregated."""
        due, self._aggregated = self._aggregated, {}
        return [{"uid": uid, "codes": dict(sorted(codes.items()))} for uid, codes in sorted(due.items())]

    def restore(self, body: dict[str, Any]) -> None:
        """Takes back what could not be sealed."""
        self._aggregated.setdefault(body["uid"], Counter()).update(body["codes"])

    def _forget_idle(self, now: float) -> None:
        if len(self._singles) > MAX_UIDS:
            self._singles = {
                uid: recent for uid, recent in self._singles.items() if recent and now - recent[-1] < WINDOW_S
            }
