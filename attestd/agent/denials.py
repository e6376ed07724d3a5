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
# One user may have 65,536 user ids (subuid(5)): what every one of them may cost has a limit too.
MAX_SINGLE_IN_ALL: Final = 400
MAX_AGGREGATED: Final = 64
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
    """Counts denials a user.

    Formats, "Denial reasons": the first 20 a uid and minute are leaves of their own, up to 400 of all uids.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Takes the clock that rates are measured with, in seconds."""
        self._monotonic = monotonic
        self._singles: dict[int, deque[float]] = {}
        self._all_singles: deque[float] = deque()
        self._aggregated: dict[int | None, Counter[str]] = {}

    def admit(self, uid: int) -> bool:
        """Whether the next denial of this user gets a leaf of its own; if so it is counted."""
        now = self._monotonic()
        recent = self._singles.get(uid, deque())
        for moments in (recent, self._all_singles):
            while moments and now - moments[0] >= WINDOW_S:
                moments.popleft()
        if len(recent) >= MAX_SINGLE or len(self._all_singles) >= MAX_SINGLE_IN_ALL:
            return False
        recent.append(now)
        self._singles[uid] = recent
        self._all_singles.append(now)
        self._forget_idle(now)
        return True

    def aggregate(self, uid: int, code: str) -> None:
        """Counts a denial that gets no leaf of its own, or that could not be sealed."""
        self._aggregated.setdefault(uid, Counter())[code] += 1

    def drain(self) -> list[dict[str, Any]]:
        """The bodies of the aggregated leaves that are due, one a user; empty if nothing was aggregated.

        Of many users those with the most denials have leaves of their own, the others one together, whose uid is None.
        """
        due, self._aggregated = self._aggregated, {}
        most = sorted((uid for uid in due if uid is not None), key=lambda uid: due[uid].total(), reverse=True)
        own = set(most[:MAX_AGGREGATED])
        bodies = [_body(uid, due[uid]) for uid in sorted(own)]
        rest = sum((codes for uid, codes in due.items() if uid not in own), Counter[str]())
        return [*bodies, _body(None, rest)] if rest else bodies

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


def _body(uid: int | None, codes: Counter[str]) -> dict[str, Any]:
    return {"uid": uid, "codes": dict(sorted(codes.items()))}


def log_denial(log: logging.Logger, denial: Denial, *, uid: int, seq: int) -> None:
    """One line for the journal; the decision itself is in the audit log, at `seq`."""
    sentence = denial.sentence if denial.code in _OF_THE_HOST else None
    log.info(event("denied", code=denial.code, uid=uid, seq=seq, sentence=sentence))
