"""Parameter types: files, durations, users, argument patterns, counts."""

import contextlib
import hashlib
import pwd
from pathlib import Path
from typing import Any, Final

import click

from attestd.authorization.pattern import ArgForm
from attestd.errors import AttestdError, MalformedError
from attestd.strict import convert, parse_json

__all__ = [
    "COUNT",
    "DIGEST",
    "DURATION",
    "FILE",
    "HEX",
    "KEY_ID",
    "MESH_KEY_IDS",
    "PATTERN",
    "STEP",
    "USER",
    "name_values",
    "user_name",
]

FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MAX_VKEYS_BYTES: Final = 64 * 1024
MAX_PATTERN_BYTES: Final = 64 * 1024
_SHA256_DIGITS: Final = 64


class _Duration(click.ParamType[int]):
    """Seconds, from `90s`, `15m`, `1h`, `7d`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        digits, unit = str(value)[:-1], str(value)[-1:]
        if not (digits.isascii() and digits.isdigit() and len(digits) < 7 and unit in _UNITS and int(digits)):
            self.fail(f"{value!r}: expected a number and a unit: 90s, 15m, 1h, 7d", param, ctx)
        return int(digits) * _UNITS[unit]


class _User(click.ParamType[int]):
    """A user id, from a number or a name."""

    name = "uid|name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int) or (str(value).isascii() and str(value).isdigit()):
            return int(value)
        try:
            return pwd.getpwnam(str(value)).pw_uid
        except (KeyError, ValueError):
            self.fail(f"{value!r}: there is no such user", param, ctx)


class _Count(click.ParamType[int]):
    """How many uses: a number from 1 on; 0 stands for `unlimited`."""

    name = "n|unlimited"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if value == "unlimited":
            return 0
        if not (str(value).isascii() and str(value).isdigit() and int(value) > 0):
            self.fail(f"{value!r}: expected a number from 1 on, or unlimited", param, ctx)
        return int(value)


class _Hex(click.ParamType[bytes]):
    """Bytes, from hex digits."""

    name = "hex"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        if isinstance(value, bytes):
            return value
        try:
            return bytes.fromhex(str(value))
        except ValueError:
            self.fail(f"{value!r}: expected an even number of hex digits", param, ctx)


class _Digest(click.ParamType[bytes]):
    """A SHA-256, from hex digits, or of a file."""

    name = "sha256|file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        if isinstance(value, bytes):
            return value
        if len(str(value)) == _SHA256_DIGITS:
            with contextlib.suppress(ValueError):
                return bytes.fromhex(str(value))
        try:
            with open(str(value), "rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            self.fail(f"{value!r}: expected 64 hex digits, or a file: {error.strerror}", param, ctx)


class _Step(click.ParamType[tuple[int, bool]]):
    """A number, or how far to go up from the present one: `7`, `+1`."""

    name = "n|+n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, bool]:
        if isinstance(value, tuple):
            return value
        digits = str(value).removeprefix("+")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 16 and int(digits)):
            self.fail(f"{value!r}: expected a number from 1 on, or +1", param, ctx)
        return int(digits), str(value).startswith("+")


class _Pattern(click.ParamType[tuple[int, ArgForm]]):
    """An argument's number and what it may be, from `N=JSON`."""

    name = "n=json"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ArgForm]:
        if isinstance(value, tuple):
            return value
        number, equals, form = str(value).partition("=")
        if not equals or not (number.isascii() and number.isdigit() and len(number) < 6):
            self.fail(f"{value!r}: expected N=JSON, N being the argument's number from 1 on", param, ctx)
        try:
            parsed = parse_json(
                form.encode("utf-8", "surrogateescape"),
                max_bytes=MAX_PATTERN_BYTES,
                what=f"pattern of argument {number}",
            )
            return int(number), convert(parsed, ArgForm, what=f"pattern of argument {number}")
        except MalformedError as error:
            self.fail(str(error), param, ctx)


class _KeyId(click.ParamType[str]):
    """A key's id, from its 64 hex digits or from a PEM file of the public key."""

    name = "public-key|id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        # Here, not by every command that takes a duration: it costs 80 ms.
        from attestd.distribution.signer import load_public  # noqa: PLC0415

        if len(str(value)) == 64 and set(str(value)) <= set("0123456789abcdef"):
            return str(value)
        try:
            return load_public(Path(str(value))).key_id
        except AttestdError as error:
            self.fail(f"{error}: expected a public key's file, or a key id of 64 hex digits", param, ctx)


class _MeshKeyIds(click.ParamType[tuple[str, ...]]):
    """The same, as one of several; or all keys of a file of vkeys, as a controller's `witness.vkeys` is one."""

    name = _KeyId.name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        from attestd.governance.mesh import witness_key_id  # noqa: PLC0415 - as above
        from attestd.tlog.vkey import parse_vkey  # noqa: PLC0415

        lines: list[str] = []
        with contextlib.suppress(OSError, UnicodeDecodeError), open(str(value), "rb") as file:
            lines = file.read(_MAX_VKEYS_BYTES).decode("ascii").split("\n")
        # A vkey has a "+" in it; what PEM begins with, and a key id, have none.
        if not lines or "+" not in lines[0]:
            return (_KeyId().convert(value, param, ctx),)
        try:
            return tuple(witness_key_id(parse_vkey(line)) for line in filter(None, lines))
        except AttestdError as error:
            self.fail(f"{value}: {error}: expected nothing but vkeys, a line each", param, ctx)


DURATION: Final = _Duration()
KEY_ID: Final = _KeyId()
MESH_KEY_IDS: Final = _MeshKeyIds()
USER: Final = _User()
COUNT: Final = _Count()
HEX: Final = _Hex()
PATTERN: Final = _Pattern()
DIGEST: Final = _Digest()
STEP: Final = _Step()


def name_values(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """The callback of an option that is `NAME=VALUE`, given any number of times.

    Raises:
        click.BadParameter: Another form, or a name twice.
    """
    found = dict(value.partition("=")[::2] for value in values)
    if any("=" not in value or value.startswith("=") for value in values) or len(found) != len(values):
        raise click.BadParameter("expected NAME=VALUE, each name once")
    return found


def user_name(uid: int) -> str:
    """A user's name here, or the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
