"""Argument patterns: what one argument of a command may be.

A pattern is an exact string or one of three forms, chosen so that "is narrower than" is decidable, exactly:

    {"one_of": ["prod", "stage"]}                           one of up to 256 strings
    {"prefix": "/srv/", "charset": "name", "max": 20}       the prefix, then up to `max` characters of the class
    {"int": [1, 10]}                                        a decimal integer in the range, both ends included

A prefix form leaves a part to the requester, so it never matches a value that contains `..` (a path out of the
prefix), nor one that begins with `-` unless the prefix does (an option where an operand was meant). Integers have one
spelling: no sign but `-`, no leading zeros. Nothing here uses `re`: these strings come from whoever asks.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from msgspec import UNSET, UnsetType

from attestd.plain import counted
from attestd.strict import Strict

__all__ = ["CHARSETS", "MAX_CHOICES", "ArgForm", "ArgPattern", "contains", "describe", "matches", "quote"]

_DIGITS: Final = "0123456789"
_LOWER: Final = "abcdefghijklmnopqrstuvwxyz"
_NAME: Final = _DIGITS + _LOWER + _LOWER.upper() + "_.-"

# Frozen: a signed artifact means what its charset meant when it was signed. `contains` relies on each class
# holding either all digits or none.
CHARSETS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "digits": frozenset(_DIGITS),
        "hex": frozenset(_DIGITS + "abcdef"),
        "lower": frozenset(_LOWER),
        "alnum": frozenset(_DIGITS + _LOWER + _LOWER.upper()),
        "name": frozenset(_NAME),
        "path": frozenset(_NAME + "/"),
    }
)
MAX_CHOICES: Final = 256
MAX_LENGTH: Final = 4096


@dataclass(frozen=True, slots=True)
class _OneOf:
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Prefixed:
    prefix: str
    charset: str
    most: int


@dataclass(frozen=True, slots=True)
class _Between:
    low: int
    high: int


class ArgForm(Strict, frozen=True, rename={"most": "max", "bounds": "int"}):
    """A pattern that is not an exact string; the members of exactly one form are set.

    Attributes:
        one_of: The strings, distinct.
        prefix: How the argument begins.
        charset: A name in `CHARSETS`.
        most: JSON `max`: how many characters may follow the prefix, 1 to 4096.
        bounds: JSON `int`: the lowest and the highest value.
    """

    one_of: tuple[str, ...] | UnsetType = UNSET
    prefix: str | UnsetType = UNSET
    charset: str | UnsetType = UNSET
    most: int | UnsetType = UNSET
    bounds: tuple[int, int] | UnsetType = UNSET

    def __post_init__(self) -> None:
        _parse_form(self)


ArgPattern = str | ArgForm
_Form = str | _OneOf | _Prefixed | _Between


def _parse_form(form: ArgForm) -> _OneOf | _Prefixed | _Between:
    given = {name for name in form.__struct_fields__ if getattr(form, name) is not UNSET}
    if form.one_of is not UNSET and given == {"one_of"}:
        if not 1 <= len(form.one_of) <= MAX_CHOICES or len(set(form.one_of)) != len(form.one_of):
            raise ValueError(f"one_of: expected 1 to {MAX_CHOICES} distinct strings")
        if any("\0" in value for value in form.one_of):
            raise ValueError("one_of: a NUL byte cannot be in an argument")
        return _OneOf(form.one_of)
    if form.bounds is not UNSET and given == {"bounds"}:
        if form.bounds[0] > form.bounds[1]:
            raise ValueError(f"int: {form.bounds[0]} is above {form.bounds[1]}")
        return _Between(*form.bounds)
    if form.prefix is UNSET or form.charset is UNSET or form.most is UNSET or len(given) != 3:
        raise ValueError("expected a string, one_of, int, or prefix with charset and max")
    if form.charset not in CHARSETS:
        raise ValueError(f"charset: expected one of {', '.join(CHARSETS)}")
    if not 1 <= form.most <= MAX_LENGTH or len(form.prefix) > MAX_LENGTH:
        raise ValueError(f"expected max of 1 to {MAX_LENGTH} and a prefix no longer than that")
    if "\0" in form.prefix or ".." in form.prefix:
        raise ValueError("prefix: must not contain .. or a NUL byte")
    return _Prefixed(form.prefix, form.charset, form.most)


def _form(pattern: ArgPattern) -> _Form:
    return pattern if isinstance(pattern, str) else _parse_form(pattern)


def matches(pattern: ArgPattern, value: str) -> bool:
    """Whether the pattern allows the argument."""
    return _matches(_form(pattern), value)


def _matches(form: _Form, value: str) -> bool:
    match form:
        case str():
            return value == form
        case _OneOf():
            return value in form.values
        case _Between():
            number = _integer(value)
            return number is not None and form.low <= number <= form.high
        case _:
            rest = value[len(form.prefix) :]
            return (
                value.startswith(form.prefix)
                and len(rest) <= form.most
                and CHARSETS[form.charset].issuperset(rest)
                and ".." not in value
                and (form.prefix.startswith("-") or not value.startswith("-"))
            )


def _integer(text: str) -> int | None:
    if len(text) > 17 or not text.isascii() or not text.removeprefix("-").isdigit():
        return None
    number = int(text)
    return number if str(number) == text else None


def contains(parent: ArgPattern, child: ArgPattern) -> bool:
    """Whether every argument that `child` allows is allowed by `parent`. Exact: neither too strict nor too lax.

    Takes time for the size of both patterns, not for what they allow: whoever delegates writes them.
    """
    outer, inner = _form(parent), _form(child)
    if _encloses(outer, inner):
        return True
    few = _few_values(inner)
    if few is None:  # More values than a one_of can list: only ranges and prefixes can hold them all.
        return False
    if isinstance(outer, _OneOf):
        return frozenset(outer.values).issuperset(few)
    return all(_matches(outer, value) for value in few)


def _encloses(outer: _Form, inner: _Form) -> bool:
    """Whether the outer form holds all of the inner one, by their ends. Exact where the inner allows many values."""
    match outer, inner:
        case _Between(), _Between():
            return outer.low <= inner.low and inner.high <= outer.high
        case _Between(), _Prefixed(prefix, "digits", most):
            # If the shortest and the longest value are integers in the range, so is everything between.
            return _matches(outer, prefix) and _matches(outer, prefix + "9" * most)
        case _Prefixed(), _Prefixed():
            return (
                _matches(outer, inner.prefix)
                and CHARSETS[outer.charset] >= CHARSETS[inner.charset]
                and len(inner.prefix) + inner.most <= len(outer.prefix) + outer.most
            )
        case _Prefixed(prefix), _Between(low, high):
            # With a digit in the prefix all values must have one length: between 9 and 10 the first digit changes.
            one_length = len(str(low)) == len(str(high)) or not any(digit in prefix for digit in _DIGITS)
            return one_length and _matches(outer, str(low)) and _matches(outer, str(high))
        case _:
            return outer == inner


def _few_values(form: _Form) -> list[str] | None:
    """Every value that the form allows, or None if they could be more than a one_of can list."""
    match form:
        case str():
            return [form]
        case _OneOf():
            return list(form.values)
        case _Between(low, high):
            return [str(number) for number in range(low, high + 1)] if high - low < MAX_CHOICES else None
        case _:
            members, counts = sorted(CHARSETS[form.charset]), range(form.most + 1)
            # The smallest class has 10 characters: with three free ones there are over a thousand values.
            if form.most > 2 or sum(len(members) ** count for count in counts) > MAX_CHOICES:
                return None
            rests = itertools.chain.from_iterable(
                itertools.product(members, repeat=count) for count in counts
            )
            values = (form.prefix + "".join(rest) for rest in rests)
            return [value for value in values if _matches(form, value)]


def describe(pattern: ArgPattern, *, whole: bool = False) -> str:
    """The pattern in words: for denials cut to what fits a sentence, `whole` for who signs it."""
    form, shown, most = _form(pattern), repr if whole else quote, MAX_CHOICES if whole else 8
    match form:
        case str():
            return shown(form)
        case _OneOf(values):
            listed = ", ".join(shown(value) for value in values[:most])
            return f"one of {listed}" + (f" and {len(values) - most} more" if len(values) > most else "")
        case _Between(low, high):
            return f"an integer from {low} to {high}"
        case _:
            return f"{shown(form.prefix)} and then at most {counted(form.most, 'character')} of class {form.charset!r}"


def quote(value: str) -> str:
    """A string from outside, fit for a sentence: control characters escaped, cut to 80 characters."""
    return repr(value) if len(value) <= 80 else f"{value[:80]!r}... ({len(value)} characters)"
