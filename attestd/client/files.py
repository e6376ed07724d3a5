"""Files as the requester sees them: the command that execvp(3) would find, the current directory, artifacts."""

import posix

from attestd.client import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_USAGE, Ended

__all__ = ["find_command", "open_cwd", "open_regular", "read_file", "write_receipt"]

# One byte over the agent's limit (formats.md): the agent, not we, denies and records what is too large.
MAX_FILE_BYTES = 256 * 1024 + 1


def find_command(name: bytes, path: bytes) -> int:
    """Opens a command as execvp(3) finds it.

    Args:
        name: With a slash a path, else what to look for in `path`.
        path: Directories, separated by colons; an empty one is the current directory.

    Returns:
        A descriptor for reading.

    Raises:
        Ended: 127 if there is none, 126 if it is not an executable file, or not readable.
    """
    if b"/" in name:
        candidates = [name]
    else:
        candidates = [(directory + b"/" + name if directory else name) for directory in path.split(b":")]
    failure = None
    for candidate in candidates:
        try:
            descriptor = open_regular(candidate)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            failure = (
                failure
                or f"cannot be read ({getattr(error, 'strerror', error)}), and must be, to be measured"
            )
            continue
        if descriptor >= 0 and posix.access(candidate, posix.X_OK, effective_ids=True):
            return descriptor
        failure = failure or ("is not executable" if descriptor >= 0 else "is not a regular file")
        if descriptor >= 0:
            posix.close(descriptor)
    if failure:
        raise Ended(EXIT_NOT_EXECUTABLE, f"{_shown(name)}: {failure}")
    raise Ended(EXIT_NOT_FOUND, f"{_shown(name)}: command not found")


def open_regular(path: bytes) -> int:
    """Opens a regular file for reading, and nothing else.

    Opening a device or a FIFO can already do something (start a watchdog, hang), and which file is opened may be the
    agent's question: so it is looked at first.

    Returns:
        The descriptor; -1 if it is not a regular file.

    Raises:
        OSError: It cannot be opened.
        ValueError: The path holds a NUL.
    """
    place = posix.open(path, posix.O_PATH | posix.O_CLOEXEC)
    try:
        if posix.fstat(place).st_mode & 0o170000 != 0o100000:
            return -1
        return posix.open(b"/proc/self/fd/%d" % place, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    finally:
        posix.close(place)


def open_cwd() -> int:
    """Opens the current directory, for reading or, if that is not permitted, as a mere location."""
    flags = posix.O_DIRECTORY | posix.O_CLOEXEC
    try:
        return posix.open(b".", posix.O_RDONLY | flags)
    except PermissionError:
        return posix.open(b".", posix.O_PATH | flags)  # entered, but not readable
    except OSError as error:
        raise Ended(EXIT_USAGE, f"the current directory cannot be opened: {error.strerror}") from None


def read_file(path: bytes) -> bytes:
    """The beginning of a file: all of it, or one byte more than the agent accepts.

    Raises:
        Ended: It cannot be read.
    """
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            data = b""
            while len(data) < MAX_FILE_BYTES and (more := posix.read(descriptor, MAX_FILE_BYTES - len(data))):
                data += more
        finally:
            posix.close(descriptor)
    except (OSError, ValueError) as error:
        raise Ended(EXIT_USAGE, f"{_shown(path)}: {getattr(error, 'strerror', error)}") from None
    return data


def write_receipt(path: bytes, receipt: bytes) -> None:
    """Writes a receipt, replacing what is there.

    Raises:
        Ended: It cannot be written.
    """
    try:
        descriptor = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o666)
        try:
            while receipt:
                receipt = receipt[posix.write(descriptor, receipt) :]
        finally:
            posix.close(descriptor)
    except (OSError, ValueError) as error:
        raise Ended(
            EXIT_USAGE,
            f"the receipt cannot be written to {_shown(path)}: {getattr(error, 'strerror', error)}",
        ) from None


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
