"""Answers to what the agent needs: interpreters, inputs, passed variables. Most commands need none of it."""

import posix
from _socket import socket

from attestd.client import Ended
from attestd.client.files import find_command, open_regular
from attestd.wire import MAX_DESCRIPTORS, Kind, WireError, close_all, encode_fields, send_frame

__all__ = ["answer"]

_ANYONE_MAY_READ = 0o004
_EXECUTABLE = 0o111


def answer(sock: socket, needs: list[bytes], argv: list[bytes]) -> None:
    """Answers one question of the agent.

    Args:
        sock: The connection.
        needs: `file:<path>`, `lookup:<name>:<PATH>` or `env:<NAME>`, as the agent wrote them.
        argv: The command: what it names is the agent's business.

    Raises:
        WireError: The question is not one of these, or asks for too much at once.
    """
    descriptors: list[int] = []
    try:
        answers = [_answer(need, argv, descriptors) for need in needs]
        if len(descriptors) > MAX_DESCRIPTORS:
            raise WireError("the agent asks for too many files")
        send_frame(sock, Kind.HERE, encode_fields(answers), descriptors)
    finally:
        close_all(descriptors)


def _answer(need: bytes, argv: list[bytes], descriptors: list[int]) -> bytes:
    kind, _, rest = need.partition(b":")
    if kind == b"env":
        value = posix.environ.get(rest)
        return b"-not set" if value is None else b"+" + value
    if kind == b"file":
        return _open(rest, argv, descriptors)
    if kind == b"lookup":
        name, _, path = rest.partition(b":")
        try:
            descriptors.append(find_command(name, path))
        except Ended as ended:
            return b"-" + ended.sentence.encode("utf-8", "backslashreplace")
        return b"+"
    raise WireError(f"the agent asks for {need[:40]!r}")


def _open(path: bytes, argv: list[bytes], descriptors: list[int]) -> bytes:
    try:
        descriptor = open_regular(path)
    except (OSError, ValueError) as error:
        return b"-" + str(getattr(error, "strerror", error)).encode()
    if descriptor < 0:
        return b"-not a regular file"
    mode = posix.fstat(descriptor).st_mode
    # An agent that was broken into must not read root's files through a client that root runs: what is not on the
    # command line must be something that anybody may read or execute.
    if not mode & (_ANYONE_MAY_READ | _EXECUTABLE) and not _named(path, argv):
        posix.close(descriptor)
        return b"-private, and the command line does not name it"
    descriptors.append(descriptor)
    return b"+"


def _named(path: bytes, argv: list[bytes]) -> bool:
    if path in argv:
        return True
    directory = posix.getcwdb()
    return any(directory + b"/" + argument == path for argument in argv)
