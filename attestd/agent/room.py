"""How much is served at once, in all and for each user: connections, descriptors, and memory for large requests.

One user may have many user ids (subuid(5)): what only a limit a user bounds is not bounded.
"""

import contextlib
import os
import resource
from asyncio import Semaphore
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

from attestd.agent.connection import Connection
from attestd.wire import MAX_DESCRIPTORS, WireError

__all__ = ["Room", "raise_descriptor_limit"]

MAX_PER_USER: Final = 64
MAX_CONNECTIONS: Final = 1024
# Root and the agent's own user keep a place when others have taken all: `status` must answer in a flood.
RESERVED: Final = 16
# A request is large from the first byte over 64 KiB, and takes a few times its size until it is decided.
MAX_LARGE: Final = 32
MAX_LARGE_PER_USER: Final = 8
# The connection, what comes with its first frame, and a little more of what it is asked for.
_DESCRIPTORS_A_REQUEST: Final = MAX_DESCRIPTORS + 4
_OTHER_DESCRIPTORS: Final = 256


def raise_descriptor_limit() -> int:
    """Raises the soft limit of this process's descriptors to what all requests may take, or as far as is permitted.

    Returns:
        The soft limit as it was: for commands of a runner that this process starts.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS * _DESCRIPTORS_A_REQUEST + _OTHER_DESCRIPTORS
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(
            OSError, ValueError
        ):  # a unit's filter of system calls; then fewer are served
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return soft


class Room:
    """Counts who is served.

    Attributes:
        connections: How many connections there may be, root's included.
    """

    def __init__(self, descriptors: int) -> None:
        """Empty.

        Args:
            descriptors: How many this process may have.
        """
        for_requests = (descriptors - _OTHER_DESCRIPTORS) // _DESCRIPTORS_A_REQUEST
        self.connections = max(2 * RESERVED, min(MAX_CONNECTIONS, for_requests))
        self._of_user: Counter[int] = Counter()
        self._large_of_user: Counter[int] = Counter()
        self._large = Semaphore(MAX_LARGE)

    def refusal(self, uid: int) -> str | None:
        """Why there is no room for one more connection of a user; None if there is."""
        privileged = uid in (0, os.geteuid())
        if self._of_user.total() >= self.connections - (0 if privileged else RESERVED):
            return f"{self.connections} requests are waiting already"
        if self._of_user[uid] >= min(MAX_PER_USER, self.connections // 2):
            return f"{self._of_user[uid]} requests of uid {uid} are waiting already"
        return None

    def enter(self, uid: int) -> None:
        """A connection of this user is there, to be served or refused."""
        self._of_user[uid] += 1

    def leave(self, uid: int) -> None:
        """It is gone."""
        _take_one(self._of_user, uid)

    @contextlib.asynccontextmanager
    async def bounded(self, connection: Connection) -> AsyncIterator[None]:
        """While within, a large frame of this connection is read only once there is room for it.

        Raises:
            WireError: While receiving: too many large ones of one user.
        """
        uid = connection.peer.uid
        async with contextlib.AsyncExitStack() as stack:

            async def take() -> None:
                if self._large_of_user[uid] >= MAX_LARGE_PER_USER:
                    raise WireError(f"more than {MAX_LARGE_PER_USER} large requests of uid {uid} at once")
                self._large_of_user[uid] += 1
                stack.callback(_take_one, self._large_of_user, uid)
                await stack.enter_async_context(self._large)

            connection.on_large = take
            yield


def _take_one(counter: Counter[int], uid: int) -> None:
    counter[uid] -= 1
    if not counter[uid]:
        del counter[uid]
