"""Who can write the mirror, against host records that are read long after governance was verified: on a real directory."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from attestd.distribution.local import TrustDirectory, TrustSource
from attestd.governance.trust import Trust
from tests.world import Host, World


@pytest.fixture
def world() -> World:
    found = World("mirror of records")
    other = Host("other", root=found.root)
    found.records[other.id] = found.host_record(other)
    return found


@pytest.fixture
def directory(world: World, tmp_path: Path) -> TrustDirectory:
    trust = world.write_trust(tmp_path / "trust")
    return TrustDirectory(TrustSource.at(trust, owners=[os.geteuid()]))


def file_of(directory: TrustDirectory, host: str) -> Path:
    [found] = (directory.source.mirror / "targets" / "hosts").glob(f"*.{host}.json")
    return found


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        where = Path.cwd()
        os.chdir(path.parent)  # Neither the directory's name nor the file's is one that a socket may have.
        try:
            listener.bind("s")
        finally:
            os.chdir(where)
    path.with_name("s").rename(path)


def _link(path: Path) -> None:
    path.with_suffix(".copy").write_bytes(b"")
    path.symlink_to(path.with_suffix(".copy"))


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


PLANTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda _: None, "other hosts' are not kept on a host"),
    "fifo": (os.mkfifo, "expected a regular file"),
    "socket": (_socket, "found a link or socket"),
    "link": (_link, "found a link or socket"),
    "directory": (Path.mkdir, "expected a regular file"),
    "huge": (_huge, "over "),
    "empty": (Path.touch, "expected"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_lies_there_instead(world: World, directory: TrustDirectory, planted: str) -> None:
    """It is not waited for and not believed; no other host suffers; and the record counts again when it is back."""
    plant, words = PLANTED[planted]
    trust, path = directory.look(), file_of(directory, world.host.id)
    data = path.read_bytes()
    path.unlink()
    plant(path)
    found: list[object] = []
    asking = threading.Thread(target=lambda: found.append(trust.hosts.get(world.host.id)), daemon=True)
    asking.start()
    asking.join(10)
    assert found == [None]
    assert words in trust.why_none(world.host.id)
    assert sum(1 for _ in trust.hosts.values()) == 1
    assert directory.look() is trust, "what governance says did not change"
    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
    path.write_bytes(data)
    assert len(list(trust.hosts.values())) == 2


def test_a_record_swapped_where_it_lies(world: World, directory: TrustDirectory) -> None:
    """With one that was good once: what was signed for governance of now decides, before it was asked for and after."""
    host, trust = world.host.id, directory.look()
    path = file_of(directory, host)
    old, where = path.read_bytes(), path
    world.records[host] |= {"tier": "vtpm"}
    world.write_trust(directory.source.mirror)
    after = directory.look()
    new = next(p for p in path.parent.glob(f"*.{host}.json") if p.read_bytes() != old)
    good = new.read_bytes()
    new.write_bytes(old)
    assert after.hosts.get(host) is None
    new.write_bytes(good)
    assert after.hosts[host].tier == "vtpm"
    new.write_bytes(old)
    assert after.hosts[host].tier == "vtpm"
    where.unlink(missing_ok=True)
    assert trust.hosts.get(host) is None, "of the set before it was never read, and is gone"


def test_directories_that_change_places(world: World, directory: TrustDirectory) -> None:
    """A whole other tree below `hosts`: only what has the right digests counts."""
    trust, targets = directory.look(), directory.source.mirror / "targets"
    (targets / "hosts").rename(targets / "moved")
    (targets / "hosts").symlink_to(targets / "moved")
    assert list(trust.hosts.values()) == []
    assert all("not a directory, or a symbolic link" in why for why in trust.unusable.values())
    (targets / "hosts").unlink()
    (targets / "moved").rename(targets / "hosts")
    assert len(usable(trust)) == 2


def usable(trust: Trust) -> list[str]:
    return [host.host for host in trust.hosts.values()]
