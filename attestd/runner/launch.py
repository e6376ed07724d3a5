"""From a verified descriptor to a running process: the only place that forks, changes user and executes.

The child is forked before the client's go and waits on a pipe, so that it is recorded (and in its cgroup) before it
runs a single instruction of the command; if the runner dies first, it reads the end of the pipe and goes away.
"""

import fcntl
import os
import pwd
import resource
import signal
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from attestd.codes import Code, Denied
from attestd.wire import close_all

__all__ = ["Child", "Command", "User", "catches", "find_user", "foreground_group", "fork_child", "start_time"]

_UMASK: Final = 0o022


@dataclass(frozen=True, slots=True)
class User:
    """Who a command runs as; None of it changes when the runner is not root.

    Attributes:
        groups: Supplementary groups.
        switch: False: the runner is not root and already is that user.
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
        keep: Descriptors that it needs as /proc/self/fd/N, under their numbers.
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


@dataclass(frozen=True, slots=True)
class Child:
    """A forked child that waits for its go.

    Attributes:
        pid: Its process id, also the id of its session and process group.
        go: Write one byte: it runs. Close: it goes away.
        failure: Reads as empty when the command runs, else `<stage>:<errno>`.
    """

    pid: int
    go: int
    failure: int


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
        return User(uid, os.getegid(), tuple(os.getgroups()), switch=False)
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise Denied(
            Code.SCOPE_VIOLATION, f"there is no user with uid {uid} on this host", "create the user first"
        ) from None
    return User(uid, entry.pw_gid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)), switch=True)


def fork_child(command: Command) -> Child:
    """Forks the child; it waits for its go, holding only the descriptors that it needs.

    Raises:
        OSError: No processes or descriptors left.
    """
    go_reader, go = os.pipe2(os.O_CLOEXEC)
    opened = [go_reader, go]
    # Until the child has put back the default handlers, a signal must not run ours (they write to our own pipe).
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        failure, failure_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        opened += [failure, failure_writer]
        pid = os.fork()
        if pid == 0:
            _run_child(command, go_reader, failure_writer)
        opened = [go_reader, failure_writer]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        close_all(opened)
    return Child(pid, go, failure)


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with the pid, its identity. None if there is none."""
    return _stat(pid, 22)


def foreground_group(pid: int) -> int | None:
    """The process group in the foreground of a process's terminal, if it has one."""
    group = _stat(pid, 8)
    return group if group is not None and group > 0 else None


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


def _run_child(command: Command, go_reader: int, failure_writer: int) -> NoReturn:
    stage = "prepare"
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for caught in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(caught, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _close_others(command, {go_reader, failure_writer})
        if os.read(go_reader, 1) != b"g":
            os._exit(0)
        # All these are above 2: the runner never leaves 0, 1, 2 free.
        for number, descriptor in enumerate(command.stdio):
            os.dup2(descriptor, number)
        for descriptor in command.keep:
            os.set_inheritable(descriptor, True)
        if command.terminal is not None:
            fcntl.ioctl(command.terminal, termios.TIOCSCTTY, 0)
        os.umask(_UMASK)
        resource.setrlimit(resource.RLIMIT_NOFILE, command.descriptor_limit)
        stage = "become the user"
        _become(command.user)
        stage = "enter the working directory"
        os.fchdir(command.cwd)  # as the user: what they may not enter, root must not enter for them
        stage = "execute"
        argv = [argument.encode() for argument in command.argv]
        env = {name.encode(): value.encode() for name, value in command.env.items()}
        os.execve(command.program, argv, env)  # noqa: S606 - a verified descriptor, no path and no shell
    except OSError as error:
        os.write(failure_writer, f"{stage}:{error.errno}".encode())
    except BaseException:  # noqa: BLE001 - nothing of the runner may go on in a child
        os.write(failure_writer, f"{stage}:0".encode())
    os._exit(127)


def _close_others(command: Command, pipes: set[int]) -> None:
    # At once, not by close-on-exec: a child that waits for its go must not keep other requesters' pipes open.
    needed = {0, 1, 2, command.program, command.cwd, command.terminal, *command.stdio, *command.keep, *pipes}
    close_all([int(name) for name in os.listdir("/proc/self/fd") if int(name) not in needed])


def _become(user: User) -> None:
    if not user.switch:
        return
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    if os.getresuid() != (user.uid,) * 3 or os.getresgid() != (user.gid,) * 3:
        raise OSError(0, "the user did not change")
