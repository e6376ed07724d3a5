"""Records of other hosts, which are not kept here: downloaded when a receipt of one is handed in as a parent.

Nothing of such a receipt is verified yet, so whoever may ask for decisions can name any host that governance names. So a
user waits for one download at a time, all of them for few, and what a user can have downloaded is bounded.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from attestd.agent.governance import Updater
from attestd.codes import Code, Denial
from attestd.governance.trust import Trust

__all__ = ["OtherRecords"]

AT_ONCE: Final = 2
# Hosts whose records are downloaded under one version of governance: in all, and for one user.
MOST: Final = 256
MOST_A_USER: Final = 64
# For how long what could not be downloaded is not tried again.
FAILED_S: Final = 30.0
# An update removes what it does not know of: what it may have removed is downloaded again.
_TRIES: Final = 3


class OtherRecords:
    """Used from one loop only; files are read, verified and downloaded in threads."""

    def __init__(self, host: str, updater: Updater, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Names this host, whose records are never downloaded here, and what downloads the others'."""
        self._own, self._updater, self._clock = host, updater, clock
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._running: dict[str, asyncio.Task[str | None]] = {}
        self._users: set[int] = set()
        self._version = 0
        self._downloaded: dict[str, int] = {}  # by host: for whom
        self._failed: dict[str, tuple[float, str]] = {}

    async def get(self, host: str, trust: Trust, uid: int) -> Denial | None:
        """Downloads a host's records unless they are here.

        Args:
            host: Any host-id.
            trust: What names its records.
            uid: Who asks. Who asks for what is being downloaded already waits for that, whoever had it downloaded.

        Returns:
            Why records that governance names are still not here; None: they are, or it names none.
        """
        if host == self._own or not self._updater.url:
            return None
        if host not in self._running and not await asyncio.to_thread(trust.unread, host):
            return None
        if host not in self._running:
            denial = self._refused(host, trust, uid)
            if denial is not None:
                return denial
            self._users.add(uid)
            self._downloaded.setdefault(host, uid)
            self._running[host] = asyncio.create_task(self._download(host, trust, uid))
        # The download is also for whoever joined: it goes on when this one leaves.
        problem = await asyncio.shield(self._running[host])
        return None if problem is None else _missing(host, f"could not be downloaded: {problem}")

    def _refused(self, host: str, trust: Trust, uid: int) -> Denial | None:
        if trust.version > self._version:
            self._version, self._downloaded, self._failed = trust.version, {}, {}
        until, problem = self._failed.get(host, (0.0, ""))
        if self._clock() < until:
            return _missing(host, f"could not be downloaded a moment ago: {problem}")
        if uid in self._users:
            return _missing(host, f"another host's are being downloaded for uid {uid}: one at a time")
        if host not in self._downloaded:
            users = list(self._downloaded.values())
            if len(users) >= MOST or users.count(uid) >= MOST_A_USER:
                return _missing(
                    host,
                    f"under governance version {self._version} those of {len(users)} other hosts were downloaded,"
                    f" of {users.count(uid)} for uid {uid}: at most {MOST} are, and {MOST_A_USER} for one user",
                )
        return None

    async def _download(self, host: str, trust: Trust, uid: int) -> str | None:
        problem: str | None = "it was cancelled"
        try:
            async with self._slots:
                problem = await asyncio.to_thread(self._fetch, host, trust)
        finally:
            self._users.discard(uid)
            del self._running[host]
            if problem is not None:
                self._downloaded.pop(host, None)
                self._failed.pop(host, None)  # The oldest is the first.
                self._failed[host] = self._clock() + FAILED_S, problem
                if len(self._failed) > MOST:
                    del self._failed[next(iter(self._failed))]
        return problem

    def _fetch(self, host: str, trust: Trust) -> str | None:
        problem: str | None = None
        for _ in range(_TRIES):
            turn = self._updater.turn
            names = trust.unread(host)
            if names:
                problem = self._updater.add(trust.metadata, names)
                names = trust.unread(host)
            if not names:
                return None
            if turn == self._updater.turn and turn % 2 == 0:
                break
        return problem or "what was downloaded is not there"


def _missing(host: str, why: str) -> Denial:
    return Denial(
        Code.LINEAGE_BROKEN,
        f"the parent's receipt is of host {host}, whose records are not kept here, and {why}",
        f"try again in {FAILED_S:.0f} s; attestd doctor says whether governance can be reached",
    )
