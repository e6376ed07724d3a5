"""What the client says to people, and to machines with `--json`. Nothing from outside can steer the terminal."""

import posix

from attestd.client import Ended

__all__ = ["plain", "report", "report_allowed", "write_line"]


def plain(text: str) -> str:
    """The text with everything escaped that could steer a terminal or hide: control, format, bidi characters."""
    return "".join([character if character.isprintable() else _escaped(character) for character in text])


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


def _escaped(character: str) -> str:
    # JSON's form, so that escaping within a JSON document leaves it one (such characters stand in strings only).
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join([f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2)])
