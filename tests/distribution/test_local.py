"""Governance on disk: who owns the anchor, what lies in the mirror, when it is read again, and that it never goes back."""

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attestd.distribution import local
from attestd.distribution.local import (
    TrustDirectory,
    TrustSource,
    load_own_trust,
    load_trust,
    read_verified_files,
)
from attestd.errors import (
    AttestdError,
    GovernanceRollbackError,
    MalformedError,
    StoreError,
    VerificationError,
)
from attestd.governance.floor import Floor
from attestd.paths import find_layout
from tests.world import World

ME = os.geteuid()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def trust(world: World, tmp_path: Path) -> Path:
    return world.write_trust(tmp_path / "trust")


def source(directory: Path) -> TrustSource:
    return TrustSource.at(directory, owners=[ME])


def refused(directory: Path, error: type[Exception] = VerificationError) -> str:
    with pytest.raises(error) as raised:
        load_trust(source(directory))
    return str(raised.value)


def file_of(trust: Path, name: str) -> Path:
    """A published file, by the end of its name."""
    return next(path for path in sorted(trust.rglob("*.json")) if str(path).endswith(name))


def change(world: World, trust: Path, uid: int) -> None:
    """The next version of governance, published."""
    world.revocations["requesters"] = sorted({*world.revocations["requesters"], uid})
    world.revocations["version"] += 1
    world.write_trust(trust)


def test_loads_what_was_written(world: World, trust: Path) -> None:
    assert load_trust(source(trust)).digest == world.trust().digest


def test_anchor_and_mirror_apart(world: World, trust: Path, tmp_path: Path) -> None:
    anchor = tmp_path / "anchor"
    anchor.mkdir(mode=0o755)
    (trust / "root.json").rename(anchor / "root.json")
    found = load_trust(TrustSource(anchor, trust, frozenset({ME})))
    assert found.digest == world.trust().digest


def test_where_an_installation_has_it(world: World, tmp_path: Path) -> None:
    layout = find_layout(str(tmp_path))
    world.write_trust(layout.trust)
    assert load_own_trust(layout).digest == world.trust().digest
    layout.configuration.write_text('governance_url = "/srv/governance"')
    with pytest.raises(StoreError, match="agent/governance"):
        load_own_trust(layout)
    world.write_trust(layout.mirror)
    (layout.mirror / "root.json").unlink()
    assert load_own_trust(layout).digest == world.trust().digest


def test_missing_directory(tmp_path: Path) -> None:
    assert "attestd init" in refused(tmp_path / "none", StoreError)


def test_directory_that_is_a_file(trust: Path) -> None:
    refused(trust / "root.json", StoreError)


# the anchor: who


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_an_anchor_that_others_can_write(trust: Path, mode: int) -> None:
    (trust / "root.json").chmod(mode)
    assert "others can write" in refused(trust)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_directory_of_the_anchor_that_others_can_write(trust: Path, mode: int) -> None:
    trust.chmod(mode)
    assert "others can write" in refused(trust)


def test_private_files_are_fine(trust: Path) -> None:
    for path in trust.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    assert load_trust(source(trust)).version == 1


def test_another_owner_is_expected(trust: Path) -> None:
    with pytest.raises(VerificationError, match="expected 4242 or 4243: chown it"):
        load_trust(TrustSource.at(trust, owners=[4243, 4242]))


