"""A pty for a command whose requester sits at a terminal: the command never holds the requester's own."""

import fcntl
import os
import stat
import termios
from typing import Final

from attestd.runner.launch import User

__all__ = ["is_terminal", "open_terminal"]

_WINSIZE_BYTES: Final = 8


def is_terminal(descriptor: int) -> bool:
    """Whether a requester's descriptor is a terminal. Only a character device is asked: a file need not answer.

    Raises:
        OSError: It does not say what it is: a file system that a user mounted (FUSE) may keep root out.
    """
    return stat.S_ISCHR(os.fstat(descriptor).st_mode) and os.isatty(descriptor)


def open_terminal(like: int, user: User) -> tuple[int, int]:
    """Makes a pty with the modes and the size of a terminal.

    Args:
        like: The requester's terminal.
        user: Who must be able to open the pty by its name (ttyname(3)).

    Returns:
        Master and slave, close-on-exec.

    Raises:
        OSError: No ptys left.
    """
    master, slave = os.openpty()
    try:
        size = fcntl.ioctl(like, termios.TIOCGWINSZ, bytes(_WINSIZE_BYTES))
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
        termios.tcsetattr(slave, termios.TCSANOW, termios.tcgetattr(like))
        if user.switch:
            os.fchown(slave, user.uid, user.gid)
            os.fchmod(slave, 0o600)
    except termios.error:  # hung up since: the command will notice
        pass
    except BaseException:
        os.close(master)
        os.close(slave)
        raise
    return master, slave
