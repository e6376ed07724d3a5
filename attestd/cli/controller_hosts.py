"""`attestd controller hosts`, `enroll`, `approve`, `revoke`: what an operator sees and decides, on the controller or from afar."""

import hashlib
import re
from typing import Any, Final

import click
import msgspec

from attestd.cli.base import Command, confirm, json_option
from attestd.cli.controller_desk import Desk, desk_options, walk
from attestd.cli.output import WARN, Output, say
from attestd.cli.params import name_values
from attestd.errors import UsageError, VerificationError
from attestd.governance.desk import Attested, HostRow, HostState, Verdict, Waiting, find_waiting
from attestd.governance.host import MAX_HOST_RECORD_BYTES, HostRecord
from attestd.plain import counted
from attestd.strict import decode_base64, parse_canonical
from attestd.tcg.public import parse_public

__all__ = ["approve_command", "enroll_command", "hosts_command", "revoke_command"]

_SHORT: Final = 16
_HOST: Final = re.compile(r"\A[0-9a-f]{64}\Z")


@click.command(
    "hosts",
    cls=Command,
    example="""
attestd controller hosts
attestd controller hosts --state waiting
attestd controller hosts --controller https://one.example:8440 --certificate me.pem --key me.key --label role=ci
""",
)
@click.option(
    "--state",
    type=click.Choice([state.replace(" ", "-") for state in HostState]),
    help="Only those that are so.",
)
@click.option(
    "--label", "labels", multiple=True, metavar="NAME=VALUE", callback=name_values, help="Only those with it."
)
@desk_options(decides=False)
@json_option
def hosts_command(*, desk: Desk, state: str | None, labels: dict[str, str], as_json: bool) -> None:
    """List the hosts: waiting, enrolled, ended, revoked."""
    wanted = None if state is None else HostState(state.replace("-", " "))
    pages = list(walk(desk, wanted))
    rows = sorted(
        (row for page in pages for row in page.hosts if labels.items() <= row.labels.items()), key=_order
    )
    output = Output(as_json=as_json)
    if as_json:
        hosts = {row.host for row in rows}
        decisions = sorted(
            (item for page in pages for item in page.decisions if not labels or item.host in hosts),
            key=lambda item: item.at,
        )
        output.json({"hosts": msgspec.to_builtins(rows), "decisions": msgspec.to_builtins(decisions)})
        return
    if not rows:
        say("no host is like that" if state or labels else "no host is enrolled, and none waits")
        return
    output.table(
        ("host", "state", "tier", "labels", "until", "last said", "what there is to know"),
        [
            (
                row.host[:_SHORT],
                row.state,
                row.tier,
                _words(row.labels),
                row.until[:10],
                _said(row.attested),
                list(row.words) or "",
            )
            for row in rows
        ],
    )


@click.command(
    "enroll",
    cls=Command,
    example="attestd controller enroll HOST-ID --label role=ci",
)
@click.argument("host")
@click.option(
    "--label", "labels", multiple=True, metavar="NAME=VALUE", callback=name_values, help="That it comes with."
)
@desk_options(decides=True)
@json_option
def enroll_command(*, desk: Desk, host: str, labels: dict[str, str], as_json: bool) -> None:
    """Expect a host, which is then signed without waiting.

    Once: its next record, if it has these labels.

    HOST is the host-id, which stands on the host's own screen. Its TPM must be one that governance believes all the same.
    """
    _require_host(host)
    desk.expect(host, labels)
    if as_json:
        Output(as_json=True).json({"host": host, "labels": labels, "expected": True})
        return
    say(f"host {host} is expected, with the labels {_words(labels)}")


