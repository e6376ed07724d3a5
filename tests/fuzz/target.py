"""What is fuzzed: one table of targets, filled by the modules beside this one."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from attestd.errors import MalformedError
from attestd.strict import canonical

TARGETS: dict[str, "Target"] = {}
MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class Target:
    """One parser of outside input.

    Attributes:
        run: Parses, and checks what must hold of anything that parses. Files it needs it makes in the current directory.
        allowed: The documented errors: any other is a crash.
        seeds: Valid examples; the first is accepted.
        is_json: Mutate JSON values too, not bytes alone.
        max_bytes: How long inputs grow.
    """

    name: str
    run: Callable[[bytes], object]
    allowed: tuple[type[BaseException], ...]
    seeds: Callable[[], Iterable[bytes]]
    is_json: bool = False
    max_bytes: int = MAX_BYTES


def target(
    *allowed: type[BaseException],
    seeds: Callable[[], Iterable[bytes]],
    is_json: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Callable[[Callable[[bytes], object]], Callable[[bytes], object]]:
    """Enters a function into the table, under its own name."""

    def enter(run: Callable[[bytes], object]) -> Callable[[bytes], object]:
        name = run.__name__.replace("_", "-")
        TARGETS[name] = Target(name, run, allowed, seeds, is_json, max_bytes)
        return run

    return enter


def value_of(data: bytes) -> Any:
    """Any JSON value in the input; None if it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def recanonical(data: bytes) -> bytes:
    """The canonical form, where there is one: most mutations would end at "not canonical" otherwise."""
    try:
        return canonical(json.loads(data))
    except (ValueError, RecursionError, MalformedError):
        return data
