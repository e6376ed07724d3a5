"""Governance as this controller knows it: read again in the background, given out without waiting."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Final

from attestd.controller.background import in_background
from attestd.controller.http.metrics import Gauge
from attestd.distribution.local import TrustDirectory
from attestd.errors import AttestdError, StoreError
from attestd.governance.trust import Trust
from attestd.journal import event
from attestd.paths import TrustSource
from attestd.strict import format_time

__all__ = ["TrustWatch"]

LOOK_S: Final = 1.0


class TrustWatch:
    """What is trusted now. Who asks gets what was read at most a second ago, or why there is nothing to believe."""

    def __init__(self, source: TrustSource, *, now: Callable[[], datetime], log: logging.Logger) -> None:
        """Names the places; nothing is read yet."""
        self._directory, self._now, self._log = TrustDirectory(source), now, log
        self._found: Trust | None = None
        self._problem = "governance was not read yet"

    def current(self) -> Trust:
        """What is trusted now.

        Raises:
            StoreError: Nothing: it cannot be read, does not verify, or has expired.
        """
        if self._found is None:
            raise StoreError(f"governance: {self._problem}")
        if self._found.expires < self._now():
            raise StoreError(
                f"governance: {self._found.expires_role} expired at {format_time(self._found.expires)}: publish anew"
            )
        return self._found

    def trouble(self) -> str | None:
        """Why nothing is trusted, for `/healthz`."""
        try:
            self.current()
        except StoreError as error:
            return str(error)
        return None

    def gauges(self) -> list[Gauge]:
        """For `/metrics`."""
        version = self._found.version if self._found is not None else 0
        return [
            ("attestd_controller_governance_version", "The version in force; 0: none.", {(): version}),
            (
                "attestd_controller_governance_usable",
                "1 where governance is believed.",
                {(): float(self.trouble() is None)},
            ),
        ]

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Reads once, then again whenever it changed, as long as the context lasts."""
        await self._look()
        async with in_background(self._watch()):
            yield

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look()

    async def _look(self) -> None:
        before = self._found
        try:
            self._found = await asyncio.to_thread(self._directory.look)
        except AttestdError as error:
            if before is not None or str(error) != self._problem:
                self._log.error(event("governance.unusable", error=error))
            self._found, self._problem = None, str(error)
            return
        if before is None or before.digest != self._found.digest:
            self._log.info(
                event("governance.read", version=self._found.version, hosts=len(self._found.hosts))
            )
