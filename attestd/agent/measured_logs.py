"""Reads what the kernel and systemd say was measured: event log, user space log, IMA list. Nothing here is verified."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from attestd.errors import StoreError
from attestd.paths import LogPaths
from attestd.tcg.eventlog.parse import (
    MAX_EVENTLOG_BYTES,
    UntrustedEvent,
    UntrustedEventLog,
    parse_event_log,
)
from attestd.tcg.eventlog.userspace import parse_userspace_log

__all__ = ["MAX_LINE_BYTES", "BootLogs", "BootReader", "read_part"]

MAX_LINE_BYTES: Final = 64 * 1024
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class BootLogs:
    """The logs of this boot, as they were found.

    Attributes:
        eventlog, userspace: The bytes; no user space log is empty.
        digest: SHA-256 of the event log, hex; `whole` of both.
        log: The firmware's, parsed, and `events` what user space says it measured after it.
        command_line: The kernel's, as it says.
        kernel: Its release.
    """

    eventlog: bytes = field(repr=False)
    userspace: bytes = field(repr=False)
    digest: str
    whole: str
    log: UntrustedEventLog = field(repr=False)
    events: tuple[UntrustedEvent, ...] = field(repr=False)
    command_line: str
    kernel: str


class BootReader:
    """Reads the logs of this boot, again only when they changed: the kernel's never does, systemd's grows.

    Attributes:
        ima_list: The file with the IMA list; None: this host has none configured.
    """

    def __init__(self, paths: LogPaths) -> None:
        """Names the files; nothing is read yet."""
        self._paths = paths
        self.ima_list = paths.ima_list
        self._stamps: tuple[object, ...] = ()
        self._logs: BootLogs | None = None

    def read(self) -> BootLogs | None:
        """The logs; None: this host has no event log configured.

        Raises:
            StoreError: A log cannot be read.
            MalformedError: A log does not parse.
        """
        if self._paths.eventlog is None:
            return None
        stamps = _stamp(self._paths.eventlog), _stamp(self._paths.userspace_log)
        if self._logs is None or stamps != self._stamps:
            self._logs, self._stamps = self._read(self._paths.eventlog), stamps
        return self._logs

    def _read(self, path: Path) -> BootLogs:
        eventlog = read_part(path, max_bytes=MAX_EVENTLOG_BYTES + 1)
        userspace = b""
        if self._paths.userspace_log is not None and self._paths.userspace_log.exists():
            userspace = read_part(self._paths.userspace_log, max_bytes=MAX_EVENTLOG_BYTES + 1)
        log = parse_event_log(eventlog)
        line = read_part(self._paths.command_line, max_bytes=MAX_LINE_BYTES)
        return BootLogs(
            eventlog=eventlog,
            userspace=userspace,
            digest=hashlib.sha256(eventlog).hexdigest(),
            whole=hashlib.sha256(b"%d:" % len(eventlog) + eventlog + userspace).hexdigest(),
            log=log,
            events=parse_userspace_log(userspace, first=len(log.events)),
            command_line=line.rstrip(b"\n\0").decode("utf-8", "backslashreplace"),
            kernel=os.uname().release,
        )


def _stamp(path: Path | None) -> object:
    """Changes with every change of a regular file; of the kernel's, which has no times, with another file there."""
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_part(path: Path, *, max_bytes: int, offset: int = 0) -> bytes:
    """Reads a log from an offset on, up to its end or that many bytes.

    Raises:
        StoreError: It cannot be read.
    """
    parts: list[bytes] = []
    left = max_bytes
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            while left and (part := file.read(min(left, _CHUNK))):
                parts.append(part)
                left -= len(part)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}: {_REMEDY}") from error
    return b"".join(parts)


_REMEDY: Final = "the agent's user must be able to read it (docs/operations.md, Measured boot)"