@click.command(
    "approve",
    cls=Command,
    example="""
attestd controller approve 81f0c3a2b4d5
attestd controller approve 81f0c3a2b4d5 --refuse
""",
)
@click.argument("name", metavar="HOST|DIGEST")
@click.option("--refuse", is_flag=True, help="Refuse it: this record is never signed here.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@desk_options(decides=True)
@json_option
def approve_command(*, desk: Desk, name: str, refuse: bool, yes: bool, as_json: bool) -> None:
    """Decide about a host record that waits. Shows exactly what is signed.

    Compare the host-id with the one on the host's own screen. The host gets the signature when it asks again. Where
    something else is to be seen by the time you agree, it is shown, and asked again; with --yes it is refused.
    """
    verdict = None
    while verdict is None:
        verdict = _decide(desk, name, refuse=refuse, yes=yes)
    if as_json:
        Output(as_json=True).json(
            {"host": verdict.host, "digest": verdict.digest, "decision": verdict.decision}
        )
        return
    say(f"{verdict.decision}: the record {verdict.digest} of host {verdict.host}")


@click.command("revoke", cls=Command, example='attestd controller revoke HOST-ID --reason "stolen"')
@click.argument("host")
@click.option("--reason", default="", metavar="TEXT", help="Why, for those who read it later.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@desk_options(decides=True)
@json_option
def revoke_command(*, desk: Desk, host: str, reason: str, yes: bool, as_json: bool) -> None:
    """Never sign a record of this host again.

    What it was given before goes on holding until governance revokes the host as well: attestd governance revoke.
    """
    _require_host(host)
    confirm(f"Revoke host {host} here, for ever?", yes=yes)
    found = desk.revoke(host, reason)
    if as_json:
        Output(as_json=True).json(
            {"host": host, "revoked": True, "fresh": found.fresh, "governance": found.governance}
        )
        return
    say(f"host {host} {'is' if found.fresh else 'was'} revoked here")
    if not found.governance:
        say(f"next, for all that it has: attestd governance revoke --host {host}", style=WARN)


def _decide(desk: Desk, name: str, *, refuse: bool, yes: bool) -> Verdict | None:
    """Shows what waits, asks, and decides; None: something else is to be seen by now."""
    host = find_waiting([row for page in walk(desk, HostState.WAITING) for row in page.hosts], name)
    waiting = _waiting(desk, host)
    if waiting is None:
        raise UsageError(f"no record of host {host} waits any more: look again, attestd controller hosts")
    _show(host, waiting)
    if refuse:
        confirm("Refuse this record?", yes=yes)
        return desk.refuse(host, waiting.digest)
    confirm(f"Have this record signed{' all the same' if waiting.warnings else ''}?", yes=yes)
    try:
        return desk.approve(host, waiting.shown)
    except (UsageError, VerificationError):
        if yes or _waiting(desk, host) in (None, waiting):
            raise
        say("nothing was decided, for this is not what is to be seen now: look again", style=WARN)
        return None


def _waiting(desk: Desk, host: str) -> Waiting | None:
    found = desk.host(host)
    return None if found is None else found.waiting


def _order(row: HostRow) -> tuple[int, str]:
    """Those that wait first: they are for somebody to look at."""
    return list(HostState).index(row.state), row.host


def _show(host: str, waiting: Waiting) -> None:
    """What is signed, from its very bytes: whoever sent them may say otherwise."""
    data = decode_base64(waiting.record, what="host record")
    record = parse_canonical(data, HostRecord, max_bytes=MAX_HOST_RECORD_BYTES, what="host record")
    digest = hashlib.sha256(data).hexdigest()
    if (record.host, digest) != (host, waiting.digest):
        raise VerificationError(
            f"the record that waits is {digest} of host {record.host}, expected {waiting.digest} of host {host}"
        )
    rows = [
        ("host", record.host),
        ("tier", f"{record.tier}, user space {record.userspace}"),
        ("labels", _words(record.labels)),
        ("valid", f"{record.not_before} to {record.not_after}"),
        ("ak", _name(record.ak.public)),
        ("release", _name(record.release_key.public)),
        ("epoch", record.nv.epoch),
        ("counter", record.nv.log_counter),
        ("chain", record.ek.chain_digest or "none: the EK has no certificate"),
        ("record", f"{digest} ({len(data)} bytes, waiting since {waiting.at})"),
    ]
    if waiting.before is not None:
        rows.append(("before", f"ak {waiting.before}, labels {_words(waiting.labels_before)}"))
    for name, value in rows:
        say(f"  {name:<8} {value}", prefix="")
    for reason in waiting.reasons:
        say(f"  decide:  {reason}", prefix="", style=WARN)
    for words in waiting.warnings:
        say(f"  WARNING: {words}", prefix="", style=WARN)


def _name(public: str) -> str:
    return parse_public(decode_base64(public, what="host record")).name.hex()


def _words(labels: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items())) or "none"


def _said(attested: Attested | None) -> str:
    """What the verifier said last, and when: nothing is decided by it."""
    if attested is None:
        return ""
    found = f", {counted(attested.findings, 'finding')}" if attested.findings else ""
    counts = f"reset {attested.reset_count}.{attested.restart_count}"
    return f"{attested.status}{found}, {attested.at}, {counts}"


def _require_host(host: str) -> None:
    if not _HOST.match(host):
        raise UsageError(f"host {host[:80]!r}: expected a host-id, 64 hexadecimal digits")
