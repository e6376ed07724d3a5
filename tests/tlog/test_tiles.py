from collections import Counter

import pytest

from attestd.errors import UsageError
from attestd.tlog.tiles import Tile, format_bundle, tiles
from attestd.tlog.tree import Frontier, leaf_hash, node_hash


def test_c2sp_examples_of_paths():
    assert Tile(0, 1234067, 256).path == "tile/0/x001/x234/067"
    assert Tile(0, 1234067, 256).bundle_path == "tile/entries/x001/x234/067"
    assert Tile(3, 0, 1).path == "tile/3/000.p/1"
    assert Tile(0, 999, 255).bundle_path == "tile/entries/999.p/255"
    assert Tile(0, 1000, 256).path == "tile/0/x001/000"
    assert Tile(0, 1_000_000, 256).path == "tile/0/x001/x000/000"


def test_c2sp_example_of_a_tree():
    """Of 70,000 leaves, and of 256, as tlog-tiles counts their tiles."""
    assert Counter((tile.level, tile.width) for tile in tiles(70_000)) == {
        (0, 256): 273,
        (0, 112): 1,
        (1, 256): 1,
        (1, 17): 1,
        (2, 1): 1,
    }
    assert list(tiles(256)) == [Tile(0, 0, 256), Tile(1, 0, 1)]


def test_no_tiles_of_no_tree():
    assert list(tiles(0)) == []
    with pytest.raises(UsageError, match="no tree has -1 leaves"):
        list(tiles(-1))


def test_tiles_rebuild_the_tree():
    """A monitor that has only the files gets the root that was signed."""
    size = 256 * 2 + 77
    leaves = [leaf_hash(b"%d" % i) for i in range(size)]
    frontier, nodes = Frontier().append(leaves)
    rows = {(node.level, node.index): node.hash for node in nodes}
    files = {tile.path: tile.data(lambda level, index: rows[level, index]) for tile in tiles(size)}
    assert {path: len(data) // 32 for path, data in files.items()} == {
        "tile/0/000": 256,
        "tile/0/001": 256,
        "tile/0/002.p/77": 77,
        "tile/1/000.p/2": 2,
    }
    assert files["tile/0/000"] + files["tile/0/001"] + files["tile/0/002.p/77"] == b"".join(leaves)
    first, second = files["tile/1/000.p/2"][:32], files["tile/1/000.p/2"][32:]
    assert [first, second] == [Frontier().append(leaves[i : i + 256])[0].root() for i in (0, 256)]
    assert node_hash(node_hash(first, second), Frontier().append(leaves[512:])[0].root()) == frontier.root()


def test_entry_bundles_follow_the_leaves():
    entries = [b"%d" % i for i in range(300)]
    bundles = [format_bundle(entries[i] for i in tile.span) for tile in tiles(300) if tile.level == 0]
    found = []
    for bundle in bundles:
        rest = bundle
        while rest:
            length = int.from_bytes(rest[:2], "big")
            found.append(rest[2 : 2 + length])
            rest = rest[2 + length :]
    assert found == entries
    assert bundles[0].startswith(b"\x00\x010\x00\x011")
    assert [len(list(tile.span)) for tile in tiles(300) if tile.level == 0] == [256, 44]


def test_the_longest_entry():
    assert format_bundle([b"", b"e" * 0xFFFF]) == b"\x00\x00\xff\xff" + b"e" * 0xFFFF
    with pytest.raises(UsageError, match="65536 bytes"):
        format_bundle([b"e" * 0x10000])
