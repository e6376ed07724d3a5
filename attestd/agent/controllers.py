"""How the agent asks controllers: over HTTP, in threads of their own, and again later where one does not answer.

Nothing that comes back is believed: whoever asked verifies it.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from attestd.distribution.web import Answer, ClientCertificate, Web
from attestd.errors import StoreError, VerificationError

__all__ = ["JSON", "Backoff", "CallThreads", "Controller", "problem_of"]

_T = TypeVar("_T")

JSON: Final = "application/json"
CONNECT_S: Final = 5.0
READ_S: Final = 20.0
# For one answer, however slowly it comes.
ANSWER_S: Final = 60.0
_REMEDY: Final = "controller_ca, or else governance_ca (for init: --governance-ca FILE),"
_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})
_MAX_WORDS: Final = 600
# As many as `mesh.json` can name, of each kind: none waits for another.
_MAX_THREADS: Final = 128


class Controller:
    """One controller, as a host sees it; one request at a time.

    Attributes:
        url: Where it is.
    """

    def __init__(
        self, url: str, *, ca: str = "", client: ClientCertificate | None = None, remedy: str = _REMEDY
    ) -> None:
        """Takes its address.

        Args:
            url: `https://…` or `http://…`.
            ca: A PEM file of the certificate authorities that may vouch for it; empty: the system's.
            client: What it is shown, where it asks for a certificate: operators have one, hosts have none.
            remedy: What names who may vouch for it, as an error says it.

        Raises:
            UsageError: It is no such address, or a file cannot be read.
        """
        settings = "controller", "controller_ca"
        self._web = Web(
            url, ca=ca, settings=settings, connect_s=CONNECT_S, read_s=READ_S, client=client, remedy=remedy
        )
        self.url = self._web.url

    def get(self, path: str, *, max_bytes: int, deadline_s: float = ANSWER_S) -> Answer:
        """Asks for what there is, and blocks until it is answered.

        Args:
            path: Below the controller's address.
            max_bytes: Of the answer.
            deadline_s: For all of it.

        Raises:
            StoreError, VerificationError, MalformedError: As `post`.
        """
        found = self._web.ask("GET", path, deadline_s=deadline_s, max_bytes=max_bytes)
        return self._accepted(path, found, (200,))

    def post(
        self,
        path: str,
        body: bytes,
        *,
        max_bytes: int,
        content_type: str = JSON,
        accepted: Collection[int] = (200,),
        deadline_s: float = ANSWER_S,
    ) -> Answer:
        """Sends a request, and blocks until it is answered.

        Args:
            path: Below the controller's address.
            body: What is sent.
            max_bytes: Of the answer.
            content_type: Of what is sent.
            accepted: The statuses that are an answer to the caller; any other is an error.
            deadline_s: For all of it.

        Raises:
            StoreError: It cannot answer now: ask again later.
            VerificationError: It refuses.
            MalformedError: Its answer is too large.
        """
        found = self._web.ask(
            "POST", path, body=body, headers={"Content-Type": content_type}, deadline_s=deadline_s, max_bytes=max_bytes
        )  # fmt: skip
        return self._accepted(path, found, accepted)

    def close(self) -> None:
        """Cuts what another thread is waiting for."""
        self._web.close()

    def _accepted(self, path: str, found: Answer, accepted: Collection[int]) -> Answer:
        if found.status in accepted:
            return found
        words = f"{self.url}{path}: {problem_of(found)} (status {found.status})"
        if found.status in _AGAIN:
            raise StoreError(words)
        raise VerificationError(words)


def problem_of(answer: Answer) -> str:
    """What an answer that says no says, in words: a problem's detail (RFC 9457) where it is one."""
    if answer.location:
        return f"it has moved to {answer.location!r}: that is for mesh.json to say"
    try:
        found = json.loads(answer.data)
    except (ValueError, RecursionError):
        return "no words"
    detail = found.get("detail") if isinstance(found, Mapping) else None
    return detail[:_MAX_WORDS] if isinstance(detail, str) else "no words"


@dataclass
class Backoff:
    """When a controller that did not answer is asked again: later and later, at most a minute, never all hosts at once.

    Attributes:
        failures: How often in a row it did not answer.
    """

    first_s: float = 0.5
    longest_s: float = 60.0
    urgent_s: float = 1.0
    failures: int = 0
    _asked: float = float("-inf")
    _due: float = float("-inf")

    def is_due(self, *, urgent: bool = False) -> bool:
        """Whether it may be asked now.

        Args:
            urgent: A request waits for it: then it is asked unless it was within the last second.
        """
        now = time.monotonic()
        return now >= (min(self._due, self._asked + self.urgent_s) if urgent else self._due)

    @property
    def wait_s(self) -> float:
        """For how long not to ask it, if nobody waits for it."""
        return max(0.0, self._due - time.monotonic())

    def asked(self) -> None:
        """It is asked now."""
        self._asked = time.monotonic()

    def failed(self) -> None:
        """It did not answer, or not as it should: full jitter."""
        most = min(self.longest_s, self.first_s * 2 ** min(self.failures, 16))
        self.failures += 1
        # Spreads hosts, hides nothing: no secret depends on it.
        self._due = time.monotonic() + random.uniform(0, most)  # noqa: S311

    def answered(self) -> None:
        """It did."""
        self.failures, self._due = 0, float("-inf")


class CallThreads:
    """Runs what blocks for a controller, in threads that are made when they are needed."""

    def __init__(self) -> None:
        """Makes none yet."""
        self._threads = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="controller")

    async def run(self, call: Callable[[], _T]) -> _T:
        """Awaits a call; what it raises, this raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def stop(self) -> None:
        """Takes no more calls; what runs ends when its controller is closed."""
        self._threads.shutdown(wait=False, cancel_futures=True)
