"""`attestd controller hosts`, `enroll`, `approve`, `revoke`: what an operator sees and decides, on the controller or from afar."""

import contextlib
import functools
import getpass
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import click
import msgspec

from attestd.account import account_named, acting_as
from attestd.agent.controllers import Controller
from attestd.cli.base import Command, confirm, json_option, state_dir_option
from attestd.cli.controller import controller_module, place_of, system_option
from attestd.cli.keys import ask_secret, passphrase_option
from attestd.cli.output import WARN, Output, say
from attestd.cli.params import FILE, name_values
from attestd.distribution.local import load_trust
from attestd.distribution.web import ClientCertificate
from attestd.errors import StoreError, UsageError, VerificationError
from attestd.governance.desk import (
    MAX_HOST_BYTES,
    MAX_LIST_BYTES,
    MAX_REQUEST_BYTES,
    ApproveRequest,
    Attested,
    ExpectRequest,
    HostAnswer,
    HostList,
    RevokeRequest,
    Verdict,
    VerdictRequest,
    Waiting,
    find_waiting,
    parse_host_answer,
    parse_host_list,
    parse_verdict,
)
from attestd.governance.host import MAX_HOST_RECORD_BYTES, HostRecord
from attestd.paths import TrustSource
from attestd.strict import canonical, decode_base64, parse_canonical
from attestd.tcg.public import parse_public

__all__ = ["approve_command", "enroll_command", "hosts_command", "revoke_command"]

_F = TypeVar("_F", bound=Callable[..., Any])
_SHORT: Final = 16
_HOST: Final = re.compile(r"\A[0-9a-f]{64}\Z")


class _Desk(Protocol):
    """An operator's place at a controller."""

    def hosts(self) -> HostList:
        """All hosts."""

    def host(self, host: str) -> HostAnswer | None:
        """One host."""

    def approve(self, host: str, digest: str, *, confirmed: bool) -> Verdict:
        """Has a record signed."""

    def refuse(self, host: str, digest: str) -> Verdict:
        """Refuses a record."""

    def expect(self, host: str, labels: dict[str, str]) -> Verdict:
        """Expects a host."""

    def revoke(self, host: str, reason: str) -> Verdict:
        """Signs nothing of a host any more."""


class _Remote:
    """The same over HTTP, with an operator's certificate."""

    def __init__(self, controller: Controller, *, certificate: Path) -> None:
        self._controller, self._certificate = controller, certificate

    def hosts(self) -> HostList:
        with self._explained():
            return parse_host_list(self._controller.get("/v1/hosts", max_bytes=MAX_LIST_BYTES).data)

    def host(self, host: str) -> HostAnswer | None:
        with self._explained():
            return parse_host_answer(self._controller.get(f"/v1/hosts/{host}", max_bytes=MAX_HOST_BYTES).data)

    def approve(self, host: str, digest: str, *, confirmed: bool) -> Verdict:
        return self._post(host, "approve", ApproveRequest(digest=digest, confirmed=confirmed))

    def refuse(self, host: str, digest: str) -> Verdict:
        return self._post(host, "refuse", VerdictRequest(digest=digest))

    def expect(self, host: str, labels: dict[str, str]) -> Verdict:
        return self._post(host, "expect", ExpectRequest(labels=labels))

    def revoke(self, host: str, reason: str) -> Verdict:
        return self._post(host, "revoke", RevokeRequest(reason=reason))

    def _post(self, host: str, verb: str, body: msgspec.Struct) -> Verdict:
        path = f"/v1/hosts/{host}/{verb}"
        with self._explained():
            answer = self._controller.post(path, canonical(body), max_bytes=MAX_REQUEST_BYTES)
            return parse_verdict(answer.data)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """TLS ends without a word where a certificate is not accepted."""
        try:
            yield
        except StoreError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise StoreError(f"{error}: --ca FILE names who may vouch for that controller") from error
            raise StoreError(
                f"{error}; where it answers others: did its operator_ca issue {self._certificate}, and is that still valid?"
            ) from error


def desk_options(*, decides: bool) -> Callable[[_F], _F]:
    """Where the controller is: on this machine, or at an address; the command gets `desk`.

    Args:
        decides: Whether it decides about hosts, as an enroller alone does.
    """
    return functools.partial(_with_desk, decides=decides)


