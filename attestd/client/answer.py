"""Answers to what the agent needs: interpreters, inputs, passed variables. Most commands need none of it."""

import posix
from _socket import socket

from attestd.client import Ended
from attestd.client.files import find_command, open_regular
from attestd.wire import MAX_DESCRIPTORS, Kind, WireError, close_all, encode_fields, send_frame

__all__ = ["answer"]

_OTHERS_READ = 0o004
_OTHERS_ENTER = 0o001
_FIRST_LINE_BYTES = 256  # what the kernel looks at
_PRIVATE = b"-private, and the command line does not name it"


def answer(sock: socket, needs: list[bytes], argv: list[bytes], executable: int) -> None:
    """Answers one question of the agent.

    Args:
        sock: The connection.
        needs: `file:<path>`, `lookup:<name>:<PATH>` or `env:<NAME>`, as the agent wrote them.
        argv: The command: what it names is the agent's business.
        executable: Its descriptor: what a script's first line names is, too.

    Raises:
        WireError: The question is not one of these, or asks for too much at once.
    """
    descriptors: list[int] = []
    try:
        answers = [_answer(need, [*argv, *_first_line(executable)], descriptors) for need in needs]
        if len(descriptors) > MAX_DESCRIPTORS:
            raise WireError("the agent asks for too many files")
        send_frame(sock, Kind.HERE, encode_fields(answers), descriptors)
    finally:
        close_all(descriptors)


def _answer(need: bytes, names: list[bytes], descriptors: list[int]) -> bytes:
    kind, _, rest = need.partition(b":")
    if kind == b"env":
        value = posix.environ.get(rest)
        return b"-not set" if value is None else b"+" + value
    if kind == b"file":
        try:
            descriptor = open_regular(rest)
        except (OSError, ValueError) as error:
            return b"-" + str(getattr(error, "strerror", error)).encode()
        if descriptor < 0:
            return b"-not a regular file"
        named = _is_named(rest, names)
    elif kind == b"lookup":
        name, _, path = rest.partition(b":")
        try:
            descriptor = find_command(name, path)
        except Ended as ended:
            return b"-" + ended.sentence.encode("utf-8", "backslashreplace")
        named = False  # where it is looked for is for the agent to say
    else:
        raise WireError(f"the agent asks for {need[:40]!r}")
    # An agent that was broken into must not read root's files through a client that root runs: what is not named must
    # be something that anybody may read.
    if not named and not _is_public(descriptor):
        posix.close(descriptor)
        return _PRIVATE
    descriptors.append(descriptor)
    return b"+"


def _is_public(descriptor: int) -> bool:
    """Whether others may read the file, and may walk all the way to where it really is."""
    if not posix.fstat(descriptor).st_mode & _OTHERS_READ:
        return False
    try:
        path = posix.readlink(b"/proc/self/fd/%d" % descriptor)
        while path != b"/":
            path = path.rpartition(b"/")[0] or b"/"
            if not posix.stat(path).st_mode & _OTHERS_ENTER:
                return False
    except OSError:
        return False
    return True


def _is_named(path: bytes, names: list[bytes]) -> bool:
    if path in names:
        return True
    directory = posix.getcwdb()
    return any(directory + b"/" + name == path for name in names)


def _first_line(executable: int) -> list[bytes]:
    """The words of a script's first line."""
    line = posix.pread(executable, _FIRST_LINE_BYTES, 0).partition(b"\n")[0]
    return line[2:].split() if line.startswith(b"#!") else []
