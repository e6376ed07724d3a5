"""The export, read by a few lines that follow the C2SP text (https://c2sp.org/tlog-tiles) and know nothing of attestd."""

import hashlib
import os
import stat
from base64 import b64decode
from pathlib import Path

import pytest

from attestd.audit.export import export_log
from attestd.errors import StoreError, UsageError
from tests.audit.harness import Log, record


def _number(n: int) -> str:
    groups = []
    while True:
        n, rest = divmod(n, 1000)
        groups.append(f"{rest:03}" if not groups else f"x{rest:03}")
        if not n:
            return "/".join(reversed(groups))


def _read(directory: Path, kind: str, size: int) -> bytes:
    """All tiles of one level, one after the other; `size` is the number of hashes on it."""
    full, rest = divmod(size, 256)
    paths = [f"tile/{kind}/{_number(n)}" for n in range(full)]
    if rest:
        paths.append(f"tile/{kind}/{_number(full)}.p/{rest}")
    return b"".join((directory / path).read_bytes() for path in paths)


def _entries(bundles: bytes) -> list[bytes]:
    entries = []
    while bundles:
        size = int.from_bytes(bundles[:2], "big")
        entries.append(bundles[2 : 2 + size])
        bundles = bundles[2 + size :]
    return entries


def _root(hashes: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, as it is written there."""
    if len(hashes) == 1:
        return hashes[0]
    k = 1 << (len(hashes) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + _root(hashes[:k]) + _root(hashes[k:])).digest()


def test_a_client_that_is_not_ours_verifies_the_export(log: Log, tmp_path: Path):
    size = 600  # three tiles of level 0, the last partial, and one of level 1
    log.seal(*([record(n) for n in range(200)] for _ in range(3)))
    directory = tmp_path / "export"
    checkpoint = export_log(log.open(), str(directory))

    note = (directory / "checkpoint").read_bytes()
    assert (note, checkpoint.size) == (checkpoint.note, size)
    origin, count, root, *_ = note.decode().split("\n")
    assert (origin, int(count)) == (log.origin, size)
    entries = _entries(_read(directory, "entries", size))
    assert entries == [data for _, data in log.open().entries(0, size)]
    leaves = [hashlib.sha256(b"\0" + entry).digest() for entry in entries]
    assert _root(leaves) == b64decode(root)
    assert _read(directory, "0", size) == b"".join(leaves)
    subtrees = [_root(leaves[n : n + 256]) for n in range(0, size - 255, 256)]
    assert _read(directory, "1", len(subtrees)) == b"".join(subtrees)


def test_the_export_is_private_and_leaves_nothing_beside_it(started: Log, tmp_path: Path):
    target = tmp_path / "out" / "export"
    target.parent.mkdir()
    export_log(started.open(), str(target))
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    assert os.listdir(target.parent) == ["export"]
    found = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert found == ["checkpoint", "tile/0/000.p/5", "tile/entries/000.p/5"]


def test_an_existing_directory_is_left_alone(started: Log, tmp_path: Path):
    with pytest.raises(UsageError, match="exists"):
        export_log(started.open(), str(tmp_path))


def test_an_empty_log_has_nothing_to_export(log: Log, tmp_path: Path):
    with pytest.raises(UsageError, match="no checkpoint"):
        export_log(log.open(), str(tmp_path / "export"))


def test_an_export_that_fails_leaves_nothing(started: Log, tmp_path: Path):
    started.tamper("DELETE FROM nodes WHERE level = 0 AND idx = 2")
    target = tmp_path / "out" / "export"
    target.parent.mkdir()
    with pytest.raises(StoreError, match="rows were deleted"):
        export_log(started.open(), str(target))
    assert os.listdir(target.parent) == []


def test_a_directory_that_cannot_be_written_is_a_store_error(started: Log, tmp_path: Path):
    with pytest.raises(StoreError, match="cannot export"):
        export_log(started.open(), str(tmp_path / "missing" / "export"))
