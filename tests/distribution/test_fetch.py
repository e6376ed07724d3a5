"""Downloading a repository into a mirror: from an honest server, from one that is not, and cut off at any moment."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tuf.ngclient import Updater

from attestd.distribution.fetch import everything, of_host, update_mirror
from attestd.distribution.local import load_trust, read_verified_files
from attestd.distribution.mirror import Mirror
from attestd.distribution.remote import open_remote
from attestd.errors import (
    AttestdError,
    GovernanceRollbackError,
    MalformedError,
    StoreError,
    VerificationError,
)
from attestd.governance.host import HOST_RECORD_TYPE
from attestd.governance.metadata import Versions, verify_metadata
from attestd.paths import TrustSource
from attestd.strict import canonical
from tests.distribution import web
from tests.distribution.published import Published, files_below
from tests.distribution.web import Behaviour, Web, serving
from tests.world import Host, World, dsse, ed25519_key

FIRST = {
    "authorities.json": b"one",
    "platform/local.json": b"p" * 5000,
    "platform/history/local-1.json": b"h",
}
SECOND = {**FIRST, "authorities.json": b"two", "policy/exec.cedar": b"permit"}


@pytest.fixture
def published() -> Published:
    return Published(FIRST)


@pytest.fixture
def server(published: Published) -> Iterator[Web]:
    with serving(published.files) as found:
        yield found


def update(server: Web, mirror: Path, published: Published, floor: Versions | None = None) -> Any:
    server.files = published.files
    remote = open_remote(server.url)
    try:
        return update_mirror(remote, mirror, root=published.root, floor=floor, wanted=everything)
    finally:
        remote.close()


def read(mirror: Path, published: Published) -> dict[str, bytes]:
    """What a host would take from the mirror."""
    with Mirror.open(mirror) as opened:
        metadata = verify_metadata(opened.metadata, root=published.root, floor=None)
        return {name: opened.target(name, file) for name, file in metadata.targets.items()}


def test_a_first_download(server: Web, published: Published, tmp_path: Path) -> None:
    found = update(server, tmp_path / "m", published)
    assert found.versions.timestamp == 1
    assert read(tmp_path / "m", published) == FIRST
    published.files.pop("metadata/1.root.json")  # The host has it.
    assert files_below(tmp_path / "m") == published.files


def test_metadata_comes_before_targets(server: Web, published: Published, tmp_path: Path) -> None:
    update(server, tmp_path / "m", published)
    kinds = [name.split("/")[0] for name in server.asked]
    assert kinds == sorted(kinds)
    assert len(server.asked) == 4 + len(FIRST), "nothing twice"


def test_the_reference_client_takes_what_the_mirror_holds(
    server: Web, published: Published, tmp_path: Path
) -> None:
    update(server, tmp_path / "m", published)
    with serving(files_below(tmp_path / "m")) as again:
        (tmp_path / "client").mkdir()
        (tmp_path / "targets").mkdir()
        client = Updater(
            str(tmp_path / "client"), f"{again.url}/metadata/", str(tmp_path / "targets"),
            f"{again.url}/targets/", bootstrap=published.root,
        )  # fmt: skip
        client.refresh()
        for name, data in FIRST.items():
            info = client.get_targetinfo(name)
            assert info is not None
            assert Path(client.download_target(info)).read_bytes() == data


def test_an_update_downloads_what_is_new_and_removes_what_is_old(
    server: Web, published: Published, tmp_path: Path
) -> None:
    update(server, tmp_path / "m", published)
    published.publish(SECOND)
    server.asked.clear()
    (tmp_path / "m/metadata/.timestamp.json.12").write_bytes(b"of a crash")
    update(server, tmp_path / "m", published)
    assert read(tmp_path / "m", published) == SECOND
    published.files.pop("metadata/1.root.json")
    assert files_below(tmp_path / "m") == published.files
    assert sum(name.startswith("targets/") for name in server.asked) == 2


def test_a_host_takes_its_own_record_only(server: Web, tmp_path: Path) -> None:
    """And its history; whoever asks about another host is told that it is not here."""
    world = World()
    other, mirror = Host("other", root=world.root), tmp_path / "m"
    world.records[other.id] = world.host_record(other)
    for host in (world.host, other):
        record = dsse(canonical(world.host_record(host)), world.enrollers, payload_type=HOST_RECORD_TYPE)
        world.extra[f"hosts/history/{host.id}-1.json"] = record
    repository = world.publish()
    server.files = {f"metadata/{name}": data for name, data in repository.metadata.items()} | {
        f"targets/{path}": data for path, data in repository.targets.items()
    }
    remote = open_remote(server.url)
    for wanted, records in ((of_host(None), 0), (everything, 4), (of_host(world.host.id), 2)):
        shutil.rmtree(mirror, ignore_errors=True)
        update_mirror(remote, mirror, root=repository.root, floor=None, wanted=wanted)
        assert len(list((mirror / "targets/hosts").rglob("*.json"))) == records
    (tmp_path / "root.json").write_bytes(repository.root)
    source = TrustSource(tmp_path, mirror, frozenset({os.geteuid()}))
    trust = load_trust(source)
    assert len(trust.records(world.host.id)) == 2
    assert trust.hosts.get(other.id) is None
    assert other.id in trust.hosts
    assert "other hosts' are not kept on a host" in trust.why_none(other.id)
    assert sum("hosts/" in name for name in read_verified_files(source)) == 2
    world.revocations |= {"version": 2, "requesters": [5]}
    world.publish()
    server.files |= {f"metadata/{name}": data for name, data in repository.metadata.items()}
    server.files |= {f"targets/{path}": data for path, data in repository.targets.items()}
    server.asked.clear()
    update_mirror(remote, mirror, root=repository.root, floor=None, wanted=of_host(world.host.id))
    assert not any("hosts/" in name for name in server.asked)
    remote.close()


def test_nothing_new(server: Web, published: Published, tmp_path: Path) -> None:
    update(server, tmp_path / "m", published)
    before = {path: path.stat().st_ctime_ns for path in tmp_path.rglob("*")}
    server.asked.clear()
    update(server, tmp_path / "m", published)
    assert server.asked == ["metadata/2.root.json", "metadata/timestamp.json"]
    assert {path: path.stat().st_ctime_ns for path in tmp_path.rglob("*")} == before


def test_roots_are_kept(server: Web, published: Published, tmp_path: Path) -> None:
    """Whoever starts from the first root needs each that follows."""
    update(server, tmp_path / "m", published)
    published.add_root(timestamp=ed25519_key("another"))
    published.publish(SECOND)
    published.add_root(root=ed25519_key("another root"))
    update(server, tmp_path / "m", published)
    assert read(tmp_path / "m", published) == SECOND
    published.publish(FIRST)
    server.asked.clear()
    update(server, tmp_path / "m", published)
    assert read(tmp_path / "m", published) == FIRST
    assert [name for name in server.asked if "root" in name] == ["metadata/4.root.json"]


def test_from_a_directory(published: Published, tmp_path: Path) -> None:
    remote = open_remote(str(published.write(tmp_path / "d")))
    update_mirror(remote, tmp_path / "m", root=published.root, floor=None, wanted=everything)
    assert read(tmp_path / "m", published) == FIRST


# what does not verify is not written


@pytest.mark.parametrize(
    "name", ["metadata/timestamp.json", "metadata/2.snapshot.json", "metadata/2.targets.json"]
)
@pytest.mark.parametrize(
    "behaviour", [web.endless, web.truncated, web.redirecting, web.failing, web.other, web.compressed]
)
def test_bad_metadata_leaves_the_mirror_as_it_was(
    server: Web, published: Published, tmp_path: Path, name: str, behaviour: Behaviour
) -> None:
    update(server, tmp_path / "m", published)
    before = files_below(tmp_path)
    published.publish(SECOND)
    server.behaviours[name] = behaviour
    with pytest.raises((StoreError, VerificationError, MalformedError)):
        update(server, tmp_path / "m", published)
    assert files_below(tmp_path) == before
    server.behaviours.clear()
    update(server, tmp_path / "m", published)
    assert read(tmp_path / "m", published) == SECOND


@pytest.mark.parametrize("behaviour", [web.endless, web.truncated, web.redirecting, web.failing, web.other])
def test_a_bad_target_leaves_what_is_read_as_it_was(
    server: Web, published: Published, tmp_path: Path, behaviour: Behaviour
) -> None:
    update(server, tmp_path / "m", published)
    old = Published(FIRST)
    published.publish(SECOND)
    last = max(name for name in published.files if name.startswith("targets/"))
    server.behaviours[last] = behaviour
    with pytest.raises((StoreError, VerificationError, MalformedError)):
        update(server, tmp_path / "m", published)
    assert read(tmp_path / "m", old) == FIRST


def test_a_target_that_is_not_there(server: Web, published: Published, tmp_path: Path) -> None:
    del published.files[max(name for name in published.files if name.startswith("targets/"))]
    with pytest.raises(VerificationError, match="published by name, but is not there"):
        update(server, tmp_path / "m", published)


def test_no_timestamp(server: Web, published: Published, tmp_path: Path) -> None:
    del published.files["metadata/timestamp.json"]
    with pytest.raises(VerificationError, match=r"timestamp\.json"):
        update(server, tmp_path / "m", published)


def test_another_repository(server: Web, published: Published, tmp_path: Path) -> None:
    published.root = Published(FIRST, name="another").root
    with pytest.raises(VerificationError, match="signed by 0/1 keys"):
        update(server, tmp_path / "m", published)
    assert not files_below(tmp_path)


def test_nothing_below_the_floor(server: Web, published: Published, tmp_path: Path) -> None:
    old = dict(published.files)
    published.publish(SECOND)
    seen = update(server, tmp_path / "m", published).versions
    published.files = old
    with pytest.raises(GovernanceRollbackError, match="version 1"):
        update(server, tmp_path / "m", published, seen)
    assert read(tmp_path / "m", published) == SECOND


def test_more_than_a_host_takes(
    server: Web, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attestd.governance.metadata.MAX_TOTAL_BYTES", sum(map(len, FIRST.values())) - 1)
    with pytest.raises(MalformedError, match="the limit is"):
        update(server, tmp_path / "m", published)
    assert not any(name.startswith("targets") for name in server.asked)


# a mirror that is damaged is repaired


@pytest.mark.parametrize(
    "name", ["metadata/timestamp.json", "metadata/1.snapshot.json", "metadata/1.targets.json", "target"]
)
@pytest.mark.parametrize("how", ["removed", "changed", "longer", "link"])
def test_a_damaged_mirror(server: Web, published: Published, tmp_path: Path, name: str, how: str) -> None:
    update(server, tmp_path / "m", published)
    if name == "target":
        name = next(name for name in published.files if name.startswith("targets/"))
    path = tmp_path / "m" / name
    data = path.read_bytes()
    path.unlink()
    if how == "changed":
        path.write_bytes(data[:-2] + b"xx")
    elif how == "longer":
        path.write_bytes(data + bytes(10 << 20))
    elif how == "link":
        path.symlink_to("/dev/zero")
    update(server, tmp_path / "m", published)
    assert read(tmp_path / "m", published) == FIRST


def test_a_root_that_nobody_signed(server: Web, published: Published, tmp_path: Path) -> None:
    """It would keep everybody from reading the mirror, for good."""
    update(server, tmp_path / "m", published)
    (tmp_path / "m/metadata/2.root.json").write_bytes(Published(FIRST, name="another").root)
    update(server, tmp_path / "m", published)
    assert read(tmp_path / "m", published) == FIRST


# cut off at any moment


class Cut(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("call", ["replace", "fsync", "unlink", "open"])
def test_cut_off_anywhere(
    server: Web, published: Published, tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was done last, a reader sees all of the old set or all of the new one."""
    update(server, tmp_path / "before", published)
    published.publish(SECOND)
    whole: list[dict[str, bytes]] = []
    for count in range(1000):
        mirror = tmp_path / str(count)
        shutil.copytree(tmp_path / "before", mirror)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, _dying(getattr(os, call), count, mirror))
            try:
                update(server, mirror, published)
            except Cut:
                ended = False
            else:
                ended = True
        whole.append(read(mirror, published))
        assert whole[-1] in (FIRST, SECOND)
        update(server, mirror, published)
        assert read(mirror, published) == SECOND, "the next one finishes it"
        if ended:
            break
    assert whole[0] == (SECOND if call == "unlink" else FIRST)
    assert whole[-1] == SECOND
    assert len(whole) > 2


def _dying(call: Callable[..., Any], count: int, mirror: Path) -> Callable[..., Any]:
    left = [count]

    def replacement(*arguments: Any, **named: Any) -> Any:
        if call is not os.open or str(arguments[0]).startswith(str(mirror)):
            if not left[0]:
                raise Cut
            left[0] -= 1
        return call(*arguments, **named)

    return replacement


def test_a_disk_that_is_full(
    server: Web, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(server, tmp_path / "m", published)
    published.publish(SECOND)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(AttestdError, match="No space left"):
            update(server, tmp_path / "m", published)
    assert read(tmp_path / "m", Published(FIRST)) == FIRST
