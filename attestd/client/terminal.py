"""The requester's terminal while a command runs on a pty of its own.

The runner made the pty and gave us its master: keys go to the command, its output to the terminal, in this
process, so the root runner sees none of it and the command never holds the requester's terminal (a descriptor of
which would let it push keys into the requester's shell).
"""

import _signal  # type: ignore[import-not-found] # as in attestd.client.run
import fcntl
import posix
import select
import termios

__all__ = ["Terminal"]

TYPE_CHECKING = False  # `typing` is too dear to import
if TYPE_CHECKING:
    from typing import Any

_CHUNK = 65_536
_WINDOW_SIZE_BYTES = 8  # struct winsize: four unsigned shorts


class Terminal:
    """Relays between the terminal and the pty's master, and gives the terminal back as it was."""

    def __init__(self, master: int, poller: select.poll) -> None:
        """Takes over the master; puts the terminal in raw mode if it is ours to use.

        Args:
            master: The master side of the command's pty; owned from here on.
            poller: Where the descriptors to wait for are registered.
        """
        self._master = master
        self._poller = poller
        self._terminals = [number for number in (0, 1, 2) if posix.isatty(number)]
        # Where the command's output goes: stdout or stderr, whichever is the terminal.
        self._screen = next((number for number in (1, 2, 0) if number in self._terminals), None)
        self._saved: list[Any] | None = None
        self._keys = b""
        self._typing = False
        self._open = True
        posix.set_blocking(master, False)
        self._enter()

    def signalled(self, number: int) -> None:
        """Does what a signal to this process means for the terminal."""
        if number == _signal.SIGWINCH:
            self._copy_window_size()
        elif number == _signal.SIGCONT:
            self._enter()

    def relay(self, ready: dict[int, int]) -> None:
        """Moves what can be moved.

        Args:
            ready: Events by descriptor, as `poll` reports them.
        """
        events = ready.get(self._master, 0)
        if events & select.POLLOUT:
            self._write_keys()
        if 0 in ready and self._typing and not self._keys:
            self._read_keys()
        if events & ~select.POLLOUT:
            self._show()
        self._watch()

    def drain(self) -> None:
        """Shows what the command had written before it ended."""
        while self._show():
            pass

    def restore(self) -> None:
        """Gives the terminal back. Safe to call twice."""
        if self._saved is not None:
            saved, self._saved = self._saved, None
            try:
                termios.tcsetattr(0, termios.TCSADRAIN, saved)
            except termios.error:  # hung up: nothing left to restore
                return

    def _enter(self) -> None:
        # Only in the foreground: from the background both reading and setting modes would stop us (SIGTTIN, SIGTTOU).
        self._copy_window_size()
        try:
            if 0 in self._terminals and posix.tcgetpgrp(0) == posix.getpgrp():
                if self._saved is None:
                    self._saved = termios.tcgetattr(0)
                termios.tcsetattr(0, termios.TCSADRAIN, _raw(self._saved))
                self._typing = True
        except (OSError, termios.error):  # hung up
            self._typing = False
        self._watch()

    def _watch(self) -> None:
        # While the command does not take its keys, none are read: a blocking write here would stop its output too.
        self._register(0, select.POLLIN if self._typing and not self._keys else 0)
        self._register(
            self._master, (select.POLLIN | (select.POLLOUT if self._keys else 0)) if self._open else 0
        )

    def _register(self, descriptor: int, events: int) -> None:
        if events:
            self._poller.register(descriptor, events)
        else:  # no events would still report a hang-up, again and again
            try:  # noqa: SIM105 - contextlib is too dear to import
                self._poller.unregister(descriptor)
            except KeyError:
                pass

    def _copy_window_size(self) -> None:
        if self._terminals:
            try:
                size = fcntl.ioctl(self._terminals[0], termios.TIOCGWINSZ, bytes(_WINDOW_SIZE_BYTES))
                fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
            except OSError:
                return

    def _read_keys(self) -> None:
        try:
            self._keys = posix.read(0, _CHUNK)
        except OSError:
            self._keys = b""
        self._typing = bool(self._keys)  # else the terminal hung up
        self._write_keys()

    def _write_keys(self) -> None:
        try:
            self._keys = self._keys[posix.write(self._master, self._keys) :]
        except BlockingIOError:
            return
        except OSError:
            self._keys = b""

    def _show(self) -> bool:
        try:
            data = posix.read(self._master, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: nobody has the other side open any more
            data = b""
        if not data:
            self._open = False
            return False
        if self._screen is not None:
            try:
                while data:
                    data = data[posix.write(self._screen, data) :]
            except OSError:  # hung up: the command goes on until it notices itself
                self._screen = None
        return True


def _raw(saved: "list[Any]") -> "list[Any]":
    """As cfmakeraw(3): every key, the interrupt key too, is for the command's pty to interpret."""
    mode: list[Any] = [*saved[:6], saved[6][:]]
    mode[0] &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    mode[1] &= ~termios.OPOST
    mode[2] = (mode[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
    mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    return mode
