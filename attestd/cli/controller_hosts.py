"""`attestd controller hosts`, `enroll`, `approve`, `revoke`: what an operator sees and decides, on the controller itself."""

import contextlib
import getpass
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from attestd.account import account_named, acting_as
from attestd.cli.base import Command, confirm, json_option, state_dir_option
from attestd.cli.controller import controller_module, place_of, system_option
from attestd.cli.output import WARN, Output, say
from attestd.cli.params import name_values
from attestd.distribution.local import load_trust
from attestd.errors import UsageError
from attestd.governance.host import HostRecord
from attestd.governance.trust import Trust
from attestd.paths import TrustSource
from attestd.strict import decode_base64, format_time
from attestd.tcg.public import parse_public

__all__ = ["approve_command", "enroll_command", "hosts_command", "revoke_command"]

SOON: Final = timedelta(days=30)
_SHORT: Final = 16
_HOST: Final = re.compile(r"\A[0-9a-f]{64}\Z")


class _Desk:
    """An operator at a controller: the store, and governance."""

    def __init__(self, office: Any, trust: Trust, modules: Any) -> None:
        self.office, self.trust, self.modules = office, trust, modules


@contextlib.contextmanager
def _desk(state_dir: str | None, *, system: bool) -> Iterator[_Desk]:
    configurations, modules = controller_module("configuration"), controller_module("enroller.office")
    engine = controller_module("store.engine")
    layout = configurations.find_controller_layout(state_dir, system=place_of(state_dir, system=system))
    configuration = configurations.load_controller_configuration(layout.configuration, os.environ)
    if configurations.Role.ENROLLER not in configuration.roles:
        raise UsageError(f"{layout.configuration}: the role enroller is not switched on")
    owners = frozenset({0} if layout.system else {0, os.geteuid()})
    trust = load_trust(TrustSource(layout.trust, Path(configuration.governance), owners))
    with (
        acting_as(account_named(layout.user)),
        contextlib.closing(engine.Store.open(configuration.database_url(layout))) as store,
    ):
        yield _Desk(modules.Office(store), trust, modules)


