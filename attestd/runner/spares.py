"""Children forked ahead of time, so that a request waits neither for fork nor for the kernel's cgroup locks."""

import os
from pathlib import Path
from typing import Final

from attestd.runner.cgroup import PREFIX
from attestd.runner.child import Child, fork_child
from attestd.runner.loop import Loop, Timer

__all__ = ["Spares"]

COUNT: Final = 4
# Not at once: forking would compete with the request that took one.
REFILL_DELAY_S: Final = 0.1


class Spares:
    """Keeps a few waiting children."""

    def __init__(self, loop: Loop, cgroups: Path | None) -> None:
        """Forks them.

        Args:
            loop: Calls back.
            cgroups: Where cgroups can be made, or None.
        """
        self._loop = loop
        self._cgroups = cgroups
        self._children: list[Child] = []
        self._number = 0
        self._timer: Timer | None = None
        self._refill()

    def take(self) -> Child:
        """A child, perhaps not ready yet; the caller owns it.

        Raises:
            OSError: No processes or descriptors left.
        """
        if self._timer is None:
            self._timer = self._loop.after(REFILL_DELAY_S, self._refill)
        while self._children:
            child = self._children.pop(0)
            try:
                child.is_ready()
            except ConnectionError:  # somebody killed it
                _discard(child)
                continue
            return child
        return self._fork()

    def close(self) -> None:
        """Ends them."""
        self._loop.cancel(self._timer)
        for child in self._children:
            _discard(child)
        self._children.clear()

    def _refill(self) -> None:
        self._timer = None
        try:
            while len(self._children) < COUNT:
                self._children.append(self._fork())
        except OSError:  # whoever needs one will see why there is none
            return

    def _fork(self) -> Child:
        self._number += 1
        return fork_child(self._cgroups, f"{PREFIX}{os.getpid()}-{self._number}")


def _discard(child: Child) -> None:
    child.kill()
    child.close()
