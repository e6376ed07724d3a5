"""Trust on disk: who owns it, who can write, what kinds of files, and when it is read again."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestd.distribution import local
from attestd.distribution.local import TrustDirectory, load_trust, read_trust_files, write_atomic
from attestd.errors import MalformedError, StoreError, VerificationError
from attestd.strict import canonical
from tests.world import World

ME = os.geteuid()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def trust(world: World, tmp_path: Path) -> Path:
    return world.write_trust(tmp_path / "trust")


def refused(directory: Path, error: type[Exception] = VerificationError) -> str:
    with pytest.raises(error) as raised:
        load_trust(directory, owners=[ME])
    return str(raised.value)


def test_loads_what_was_written(world: World, trust: Path) -> None:
    assert read_trust_files(trust, owners=[ME]) == world.files()
    assert load_trust(trust, owners=[ME]).digest == world.trust().digest


def test_missing_directory(tmp_path: Path) -> None:
    assert "attestd init" in refused(tmp_path / "none", StoreError)


def test_directory_that_is_a_file(trust: Path) -> None:
    refused(trust / "authorities.json", StoreError)


# who


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
@pytest.mark.parametrize("name", ["authorities.json", "platform/local.json"])
def test_files_that_others_can_write(trust: Path, name: str, mode: int) -> None:
    (trust / name).chmod(mode)
    assert "others can write" in refused(trust)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
@pytest.mark.parametrize("name", [".", "platform", "hosts"])
def test_directories_that_others_can_write(trust: Path, name: str, mode: int) -> None:
    (trust / name).chmod(mode)
    assert "others can write" in refused(trust)


def test_private_files_are_fine(trust: Path) -> None:
    for path in trust.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    assert load_trust(trust, owners=[ME, 12345]).version == 3


def test_another_owner_is_expected(trust: Path) -> None:
    with pytest.raises(VerificationError, match="expected 4242 or 4243: chown it"):
        load_trust(trust, owners=[4243, 4242])


@pytest.mark.skipif(ME != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", [".", "platform", "revocations.json", "platform/local.json"])
def test_another_owner_is_found(trust: Path, name: str) -> None:
    os.chown(trust / name, 4242, -1)
    assert "owned by uid 4242" in refused(trust)


# what


@pytest.mark.parametrize("name", ["authorities.json", "platform/local.json"])
def test_symbolic_links(trust: Path, tmp_path: Path, name: str) -> None:
    """Even to a safe file: who can write beside the link's target is nobody's check."""
    target = tmp_path / "elsewhere.json"
    (trust / name).rename(target)
    (trust / name).symlink_to(target)
    assert "symbolic link" in refused(trust)


def test_symbolic_links_to_directories(trust: Path, tmp_path: Path) -> None:
    (trust / "platform").rename(tmp_path / "platform")
    (trust / "platform").symlink_to(tmp_path / "platform")
    assert "symbolic link" in refused(trust)


def test_dangling_symbolic_link(trust: Path) -> None:
    (trust / "x.json").symlink_to("nowhere")
    assert "symbolic link" in refused(trust)


def test_fifo(trust: Path) -> None:
    os.mkfifo(trust / "authorities2.json", 0o600)
    assert "regular file" in refused(trust)


def test_socket(trust: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(trust / "x.json"))
        (trust / "x.json").chmod(0o600)
        refused(trust, StoreError)


def test_directories_too_deep(trust: Path) -> None:
    (trust / "platform/history/deeper").mkdir(parents=True, mode=0o755)
    (trust / "platform/history").chmod(0o755)
    assert "regular file" in refused(trust)


def test_unknown_files_are_refused(trust: Path) -> None:
    (trust / "notes.txt").write_text("x")
    (trust / "notes.txt").chmod(0o600)
    assert "unknown file" in refused(trust, MalformedError)


def test_name_that_is_not_utf8(trust: Path) -> None:
    path = os.fsencode(trust) + b"/\xff.json"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    assert "unknown file" in refused(trust, MalformedError)


def test_leftovers_of_an_update_are_left_out(world: World, trust: Path) -> None:
    (trust / ".authorities.json.123").write_bytes(b"half a fi")
    (trust / ".history").mkdir(mode=0o777)
    assert load_trust(trust, owners=[ME]).digest == world.trust().digest


def test_oversize(trust: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (trust / "revocations.json").read_bytes()
    largest = max(path.stat().st_size for path in trust.rglob("*.json"))
    monkeypatch.setattr(local, "MAX_FILE_BYTES", largest)
    assert read_trust_files(trust, owners=[ME])["revocations.json"] == data
    monkeypatch.setattr(local, "MAX_FILE_BYTES", largest - 1)
    assert "over" in refused(trust, MalformedError)


def test_sparse_oversize_is_not_read_whole(trust: Path) -> None:
    with (trust / "revocations.json").open("r+b") as file:
        file.truncate(1 << 40)
    assert "over" in refused(trust, MalformedError)


def test_too_many_files(trust: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = sum(path.is_file() for path in trust.rglob("*"))
    monkeypatch.setattr(local, "MAX_FILES", count)
    assert load_trust(trust, owners=[ME])
    monkeypatch.setattr(local, "MAX_FILES", count - 1)
    assert "more than" in refused(trust, StoreError)


@pytest.mark.skipif(ME == 0, reason="root reads everything")
def test_unreadable(trust: Path) -> None:
    (trust / "authorities.json").chmod(0)
    refused(trust, StoreError)


def test_no_descriptor_leaks(trust: Path) -> None:
    (trust / "zz.json").symlink_to("x")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        refused(trust)
    assert len(os.listdir("/proc/self/fd")) == before


# TrustDirectory


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files count as old enough at once, and each call looks."""
    monkeypatch.setattr(local, "SETTLED_NS", -(10**12))
    monkeypatch.setattr(local, "LOOK_S", 0.0)
    return


