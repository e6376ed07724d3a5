"""How a command gets at a controller: on its own machine by the store, or from afar with an operator's certificate."""

import contextlib
import functools
import os
import pwd
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import click
import msgspec

from attestd.account import account_named, acting_as
from attestd.agent.controllers import Controller
from attestd.cli.base import state_dir_option
from attestd.cli.controller import controller_module, place_of, system_option
from attestd.cli.keys import ask_secret, passphrase_option
from attestd.cli.output import say
from attestd.cli.params import FILE
from attestd.distribution.web import ClientCertificate, CutOffError
from attestd.errors import StoreError, UsageError, VerificationError
from attestd.journal import JOURNAL, tell_journal
from attestd.strict import canonical

__all__ = ["Afar", "Own", "controller_options", "own_controller", "say_decided", "walk_pages", "who_decides"]

# As its unit.
_IDENTIFIER: Final = "attestd-controller"
_JOURNAL = JOURNAL

_F = TypeVar("_F", bound=Callable[..., Any])
_Page = TypeVar("_Page", bound="_Paged")
_OPTIONS: Final = (
    click.option("--controller", "url", metavar="URL", help="The controller, from afar: https://HOST:PORT."),
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


class _Paged(Protocol):
    """A page of a list."""

    @property
    def next(self) -> str | None:
        """After which host-id to go on."""


class Afar:
    """A controller over HTTP, asked with an operator's certificate."""

    def __init__(self, controller: Controller, *, certificate: Path) -> None:
        """Takes the controller, and which certificate it is shown."""
        self._controller, self._certificate = controller, certificate

    def get(self, path: str, *, max_bytes: int) -> bytes:
        """Asks for what there is.

        Raises:
            StoreError, VerificationError, MalformedError: As `Controller.get`.
        """
        with self._explained():
            return self._controller.get(path, max_bytes=max_bytes).data

    def post(self, path: str, body: msgspec.Struct, *, max_bytes: int) -> bytes:
        """Sends something.

        Raises:
            StoreError, VerificationError, MalformedError: As `Controller.post`.
        """
        with self._explained():
            return self._controller.post(path, canonical(body), max_bytes=max_bytes).data

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """TLS ends without a word where a certificate is not accepted."""
        try:
            yield
        except CutOffError as error:
            raise StoreError(
                f"{error}; where it answers others: did its operator_ca issue {self._certificate}, and is that still valid?"
            ) from error


@dataclass(frozen=True)
class Own:
    """A controller of this machine: its layout, its configuration, and its open store."""

    layout: Any
    configuration: Any
    store: Any


@contextlib.contextmanager
def own_controller(state_dir: str | None, *, system: bool, roles: Sequence[str]) -> Iterator[Own]:
    """Opens the store of this machine's controller, as its user.

    Args:
        state_dir: As `--state-dir` says.
        system: The service's places.
        roles: Of these one is switched on.

    Raises:
        UsageError, StoreError: It is not usable.
    """
    configurations, engine = controller_module("configuration"), controller_module("store.engine")
    layout = configurations.find_controller_layout(state_dir, system=place_of(state_dir, system=system))
    configuration = configurations.load_controller_configuration(layout.configuration, os.environ)
    if not set(roles) & set(configuration.roles):
        raise UsageError(f"{layout.configuration}: the role {roles[0]} is not switched on")
    with (
        acting_as(account_named(layout.user)),
        contextlib.closing(engine.Store.open(configuration.database_url(layout))) as store,
    ):
        yield Own(layout, configuration, store)


def who_decides() -> str:
    """Whoever is at the keyboard, also behind sudo."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name  # not what LOGNAME says
    except KeyError:
        user = f"uid {os.getuid()}"
    sudo = os.environ.get("SUDO_USER")
    return f"{sudo} as {user}" if sudo and user != sudo else user


def say_decided(line: str) -> None:
    """What is decided on this machine stands in the journal, as what is decided from afar; where there is none, it is said."""
    if not tell_journal(line, identifier=_IDENTIFIER, address=_JOURNAL):
        say(line)


def walk_pages(ask: Callable[[Any], _Page], query: Any) -> Iterator[_Page]:
    """All pages of a list that goes by host-ids.

    Args:
        ask: Answers a query.
        query: The first one; the others begin after `next` of the page before.

    Raises:
        VerificationError: The controller answers pages that do not get on.
    """
    while True:
        page = ask(query)
        yield page
        if page.next is None:
            return
        if page.next <= query.after:
            raise VerificationError(f"the controller's list does not get on: after {page.next} again")
        query = msgspec.structs.replace(query, after=page.next)


def controller_options(
    name: str,
    *,
    own: Callable[..., AbstractContextManager[Any]],
    afar: Callable[[Afar], Any],
) -> Callable[[_F], _F]:
    """Where the controller is: on this machine, or at an address; the command gets what does its work there.

    Args:
        name: Under which name.
        own: Opens it on this machine: takes the state directory, and `system`.
        afar: Makes it of a controller at an address.
    """

    def decorate(command: _F) -> _F:
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
            if url is not None:
                return command(**{name: afar(_afar(url, certificate, key, ca))}, **rest)
            with own(state_dir, system=system) as found:
                return command(**{name: found}, **rest)

        for option in reversed(_OPTIONS):
            wrapper = option(wrapper)
        return wrapper  # type: ignore[return-value] # the same command, with other parameters

    return decorate


def _afar(url: str, certificate: Path | None, key: Path | None, ca: Path | None) -> Afar:
    if certificate is None or key is None:
        raise UsageError(
            "--certificate and --key are needed: by them the controller knows which operator asks"
        )
    client = ClientCertificate(str(certificate), str(key), ask_secret)
    return Afar(
        Controller(url, ca=str(ca) if ca else "", client=client, remedy="--ca FILE"), certificate=certificate
    )
