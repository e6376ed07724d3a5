"""A session keyring of its own for each command (session-keyring(7)): it survives fork, execve and setuid.

Commands would otherwise share the runner's, whoever they run as: one could read and replace what another keeps there.
"""

import ctypes
import errno
import os
import platform
from typing import Final

__all__ = ["leave_session_keyring"]

# keyctl(2) has no wrapper in the C library. The numbers of its system call, by machine.
_SYSCALLS: Final = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}
_JOIN_SESSION_KEYRING: Final = 1
_NUMBER: Final = _SYSCALLS.get(platform.machine())
_syscall: Final = ctypes.CDLL(None, use_errno=True).syscall


def leave_session_keyring() -> None:
    """Gives this process a new, empty session keyring. Where the kernel offers none, there is none to leave.

    Raises:
        OSError: It could not be made.
    """
    if _NUMBER is None or _syscall(_NUMBER, _JOIN_SESSION_KEYRING, None) >= 0:
        return
    number = ctypes.get_errno()
    # EPERM: a container's filter of system calls, which the command is under as well.
    if number not in (errno.ENOSYS, errno.EPERM):
        raise OSError(number, os.strerror(number))
