"""What is to be launched, and as whom; and what /proc says of a process."""

import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from attestd.codes import Code, Denied

__all__ = ["FIRST_KEPT", "Command", "User", "catches", "find_user", "foreground_group", "start_time"]

# Where kept descriptors stand in the child, as /proc/self/fd/N: beyond those that shells use themselves.
FIRST_KEPT: Final = 64


@dataclass(frozen=True, slots=True)
class User:
    """Who a command runs as.

    Attributes:
        groups: Supplementary groups.
        switch: False: the runner is not root and already is that user; nothing changes.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    switch: bool


@dataclass(frozen=True)
class Command:
    """Everything that execve and what comes before it take, verified.

    Attributes:
        program: Descriptor of what is executed: a binary or the interpreter, never a script.
        argv: Its arguments, argv[0] included.
        env: Its whole environment.
        cwd: Descriptor of its working directory.
        stdio: Descriptors for 0, 1, 2.
        keep: Descriptors that it needs; the first becomes /proc/self/fd/`FIRST_KEPT`, and so on.
        terminal: The slave side of its pty, or None.
        descriptor_limit: RLIMIT_NOFILE, soft and hard; the runner's own is higher.
    """

    program: int
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: int
    stdio: tuple[int, int, int]
    keep: tuple[int, ...]
    user: User
    terminal: int | None
    descriptor_limit: tuple[int, int]


def find_user(uid: int) -> User:
    """The user to become.

    Raises:
        Denied: `scope_violation`: an unknown user, or another one while the runner is not root.
    """
    own = os.geteuid()
    if own != 0:
        if uid != own:
            raise Denied(
                Code.SCOPE_VIOLATION,
                f"the command is to run as uid {uid}, this runner can only run as uid {own}",
                "run the runner as root",
            )
        return User(uid, os.getegid(), (), switch=False)
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise Denied(
            Code.SCOPE_VIOLATION, f"there is no user with uid {uid} on this host", "create the user first"
        ) from None
    return User(uid, entry.pw_gid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)), switch=True)


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with the pid, its identity. None if there is none."""
    return _stat(pid, 22)


def foreground_group(leader: int) -> int | None:
    """The process group in the foreground of a session's terminal, if it has one and that group lives.

    The kernel goes on naming a group whose last process has ended, and may give its number to a group of another session
    meanwhile: root's signals must not follow it there.

    Args:
        leader: The session's leader.
    """
    group = _stat(leader, 8)
    if group is None or group <= 0:
        return None
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    members = (pid for pid in (group, *pids) if _stat(pid, 5) == group)  # most groups have their leader still
    return group if any(_stat(pid, 6) == leader for pid in members) else None


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            mask = next(line for line in file if line.startswith(b"SigCgt:"))
    except (OSError, StopIteration):
        return False
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


def _stat(pid: int, field: int) -> int | None:
    # proc_pid_stat(5). The command in field 2 may hold anything, also spaces and parentheses.
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[field - 3])
    except (OSError, IndexError, ValueError):
        return None