@pytest.mark.skipif(ME != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", [".", "root.json"])
def test_another_owner_is_found(trust: Path, name: str) -> None:
    os.chown(trust / name, 4242, -1)
    assert "owned by uid 4242" in refused(trust)


def test_an_anchor_that_is_a_link(trust: Path, tmp_path: Path) -> None:
    (trust / "root.json").rename(tmp_path / "root.json")
    (trust / "root.json").symlink_to(tmp_path / "root.json")
    assert "link" in refused(trust)


def test_another_anchor(world: World, trust: Path) -> None:
    other = World(name="other")
    (trust / "root.json").write_bytes(other.publish().root)
    assert "signed by 0/1 keys" in refused(trust)


# the mirror: whoever can write it changes nothing but whether it can be used


def test_anybody_may_own_the_mirror(world: World, trust: Path) -> None:
    for path in (trust / "metadata", trust / "targets"):
        path.chmod(0o777)
    file_of(trust, "timestamp.json").chmod(0o666)
    assert load_trust(source(trust)).digest == world.trust().digest


def swap(path: Path, kind: str) -> None:
    data = path.read_bytes()
    path.unlink()
    if kind == "link":
        elsewhere = path.parent.parent / "elsewhere"
        elsewhere.write_bytes(data)
        path.symlink_to(elsewhere)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            before = Path.cwd()
            os.chdir(path.parent)
            server.bind(path.name[:100])
            os.chdir(before)
            (path.parent / path.name[:100]).rename(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "sparse":
        path.write_bytes(data)
        with path.open("r+b") as file:
            file.truncate(1 << 40)
    elif kind == "longer":
        path.write_bytes(data + b" ")
    elif kind == "shorter":
        path.write_bytes(data[:-1])


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "revocations.json", ".local.json"])
@pytest.mark.parametrize(
    "kind", ["removed", "link", "fifo", "directory", "socket", "device", "sparse", "longer", "shorter"]
)
def test_what_is_no_published_file(trust: Path, name: str, kind: str) -> None:
    swap(file_of(trust, name), kind)
    if (name, kind) == ("timestamp.json", "longer"):
        load_trust(source(trust))  # white space after JSON: nothing that is signed
    else:
        with pytest.raises((StoreError, VerificationError, MalformedError)):
            load_trust(source(trust))


@pytest.mark.parametrize("name", ["metadata", "targets", "targets/platform"])
def test_symbolic_links_to_directories(trust: Path, tmp_path: Path, name: str) -> None:
    (trust / name).rename(tmp_path / "moved")
    (trust / name).symlink_to(tmp_path / "moved")
    assert "symbolic link" in refused(trust)


def test_what_nothing_names_disturbs_nobody(world: World, trust: Path) -> None:
    (trust / "targets" / "notes.txt").write_text("x")
    (trust / "metadata" / ".timestamp.json.12").write_bytes(b"half a fi")
    assert load_trust(source(trust)).digest == world.trust().digest


def test_no_descriptor_leaks(trust: Path) -> None:
    swap(file_of(trust, "revocations.json"), "link")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        refused(trust)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_copy_of_the_verified_files_verifies(world: World, trust: Path, tmp_path: Path) -> None:
    (trust / "targets" / "notes.txt").write_text("x")
    files = read_verified_files(source(trust))
    assert not any("notes" in name for name in files)
    for name, data in files.items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert load_trust(source(tmp_path / "copy")).digest == world.trust().digest


def test_a_set_that_is_replaced_while_it_is_read(
    world: World, trust: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files that were named are gone before they are opened: then the new ones are read."""
    real = local.verify_metadata
    calls = []

    def publishing(*arguments: object, **named: object) -> object:
        found = real(*arguments, **named)  # type: ignore[arg-type]
        if not calls:
            calls.append(1)
            change(world, trust, 5)
            for path in trust.rglob("1.*"):
                if "root" not in path.name:
                    path.unlink()
            old = next(
                path
                for path in (trust / "targets").glob("*.revocations.json")
                if b"[5]" not in path.read_bytes()
            )
            old.unlink()
        return found

    monkeypatch.setattr(local, "verify_metadata", publishing)
    assert load_trust(source(trust)).revocations.requesters == {5}


# TrustDirectory


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files count as old enough at once, and each call looks."""
    monkeypatch.setattr(local, "SETTLED_NS", -(10**12))
    monkeypatch.setattr(local, "LOOK_S", 0.0)
    return


@pytest.mark.usefixtures("settled")
def test_read_again_only_when_something_changed(world: World, trust: Path) -> None:
    directory = TrustDirectory(source(trust))
    first = directory.current()
    assert directory.current() is first
    change(world, trust, 5)
    second = directory.current()
    assert second is not first
    assert second.revocations.requesters == {5}
    assert directory.current() is second


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "edit",
    [
        lambda trust: file_of(trust, "timestamp.json").write_bytes(b"{}"),
        lambda trust: file_of(trust, "timestamp.json").unlink(),
        lambda trust: (trust / "root.json").chmod(0o666),
        lambda trust: trust.chmod(0o777),
        lambda trust: (trust / "metadata" / "2.root.json").write_bytes(b"{}"),
        lambda trust: trust.rename(trust.with_name("gone")),
        lambda trust: (trust / "metadata").rename(trust / "gone"),
    ],
)
def test_what_denies_at_once(trust: Path, edit: Callable[[Path], object]) -> None:
    directory = TrustDirectory(source(trust))
    directory.current()
    time.sleep(0.01)  # past the kernel's tick: see below for changes within one
    edit(trust)
    for _ in range(2):
        with pytest.raises(AttestdError):
            directory.current()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("name", ["1.snapshot.json", "revocations.json", ".local.json"])