def _with_desk(command: _F, *, decides: bool) -> _F:
    options = (
        click.option(
            "--controller", "url", metavar="URL", help="The controller, from afar: https://HOST:PORT."
        ),
        click.option(
            "--certificate",
            type=FILE,
            metavar="FILE",
            help="With --controller: yours, as an operator, in PEM.",
        ),
        click.option(
            "--key", type=FILE, metavar="FILE", help="With --controller: that certificate's key, in PEM."
        ),
        click.option(
            "--ca",
            type=FILE,
            metavar="FILE",
            help="With --controller: PEM of who may vouch for it (default: the system's).",
        ),
        passphrase_option,
        system_option,
        state_dir_option,
    )

    @functools.wraps(command)
    def wrapper(
        *,
        url: str | None,
        certificate: Path | None,
        key: Path | None,
        ca: Path | None,
        system: bool,
        state_dir: str | None,
        **rest: Any,
    ) -> Any:
        if url is None and (certificate, key, ca) != (None, None, None):
            raise UsageError("--certificate, --key and --ca go with --controller URL")
        with contextlib.ExitStack() as stack:
            if url is None:
                desk: _Desk = stack.enter_context(_local(state_dir, system=system, decides=decides))
            else:
                desk = _remote(url, certificate, key, ca)
            return command(desk=desk, **rest)

    for option in reversed(options):
        wrapper = option(wrapper)
    return wrapper  # type: ignore[return-value] # the same command, with other parameters


def _remote(url: str, certificate: Path | None, key: Path | None, ca: Path | None) -> _Remote:
    if certificate is None or key is None:
        raise UsageError(
            "--certificate and --key are needed: by them the controller knows which operator asks"
        )
    client = ClientCertificate(str(certificate), str(key), ask_secret)
    return _Remote(Controller(url, ca=str(ca) if ca else "", client=client), certificate=certificate)


@contextlib.contextmanager
def _local(state_dir: str | None, *, system: bool, decides: bool) -> Iterator[_Desk]:
    configurations, offices = controller_module("configuration"), controller_module("enroller.office")
    desks, engine = controller_module("enroller.desk"), controller_module("store.engine")
    layout = configurations.find_controller_layout(state_dir, system=place_of(state_dir, system=system))
    configuration = configurations.load_controller_configuration(layout.configuration, os.environ)
    roles = configurations.Role
    if roles.ENROLLER not in configuration.roles and (decides or roles.VERIFIER not in configuration.roles):
        raise UsageError(f"{layout.configuration}: the role enroller is not switched on")
    owners = frozenset({0} if layout.system else {0, os.geteuid()})
    trust = load_trust(TrustSource(layout.trust, Path(configuration.governance), owners))
    with (
        acting_as(account_named(layout.user)),
        contextlib.closing(engine.Store.open(configuration.database_url(layout))) as store,
    ):
        yield desks.Desk(
            offices.Office(store), lambda: trust, operator=_operator(), now=lambda: datetime.now(UTC)
        )


@click.command(
    "hosts",
    cls=Command,
    example="""
attestd controller hosts
attestd controller hosts --controller https://one.example:8440 --certificate me.pem --key me.key
""",
)
@desk_options(decides=False)
@json_option
def hosts_command(*, desk: _Desk, as_json: bool) -> None:
    """List the hosts: waiting, enrolled, ended, revoked."""
    found = desk.hosts()
    output = Output(as_json=as_json)
    if as_json:
        output.json(msgspec.to_builtins(found))
        return
    if not found.hosts:
        say("no host is enrolled, and none waits")
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
            for row in found.hosts
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
def enroll_command(*, desk: _Desk, host: str, labels: dict[str, str], as_json: bool) -> None:
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
def approve_command(*, desk: _Desk, name: str, refuse: bool, yes: bool, as_json: bool) -> None:
    """Decide about a host record that waits. Shows exactly what is signed.

    Compare the host-id with the one on the host's own screen. The host gets the signature when it asks again.
    """
    host = find_waiting(desk.hosts().hosts, name)
    found = desk.host(host)
    if found is None or found.waiting is None:
        raise UsageError(f"no record of host {host} waits any more: look again, attestd controller hosts")
    _show(host, found.waiting)
    warnings, digest = found.waiting.warnings, found.waiting.digest
    signed = "Have this record signed all the same?" if warnings else "Have this record signed?"
    confirm("Refuse this record?" if refuse else signed, yes=yes)
    verdict = desk.refuse(host, digest) if refuse else desk.approve(host, digest, confirmed=bool(warnings))
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
def revoke_command(*, desk: _Desk, host: str, reason: str, yes: bool, as_json: bool) -> None:
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
    found = f", {attested.findings} findings" if attested.findings else ""
    counts = f"reset {attested.reset_count}.{attested.restart_count}"
    return f"{attested.status}{found}, {attested.at}, {counts}"


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
