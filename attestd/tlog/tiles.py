"""C2SP tlog-tiles: the layout of a log as static files, for export.

Source: https://c2sp.org/tlog-tiles. Beside the files of `tiles` stands `checkpoint`, a signed note. Paths are relative,
with `/`; writing them is the caller's affair.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from attestd.errors import MalformedError, UsageError
from attestd.tlog.tree import NodeSource

__all__ = ["Tile", "format_bundle", "parse_bundle", "tiles"]

_HEIGHT: Final = 8
_WIDTH: Final = 1 << _HEIGHT
_MAX_ENTRY_BYTES: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class Tile:
    """Up to 256 consecutive hashes of one tree level; at level 0 the leaves, to which an entry bundle belongs.

    Attributes:
        level: The tile level: 8 tree levels each.
        index: Its place on its level.
        width: How many hashes it has; fewer than 256 make it partial.
    """

    level: int
    index: int
    width: int

    @property
    def path(self) -> str:
        """`tile/<L>/<N>[.p/<W>]`, as in `tile/0/x001/x234/067.p/8`."""
        return f"tile/{self.level}/{self._number()}"

    @property
    def bundle_path(self) -> str:
        """`tile/entries/<N>[.p/<W>]`, of a tile of level 0."""
        return f"tile/entries/{self._number()}"

    @property
    def span(self) -> range:
        """The nodes of tree level 8·`level` that the tile holds; at level 0 the leaf indices of its bundle."""
        return range(self.index * _WIDTH, self.index * _WIDTH + self.width)

    def data(self, node: NodeSource) -> bytes:
        """The file's bytes.

        Raises:
            Exception: Whatever `node` raises.
        """
        return b"".join(node(self.level * _HEIGHT, index) for index in self.span)

    def _number(self) -> str:
        """<N>: three digits each, all groups but the last with an x, so that no file is also a directory."""
        rest, number = divmod(self.index, 1000)
        path = f"{number:03}"
        while rest:
            rest, number = divmod(rest, 1000)
            path = f"x{number:03}/{path}"
        return path if self.width == _WIDTH else f"{path}.p/{self.width}"


def tiles(size: int) -> Iterator[Tile]:
    """All tiles of a tree, by level, full ones first.

    Args:
        size: The number of leaves.

    Raises:
        UsageError: `size` is negative.
    """
    if size < 0:
        raise UsageError(f"no tree has {size} leaves")
    level = 0
    while size:
        full, rest = divmod(size, _WIDTH)
        yield from (Tile(level, index, _WIDTH) for index in range(full))
        if rest:
            yield Tile(level, full, rest)
        size, level = full, level + 1


def format_bundle(entries: Iterable[bytes]) -> bytes:
    """An entry bundle: each entry after its length, a big-endian uint16.

    Raises:
        UsageError: An entry is longer than that can say.
    """
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > _MAX_ENTRY_BYTES:
            raise UsageError(f"an entry of {len(entry)} bytes, a bundle takes {_MAX_ENTRY_BYTES}")
        parts += (len(entry).to_bytes(2, "big"), entry)
    return b"".join(parts)


def parse_bundle(data: bytes) -> list[bytes]:
    """The entries of an entry bundle.

    Raises:
        MalformedError: The last one is cut short, or there are more than a tile has.
    """
    entries: list[bytes] = []
    position = 0
    while position < len(data):
        start = position + 2
        end = start + int.from_bytes(data[position:start], "big")
        if end > len(data) or len(entries) == _WIDTH:
            raise MalformedError(f"entry bundle: entry {len(entries)} is cut short, or one too many")
        entries.append(data[start:end])
        position = end
    return entries
