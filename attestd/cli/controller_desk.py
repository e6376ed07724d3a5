"""An operator's place at a controller, for the commands that are about hosts: on its own machine, or from afar."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode

import msgspec

from attestd.cli.controller import controller_module
from attestd.cli.controller_access import (
    Afar,
    controller_options,
    own_controller,
    say_decided,
    walk_pages,
    who_decides,
)
from attestd.distribution.local import TrustDirectory
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

__all__ = ["Desk", "desk_options", "walk"]

_F = TypeVar("_F", bound=Callable[..., Any])


class Desk(Protocol):
    """An operator's place at a controller."""

    def hosts(self, query: HostQuery) -> HostList:
        """A page of the hosts."""

    def host(self, host: str) -> HostAnswer | None:
        """One host."""

    def approve(self, host: str, shown: str) -> Verdict:
        """Has the record signed of which this was shown."""

    def refuse(self, host: str, digest: str) -> Verdict:
        """Refuses a record."""

    def expect(self, host: str, labels: dict[str, str]) -> Verdict:
        """Expects a host."""

    def revoke(self, host: str, reason: str) -> Verdict:
        """Signs nothing of a host any more."""


class _Remote:
    """The same over HTTP, with an operator's certificate."""

    def __init__(self, afar: Afar) -> None:
        self._afar = afar

    def hosts(self, query: HostQuery) -> HostList:
        asked = {name: value for name, value in msgspec.to_builtins(query).items() if value not in ("", None)}
        return parse_host_list(self._afar.get(f"/v1/hosts?{urlencode(asked)}", max_bytes=MAX_LIST_BYTES))

    def host(self, host: str) -> HostAnswer | None:
        return parse_host_answer(self._afar.get(f"/v1/hosts/{host}", max_bytes=MAX_HOST_BYTES))

    def approve(self, host: str, shown: str) -> Verdict:
        return self._post(host, "approve", ApproveRequest(shown=shown))

    def refuse(self, host: str, digest: str) -> Verdict:
        return self._post(host, "refuse", VerdictRequest(digest=digest))

    def expect(self, host: str, labels: dict[str, str]) -> Verdict:
        return self._post(host, "expect", ExpectRequest(labels=labels))

    def revoke(self, host: str, reason: str) -> Verdict:
        return self._post(host, "revoke", RevokeRequest(reason=reason))

    def _post(self, host: str, verb: str, body: msgspec.Struct) -> Verdict:
        return parse_verdict(self._afar.post(f"/v1/hosts/{host}/{verb}", body, max_bytes=MAX_REQUEST_BYTES))


@contextlib.contextmanager
def _own(state_dir: str | None, *, system: bool, decides: bool) -> Iterator[Desk]:
    desks, offices = controller_module("enroller.desk"), controller_module("enroller.office")
    records = controller_module("enroller.records")

    roles = ("enroller",) if decides else ("enroller", "verifier")
    with own_controller(state_dir, system=system, roles=roles) as own:
        layout = own.layout
        owners = frozenset({0} if layout.system else {0, os.geteuid()})
        operator = who_decides()

        def decided(host: str, decision: Any, digest: str) -> None:
            say_decided(records.decided_event(host, decision, digest, operator=operator))

        trust = TrustDirectory(TrustSource(layout.trust, Path(own.configuration.governance), owners))
        trust.current()  # Nothing is decided where there is none.
        yield desks.Desk(
            offices.Office(own.store),
            trust.current,
            desks.HostNames(),
            operator=operator,
            now=lambda: datetime.now(UTC),
            decided=decided,
        )


def desk_options(*, decides: bool) -> Callable[[_F], _F]:
    """Where the controller is, as `controller_options`; the command gets `desk`.

    Args:
        decides: Whether it decides about hosts, as an enroller alone does.
    """
    return controller_options("desk", own=functools.partial(_own, decides=decides), afar=_Remote)


def walk(desk: Desk, state: HostState | None) -> Iterator[HostList]:
    """All pages of the hosts, of one state or of all."""
    return walk_pages(desk.hosts, HostQuery(state=state))
