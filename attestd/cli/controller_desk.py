"""An operator's place at a controller, for the commands that are about hosts: on its own machine, or from afar."""

import contextlib
import functools
import getpass
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode

import click
import msgspec

from attestd.account import account_named, acting_as
from attestd.agent.controllers import Controller
from attestd.cli.base import state_dir_option
from attestd.cli.controller import controller_module, place_of, system_option
from attestd.cli.keys import ask_secret, passphrase_option
from attestd.cli.params import FILE
from attestd.distribution.local import load_trust
from attestd.distribution.web import ClientCertificate
from attestd.errors import StoreError, UsageError, VerificationError
from attestd.governance.desk import (
    MAX_HOST_BYTES,
    MAX_LIST_BYTES,
    MAX_REQUEST_BYTES,
    ApproveRequest,
    ExpectRequest,
    HostAnswer,
    HostList,
    HostQuery,
    HostState,
    RevokeRequest,
    Verdict,
    VerdictRequest,
    parse_host_answer,
    parse_host_list,
    parse_verdict,
)
from attestd.paths import TrustSource
from attestd.strict import canonical

__all__ = ["Desk", "desk_options", "walk"]

_F = TypeVar("_F", bound=Callable[..., Any])


class Desk(Protocol):
    """An operator's place at a controller."""

    def hosts(self, query: HostQuery) -> HostList:
        """A page of the hosts."""

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

    def hosts(self, query: HostQuery) -> HostList:
        asked = {name: value for name, value in msgspec.to_builtins(query).items() if value not in ("", None)}
        path = f"/v1/hosts?{urlencode(asked)}"
        with self._explained():
            return parse_host_list(self._controller.get(path, max_bytes=MAX_LIST_BYTES).data)

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
                desk: Desk = stack.enter_context(_local(state_dir, system=system, decides=decides))
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
def _local(state_dir: str | None, *, system: bool, decides: bool) -> Iterator[Desk]:
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
            offices.Office(store),
            lambda: trust,
            desks.HostNames(),
            operator=_operator(),
            now=lambda: datetime.now(UTC),
        )


def walk(desk: Desk, state: HostState | None) -> Iterator[HostList]:
    """All pages.

    Args:
        desk: Where to ask.
        state: Only rows of this state; None: all.

    Raises:
        VerificationError: The controller answers pages that do not get on.
    """
    query = HostQuery(state=state)
    while True:
        page = desk.hosts(query)
        yield page
        if page.next is None:
            return
        if page.next <= query.after:
            raise VerificationError(
                f"the controller's list of hosts does not get on: after {page.next} again"
            )
        query = msgspec.structs.replace(query, after=page.next)


def _operator() -> str:
    """Who decides: whoever is at the keyboard, also behind sudo."""
    try:
        user = getpass.getuser()
    except OSError:
        user = f"uid {os.getuid()}"
    sudo = os.environ.get("SUDO_USER")
    return f"{sudo} as {user}" if sudo and user != sudo else user
