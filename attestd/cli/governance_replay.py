"""`attestd governance replay`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from rich.text import Text

from attestd.agent.records import open_own_log
from attestd.audit.reader import parse_stored
from attestd.audit.store import LogStore
from attestd.cli.base import Command, json_option
from attestd.cli.entry_view import command_line
from attestd.cli.governance import open_repository, repository_option
from attestd.cli.output import BAD, DIM, GOOD, WARN, Output, text
from attestd.cli.params import FILE
from attestd.errors import UsageError
from attestd.gate.replay import Replay, replay
from attestd.governance.trust import Trust
from attestd.lineage.entry import Entry, EntryType
from attestd.paths import find_client_layout
from attestd.plain import counted

__all__ = ["replay_command"]

_DECISIONS: Final = (EntryType.DECISION_ALLOW, EntryType.DECISION_DENY)


@click.command(
    "replay",
    cls=Command,
    example="""
attestd governance replay
attestd governance replay -n 1000 --json
""",
)
@click.option(
    "-n",
    "count",
    type=click.IntRange(1, 1_000_000),
    default=100,
    show_default=True,
    help="How many decisions, the newest.",
)
@click.option(
    "--log",
    "log",
    type=FILE,
    metavar="FILE",
    help="The log.db of a host of this governance (default: this host's own).",
)
@repository_option
@json_option
def replay_command(
    *, count: int, log: Path | None, directory: Path | None, state_dir: str | None, as_json: bool
) -> int:
    """Say what staged policies would have decided otherwise.

    Only policies are asked again, about what the log says. Tier, user space and labels of the host are those of its record
    as it is staged; what the log has no more than a digest of is named. The log is not verified: `attestd audit verify`
    does that. Exit status 1: some decision would differ.
    """
    trust = open_repository(directory, state_dir).validate().trust
    with _log(log, state_dir) as store:
        found = [(entry, _replay(entry, store, trust)) for entry in _newest(store, count)]
    differing = [(entry, result) for entry, result in found if result.differs]
    unsaid = [(entry, result) for entry, result in found if result.permitted is None and result.recorded]
    output = Output(as_json=as_json)
    if as_json:
        output.json(
            {
                "decisions": len(found),
                "differ": [_json(*item) for item in differing],
                "unknown": [_json(*item) for item in unsaid],
            }
        )
        return 1 if differing else 0
    for entry, result in differing:
        _show(output, entry, result)
    for entry, result in unsaid:
        output.line(
            text(f"{entry.seq:>7}  not known: ", WARN), _command(entry), text(f"  {result.words}", DIM)
        )
    asked = sum(1 for _, result in found if result.recorded)
    output.line(
        text(
            f"{len(differing)} of {counted(len(found), 'decision')} would differ", WARN if differing else GOOD
        ),
        text(f"; policies were asked in {asked}, {len(unsaid)} cannot be said", DIM),
    )
    return 1 if differing else 0


@contextmanager
def _log(path: Path | None, state_dir: str | None) -> Iterator[LogStore]:
    if path is None:
        with open_own_log(find_client_layout(state_dir)) as store:
            yield store
        return
    store = LogStore.open(str(path), readonly=True)
    try:
        yield store
    finally:
        store.close()


def _newest(store: LogStore, count: int) -> list[Entry]:
    """The last so many decisions, in their order."""
    found: list[Entry] = []
    stop = store.size
    while stop > 0 and len(found) < count:
        start = max(0, stop - 256)
        entries = [parse_stored(seq, data) for seq, data in store.entries(start, stop)]
        decisions = [entry for entry in entries if entry.type in _DECISIONS]
        found, stop = decisions + found, start
    return found[-count:]


def _replay(entry: Entry, store: LogStore, trust: Trust) -> Replay:
    host = trust.hosts.get(store.host_id)
    if host is None:
        raise UsageError(
            f"the log is of host {store.host_id}, of which this governance has no record{trust.why_none(store.host_id)}"
        )
    return replay(entry, policies=trust.policies, host=host)


def _show(output: Output, entry: Entry, result: Replay) -> None:
    verdict = text("would be permitted: ", BAD) if result.permitted else text("would be denied: ", BAD)
    output.line(text(f"{entry.seq:>7}  ", DIM), verdict, _command(entry))
    output.line(text(f"         then: {result.recorded}", DIM))
    output.line(text(f"         now:  {result.words}"))


def _command(entry: Entry) -> Text:
    return text(command_line(entry.body.get("argv")))


def _json(entry: Entry, result: Replay) -> dict[str, Any]:
    return {
        "seq": entry.seq,
        "argv": entry.body.get("argv"),
        "decision": "allow" if entry.type is EntryType.DECISION_ALLOW else "deny",
        "then": result.recorded,
        "permitted": result.permitted,
        "now": result.words,
    }