@click.command(
    "hosts",
    cls=Command,
    example="""
attestd controller hosts
attestd controller hosts --json
""",
)
@system_option
@state_dir_option
@json_option
def hosts_command(*, system: bool, state_dir: str | None, as_json: bool) -> None:
    """List the hosts: waiting, enrolled, ended, revoked."""
    with _desk(state_dir, system=system) as desk:
        rows = _rows(desk, datetime.now(UTC))
        decided = desk.office.decisions()
    output = Output(as_json=as_json)
    if as_json:
        decisions = [
            {
                "host": item.host,
                "digest": item.digest,
                "decision": item.decision,
                "operator": item.operator,
                "words": item.words,
                "at": format_time(item.at),
            }
            for item in decided
        ]
        output.json({"hosts": rows, "decisions": decisions})
        return
    if not rows:
        say("no host is enrolled, and none waits")
        return
    output.table(
        ("host", "state", "tier", "labels", "until", "what there is to know"),
        [
            (
                row["host"][:_SHORT],
                row["state"],
                row["tier"],
                _words(row["labels"]),
                row["until"][:10],
                list(row["words"]) or "",
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
@system_option
@state_dir_option
@json_option
def enroll_command(
    *, host: str, labels: dict[str, str], system: bool, state_dir: str | None, as_json: bool
) -> None:
    """Expect a host, which is then signed without waiting.

    Once: its next record, if it has these labels.

    HOST is the host-id, which stands on the host's own screen. Its TPM must be one that governance believes all the same.
    """
    _require_host(host)
    with _desk(state_dir, system=system) as desk:
        desk.office.expect(host, labels, operator=_operator(), now=datetime.now(UTC))
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
@system_option
@state_dir_option
@json_option
def approve_command(
    *, name: str, refuse: bool, yes: bool, system: bool, state_dir: str | None, as_json: bool
) -> None:
    """Decide about a host record that waits. Shows exactly what is signed.

    Compare the host-id with the one on the host's own screen. The host gets the signature when it asks again.
    """
    with _desk(state_dir, system=system) as desk:
        kept = desk.office.find_waiting(name)
        before = desk.trust.hosts.get(kept.host)
        _show(kept, before)
        confirm("Refuse this record?" if refuse else "Have this record signed?", yes=yes)
        decisions = desk.modules.Decision
        decision = decisions.REFUSED if refuse else decisions.APPROVED
        desk.office.decide(kept, decision, operator=_operator(), now=datetime.now(UTC))
    if as_json:
        Output(as_json=True).json({"host": kept.host, "digest": kept.digest, "decision": decision})
        return
    say(f"{decision}: the record {kept.digest} of host {kept.host}")


@click.command("revoke", cls=Command, example='attestd controller revoke HOST-ID --reason "stolen"')
@click.argument("host")
@click.option("--reason", default="", metavar="TEXT", help="Why, for those who read it later.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@system_option
@state_dir_option
@json_option
def revoke_command(
    *, host: str, reason: str, yes: bool, system: bool, state_dir: str | None, as_json: bool
) -> None:
    """Never sign a record of this host again.

    What it was given before goes on holding until governance revokes the host as well: attestd governance revoke.
    """
    _require_host(host)
    with _desk(state_dir, system=system) as desk:
        confirm(f"Revoke host {host} here, for ever?", yes=yes)
        fresh = desk.office.revoke(host, reason=reason, operator=_operator(), now=datetime.now(UTC))
        elsewhere = host in desk.trust.revocations.hosts
    if as_json:
        Output(as_json=True).json({"host": host, "revoked": True, "fresh": fresh, "governance": elsewhere})
        return
    say(f"host {host} {'is' if fresh else 'was'} revoked here")
    if not elsewhere:
        say(f"next, for all that it has: attestd governance revoke --host {host}", style=WARN)


def _rows(desk: _Desk, now: datetime) -> list[dict[str, Any]]:
    hosts = desk.trust.hosts
    revoked = {
        item.host for item in desk.office.decisions() if item.decision is desk.modules.Decision.REVOKED
    }
    gone = revoked | desk.trust.revocations.hosts
    rows = []
    for kept in desk.office.kept():
        waits = kept.state is desk.modules.KeptState.WAITING
        present = hosts.get(kept.host)
        record = kept.record
        if not waits and present is not None and _ak_name(record) == present.ak_name:
            continue  # Governance has it, and says the rest.
        words = kept.reasons if waits else (f"since {format_time(kept.at)}, record {kept.digest[:_SHORT]}",)
        state = "waiting" if waits else "not published"
        rows.append(
            _row(
                kept.host,
                "revoked" if kept.host in gone else state,
                (record.tier, record.labels, record.not_after),
                words,
                digest=kept.digest,
            )
        )
    for host, found in sorted(hosts.items()):
        state = "revoked" if host in gone else "ended" if found.not_after <= now else "enrolled"
        soon = state == "enrolled" and found.not_after - now < SOON
        facts = found.tier, found.labels, format_time(found.not_after)
        rows.append(_row(host, state, facts, ("its record ends soon",) if soon else ()))
    listed = {row["host"] for row in rows}
    rows += [_row(host, "revoked", ("", {}, ""), ()) for host in sorted(revoked - listed)]
    return rows


def _row(
    host: str, state: str, facts: tuple[str, Any, str], words: tuple[str, ...], *, digest: str | None = None
) -> dict[str, Any]:
    tier, labels, until = facts
    return {
        "host": host,
        "state": state,
        "tier": tier,
        "labels": dict(labels),
        "until": until,
        "words": list(words),
        "digest": digest,
    }


def _show(kept: Any, before: Any) -> None:
    record = kept.record
    names = _ak_name(record).hex(), _name(record.release_key.public).hex()
    rows = [
        ("host", record.host),
        ("tier", f"{record.tier}, user space {record.userspace}"),
        ("labels", _words(record.labels)),
        ("valid", f"{record.not_before} to {record.not_after}"),
        ("ak", names[0]),
        ("release", names[1]),
        ("epoch", record.nv.epoch),
        ("counter", record.nv.log_counter),
        ("chain", record.ek.chain_digest or "none: the EK has no certificate"),
        ("record", f"{kept.digest} ({len(kept.data)} bytes, waiting since {format_time(kept.at)})"),
    ]
    if before is not None:
        rows.append(("before", f"ak {before.ak_name.hex()}, labels {_words(before.labels)}"))
    for name, value in rows:
        say(f"  {name:<8} {value}", prefix="")
    for reason in kept.reasons:
        say(f"  decide:  {reason}", prefix="", style=WARN)


def _ak_name(record: HostRecord) -> bytes:
    return _name(record.ak.public)


def _name(public: str) -> bytes:
    return parse_public(decode_base64(public, what="host record")).name


def _words(labels: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items())) or "none"


def _require_host(host: str) -> None:
    if not _HOST.match(host):
        raise UsageError(f"host {host[:80]!r}: expected a host-id, 64 hexadecimal digits")


def _operator() -> str:
    """Who decides: whoever is at the keyboard, also behind sudo."""
    try:
        user = getpass.getuser()
    except OSError:
        user = f"uid {os.getuid()}"
    sudo = os.environ.get("SUDO_USER")
    return f"{sudo} as {user}" if sudo and user != sudo else user
