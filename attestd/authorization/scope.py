"""Whether what is about to run lies within the scope of an artifact.

Each `match_*` returns nothing or raises `ScopeMismatch`, whose message is the sentence of the denial: where, what was
expected, what was found. Gate and runner call the same functions.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from attestd.authorization.pattern import ArgPattern, describe, matches, quote
from attestd.authorization.secret import NOTHING_SECRET, Secrets
from attestd.authorization.statement import Env, Resource
from attestd.errors import VerificationError
from attestd.plain import counted

__all__ = [
    "ScopeMismatch",
    "match_argv",
    "match_cwd",
    "match_env",
    "match_inputs",
    "match_uid",
]


_WITHHELD: Final = "governance calls it secret: not quoted"


class ScopeMismatch(VerificationError):
    """An execution is outside the scope; the message is one sentence, no final full stop."""


def match_argv(
    patterns: Sequence[ArgPattern], argv: Sequence[str], *, secrets: Secrets = NOTHING_SECRET
) -> None:
    """Requires one matching argument a pattern, and no more.

    Args:
        patterns: What is allowed.
        argv: What was found.
        secrets: If an argument is secret, no argument is quoted: on a command line that is another than was expected
            nobody knows which one it is.

    Raises:
        ScopeMismatch: Names the first argument that differs.
    """
    for index, (pattern, value) in enumerate(zip(patterns, argv, strict=False)):
        if not matches(pattern, value):
            if index and secrets.any_argument:
                raise ScopeMismatch(f"argv[{index}]: it is not what the artifact allows ({_WITHHELD})")
            raise ScopeMismatch(f"argv[{index}]: expected {describe(pattern)}, found {quote(value)}")
    if len(argv) != len(patterns) and secrets.any_argument:
        raise ScopeMismatch(f"argv: expected {counted(len(patterns), 'argument')}, found {len(argv)}")
    if len(argv) > len(patterns):
        extra = quote(argv[len(patterns)])
        raise ScopeMismatch(
            f"argv: expected {counted(len(patterns), 'argument')}, found {len(argv)}, the first too many {extra}"
        )
    if len(argv) < len(patterns):
        missing = describe(patterns[len(argv)])
        raise ScopeMismatch(
            f"argv: expected {counted(len(patterns), 'argument')}, found {len(argv)}, the next one {missing}"
        )


def match_cwd(expected: str, cwd: str) -> None:
    """Requires the working directory.

    Raises:
        ScopeMismatch: It is another one.
    """
    if cwd != expected:
        raise ScopeMismatch(f"working directory: expected {quote(expected)}, found {quote(cwd)}")


def match_uid(expected: int, uid: int) -> None:
    """Requires the user that the command runs as.

    Raises:
        ScopeMismatch: It is another one.
    """
    if uid != expected:
        raise ScopeMismatch(f"user: expected uid {expected}, found uid {uid}")


def match_env(env: Env, found: Mapping[str, str], *, secrets: Secrets = NOTHING_SECRET) -> None:
    """Requires the child's environment: all of `set` with its values, and of the rest only what `pass` names.

    Args:
        env: What is allowed.
        found: The environment.
        secrets: Values that are not quoted.

    Raises:
        ScopeMismatch: Names the first variable that differs.
    """
    for name, value in env.set.items():
        if found.get(name) != value and secrets.has_variable(name):
            raise ScopeMismatch(f"environment: {name} is not what the artifact sets ({_WITHHELD})")
        if name not in found:
            raise ScopeMismatch(f"environment: expected {name}={quote(value)}, found no {name}")
        if found[name] != value:
            raise ScopeMismatch(
                f"environment: expected {name}={quote(value)}, found {name}={quote(found[name])}"
            )
    for name in found:
        if name not in env.set and name not in env.pass_:
            raise ScopeMismatch(f"environment: {quote(name)} is neither in env.set nor in env.pass")


def match_inputs(inputs: Sequence[Resource], found: Mapping[str, str]) -> None:
    """Requires exactly the pinned inputs.

    Args:
        inputs: What the scope pins.
        found: Real path to SHA-256 in hex, of the bytes that the command will read.

    Raises:
        ScopeMismatch: One is missing, has other bytes, or is not pinned.
    """
    for resource in inputs:
        digest = found.get(resource.name)
        if digest != resource.digest.sha256:
            shown = "no such file" if digest is None else f"sha256 {digest}"
            name = quote(resource.name)
            raise ScopeMismatch(f"input {name}: expected sha256 {resource.digest.sha256}, found {shown}")
    pinned = {resource.name for resource in inputs}
    for path in found:
        if path not in pinned:
            raise ScopeMismatch(f"input {quote(path)}: the artifact does not pin it")
