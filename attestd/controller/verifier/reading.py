"""Appraises evidence: what takes a fraction of a millisecond at once, what has logs to read in threads of its own."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from attestd.appraisal.host_state import HostState
from attestd.appraisal.ima import ImaPolicy, parse_ima_policy
from attestd.appraisal.state import BootAppraiser
from attestd.appraisal.verifier import AuthenticEvidence, VerifiedEvidence, Verifier
from attestd.controller.http.problem import Problem
from attestd.errors import MalformedError, StoreError
from attestd.governance.trust import Trust

__all__ = ["Reading"]

# More would only take turns with each other, and with those that need no logs.
THREADS: Final = 2
MAX_WAITING: Final = 64
# A boot of each of 100,000 hosts, and those with findings: 40 MB.
BOOTS: Final = 131_072


class Reading:
    """Appraises. A host has one thread at a time, whatever it sends; what it waits for is answered with 503 and 429.

    Attributes:
        verifier: For what needs no thread.
    """

    def __init__(
        self, *, key: bytes, trust: Callable[[], Trust], kept_logs: Callable[[str], bytes | None]
    ) -> None:
        """Takes the challenges' secret, governance for its IMA policies, and the logs that are kept."""
        self._trust = trust
        self._ima: dict[str, ImaPolicy] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="verifier-logs")
        self._hosts: set[str] = set()
        boots = BootAppraiser(room=BOOTS, guard=threading.Lock())
        self.verifier = Verifier(key, boots, self._ima_policy, kept_logs)

    @property
    def waiting(self) -> int:
        """How many hosts' logs are read, or wait for it."""
        return len(self._hosts)

    async def appraise(
        self, evidence: AuthenticEvidence, *, trust: Trust, state: HostState | None
    ) -> VerifiedEvidence:
        """Appraises.

        Raises:
            Problem: Its host's logs are being read already, or too many others' wait.
            MalformedError, EvidenceIncompleteError, VerificationError: As `Verifier.appraise`.
        """
        ima = evidence.quoted.policy.ima
        if (ima is None or ima.sha256 in self._ima) and self.verifier.is_quick(evidence):
            return self.verifier.appraise(evidence, trust=trust, state=state)
        host = evidence.host.host
        if host in self._hosts:
            raise Problem(
                429, f"logs of host {host} are being read: one after another", headers={"retry-after": "1"}
            )
        if len(self._hosts) >= MAX_WAITING:
            raise Problem(503, "too many hosts' logs are to be read: ask again", headers={"retry-after": "5"})
        self._hosts.add(host)
        loop = asyncio.get_running_loop()
        job = self._threads.submit(self.verifier.appraise, evidence, trust=trust, state=state)
        # When the thread is done, which is not when nobody waits any more.
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._hosts.discard, host))
        return await asyncio.wrap_future(job)

    def close(self) -> None:
        """Begins nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ima_policy(self, digest: str) -> ImaPolicy:
        """A policy, parsed once; those that governance has no more are forgotten then."""
        found = self._ima.get(digest)
        if found is None:
            files = self._trust().ima
            if digest not in files:
                raise StoreError(f"IMA policy {digest}: governance changed meanwhile: ask again")
            try:
                found = parse_ima_policy(files[digest])
            except (
                MalformedError
            ) as error:  # Whoever published it made the mistake, not the host that is told to ask again.
                raise StoreError(f"governance: IMA policy {digest}: {error}") from error
            self._ima = {name: kept for name, kept in self._ima.items() if name in files} | {digest: found}
        return found
