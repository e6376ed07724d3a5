"""`attestd audit`: the log."""

import hmac
import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from attestd.agent.ask import AgentSocket
from attestd.agent.freshness import require_newest, verify_own_log, verify_own_shards
from attestd.agent.records import Record, find_record, open_own_log
from attestd.agent.rotate import rotate
from attestd.agent.salt import decision_salt
from attestd.audit.export import export_log
from attestd.audit.offline import VerifiedLog
from attestd.audit.prove import newest_entries, prove_consistency
from attestd.audit.shards import Predecessor
from attestd.cli.base import NounGroup, json_option, state_dir_option, write_output
from attestd.cli.entry_view import entry_facts, entry_json, summary, type_text
from attestd.cli.given_trust import report
from attestd.cli.log_view import log_json, show_log, with_progress
from attestd.cli.output import BAD, DIM, GOOD, WARN, Output, mark, say, text
from attestd.distribution.local import load_own_trust
from attestd.errors import AgentError
from attestd.gate.concealment import concealed_places, salted_digest
from attestd.lineage.entry import Entry, parse_entry
from attestd.paths import Layout, find_client_layout, find_layout, load_configuration
from attestd.plain import counted
from attestd.tlog.tree import leaf_hash

__all__ = ["audit_command"]

MAX_SECRET_BYTES = 1 << 20  # no argument is longer


@click.group(
    "audit",
    cls=NounGroup,
    example="""
attestd audit tail
attestd audit verify
""",
)
def audit_command() -> None:
    """The log of every decision."""


@audit_command.command("tail", example="attestd audit tail -n 20\nattestd audit tail -f")
@click.option(
    "-n", "count", type=click.IntRange(0, 1_000_000), default=10, show_default=True, help="How many entries."
)
@click.option("-f", "follow", is_flag=True, help="Go on with what is appended, until interrupted.")
@state_dir_option
@json_option
def tail_command(*, count: int, follow: bool, state_dir: str | None, as_json: bool) -> None:
    """Show the newest entries, one line each.

    With --json one object a line.
    """
    output = Output(as_json=as_json)
    with open_own_log(find_client_layout(state_dir)) as store:
        for seq, data in newest_entries(store, count=count, follow=follow):
            entry = parse_entry(data)
            if as_json:
                output.json_line(entry_json(entry, leaf_hash(data).hex()))
            else:
                output.line(_line(seq, entry))


def _line(seq: int, entry: Entry) -> Text:
    local = datetime.fromisoformat(entry.time).astimezone()
    return Text.assemble(
        text(f"{seq:>7}  ", DIM),
        text(f"{local:%Y-%m-%d %H:%M:%S}  "),
        type_text(entry),
        " " * (21 - len(entry.type.value)),
        text(summary(entry)),
    )


@audit_command.command("show", example="attestd audit show 2\nattestd audit show 2 --json")
@state_dir_option
@json_option
@click.argument("entry", metavar="SEQ|ID")
def show_command(*, state_dir: str | None, as_json: bool, entry: str) -> None:
    """Show one entry in full.

    For a decision, `attestd why` explains the checks.
    """
    record = _record(entry, state_dir)
    output = Output(as_json=as_json)
    if as_json:
        output.json({**entry_json(record.entry, record.leaf), "source": record.source})
        return
    output.title(f"Entry {record.entry.seq}, from {record.source}")
    output.facts(entry_facts(record.entry, record.leaf))


def _record(wanted: str, state_dir: str | None) -> Record:
    return find_record(wanted, agent=AgentSocket.find(state_dir), layout=find_client_layout(state_dir))


@audit_command.command(
    "confirm",
    example="""
attestd audit confirm 2 'argv[2]' < secret
attestd audit confirm --json 2 env:TOKEN < secret
""",
)
@state_dir_option
@json_option
@click.argument("entry", metavar="SEQ|ID")
@click.argument("place")
def confirm_command(*, state_dir: str | None, as_json: bool, entry: str, place: str) -> int:
    """Say whether a secret was this value.

    The log holds secret arguments and variables as salted digests; PLACE is one of them, argv[N] or env:NAME. The value comes from
    standard input, without one newline at its end. For root and the agent's user, who have the salts. Exit status 1: it was another.
    """
    record = _record(entry, state_dir)
    places = concealed_places(record.entry.body)
    if place not in places:
        raise click.UsageError(
            f"entry {entry} has no secret {place!r}: expected one of {', '.join(places) or 'none, it conceals nothing'}"
        )
    value = sys.stdin.buffer.read(MAX_SECRET_BYTES + 1)
    if len(value) > MAX_SECRET_BYTES:
        raise click.UsageError(f"a value has at most {MAX_SECRET_BYTES} bytes")
    salt = decision_salt(find_client_layout(state_dir), record.entry)
    claimed = value.removesuffix(b"\n").decode("utf-8", "surrogatepass")
    confirmed = hmac.compare_digest(salted_digest(salt, place, claimed), places[place])
    output = Output(as_json=as_json)
    if as_json:
        output.json({"entry": record.leaf, "place": place, "confirmed": confirmed})
    else:
        words = "was this value" if confirmed else "was another value"
        output.line(
            mark(confirmed), text(f" {place} of entry {record.entry.seq} {words}", GOOD if confirmed else BAD)
        )
    return 0 if confirmed else 1


