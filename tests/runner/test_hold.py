"""Files that can no longer change: sealed copies, and paths that only root can redirect."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestd.codes import Denied
from attestd.runner import hold
from attestd.runner.hold import hold_file, is_firm_path, require_here

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def held_before() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def opened(path: Path | str) -> int:
    return os.open(path, os.O_RDONLY)


@AS_ROOT
@pytest.mark.usefixtures("held_before")
def test_what_only_root_can_write_is_used_as_it_is() -> None:
    descriptor = opened("/bin/true")
    held = hold_file(descriptor)
    assert not held.observed.writable
    assert os.path.sameopenfile(held.descriptor, descriptor)
    os.close(held.descriptor)
    os.close(descriptor)


@pytest.mark.usefixtures("held_before")
def test_what_others_can_write_is_copied_and_sealed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"as verified")
    path.chmod(0o666)
    descriptor = opened(path)
    held = hold_file(descriptor)
    path.write_bytes(b"overwritten")
    assert held.observed.writable
    assert held.observed.path == str(path)
    assert os.pread(held.descriptor, 100, 0) == b"as verified"
    assert fcntl.fcntl(held.descriptor, fcntl.F_GET_SEALS) == hold._SEALS
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(held.descriptor, b"x")
    os.fchmod(held.descriptor, 0o755)
    again = os.open(f"/proc/self/fd/{held.descriptor}", os.O_RDWR)
    for change in (
        lambda: os.write(again, b"x"),
        lambda: os.ftruncate(again, 0),
        lambda: os.ftruncate(again, 1000),
    ):
        with pytest.raises(PermissionError):
            change()
    for number in (again, held.descriptor, descriptor):
        os.close(number)


@pytest.mark.usefixtures("held_before")
def test_too_large_a_copy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "MAX_COPY_BYTES", 10)
    path = tmp_path / "file"
    path.write_bytes(b"eleven byte")
    path.chmod(0o666)
    descriptor = opened(path)
    with pytest.raises(Denied, match="too large to be copied"):
        hold_file(descriptor)
    os.close(descriptor)


@pytest.mark.usefixtures("held_before")
def test_a_file_that_changes_between_digest_and_copy_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"first")
    path.chmod(0o666)
    descriptor = opened(path)
    copy = hold._sealed_copy

    def change_then_copy(number: int, name: str) -> int:
        path.write_bytes(b"second")
        return copy(number, name)

    monkeypatch.setattr(hold, "_sealed_copy", change_then_copy)
    with pytest.raises(Denied, match="changed while it was read"):
        hold_file(descriptor)
    os.close(descriptor)


def test_a_name_that_is_longer_than_a_memfds(tmp_path: Path) -> None:
    path = tmp_path / ("\u00e4" * 120)
    path.write_bytes(b"x")
    path.chmod(0o666)
    descriptor = opened(path)
    held = hold_file(descriptor)
    assert os.pread(held.descriptor, 10, 0) == b"x"
    os.close(held.descriptor)
    os.close(descriptor)


def test_a_path_is_that_of_its_file() -> None:
    descriptor = opened("/etc/hostname")
    require_here("/etc/hostname", descriptor)
    # Another file than the descriptor's, as in another mount namespace; and none.
    for path in ("/etc/passwd", "/etc/missing"):
        with pytest.raises(Denied, match=path):
            require_here(path, descriptor)
    os.close(descriptor)


def test_a_file_that_somebody_has_open_for_writing_is_copied(tmp_path: Path) -> None:
    """Whoever opened it while it was theirs can write to it after chown and chmod."""
    path = tmp_path / "file"
    path.write_bytes(b"as verified")
    path.chmod(0o755)
    descriptor = opened(path)
    with path.open("r+b", buffering=0) as writer:
        held = hold_file(descriptor)
        writer.write(b"overwritten")
        assert held.observed.writable
        assert os.pread(held.descriptor, 100, 0) == b"as verified"
        os.close(held.descriptor)
    os.close(descriptor)


@AS_ROOT
def test_firm_paths(tmp_path: Path) -> None:
    assert is_firm_path("/etc/hostname")
    assert not is_firm_path("/missing/hostname")


@AS_ROOT
@pytest.mark.parametrize(
    ("mode", "owner", "firm"),
    [(0o755, 0, True), (0o777, 0, False), (0o775, 0, False), (0o1777, 0, True), (0o755, 65534, False)],
)
def test_a_directory_on_the_way(mode: int, owner: int, firm: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        middle = Path(name) / "middle"
        (middle / "inner").mkdir(parents=True)
        path = middle / "inner" / "file"
        path.write_bytes(b"x")
        middle.chmod(mode)
        os.chown(middle, owner, 0)
        assert is_firm_path(str(path)) is firm
