"""What the client says to people, and to machines with `--json`. Nothing from outside can steer the terminal."""

import posix

from attestd.client import Ended
from attestd.plain import plain

__all__ = ["report", "report_allowed", "write_line"]


def write_line(to: int, text: str) -> None:
    """Writes one line of plain text; a closed or full terminal is nobody's fault."""
    data = plain(text).encode("utf-8", "backslashreplace") + b"\n"
    try:
        while data:
            data = data[posix.write(to, data) :]
    except OSError:
        return


def report(ended: Ended, *, json: bool, to: int) -> None:
    """Says why there is no command to wait for.

    Args:
        ended: What happened.
        json: Denials as one JSON object.
        to: The descriptor for JSON; words for people go to stderr.
    """
    if json and ended.code:
        write_line(to, ended.json.decode("utf-8", "backslashreplace").strip() or _as_json(ended))
        return
    write_line(
        2, f"attestd: denied: {ended.code}: {ended.sentence}" if ended.code else f"attestd: {ended.sentence}"
    )
    if ended.hint:
        write_line(2, f"attestd: hint: {ended.hint}")
    if ended.seq:
        write_line(2, f"attestd: recorded as entry {ended.seq}: `attestd why {ended.seq}` shows each check")


def report_allowed(json: bytes, *, to: int) -> None:
    """Says that a command is allowed, as JSON if there is any."""
    write_line(to, json.decode("utf-8", "backslashreplace").strip() or "attestd: allowed")


def _as_json(ended: Ended) -> str:
    import json  # noqa: PLC0415 - only when the agent could not say it

    return json.dumps(
        {
            "decision": "deny",
            "code": ended.code,
            "exit": ended.status,
            "sentence": ended.sentence,
            "hint": ended.hint,
        },
        sort_keys=True,
    )
