"""The runner's event loop: descriptors and timers, one thread, nothing else."""

import selectors
import time
from collections.abc import Callable

__all__ = ["Loop", "Timer"]

Callback = Callable[[], None]


class Timer:
    """A callback that is due at a time; cancelled by `Loop.cancel`."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callback) -> None:
        self.due, self.callback = due, callback


class Loop:
    """Calls back when descriptors become readable and when timers are due."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[Timer] = []
        self._stopped = False

    def watch(self, descriptor: int, callback: Callback) -> None:
        """Calls back whenever the descriptor is readable (or at its end)."""
        self._selector.register(descriptor, selectors.EVENT_READ, callback)

    def forget(self, descriptor: int) -> None:
        """Stops watching; must come before the descriptor is closed. Nothing happens if it is not watched."""
        if descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)

    def __contains__(self, descriptor: int) -> bool:
        """Whether it is watched."""
        return descriptor in self._selector.get_map()

    def after(self, seconds: float, callback: Callback) -> Timer:
        """Calls back once, later."""
        timer = Timer(time.monotonic() + seconds, callback)
        self._timers.append(timer)
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """Cancels a timer; one that has fired already, or None, is no error."""
        if timer in self._timers:
            self._timers.remove(timer)

    def stop(self) -> None:
        """Makes `run` return once what is being done is done."""
        self._stopped = True

    def run(self) -> None:
        """Runs until stopped. Callbacks must not raise."""
        while not self._stopped:
            timeout = None
            if self._timers:
                timeout = max(0.0, min(timer.due for timer in self._timers) - time.monotonic())
            for key, _ in self._selector.select(timeout):
                # An earlier callback of this round may have closed it, and a new descriptor may have its number.
                if self._selector.get_map().get(key.fd) is key:
                    key.data()
            now = time.monotonic()
            for timer in [timer for timer in self._timers if timer.due <= now]:
                if timer in self._timers:
                    self._timers.remove(timer)
                    timer.callback()

    def close(self) -> None:
        """Closes the selector."""
        self._selector.close()
