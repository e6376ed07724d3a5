"""From a verified descriptor to a running process: the only place that forks, changes user and executes.

A child is forked before it is needed, closes every descriptor but its socket, moves to a cgroup of its own (which
takes the kernel up to 20 ms) and waits. It is given a command, and, once the start is recorded, its go. If the runner
dies first, it reads the end of its socket and goes away.
"""

import _signal  # type: ignore[import-not-found]
import contextlib
import fcntl
import os
import resource
import signal
import socket
import termios
from pathlib import Path
from typing import Final, NoReturn

from attestd.runner.cgroup import Cgroup
from attestd.runner.keyring import leave_session_keyring
from attestd.runner.launch import FIRST_KEPT, Command
from attestd.wire import Frame, FrameReader, WireError, close_all, encode_fields, send_frame

__all__ = ["Child", "fork_child"]

# And with _signal directly: `signal` makes an enum of each of 64 signals, at each call.
_ALL_SIGNALS: Final = frozenset(map(int, signal.valid_signals()))
_COMMAND: Final = b"C"
_GO: Final = b"g"
_UMASK: Final = 0o022
_FIXED_FIELDS: Final = 8
_MAX_FIELDS: Final = 1 << 17
_MAX_FAILURE_BYTES: Final = 100


class Child:
    """A forked child, as its parent sees it.

    Attributes:
        pid: Its process id, also the id of its session and process group.
        pidfd: Readable when it has ended.
        cgroup: Its own, once it is ready, if it could have one.
    """

    def __init__(self, pid: int, sock: socket.socket, cgroup: Cgroup | None) -> None:
        """Takes over a child that was just forked."""
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.cgroup = cgroup
        self._sock = sock
        self._ready = False

    def fileno(self) -> int:
        """Readable when `is_ready` or `outcome` has something to say."""
        return self._sock.fileno()

    def is_ready(self) -> bool:
        """Whether it waits for a command.

        Raises:
            ConnectionError: It is dead.
        """
        if not self._ready:
            try:
                said = self._sock.recv(1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            if not said:
                raise ConnectionError("a waiting child died")
            self._ready = True
            if said == b"-":
                self.cgroup = None
        return self._ready

    def give(self, command: Command) -> None:
        """Gives it its command; the descriptors stay the caller's.

        Raises:
            OSError: It is dead.
            WireError: The command is too large.
        """
        user, descriptors = command.user, [command.program, command.cwd, *command.stdio]
        numbers = [user.uid, user.gid, int(user.switch), *command.descriptor_limit]
        fields = [str(number).encode() for number in numbers]
        fields.append(",".join(str(group) for group in user.groups).encode())
        fields.append(b"terminal" if command.terminal is not None else b"")
        fields.append(str(len(command.argv)).encode())
        fields += [argument.encode() for argument in command.argv]
        fields += [f"{name}={value}".encode() for name, value in command.env.items()]
        if command.terminal is not None:
            descriptors.append(command.terminal)
        send_frame(self._sock, _COMMAND, encode_fields(fields), [*descriptors, *command.keep])

    def go(self) -> None:
        """Lets it run.

        Raises:
            OSError: It is dead.
        """
        send_frame(self._sock, _GO)

    def outcome(self) -> bytes | None:
        """What came of the go: empty: the command runs; `<stage>:<errno>`: it could not; None: not known yet."""
        try:
            return self._sock.recv(_MAX_FAILURE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def kill(self) -> None:
        """Ends one that has not been told to go. Its descriptors are `close`'s."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def close(self) -> None:
        """Closes the parent's descriptors, and removes the cgroup if nobody is left in it."""
        self._sock.close()
        close_all([self.pidfd])
        if self.cgroup is not None:
            self.cgroup.remove()


def fork_child(cgroups: Path | None, name: str) -> Child:
    """Forks a child.

    Args:
        cgroups: Where it can make a cgroup, or None.
        name: The cgroup's name.

    Raises:
        OSError: No processes or descriptors left.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    cgroup = None if cgroups is None else Cgroup(cgroups / name)
    # Until the child has put back the default handlers, a signal must not run ours (they write to our own pipe).
    _signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _run_child(its, cgroup)
    except OSError:
        ours.close()
        raise
    finally:
        _signal.pthread_sigmask(signal.SIG_SETMASK, ())
        its.close()
    try:
        return Child(pid, ours, cgroup)
    except OSError:
        ours.close()
        os.waitpid(pid, 0)
        raise


def _run_child(sock: socket.socket, cgroup: Cgroup | None) -> NoReturn:
    launch = _Launch()
    number = 0
    try:
        _detach(sock.fileno())
        sock.send(b"+" if cgroup is not None and cgroup.enter() else b"-")
        reader = FrameReader(sock)
        command = _receive(reader, _COMMAND)
        _receive(reader, _GO)
        launch.execute(command)
    except EOFError:  # the runner is gone, or needs no child any more
        os._exit(0)
    except OSError as error:
        number = error.errno or 0
    except BaseException:  # noqa: BLE001, S110 - nothing of the runner may go on in a child; the parent is told below
        pass
    with contextlib.suppress(OSError):
        sock.send(f"{launch.stage}:{number}".encode())
    os._exit(127)


def _detach(keep: int) -> None:
    os.setsid()
    leave_session_keyring()
    signal.set_wakeup_fd(-1)
    for number in _ALL_SIGNALS - {signal.SIGKILL, signal.SIGSTOP}:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # At once, not by close-on-exec: a waiting child must not keep requesters' pipes and sockets open.
    close_all([int(name) for name in os.listdir("/proc/self/fd") if int(name) not in (0, 1, 2, keep)])


def _receive(reader: FrameReader, kind: bytes) -> Frame:
    frame = reader.receive()
    if frame is None or frame.kind != kind:
        raise WireError(f"expected frame {kind!r}")
    return frame


class _Launch:
    """The last steps in the child, in this order; `stage` says which one failed."""

    stage = "prepare"

    def execute(self, frame: Frame) -> NoReturn:
        """Becomes the command. Every descriptor that came with the frame, and the socket, is close-on-exec."""
        fields = frame.fields(_MAX_FIELDS)
        uid, gid, switch, soft, hard = (int(field) for field in fields[:5])
        groups = [int(group) for group in fields[5].split(b",") if group]
        has_terminal, end = bool(fields[6]), _FIXED_FIELDS + int(fields[7])
        argv = fields[_FIXED_FIELDS:end]
        env = dict(field.split(b"=", 1) for field in fields[end:])
        program, cwd, *others = frame.descriptors
        self._set_descriptors(others, has_terminal=has_terminal)
        os.umask(_UMASK)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if switch:
            self._become(uid, gid, groups)
        self.stage = "enter the working directory"
        os.fchdir(cwd)  # as the user: what they may not enter, root must not enter for them
        self.stage = "execute"
        os.execve(program, argv, env)  # noqa: S606 - a verified descriptor: no path, no shell

    def _set_descriptors(self, descriptors: list[int], *, has_terminal: bool) -> None:
        # What arrived has numbers above 2 (those are taken) and far below FIRST_KEPT: nothing is overwritten.
        for number in range(3):
            os.dup2(descriptors.pop(0), number)
        if has_terminal:
            self.stage = "take the terminal"
            fcntl.ioctl(descriptors.pop(0), termios.TIOCSCTTY, 0)
        for number, descriptor in enumerate(descriptors, FIRST_KEPT):
            os.dup2(descriptor, number)

    def _become(self, uid: int, gid: int, groups: list[int]) -> None:
        self.stage = "become the user"
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3:
            raise PermissionError("the user did not change")
