"""Verification of the agent's own log in the background, again and again."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from attestd.audit.verify import LogReport, verify_log
from attestd.errors import AttestdError, RollbackError
from attestd.journal import event
from attestd.lineage.checkpoint import LogKeys

__all__ = ["LogVerification", "Verified"]

RETRY_S: Final = 60.0
# What was verified before can be edited later: so now and then everything is read again.
FULL_EVERY: Final = 24


@dataclass(frozen=True, slots=True)
class Verified:
    """How the last verification ended.

    Attributes:
        size: Up to which size the log is verified.
        time: When it ended.
        full: Whether all of the log was read, not only what was added.
        problem: What does not hold, or why it could not be read; None: it verifies.
    """

    size: int
    time: datetime
    full: bool
    problem: str | None


class LogVerification:
    """Reads the whole log at the start, then at an interval what was added, and every 24th time everything again.

    Attributes:
        last: How the last one ended; None before the first did.
        progress: (leaves verified, leaves in all) while one runs, else None. Set in its thread.
    """

    def __init__(
        self, path: str, keys: LogKeys, *, interval_s: float, now: Callable[[], datetime], log: logging.Logger
    ) -> None:
        """Names the log; `run` verifies it."""
        self._path, self._keys, self._interval_s, self._now = path, keys, interval_s, now
        self._log = log
        self.last: Verified | None = None
        self.progress: tuple[int, int] | None = None
        self._report: LogReport | None = None
        self._count = 0

    async def run(self) -> RollbackError:
        """Goes on until something does not hold, and returns that: it is for good."""
        while True:
            try:
                await self.verify()
            except RollbackError as error:
                return error
            except Exception as error:  # noqa: BLE001 - `last` says so, and everything is denied until it verifies
                self._log.exception(event("log.not_verified", error=error))
                await asyncio.sleep(min(RETRY_S, self._interval_s))
            else:
                await asyncio.sleep(self._interval_s)

    async def verify(self) -> None:
        """Verifies once; `last` tells how it ended.

        Raises:
            RollbackError: Something does not hold.
            StoreError: The log cannot be read; likewise anything else: what was not verified is not taken for sound.
        """
        full = self._report is None or self._count % FULL_EVERY == 0
        try:
            since = None if full else self._report
            self._report = await asyncio.to_thread(self._verify, since)
        except Exception as error:
            size, name = self.last.size if self.last else 0, type(error).__name__
            words = str(error) if isinstance(error, AttestdError) else f"its verification failed ({name})"
            self.last = Verified(size, self._now(), full, words)
            raise
        self._count += 1
        self.last = Verified(self._report.size, self._now(), full, None)

    def _verify(self, since: LogReport | None) -> LogReport:
        try:
            return verify_log(self._path, self._keys, since=since, progress=self._note)
        finally:
            self.progress = None

    def _note(self, done: int, total: int) -> None:
        self.progress = done, total
