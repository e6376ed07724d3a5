"""Options and questions of commands that sign: which key, and the passphrase or PIN that it takes.

A secret comes from a terminal or from a file, never from an argument or a variable: both are for all to see.
"""

import getpass
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from attestd.cli.params import FILE
from attestd.distribution.secrets import read_secret
from attestd.distribution.signer import Authority, load_authority
from attestd.errors import UsageError

__all__ = ["ask_secret", "key_options", "new_passphrase", "open_key", "passphrase_option", "read_secret"]

_F = TypeVar("_F", bound=Callable[..., Any])

VARIABLE: Final = "ATTESTD_PASSPHRASE_FILE"
_META: Final = "attestd.passphrase_file"


def passphrase_option(command: _F) -> _F:
    """`--passphrase-file`: `open_key` and `ask_secret` find it by themselves."""

    def remember(context: click.Context, _: click.Parameter, value: Path | None) -> None:
        context.meta[_META] = value

    return click.option(
        "--passphrase-file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        expose_value=False,
        callback=remember,
        help=f"File with the key's passphrase, or its token's PIN (default: {VARIABLE}, or asked for).",
    )(command)


def key_options(default: str) -> Callable[[_F], _F]:
    """`--key`, `--public-key`, `--passphrase-file`.

    Args:
        default: In words, which key is used where none is named.
    """

    def decorate(command: _F) -> _F:
        public = click.option(
            "--public-key",
            type=FILE,
            metavar="FILE",
            help="PEM of the public key, for keys that are no files.",
        )
        key = click.option(
            "--key", metavar="URI", help=f"Signing key: a file, or hsm:, awskms:, ... (default: {default})."
        )
        return key(public(passphrase_option(command)))

    return decorate


def open_key(uri: str, *, public_key: Path | None = None) -> Authority:
    """Opens a key for signing; asks for its passphrase or PIN.

    Raises:
        UsageError, StoreError, MalformedError: As `load_authority`, `ask_secret`.
    """
    return load_authority(uri, public_key=public_key, ask=ask_secret)


def ask_secret(what: str) -> str:
    """A secret: from the file that was named for it, else from whoever sits at the terminal.

    Args:
        what: Which one, for the question.

    Raises:
        UsageError: Neither a file nor a terminal; a file that others can read.
        StoreError: The file cannot be read.
    """
    path = _named_file()
    if path is not None:
        return read_secret(path)
    if not _has_terminal():
        raise UsageError(f"the {what} is needed, and there is no terminal to ask at: --passphrase-file FILE")
    return getpass.getpass(f"{what}: ")


def new_passphrase(what: str, *, file: Path | None = None, only_terminal: bool = False) -> str:
    """A new passphrase: from a file, or twice from the terminal.

    Args:
        what: Of what.
        file: Where it stands; None: as `ask_secret`.
        only_terminal: The file that `ask_secret` looks at has another one.

    Raises:
        UsageError: As `ask_secret`; both were not the same; it is empty.
        StoreError: The file cannot be read.
    """
    path = file if only_terminal else file or _named_file()
    if path is not None:
        return read_secret(path)
    if not _has_terminal():
        option = "--new-passphrase-file" if only_terminal else "--passphrase-file"
        raise UsageError(
            f"a new passphrase for {what} is needed, and there is no terminal to ask at: {option} FILE, or"
            " --no-passphrase to store it in the clear"
        )
    first = getpass.getpass(f"new passphrase of {what}: ")
    if not first:
        raise UsageError("an empty passphrase protects nothing: say --no-passphrase if you mean it")
    if getpass.getpass("once more: ") != first:
        raise UsageError("the two passphrases differ: nothing was changed")
    return first


def _named_file() -> Path | None:
    context = click.get_current_context(silent=True)
    named: Path | None = context.meta.get(_META) if context is not None else None
    variable = os.environ.get(VARIABLE)
    return named or (Path(variable) if variable else None)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
