"""What agent and runner say on stderr: one line a record, an event and its fields, with priorities for the journal.

    denied code=scope_violation uid=1000 seq=12
    log.unsound error="the audit log does not verify: entry 7: ..."

Anyone in group `adm` or `systemd-journal` reads the journal, and hosts ship it elsewhere. So no field holds what a
request brought along (argv, environment, input), a key or an auth value: the audit log has the decision, under the seq.
"""

import contextlib
import json
import logging
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO

from attestd.errors import AttestdError
from attestd.plain import plain

__all__ = ["JOURNAL", "event", "failure", "is_journal", "logging_to_stderr", "tell_journal"]

JOURNAL: Final = "/run/systemd/journal/socket"

MAX_VALUE_CHARACTERS: Final = 2000
_TELL_S: Final = 1.0
_FRAMES: Final = 4
_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,:/@+%-")
# sd-daemon(3): the journal takes a line's priority from its start.
_PRIORITIES: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


def event(name: str, /, **fields: object) -> str:
    """One record's text: the event, then `key=value`; a value that is not one plain word is a JSON string.

    Args:
        name: Which event; docs/operations.md lists them.
        fields: Its fields; those that are None are left out.
    """
    return " ".join([name, *(f"{key}={_value(value)}" for key, value in fields.items() if value is not None)])


def failure(error: BaseException) -> dict[str, str]:
    """The fields of an error that nobody expected: its type and where it happened.

    Not its words: those of a KeyError, or of a parser, may be what was asked for.
    """
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
    return {"error": type(error).__name__, "where": where}


@contextlib.contextmanager
def logging_to_stderr(*, verbose: bool = False) -> Iterator[logging.Logger]:
    """The logger of agent or runner, which writes to stderr as long as the context lasts."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Lines(journal=is_journal(sys.stderr)))
    log = logging.getLogger("attestd")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        yield log
    finally:
        log.removeHandler(handler)


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's
        """A stderr that nobody reads any more is not the service's trouble; logging would write a traceback to it."""


class _Lines(logging.Formatter):
    def __init__(self, *, journal: bool) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        line = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, AttestdError):  # whose own words are in the record
            line = event(line, **failure(error))
        if self._journal:  # It has its own clock, and its own field for the level.
            return f"<{_PRIORITIES.get(record.levelno, 6)}>{plain(line)}"
        return f"{self.formatTime(record, self.datefmt)} {record.levelname.lower()} {plain(line)}"


def is_journal(stream: TextIO) -> bool:
    """Whether the journal reads this stream: JOURNAL_STREAM (systemd.exec(5)) is also inherited by whom it does not."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def tell_journal(line: str, *, identifier: str, address: str = JOURNAL) -> bool:
    """Writes one record of what somebody decides at a terminal, whose stderr no journal reads.

    By systemd's native journal protocol; whose process it was the journal sees for itself.

    Args:
        line: The record, as `event` makes it.
        identifier: Which service it is about: `journalctl -t IDENTIFIER`.
        address: The journal's socket.

    Returns:
        Whether it took it.
    """
    fields = f"MESSAGE={plain(line)}\nPRIORITY={_PRIORITIES[logging.INFO]}\nSYSLOG_IDENTIFIER={identifier}\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(_TELL_S)
        try:
            sock.sendto(fields.encode(), address)
        except OSError:
            return False
    return True


def _value(value: object) -> str:
    text = str(value)
    if len(text) > MAX_VALUE_CHARACTERS:
        text = f"{text[:MAX_VALUE_CHARACTERS]}..."
    return text if text and _BARE.issuperset(text) else json.dumps(text)
