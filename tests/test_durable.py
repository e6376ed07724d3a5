"""Files that are whole at every moment, and directories whose mode is what was asked for."""

import os
import threading
from pathlib import Path

import pytest

from attestd.durable import make_directories, make_directory, write_atomic
from attestd.errors import StoreError


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_write_atomic(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_atomic(path, b"one", mode=0o644)
    write_atomic(path, b"two" * 10_000_000, mode=0o600)
    assert path.read_bytes() == b"two" * 10_000_000
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_mode_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        write_atomic(tmp_path / "x", b"", mode=0o644)
    finally:
        os.umask(old)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_write_atomic_where_it_cannot(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        write_atomic(tmp_path / "none/x", b"", mode=0o644)
    (tmp_path / "x").mkdir()
    with pytest.raises(StoreError):
        write_atomic(tmp_path / "x", b"data", mode=0o644)
    assert [path.name for path in tmp_path.iterdir()] == ["x"], "no temporary file stays"


def test_write_atomic_is_durable_before_and_after_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data is on disk before the name points to it, and the name before anyone is told."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")).split(".json")[0])
        fsync(descriptor)

    def replaced(old: Path, new: Path) -> None:
        done.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    before = len(os.listdir("/proc/self/fd"))
    write_atomic(tmp_path / "x.json", b"data", mode=0o644)
    assert done == [".x", "replace", tmp_path.name]
    assert len(os.listdir("/proc/self/fd")) == before


def test_write_atomic_readers_see_the_old_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomic(path, b"0" * 100_000, mode=0o644)
    stop = threading.Event()
    torn: list[bytes] = []

    def read() -> None:
        while not stop.is_set():
            data = path.read_bytes()
            if len(data) != 100_000 or len(set(data)) != 1:
                torn.append(data[:10])

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(40):
        write_atomic(path, str(number % 10).encode() * 100_000, mode=0o644)
    stop.set()
    reader.join()
    assert torn == []


def test_directories_have_their_mode_whatever_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        assert make_directory(tmp_path / "a", 0o755)
    finally:
        os.umask(mask)
    assert mode_of(tmp_path / "a") == 0o755
    assert not make_directory(tmp_path / "a", 0o700)
    assert mode_of(tmp_path / "a") == 0o755, "what is there stays as it is"
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError):
            make_directory(path, 0o700)


def test_directories_below_a_top(tmp_path: Path) -> None:
    make_directories(tmp_path / "top/a/b", top=tmp_path / "top", mode=0o750)
    assert [mode_of(tmp_path / "top" / path) for path in (".", "a", "a/b")] == [0o750] * 3
    make_directories(tmp_path / "top/a/b", top=tmp_path / "top", mode=0o700)
    assert mode_of(tmp_path / "top/a/b") == 0o750