@audit_command.command("verify", example="attestd audit verify\nattestd audit verify --json")
@state_dir_option
@json_option
def verify_command(*, state_dir: str | None, as_json: bool) -> int:
    """Verify the whole log, and that it is the newest.

    Its last checkpoint is compared with the TPM's counter, through the running agent; without one, that is said. Exit
    status 1: it does not verify.
    """
    layout = find_client_layout(state_dir)
    trust = load_own_trust(layout)
    output = Output(as_json=as_json)

    def verify() -> dict[str, Any]:
        found = with_progress(
            lambda processes, progress: verify_own_log(
                layout, trust=trust, processes=processes, progress=progress
            )
        )
        closed = with_progress(
            lambda processes, progress: verify_own_shards(
                layout, trust=trust, processes=processes, progress=progress
            )
        )
        counter = _compare(layout, AgentSocket.find(state_dir))
        if not as_json:
            show_log(output, found)
            if counter is not None:
                output.line(
                    mark(True), text(f" it is the newest: log counter {counter:016x}, as the TPM says", GOOD)
                )
            for before, verified in closed:
                output.line(*_closed(before, verified))
        return {
            **log_json(found),
            "counter": None if counter is None else f"{counter:016x}",
            "closed": [
                {"origin": before.origin, "size": before.size, "verified": verified is not None}
                for before, verified in closed
            ],
        }

    return report(output, "the log", verify)


def _closed(before: Predecessor, verified: VerifiedLog | None) -> tuple[object, ...]:
    words = f" it continues {before.origin}, {counted(before.size, 'entry')}: "
    if verified is None:
        return mark(None), text(f"{words}not kept here, so not verified", WARN)
    return mark(True), text(f"{words}verified", GOOD)


def _compare(layout: Layout, agent: AgentSocket) -> int | None:
    try:
        return require_newest(layout, agent)
    except AgentError as error:
        say(f"not compared with the TPM: {error}", style=WARN)
        return None


@audit_command.command(
    "prove",
    example="""
attestd audit prove 2 -o entry2.tlog-proof
attestd audit prove --consistency 1 3
""",
)
@click.option(
    "--consistency", nargs=2, type=int, metavar="OLD NEW", help="That the log of size OLD is a prefix of NEW."
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: standard output."
)
@click.option("--force", is_flag=True, help="Overwrite the output file.")
@state_dir_option
@click.argument("entry", required=False, metavar="[SEQ|ID]")
def prove_command(
    *,
    consistency: tuple[int, int] | None,
    output: Path | None,
    force: bool,
    state_dir: str | None,
    entry: str | None,
) -> None:
    """Write an entry's receipt, or prove that the log grew.

    A receipt is a C2SP tlog-proof, for `attestd verify receipt`; a consistency proof is JSON.
    """
    if (entry is None) == (consistency is None):
        raise click.UsageError("either an entry or --consistency is needed")
    if entry is not None:
        data = _record(entry, state_dir).receipt
    else:
        old, new = consistency or (0, 0)
        data = _consistency(find_client_layout(state_dir), old, new)
    if output is None:
        Output().raw(data.decode("utf-8"))
    else:
        write_output(output, data, force=force)


def _consistency(layout: Layout, old: int, new: int) -> bytes:
    with open_own_log(layout) as store:
        found = prove_consistency(store, old_size=old, new_size=new)
    return (
        json.dumps(
            {
                "origin": found.origin,
                "old": {"size": found.old_size, "root": found.old_root.hex()},
                "new": {"size": found.new_size, "root": found.new_root.hex()},
                "proof": [node.hex() for node in found.proof],
                "checkpoint": None if found.checkpoint is None else found.checkpoint.decode("utf-8"),
            },
            indent=2,
        ).encode("ascii")
        + b"\n"
    )


@audit_command.command(
    "export",
    example="attestd audit export /tmp/attestd-log\nattestd verify log /tmp/attestd-log --trust trust/",
)
@state_dir_option
@json_option
@click.argument("directory", type=click.Path(path_type=Path))
def export_command(*, state_dir: str | None, as_json: bool, directory: Path) -> None:
    """Export the log as static files.

    C2SP tlog-tiles, entries included. Only you can read them: they name commands and users.
    """
    with open_own_log(find_client_layout(state_dir)) as store:
        checkpoint = export_log(store, str(directory))
    output = Output(as_json=as_json)
    if as_json:
        output.json({"directory": str(directory), "size": checkpoint.size})
    else:
        output.line(f"exported {counted(checkpoint.size, 'entry')} to {directory}")


@audit_command.command(
    "rotate",
    example="""
attestd init --tpm embedded --state-dir /tmp/attestd-old
attestd audit rotate --state-dir /tmp/attestd-old /tmp/attestd-old-log
""",
)
@state_dir_option
@json_option
@click.argument("directory", type=click.Path(path_type=Path))
def rotate_command(*, state_dir: str | None, as_json: bool, directory: Path) -> None:
    """Close the log, export it, go on in a new one.

    The agent must be stopped. The closed log is exported to DIRECTORY, and kept read-only beside the new one, whose first
    entry names it. Uses of authorizations go on being counted.
    """
    layout = find_layout(state_dir)
    done = rotate(layout, load_configuration(layout.configuration, os.environ), directory)
    output = Output(as_json=as_json)
    facts = {"closed": done.closed, "entries": done.size, "kept": str(done.shard), "exported": str(directory)}
    if as_json:
        output.json({**facts, "log": done.origin})
        return
    output.title("The log was closed; a new one continues it")
    output.facts([*facts.items(), ("log", done.origin)])