def change(world: World, trust: Path, uid: int) -> None:
    world.revocations["requesters"] = [uid]
    write_atomic(trust / "revocations.json", canonical(world.revocations), mode=0o644)


@pytest.mark.usefixtures("settled")
def test_read_again_only_when_something_changed(world: World, trust: Path) -> None:
    directory = TrustDirectory(trust, owners=[ME])
    first = directory.current()
    assert directory.current() is first
    change(world, trust, 5)
    second = directory.current()
    assert second is not first
    assert second.revocations.requesters == {5}
    assert directory.current() is second


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "what", ["rewritten", "mode", "added", "removed", "directory mode", "directory added"]
)
def test_every_change_is_seen(trust: Path, what: str) -> None:
    directory = TrustDirectory(trust, owners=[ME])
    directory.current()
    time.sleep(0.01)  # past the kernel's tick: see below for changes within one
    path = trust / "revocations.json"
    if what == "rewritten":
        path.write_bytes(path.read_bytes().replace(b'"epoch":0', b'"epoch":x'))
    elif what == "mode":
        path.chmod(0o666)
    elif what == "added":
        (trust / "hosts/x.json").write_bytes(b"{}")
    elif what == "removed":
        path.unlink()
    elif what == "directory mode":
        (trust / "hosts").chmod(0o777)
    else:
        (trust / "other").mkdir(mode=0o777)
        (trust / "other").chmod(0o777)
    with pytest.raises((MalformedError, VerificationError)):
        directory.current()


@pytest.mark.usefixtures("settled")
def test_nothing_is_trusted_while_it_does_not_verify(world: World, trust: Path) -> None:
    directory = TrustDirectory(trust, owners=[ME])
    directory.current()
    (trust / "revocations.json").chmod(0o666)
    for _ in range(2):
        with pytest.raises(VerificationError):
            directory.current()
    (trust / "revocations.json").chmod(0o644)
    assert directory.current().digest == world.trust().digest


@pytest.mark.usefixtures("settled")
def test_nothing_is_trusted_while_it_is_gone(trust: Path) -> None:
    directory = TrustDirectory(trust, owners=[ME])
    directory.current()
    trust.rename(trust.with_name("gone"))
    for _ in range(2):
        with pytest.raises(StoreError):
            directory.current()
    trust.with_name("gone").rename(trust)
    assert directory.current().version == 3


def test_looked_at_only_now_and_then(world: World, trust: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOOK_S", 1000.0)
    directory = TrustDirectory(trust, owners=[ME])
    first = directory.current()
    change(world, trust, 5)
    assert directory.current() is first
    monkeypatch.setattr(local, "LOOK_S", 0.0)
    assert directory.current().revocations.requesters == {5}


def test_changes_within_one_tick_are_seen(world: World, trust: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same inode, same size, same ctime: until a file is older than a tick, its ctime says nothing."""
    monkeypatch.setattr(local, "LOOK_S", 0.0)
    frozen = local._fingerprint(trust)
    monkeypatch.setattr(local, "_fingerprint", lambda _: frozen)
    directory = TrustDirectory(trust, owners=[ME])
    first = directory.current()
    change(world, trust, 5)
    assert directory.current().revocations.requesters == {5}
    assert first.revocations.requesters == frozenset()


def test_a_fingerprint_is_bounded(trust: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAX_FILES", 2)
    with pytest.raises(StoreError, match="more than 2 files"):
        TrustDirectory(trust, owners=[ME]).current()


# write_atomic


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
