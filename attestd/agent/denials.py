"""Keeps floods of denials from costing disk and TPM: singles up to a rate, then one aggregated leaf."""

import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from attestd.codes import Code, Denial
from attestd.journal import event

__all__ = ["DenialMeter", "log_denial"]

MAX_SINGLE: Final = 20
WINDOW_S: Final = 60.0
MAX_UIDS: Final = 4096
# Their sentences speak of the host; those of all others may quote what was asked for, which is not for the journal.
_OF_THE_HOST: Final = frozenset(
    {
        Code.CLOCK_UNTRUSTED,
        Code.ENVIRONMENT_UNTRUSTED,
        Code.EVIDENCE_INVALID,
        Code.EVIDENCE_STALE,
        Code.AUDIT_UNAVAILABLE,
        Code.TPM_UNAVAILABLE,
        Code.AGENT_UNAVAILABLE,
    }
)


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

    @property
    def waiting(self) -> int:
        """How many aggregated denials are not sealed yet."""
        return sum(sum(codes.values()) for codes in self._aggregated.values())

    def restore(self, body: dict[str, Any]) -> None:
        """Takes back what could not be sealed."""
        self._aggregated.setdefault(body["uid"], Counter()).update(body["codes"])

    def _forget_idle(self, now: float) -> None:
        if len(self._singles) > MAX_UIDS:
            self._singles = {
                uid: recent for uid, recent in self._singles.items() if recent and now - recent[-1] < WINDOW_S
            }


def log_denial(log: logging.Logger, denial: Denial, *, uid: int, seq: int) -> None:
    """One line for the journal; the decision itself is in the audit log, at `seq`."""
    sentence = denial.sentence if denial.code in _OF_THE_HOST else None
    log.info(event("denied", code=denial.code, uid=uid, seq=seq, sentence=sentence))
