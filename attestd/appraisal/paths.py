"""Path patterns of IMA policies: decidable, and matched in linear time whatever a file is called."""

from dataclasses import dataclass, field
from typing import Final

from attestd.errors import MalformedError

__all__ = ["PathPattern", "kernel_path", "parse_pattern"]

_MAX_PATTERN: Final = 1024


@dataclass(frozen=True)
class PathPattern:
    """A pattern: `*` stands for any bytes but `/`; a last component `**` for anything below.

    Attributes:
        text: As it was written.
    """

    text: str
    _literal: bytes = field(repr=False)
    _components: tuple[bytes, ...] = field(repr=False)
    _below: bool = field(repr=False)

    def matches(self, path: bytes) -> bool:
        """Whether a path as the kernel names it is meant."""
        if not path.startswith(self._literal):
            return False
        components = path.split(b"/")
        wanted = len(self._components)
        if len(components) <= wanted if self._below else len(components) != wanted:
            return False
        return all(map(_matches, self._components, components))


def parse_pattern(text: str) -> PathPattern:
    """Parses a pattern.

    Raises:
        MalformedError: Empty, over 1 KiB, `**` anywhere but as the last component, a NUL.
    """
    components = text.split("/")
    below = components[-1] == "**"
    parts = components[:-1] if below else components
    if not text or len(text) > _MAX_PATTERN or "\0" in text or any("**" in part for part in parts):
        raise MalformedError(
            f"path pattern {text[:80]!r}: expected a path with `*`, and `**` as its last component only"
        )
    literal = kernel_path(text.partition("*")[0])
    return PathPattern(text, literal, tuple(kernel_path(part) for part in parts), below)


def kernel_path(text: str) -> bytes:
    """A path as IMA's lists have it: the kernel writes `_` for each space."""
    return text.encode().replace(b" ", b"_")


def _matches(pattern: bytes, component: bytes) -> bool:
    """Greedy from the left: of each literal between stars the first place will do, so nothing is tried twice."""
    head, *rest = pattern.split(b"*")
    if not rest:
        return component == head
    *middle, tail = rest
    if (
        not component.startswith(head)
        or len(component) < len(head) + len(tail)
        or not component.endswith(tail)
    ):
        return False
    offset, end = len(head), len(component) - len(tail)
    for literal in middle:
        found = component.find(literal, offset, end)
        if found < 0:
            return False
        offset = found + len(literal)
    return True
