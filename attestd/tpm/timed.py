"""A transport that tells how long each command took."""

import time
from collections.abc import Callable

from attestd.tpm._channel import Transport
from attestd.tpm._commands import Cc

__all__ = ["Observe", "TimedTransport"]

Observe = Callable[[str, float], None]


class TimedTransport:
    """Stands before another transport."""

    def __init__(self, transport: Transport, observe: Observe) -> None:
        """Takes over a transport.

        Args:
            transport: What carries the commands.
            observe: Gets the command's name, such as `quote`, and the seconds until its response.
        """
        self._transport, self._observe = transport, observe

    @property
    def is_lost(self) -> bool:
        """Whether the connection has failed."""
        return self._transport.is_lost

    def exchange(self, command: bytes) -> bytes:
        """Sends a command and waits for its response."""
        start = time.perf_counter()
        try:
            return self._transport.exchange(command)
        finally:
            self._observe(_name(command), time.perf_counter() - start)

    def close(self) -> None:
        """Disconnects."""
        self._transport.close()


def _name(command: bytes) -> str:
    return _NAMES.get(int.from_bytes(command[6:10], "big"), "other")


_NAMES = {code.value: code.name.lower() for code in Cc}
