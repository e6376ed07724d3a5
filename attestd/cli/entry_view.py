"""Log entries for people: one line each, or all that one says."""

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from rich.text import Text

from attestd.cli.output import BAD, DIM, GOOD, WARN, text
from attestd.cli.params import user_name
from attestd.cli.result_view import result_line, token_facts
from attestd.lineage.entry import Entry, EntryType

__all__ = ["command_line", "entry_facts", "entry_json", "summary", "type_text", "user"]

_STYLES: dict[EntryType, str] = {
    EntryType.DECISION_ALLOW: GOOD,
    EntryType.DECISION_DENY: BAD,
    EntryType.DENIALS_AGGREGATED: BAD,
    EntryType.DECISION_VOID: WARN,
    EntryType.EXECUTION_TERMINATED: WARN,
    EntryType.REVOCATION: WARN,
}
_KNOWN_ELSEWHERE = {"argv", "checks", "code", "denial", "env", "token"}


def type_text(entry: Entry) -> Text:
    """The entry's type, coloured."""
    return text(entry.type.value, _STYLES.get(entry.type, DIM))


def user(uid: object) -> str:
    """A user of this host by number and, where there is one, name."""
    name = user_name(uid) if isinstance(uid, int) else str(uid)
    return name if name == str(uid) else f"{name} ({uid})"


def command_line(argv: object) -> str:
    """A command as one would type it."""
    if not isinstance(argv, list):
        return _short(argv)
    return " ".join(shlex.quote(item) if isinstance(item, str) else shown_value(item) for item in argv)


def shown_value(value: Any) -> str:
    """An argument or a variable; of one that is secret the beginning of its salted digest."""
    if isinstance(value, dict) and isinstance(digest := value.get("salted"), str):
        return f"<secret {digest[:12]}>"
    return str(value)


def summary(entry: Entry) -> str:
    """What an entry says, in one line."""
    body = entry.body
    shown = _SUMMARIES.get(entry.type)
    return shown(body) if shown else ", ".join(f"{name} {_short(value)}" for name, value in body.items())


def _decision(body: Mapping[str, Any]) -> str:
    code = f"{body['code']}: " if body.get("code") else ""
    return f"{code}{user(_of(body, 'requester', 'uid'))}: {command_line(body.get('argv'))}"


def _aggregated(body: Mapping[str, Any]) -> str:
    return (
        f"{user(body.get('uid'))}: {_short({name: value for name, value in body.items() if name != 'uid'})}"
    )


def _start(body: Mapping[str, Any]) -> str:
    return f"entry {body.get('seq')} runs as {user(body.get('uid'))}, pid {body.get('pid')}"


def _exit(body: Mapping[str, Any]) -> str:
    if body.get("error"):
        return f"entry {body.get('seq')} did not start: {body['error']}"
    how = (
        f"ended by signal {body['signal']}"
        if body.get("signal")
        else f"ended with status {body.get('status')}"
    )
    return f"entry {body.get('seq')} {how} after {body.get('duration_ms')} ms"


def _void(body: Mapping[str, Any]) -> str:
    return f"entry {body.get('seq')} was not released: {body.get('reason')}"


def _attestation(body: Mapping[str, Any]) -> str:
    if "token" in body:
        return result_line(body)
    return ", ".join(f"{name} {_short(value)}" for name, value in body.items())


def _host(body: Mapping[str, Any]) -> str:
    notes = body.get("notes")
    return "; ".join(
        [f"host {str(body.get('host'))[:16]}", *map(str, notes if isinstance(notes, list) else [])]
    )


_SUMMARIES: dict[EntryType, Callable[[Mapping[str, Any]], str]] = {
    EntryType.DECISION_ALLOW: _decision,
    EntryType.DECISION_DENY: _decision,
    EntryType.DECISION_VOID: _void,
    EntryType.DENIALS_AGGREGATED: _aggregated,
    EntryType.EXECUTION_START: _start,
    EntryType.EXECUTION_EXIT: _exit,
    EntryType.LOG_START: _host,
    EntryType.AGENT_START: _host,
    EntryType.ATTESTATION: _attestation,
}


def entry_facts(entry: Entry, leaf: str) -> list[tuple[str, object]]:
    """All that an entry says but for its checks, as rows."""
    body = entry.body
    rows: list[tuple[str, object]] = [
        ("entry", f"{entry.seq} {entry.type.value}"),
        ("id", leaf),
        ("time", entry.time),
        ("boot", entry.boot),
    ]
    if "argv" in body:
        rows.append(("command", command_line(body["argv"])))
    if isinstance(denial := body.get("denial"), dict):
        rows += [
            ("denied", text(f"{body.get('code')}: {denial.get('sentence')}", BAD)),
            ("hint", denial.get("hint")),
        ]
    rows += [
        ("request" if name == "id" else name, _value(name, value))
        for name, value in body.items()
        if name not in _KNOWN_ELSEWHERE and value not in (None, [])
    ]
    if "token" in body:
        rows += [(f"token: {name}", value) for name, value in token_facts(body["token"])]
    if isinstance(env := body.get("env"), dict):
        rows.append(("environment", [f"{name}={shown_value(value)}" for name, value in env.items()]))
    return rows


def entry_json(entry: Entry, leaf: str) -> dict[str, Any]:
    """An entry as JSON members."""
    return {
        "id": leaf,
        "seq": entry.seq,
        "type": entry.type.value,
        "time": entry.time,
        "boot": entry.boot,
        "body": entry.body,
    }


def _value(name: str, value: Any) -> object:
    if name in {"executable", "interpreters", "inputs"}:
        files = value if isinstance(value, list) else [value]
        if all(isinstance(item, dict) and {"path", "sha256"} <= item.keys() for item in files):
            return [f"{item['path']} sha256 {item['sha256']}" for item in files]
    if name == "uid":
        return user(value)
    if name == "verifiers" and isinstance(value, list):
        return [f"{_of(item, 'verifier')}: {_of(item, 'status')}, tier {_of(item, 'tier')}" for item in value]
    return _short(value)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{name} {_short(item)}" for name, item in value.items() if item not in (None, "", [])
        )
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _of(body: object, *names: str) -> object:
    found = body
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found