def test_what_is_edited_where_it_lies(trust: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = TrustDirectory(source(trust))
    directory.current()
    path = file_of(trust, name)
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    monkeypatch.setattr(local, "DEEP_S", 0.0)
    for _ in range(2):
        with pytest.raises(AttestdError):
            directory.current()
    path.write_bytes(good)
    assert directory.current().version == 1


@pytest.mark.usefixtures("settled")
def test_nothing_is_trusted_while_it_does_not_verify(world: World, trust: Path) -> None:
    directory = TrustDirectory(source(trust))
    directory.current()
    (trust / "root.json").chmod(0o666)
    for _ in range(2):
        with pytest.raises(VerificationError):
            directory.current()
    (trust / "root.json").chmod(0o644)
    assert directory.current().digest == world.trust().digest


@pytest.mark.usefixtures("settled")
def test_nothing_is_trusted_while_it_is_gone(trust: Path) -> None:
    directory = TrustDirectory(source(trust))
    directory.current()
    trust.rename(trust.with_name("gone"))
    for _ in range(2):
        with pytest.raises(StoreError):
            directory.current()
    trust.with_name("gone").rename(trust)
    assert directory.current().version == 1


def test_looked_at_only_now_and_then(world: World, trust: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOOK_S", 1000.0)
    directory = TrustDirectory(source(trust))
    first = directory.current()
    change(world, trust, 5)
    assert directory.current() is first
    monkeypatch.setattr(local, "LOOK_S", 0.0)
    assert directory.current().revocations.requesters == {5}


def test_changes_within_one_tick_are_seen(world: World, trust: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same inode, same size, same ctime: until a file is older than a tick, its ctime says nothing."""
    monkeypatch.setattr(local, "LOOK_S", 0.0)
    directory = TrustDirectory(source(trust))
    frozen = directory._stamp()
    monkeypatch.setattr(TrustDirectory, "_stamp", lambda _: frozen)
    first = directory.current()
    change(world, trust, 5)
    assert directory.current().revocations.requesters == {5}
    assert first.revocations.requesters == frozenset()


@pytest.mark.usefixtures("settled")
def test_older_governance_swapped_in_while_it_is_read(
    world: World, trust: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole directories change places, by which no file in them changes: what is on disk in the end counts."""
    anchor, mirror, older = (tmp_path / name for name in ("anchor", "mirror", "older"))
    anchor.mkdir()
    shutil.copy2(trust / "root.json", anchor)
    trust.rename(mirror)
    shutil.copytree(mirror, older)
    change(world, mirror, 5)
    real = local._load

    def swap() -> None:
        mirror.rename(tmp_path / "aside")
        older.rename(mirror)
        (tmp_path / "aside").rename(older)

    def loading(*arguments: object, **named: object) -> object:
        swap()
        try:
            return real(*arguments, **named)  # type: ignore[arg-type]
        finally:
            swap()

    directory = TrustDirectory(TrustSource(anchor, mirror, frozenset({ME})))
    with monkeypatch.context() as patch:
        patch.setattr(local, "_load", loading)
        assert directory.current().revocations.requesters == frozenset()
    monkeypatch.setattr(local, "DEEP_S", 0.0)
    assert directory.current().revocations.requesters == {5}


@pytest.mark.usefixtures("settled")
def test_what_was_trusted_is_not_used_after_an_error_that_nobody_foresaw(
    world: World, trust: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = TrustDirectory(source(trust))
    directory.current()
    change(world, trust, 5)
    with monkeypatch.context() as patch:
        patch.setattr(local, "verify_metadata", lambda *_, **__: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            directory.current()
    with pytest.raises(StoreError, match="unforeseen"):
        directory.current()
    monkeypatch.setattr(local, "DEEP_S", 0.0)
    assert directory.current().revocations.requesters == {5}


def test_more_files_than_are_looked_at(trust: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAX_FILES", 2)
    with pytest.raises(StoreError, match="more than 2 files"):
        TrustDirectory(source(trust)).current()


def test_a_decision_waits_for_no_disk(trust: Path) -> None:
    """The hot path: a look at most every 20 ms, otherwise nothing at all."""
    directory = TrustDirectory(source(trust))
    time.sleep(0.15)
    directory.current()
    directory.current()
    start = time.thread_time()
    for _ in range(10_000):
        directory.current()
    assert (time.thread_time() - start) / 10_000 < 30e-6


# the floor


@pytest.mark.usefixtures("settled")
def test_older_governance_is_refused(world: World, trust: Path) -> None:
    shutil.copytree(trust, trust.with_name("old"))
    directory = TrustDirectory(source(trust))
    directory.current()
    change(world, trust, 5)
    directory.current()
    shutil.rmtree(trust / "metadata")
    shutil.copytree(trust.with_name("old") / "metadata", trust / "metadata")
    for _ in range(2):
        with pytest.raises(GovernanceRollbackError):
            directory.current()
    world.write_trust(trust)
    assert directory.current().revocations.requesters == {5}, "the newer set is taken again"


@pytest.mark.usefixtures("settled")
def test_a_floor_of_before(world: World, trust: Path) -> None:
    first = TrustDirectory(source(trust))
    first.current()
    change(world, trust, 5)
    floor = TrustDirectory(source(trust))
    floor.current()
    assert floor.floor != first.floor
    world = World()
    shutil.rmtree(trust)
    world.write_trust(trust)
    assert TrustDirectory(source(trust), floor=first.floor).current().version == 1
    with pytest.raises(GovernanceRollbackError):
        TrustDirectory(source(trust), floor=floor.floor).current()


@pytest.mark.usefixtures("settled")
def test_a_floor_of_another_root_says_nothing(world: World, trust: Path) -> None:
    """Who may replace the anchor decides what is trusted: what was seen under the old one binds nobody."""
    change(world, trust, 5)
    directory = TrustDirectory(source(trust))
    directory.current()
    assert directory.floor is not None
    floor = Floor("00" * 32, directory.floor.versions)
    shutil.rmtree(trust)
    World().write_trust(trust)
    assert TrustDirectory(source(trust), floor=floor).current().version == 1


@pytest.mark.usefixtures("settled")
def test_many_files_are_looked_at_less_often(trust: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "DEEP_S", 0.1)
    monkeypatch.setattr(local, "DEEP_COST_S", 1e-9)
    directory = TrustDirectory(source(trust))
    directory.current()
    time.sleep(0.15)
    directory.look()  # Every file, the first time; from now on seldom.
    path = file_of(trust, "revocations.json")
    path.write_bytes(path.read_bytes()[:-1])
    time.sleep(0.15)
    assert directory.look().version == 1
    monkeypatch.setattr(local, "DEEP_COST_S", 1.0)
    with pytest.raises(AttestdError):
        directory.look()
