"""sd_notify(3) and socket activation (sd_listen_fds(3)), without libsystemd."""

import os
import socket
from typing import Final

from attestd.errors import UsageError

__all__ = ["inherited_listener", "notify", "watchdog_interval_s"]

_FIRST_FD: Final = 3


def notify(state: str) -> None:
    """Tells the service manager, if there is one: `READY=1`, `WATCHDOG=1`, `STOPPING=1`, `STATUS=...`."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
            sock.sendall(state.encode())
        except OSError:
            return  # A manager that does not listen is its own problem: the service goes on.


def watchdog_interval_s() -> float | None:
    """How often the manager wants to hear `WATCHDOG=1`; None: it does not ask (half its timeout, as sd says)."""
    text = os.environ.get("WATCHDOG_USEC", "")
    if not text.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(text) / 2_000_000


def inherited_listener() -> socket.socket | None:
    """The one listening socket that the manager handed over; None: it handed over none, to this process.

    Raises:
        UsageError: It handed over something else.
    """
    count = os.environ.pop("LISTEN_FDS", None)
    if count is None or os.environ.pop("LISTEN_PID", None) != str(os.getpid()):
        return None
    os.set_inheritable(_FIRST_FD, False)
    listener = socket.socket(fileno=_FIRST_FD)
    if (
        count != "1"
        or (listener.family, listener.type) != (socket.AF_UNIX, socket.SOCK_STREAM)
        or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        raise UsageError(
            "the service manager handed over something else than one listening Unix stream socket"
        )
    return listener
