"""The agent's side of governance: it downloads, tells the log what it saw, and goes by nothing older than that.

What it downloads it does not vouch for: agent and runner each verify all of it, whenever they read it.
"""

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from attestd.account import acting_as, agent_account
from attestd.agent.exclusive import exclusive
from attestd.audit.reader import parse_stored
from attestd.audit.store import LogStore
from attestd.distribution.fetch import add_targets, of_host, update_mirror
from attestd.distribution.local import TrustDirectory
from attestd.distribution.mirror import read_anchor
from attestd.distribution.remote import Remote, open_remote
from attestd.errors import AttestdError, MalformedError, StoreError, VerificationError
from attestd.governance.floor import Floor, floor_of, seen_body
from attestd.governance.metadata import Metadata
from attestd.governance.trust import Trust
from attestd.journal import event
from attestd.lineage.entry import EntryType
from attestd.paths import Configuration, Layout, TrustSource
from attestd.strict import format_time

__all__ = [
    "Updated",
    "Updater",
    "first_seen",
    "last_seen",
    "sealed_floor",
    "update_now",
    "update_without_agent",
]

_CHUNK: Final = 256
# These entries tell what was seen, and canonical JSON ends with the type.
_TELLING: Final = (EntryType.GOVERNANCE_UPDATE, EntryType.AGENT_START, EntryType.LOG_START)
_ENDS: Final = tuple(f'"type":"{type_}","v":1}}'.encode() for type_ in _TELLING)


@dataclass(frozen=True)
class Updated:
    """What looking for newer governance came to.

    Attributes:
        before: The version that was in force; None: none was.
        after: The version that is now.
        source: Where it was looked for.
    """

    before: int | None
    after: int
    source: str


def last_seen(store: LogStore) -> Mapping[str, Any] | None:
    """What the log says was seen last (`seen_body`); None: nothing.

    Raises:
        StoreError, RollbackError: The log cannot be read.
    """
    stop = store.size
    while stop:
        start = max(0, stop - _CHUNK)
        for seq, data in reversed(list(store.entries(start, stop))):
            if not data.endswith(_ENDS):
                continue
            entry = parse_stored(seq, data)
            seen = entry.body if entry.type is EntryType.GOVERNANCE_UPDATE else entry.body.get("governance")
            if isinstance(seen, dict):
                return seen
        stop = start
    return None


def sealed_floor(store: LogStore) -> Floor | None:
    """The floor that the log tells of.

    Raises:
        StoreError, RollbackError: The log cannot be read.
        MalformedError: It tells of it in another form.
    """
    seen = last_seen(store)
    return None if seen is None else floor_of(seen)


class Updater:
    """Downloads governance where the configuration names a repository.

    Attributes:
        url: Where from; empty: the trust directory is the repository, and there is nothing to download.
        looked_at: When it last looked, RFC 3339; None: not yet.
        problem: What came of it; None: it went well.
        turn: Rises when an update begins, and when it ended: odd while one runs.
    """

    def __init__(
        self,
        source: TrustSource,
        configuration: Configuration,
        *,
        host: str | None,
        log: logging.Logger | None = None,
    ) -> None:
        """Names the places, and the host whose records are downloaded with what is everybody's; None: it has none yet."""
        self._wanted = of_host(host)
        self.url = configuration.governance_url
        self.looked_at: str | None = None
        self.problem: str | None = None
        self.turn = 0
        self._source, self._ca, self._log = source, configuration.governance_ca, log
        self._lock = threading.Lock()
        self._remote: Remote | None = None

    def update(self, floor: Floor | None) -> None:
        """Looks now. Blocks for as long as the server takes; `stop` ends that.

        Raises:
            StoreError, VerificationError, MalformedError, UsageError: The mirror is as it was.
        """
        if not self.url:
            return
        with self._lock:
            self.turn += 1
            try:
                self._update(floor)
            except AttestdError as error:
                if self._log is not None and str(error) != self.problem:
                    self._log.warning(event("governance.not_updated", url=self.url, error=error))
                self.problem = str(error)
                raise
            finally:
                self.turn += 1
                self.looked_at = format_time(datetime.now(UTC))
            self.problem = None

    def add(self, metadata: Metadata, names: Sequence[str]) -> str | None:
        """Downloads these targets besides, which an update may remove again.

        Returns:
            Why not all of them were; None: they were.
        """
        try:
            remote = open_remote(self.url, ca=self._ca)
            try:
                add_targets(remote, self._source.mirror, metadata, names)
            finally:
                remote.close()
        except AttestdError as error:
            if self._log is not None:
                self._log.warning(event("governance.not_added", url=self.url, error=error))
            return str(error)
        return None

    def _update(self, floor: Floor | None) -> None:
        root = read_anchor(self._source)
        self._remote = remote = open_remote(self.url, ca=self._ca)
        try:
            versions = None if floor is None else floor.versions_for(root)
            update_mirror(remote, self._source.mirror, root=root, floor=versions, wanted=self._wanted)
        finally:
            remote.close()

    def stop(self) -> None:
        """Ends an update that another thread is in."""
        if self._remote is not None:
            self._remote.close()

    def describe(self) -> dict[str, Any]:
        """For status."""
        return {"url": self.url, "looked_at": self.looked_at, "problem": self.problem}


def first_seen(source: TrustSource) -> tuple[Trust, dict[str, Any]]:
    """What a new host trusts, and what its log is told of that.

    Raises:
        StoreError, VerificationError, MalformedError: As `load_trust`.
    """
    directory = TrustDirectory(source)
    trust, floor = directory.current(), directory.floor
    return trust, {} if floor is None else seen_body(trust, anchor=floor.anchor)


async def update_now(updater: Updater, directory: TrustDirectory) -> Updated:
    """Looks now, as the running agent.

    Raises:
        StoreError, VerificationError, MalformedError, UsageError: It cannot be updated, or does not verify.
    """
    before = _version(directory)
    await asyncio.to_thread(updater.update, directory.floor)
    return Updated(before, directory.look().version, updater.url or str(directory.source.mirror))


def update_without_agent(layout: Layout, configuration: Configuration) -> Updated:
    """Looks now, while no agent runs; as the agent's user, whose directory the mirror is in.

    Raises:
        UsageError: An agent is running: ask it.
        StoreError, VerificationError, MalformedError: It cannot be updated, or does not verify.
    """
    source = layout.trust_source(configuration)
    with exclusive(layout), acting_as(agent_account(layout)):
        store = LogStore.open(str(layout.log), readonly=True)
        try:
            floor, host = sealed_floor(store), store.host_id
        finally:
            store.close()
        directory = TrustDirectory(source, floor=floor)
        before = _version(directory)
        updater = Updater(source, configuration, host=host)
        updater.update(floor)
        return Updated(before, directory.look().version, updater.url or str(source.mirror))


def _version(directory: TrustDirectory) -> int | None:
    try:
        return directory.look().version
    except (StoreError, VerificationError, MalformedError):
        return None
