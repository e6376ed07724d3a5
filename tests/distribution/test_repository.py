"""The repository: what it publishes, the reference client accepts; what is not signed or not valid is not published."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tuf.api.exceptions import ExpiredMetadataError

from attestd.distribution import published
from attestd.distribution.creation import create_repository
from attestd.distribution.repository import Repository
from attestd.distribution.settings import Settings, load_settings, save_settings
from attestd.errors import (
    AttestdError,
    GovernanceRollbackError,
    MalformedError,
    StoreError,
    UsageError,
    VerificationError,
)
from attestd.governance import host_records
from attestd.governance.host import parse_host_record
from attestd.governance.metadata import verify_metadata
from attestd.strict import canonical, format_time
from tests.distribution.repositories import Clock, Office, Reference, served
from tests.governance.make_vectors import IMA_POLICY
from tests.world import Host, World, key_id, mesh_file, witness


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path, Clock())


@pytest.fixture
def world() -> World:
    return World()


def anchor(repository: Repository) -> bytes:
    return (repository.published_path / "metadata" / "1.root.json").read_bytes()


def verified(directory: Path) -> dict[str, bytes]:
    """The targets of published files, verified as a host does."""

    def fetch(name: str, max_bytes: int) -> bytes | None:
        path = directory / "metadata" / name
        return path.read_bytes() if path.exists() else None

    metadata = verify_metadata(fetch, root=(directory / "metadata" / "1.root.json").read_bytes(), floor=None)
    found = published.read_published(directory).files
    assert metadata.targets.keys() == found.keys()
    return dict(found)


def versions(repository: Repository) -> tuple[int, int, int, int]:
    found = repository.published
    assert found.root
    assert found.timestamp
    assert found.snapshot
    return found.root.version, found.timestamp.version, found.snapshot.version, found.roles["targets"].version


def edited(world: World, office: Office) -> dict[str, bytes | None]:
    """A change: one more revoked requester."""
    world.revocations["requesters"] = [*world.revocations["requesters"], 4242 + world.revocations["version"]]
    world.revocations["version"] += 1
    return {"revocations.json": world.files()["revocations.json"]}


# the reference client


def test_the_reference_client_accepts_what_is_published(office: Office, world: World, tmp_path: Path) -> None:
    repository = office.published(world)
    with served(repository.published_path) as url:
        client = Reference(tmp_path / "client", url, anchor(repository))
        assert client.download(list(world.files())) == world.files()
        repository.stage(edited(world, office))
        office.publish(repository, "alice")
        assert client.download(["revocations.json"])["revocations.json"] == world.files()["revocations.json"]
        repository.refresh([office.key("online")])
        client.download([])
        repository.set_keys("root", office.keys("root", "root2", threshold=2))
        repository.set_keys("online", office.keys("online2"))
        for name in ("root", "root2"):
            repository.sign(office.key(name))
        repository.publish([office.key("online2")])
        client.download(["authorities.json"])
    assert verified(repository.published_path) == world.files()


def test_the_reference_client_refuses_what_is_not_refreshed(
    office: Office, world: World, tmp_path: Path
) -> None:
    office.clock.advance(days=-8)
    repository = office.published(world)
    office.clock.advance(days=8)
    with served(repository.published_path) as url:
        client = Reference(tmp_path / "client", url, anchor(repository))
        with pytest.raises(ExpiredMetadataError):
            client.download([])
        repository.refresh([office.key("online")])
        client.download(["authorities.json"])


# staging


def test_what_a_host_would_refuse_is_not_staged(office: Office, world: World) -> None:
    repository = office.published(world)
    before = verified(repository.published_path)
    authorities = json.loads(world.files()["authorities.json"])
    for name, data in (
        ("authorities.json", b"{}"),
        ("authorities.json", json.dumps(authorities | {"typo": 1}).encode()),
        ("revocations.json", b"not json"),
        ("notes.txt", b"x"),
    ):
        with pytest.raises((MalformedError, VerificationError)):
            repository.stage({name: data})
    with pytest.raises(MalformedError, match=r"policy/exec.cedar: expected at most 33554432 bytes"):
        repository.stage({"policy/exec.cedar": bytes((32 << 20) + 1)})
    with pytest.raises(UsageError, match="expected a relative name"):
        repository.stage({"../etc/passwd": b"x"})
    with pytest.raises(UsageError, match="not staged"):
        repository.stage({"platform/none.json": None})
    assert not repository.plan().drafts
    assert repository.plan().files == before


def test_a_change_taken_back_leaves_nothing(office: Office, world: World) -> None:
    repository = office.published(world)
    repository.stage(edited(world, office))
    assert repository.plan().drafts == {"targets"}
    repository.unstage(["revocations.json"])
    assert not repository.plan().drafts
    repository.stage({"revocations.json": world.files()["revocations.json"]})
    repository.set_keys("root", office.keys("root2"))
    repository.unstage()
    assert not repository.plan().drafts
    assert list((repository.path / "staged/metadata").iterdir()) == []


def test_files_edited_in_place(office: Office, world: World) -> None:
    repository = office.published(world)
    change = edited(world, office)
    (repository.path / "staged/targets/revocations.json").write_bytes(change["revocations.json"] or b"")
    (repository.path / "staged/targets/.revocations.json.swp").write_bytes(b"an editor's")
    assert repository.plan().drafts == {"targets"}
    office.publish(repository, "alice")
    assert verified(repository.published_path)["revocations.json"] == change["revocations.json"]


# signing


def test_two_persons(office: Office, world: World) -> None:
    repository = office.published(world, targets=("alice", "bob", "carol"), threshold=2)
    repository.stage(edited(world, office))
    with pytest.raises(UsageError, match=r"targets version 2 has 0 of 2 signatures: attestd governance sign"):
        repository.publish([office.key("online")])
    assert repository.sign(office.key("alice")) == ["targets"]
    with pytest.raises(UsageError, match="has 1 of 2 signatures"):
        office.publish(repository, "alice")
    with pytest.raises(UsageError, match="signs nothing"):
        repository.sign(office.key("mallory"))
    assert versions(repository)[3] == 1
    office.publish(repository, "carol")
    assert versions(repository)[3] == 2


def test_two_persons_on_two_machines(office: Office, world: World, tmp_path: Path) -> None:
    repository = office.published(world, targets=("alice", "bob"), threshold=2)
    repository.stage(edited(world, office))
    repository.sign(office.key("alice"))
    copy = Repository(shutil.copytree(repository.path, tmp_path / "copy"), clock=office.clock)
    assert copy.sign(office.key("bob")) == ["targets"]
    draft = copy.path / "staged/metadata/targets.json"
    assert repository.merge(draft) == ["targets"]
    assert repository.merge(copy.path) == []
    office.publish(repository)
    assert versions(repository)[3] == 2


def test_what_the_other_began(office: Office, world: World, tmp_path: Path) -> None:
    """Bob stages and signs on a copy; here nothing is staged: his draft comes with its files."""
    repository = office.published(world, targets=("alice", "bob"), threshold=2)
    copy = Repository(shutil.copytree(repository.path, tmp_path / "copy"), clock=office.clock)
    change = edited(world, office)
    copy.stage(change)
    copy.sign(office.key("bob"))
    assert repository.merge(copy.path) == ["targets"]
    assert repository.plan().files["revocations.json"] == change["revocations.json"]
    office.publish(repository, "alice")
    assert verified(repository.published_path) == world.files()


def test_another_draft_is_not_merged(office: Office, world: World, tmp_path: Path) -> None:
    repository = office.published(world, targets=("alice", "bob"), threshold=2)
    copy = Repository(shutil.copytree(repository.path, tmp_path / "copy"), clock=office.clock)
    repository.stage(edited(world, office))
    copy.stage(edited(world, office))
    copy.sign(office.key("bob"))
    with pytest.raises(UsageError, match="another draft"):
        repository.merge(copy.path)


def test_a_change_voids_signatures(office: Office, world: World) -> None:
    repository = office.published(world)
    repository.stage(edited(world, office))
    repository.sign(office.key("alice"))
    repository.stage(edited(world, office))
    with pytest.raises(UsageError, match="0 of 1"):
        repository.publish([office.key("online")])


# keys


def test_a_new_targets_key_signs_again(office: Office, world: World) -> None:
    repository = office.published(world)
    repository.set_keys("targets", office.keys("bob"))
    assert repository.plan().drafts == {"root", "targets"}
    repository.sign(office.key("root"))
    with pytest.raises(UsageError, match="targets version 2 has 0 of 1"):
        repository.publish([office.key("online")])
    with pytest.raises(UsageError, match="signs nothing"):
        repository.sign(office.key("alice"))
    office.publish(repository, "bob")
    assert versions(repository) == (2, 2, 2, 2)
    verified(repository.published_path)


def test_a_new_root_needs_the_old_one(office: Office, world: World) -> None:
    repository = office.published(world)
    repository.set_keys("root", office.keys("root2"))
    repository.sign(office.key("root2"))
    with pytest.raises(UsageError, match="root version 2 has 0 of 1 signatures"):
        repository.publish([office.key("online")])
    office.publish(repository, "root")
    assert versions(repository)[0] == 2


def test_the_online_key_is_asked_for(office: Office, world: World) -> None:
    repository = office.published(world)
    for publish in (repository.refresh, repository.publish):
        repository.set_keys("online", office.keys("online2"))
        repository.sign(office.key("root"))
        if publish == repository.publish:
            with pytest.raises(UsageError, match="online keys"):
                publish([office.key("online")])
        else:
            publish([office.key("online")])  # what is published is refreshed, by its own keys
    office_versions = versions(repository)
    repository.publish([office.key("online2")])
    assert versions(repository)[0] == office_versions[0] + 1
    with pytest.raises(UsageError, match="online keys"):
        repository.refresh([office.key("online")])


@pytest.mark.parametrize(("names", "threshold"), [((), 1), (("a", "a"), 1), (("a",), 2), (("a",), 0)])
def test_keys_that_nobody_could_sign_with(
    office: Office, world: World, names: tuple[str, ...], threshold: int
) -> None:
    repository = office.published(world)
    with pytest.raises(UsageError):
        repository.set_keys("targets", office.keys(*names, threshold=threshold))
    named = {
        "root": office.keys(*names, threshold=threshold),
        "targets": office.keys("a"),
        "online": office.keys("a"),
    }
    with pytest.raises(UsageError):
        create_repository(office.top / "g2", settings=Settings(), **named)


def test_renewal(office: Office, world: World) -> None:
    repository = office.published(world)
    office.clock.advance(days=300)
    for role in ("root", "targets"):
        repository.renew(role)
    office.publish(repository, "root", "alice")
    found = repository.published
    assert found.root is not None
    assert (found.root.content.expires - office.clock.now).days == 365
    assert (found.roles["targets"].content.expires - office.clock.now).days == 365
    with pytest.raises(UsageError, match="expected one of root, targets"):
        repository.renew("team-none")


# refreshing


def test_refresh_signs_the_timestamp_and_late_the_snapshot(office: Office, world: World) -> None:
    repository = office.published(world)
    assert versions(repository) == (1, 1, 1, 1)
    office.clock.advance(days=3)
    repository.refresh([office.key("online")])
    assert versions(repository) == (1, 2, 1, 1)
    office.clock.advance(days=13)
    repository.refresh([office.key("online")])
    assert versions(repository) == (1, 3, 2, 1)
    verified(repository.published_path)


def test_refresh_before_anything_is_published(office: Office) -> None:
    with pytest.raises(UsageError, match="nothing is published"):
        office.create().refresh([office.key("online")])


def test_refresh_does_not_publish_what_is_staged(office: Office, world: World) -> None:
    repository = office.published(world)
    before = world.files()
    repository.stage(edited(world, office))
    repository.sign(office.key("alice"))
    repository.refresh([office.key("online")])
    assert verified(repository.published_path) == before
    office.publish(repository)
    assert verified(repository.published_path) == world.files()


# directories


def test_published_elsewhere(office: Office, world: World, tmp_path: Path) -> None:
    web = tmp_path / "web"
    web.mkdir()
    (web / "root.json").write_bytes(b"somebody else's")
    repository = office.published(world, publish_to=str(web))
    assert verified(web) == world.files()
    repository.stage(edited(world, office))
    office.publish(repository, "alice", directory=tmp_path / "other")
    assert verified(tmp_path / "other") == world.files() != verified(web)
    repository.publish([])  # nothing is staged: the other directory is brought up to date
    assert verified(web) == world.files()
    assert (web / "root.json").read_bytes() == b"somebody else's"


def test_old_files_go_when_nobody_asks_for_them_any_more(office: Office, world: World) -> None:
    repository = office.published(world)
    sizes = []
    for _ in range(4):
        repository.stage(edited(world, office))
        office.publish(repository, "alice")
        sizes.append(sum(1 for path in repository.published_path.rglob("*") if path.is_file()))
    assert len(set(sizes[1:])) == 1, sizes
    assert not (repository.published_path / "metadata/1.snapshot.json").exists()
    assert (repository.published_path / "metadata/4.snapshot.json").exists()


def test_not_in_a_directory_in_use(office: Office, world: World, tmp_path: Path) -> None:
    office.create()
    with pytest.raises(UsageError, match="not empty"):
        office.create()
    with pytest.raises(UsageError, match="no repository"):
        Repository(tmp_path / "client")


def test_one_at_a_time(office: Office, world: World) -> None:
    repository = office.published(world)
    with (
        repository._staging.locked(),
        pytest.raises(UsageError, match="another process"),
    ):
        repository.refresh([office.key("online")])


# settings


def test_settings(tmp_path: Path) -> None:
    made = Settings(online='file:/a "b"\\c\n\x7fé', publish_to="/srv")
    save_settings(tmp_path, made)
    assert load_settings(tmp_path) == made
    for text in (
        "online = 1",
        "unknown = 1",
        "[expiry_days]\nroot = 0",
        "=",
        "x" * 9000,
        "[expiry_days]\nteam = 1",
    ):
        (tmp_path / "settings.toml").write_text(text)
        with pytest.raises(UsageError):
            load_settings(tmp_path)


# crashes


class Crash(Exception):
    pass


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Fails the n-th write, or removal: `left[0]` counts down."""
    left = [-1]
    write, remove = published.write_atomic, published._remove

    def step() -> None:
        left[0] -= 1
        if left[0] == -1:
            raise Crash

    def failing_write(path: Path, data: bytes, *, mode: int) -> None:
        step()
        if left[0] == 0:  # cut off within: a temporary file is left behind
            path.with_name(f".{path.name}.{os.getpid()}-cut").write_bytes(data[: len(data) // 2])
        write(path, data, mode=mode)

    def failing_remove(path: Path) -> None:
        step()
        remove(path)

    for module in ("published", "staging", "settings"):
        monkeypatch.setattr(f"attestd.distribution.{module}.write_atomic", failing_write)
    monkeypatch.setattr(published, "_remove", failing_remove)
    return left


def test_publishing_cut_off_anywhere(
    office: Office, world: World, tmp_path: Path, crashing: list[int]
) -> None:
    """Whoever reads in between has the old set or the new one; publishing again completes it."""
    web = tmp_path / "web"
    template = office.published(world, publish_to=str(web))
    old = world.files()
    for _ in range(2):  # so that there is something to remove
        template.stage(edited(world, office))
        office.publish(template, "alice")
    old = world.files()
    template.stage(edited(world, office))
    template.sign(office.key("alice"))
    new = world.files()
    shutil.copytree(template.path, tmp_path / "before")
    shutil.copytree(web, tmp_path / "web-before")
    outcomes = set()
    for step in range(1, 100):
        for name in ("governance", "web"):
            shutil.rmtree(tmp_path / name)
        shutil.copytree(tmp_path / "before", tmp_path / "governance")
        shutil.copytree(tmp_path / "web-before", web)
        repository = Repository(tmp_path / "governance", clock=office.clock)
        crashing[0] = step
        try:
            repository.publish([office.key("online")])
        except Crash:
            crashed = True
        else:
            crashed = False
        crashing[0] = -1
        for directory in (repository.published_path, web):
            found = verified(directory)
            assert found in (old, new), step
            outcomes.add(found == new)
        repository.publish([office.key("online")])
        assert verified(repository.published_path) == verified(web) == new
        assert not repository.plan().drafts
        if not crashed:
            break
    assert not crashed
    assert step > 10
    assert outcomes == {True, False}


def test_a_new_root_cut_off_anywhere(
    office: Office, world: World, tmp_path: Path, crashing: list[int]
) -> None:
    template = office.published(world)
    template.set_keys("targets", office.keys("bob"))
    template.set_keys("online", office.keys("online2"))
    for name in ("root", "bob"):
        template.sign(office.key(name))
    shutil.copytree(template.path, tmp_path / "before")
    unreadable = 0
    for step in range(1, 100):
        shutil.rmtree(tmp_path / "governance")
        shutil.copytree(tmp_path / "before", tmp_path / "governance")
        repository = Repository(tmp_path / "governance", clock=office.clock)
        crashing[0] = step
        try:
            repository.publish([office.key("online2")])
        except Crash:
            crashed = True
        else:
            crashed = False
        crashing[0] = -1
        try:
            verified(repository.published_path)
        except AttestdError:
            unreadable += 1
        repository.publish([office.key("online2")])
        assert verified(repository.published_path) == world.files()
        assert versions(repository)[0] == 2
        if not crashed:
            break
    assert not crashed
    assert unreadable == 1, "only between the root and its timestamp"


def test_a_full_disk_is_said(office: Office, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = office.published(world)
    repository.stage(edited(world, office))
    repository.sign(office.key("alice"))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match="No space left"):
        repository.publish([office.key("online")])
    monkeypatch.undo()
    office.publish(repository)
    assert verified(repository.published_path) == world.files()


def test_published_files_that_were_touched(office: Office, world: World) -> None:
    repository = office.published(world)
    for path in (repository.published_path / "targets").rglob("*authorities.json"):
        path.write_bytes(b"{}")
    with pytest.raises(VerificationError, match="not the file that the metadata names"):
        repository.plan()


# what nobody should publish


def test_what_rests_on_a_revoked_key_is_said_and_left_out(office: Office, world: World) -> None:
    repository = office.published(world)
    world.revocations |= {"version": 2, "keys": [key_id(world.enrollers[0])]}
    repository.stage({"revocations.json": world.files()["revocations.json"]})
    accepted = repository.validate()
    (name,) = accepted.lost
    assert name == f"hosts/{world.host.id}.json"
    assert "revoked" in accepted.lost[name]
    office.publish(repository, "alice")
    assert not repository.validate().lost, "it was lost before"


def test_what_an_edit_makes_unusable_is_not_staged(office: Office, world: World) -> None:
    """An enroller that was taken away by mistake would end every host that it admitted, and nobody said so."""
    repository = office.published(world)
    world.authorities |= {"version": 2, "enrollers": {"keys": [key_id(world.authors[0])], "threshold": 1}}
    with pytest.raises(VerificationError, match="no host would accept it"):
        repository.stage({"authorities.json": world.files()["authorities.json"]})
    assert not repository.plan().drafts


def test_only_what_may_have_changed_is_verified(
    office: Office, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a hundred thousand hosts: one record for one host, each once where what they rest on changes."""
    others = [Host(f"other {number}", root=world.root) for number in range(5)]
    world.records |= {host.id: world.host_record(host) for host in others}
    repository = office.published(world)
    verified: list[str] = []

    def counting(data: bytes, **more: Any) -> Any:
        found = parse_host_record(data, **more)
        verified.append(found.host)
        return found

    monkeypatch.setattr(host_records, "parse_host_record", counting)
    changed = others[0].id
    world.records[changed] |= {"labels": {"role": "new"}}
    repository.stage({f"hosts/{changed}.json": world.files()[f"hosts/{changed}.json"]})
    assert verified == [changed]
    verified.clear()
    world.revocations |= {"version": 2, "requesters": [7]}
    repository.stage({"revocations.json": world.files()["revocations.json"]})
    assert verified == [changed], "no key is revoked"
    world.revocations |= {"version": 2, "keys": [key_id(world.authors[0])]}
    verified.clear()
    repository.stage({"revocations.json": world.files()["revocations.json"]})
    assert sorted(verified) == sorted(world.records)
    repository.unstage([f"hosts/{changed}.json"])
    verified.clear()
    world.revocations |= {"keys": [key_id(world.enrollers[0])]}
    repository.stage({"revocations.json": world.files()["revocations.json"]})
    assert sorted(verified) == sorted(world.records), "those that end, as they were believed before"
    assert repository.validate().lost.keys() == {f"hosts/{host}.json" for host in world.records}


def test_an_ima_policy_that_agents_could_not_go_by_is_not_staged(office: Office, world: World) -> None:
    repository = office.published(world)
    with pytest.raises(MalformedError, match="IMA policy"):
        repository.stage({"ima/fleet.json": b"{}"})
    repository.stage({"ima/fleet.json": canonical(IMA_POLICY)})
    assert set(repository.validate().trust.ima) == {sha256(canonical(IMA_POLICY)).hexdigest()}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"requesters": [1, 7]}, "its version must rise: expected 4 or more, found 3"),
        ({"requesters": [1, 7], "version": 2}, "its version must rise"),
        ({"version": 4, "epoch": 1, "bump": None}, "no TPM goes back"),
        ({"version": 4, "requesters": []}, "requesters: expected 7, which version 3 revokes"),
        (None, "it cannot be removed"),
    ],
)
def test_what_does_not_go_forward(
    office: Office, world: World, changes: dict[str, object] | None, said: str
) -> None:
    world.revocations |= {"version": 3, "epoch": 2, "requesters": [7]}
    repository = office.published(world)
    data = None if changes is None else canonical({**world.revocations, **changes})
    if data is None:
        path = repository.path / "staged/targets/platform/local.json"
        amended = json.loads(path.read_bytes()) | {"version": 2, "writable": "refuse"}
        repository.stage({"platform/local.json": canonical(amended)})
        office.publish(repository, "alice")
        with pytest.raises(UsageError, match=said):
            repository.stage({"platform/history/local-1.json": None})
        return
    with pytest.raises((UsageError, GovernanceRollbackError), match=said):
        repository.stage({"revocations.json": data})


def with_mesh(office: Office, world: World) -> tuple[Repository, Path]:
    """A repository that published version 1 of `mesh.json`; and where that is staged."""
    handover = format_time(office.clock.now + timedelta(days=7))
    world.extra["mesh.json"] = mesh_file([witness("one")], handover=handover)
    repository = office.published(world)
    return repository, repository.path / "staged/targets/mesh/history/1.json"


def next_mesh(office: Office, **changes: Any) -> bytes:
    handover = format_time(office.clock.now + timedelta(days=7))
    return mesh_file([witness("two")], **{"version": 2, "handover": handover, **changes})


def test_a_mesh_that_changes_leaves_a_history(office: Office, world: World) -> None:
    repository, past = with_mesh(office, world)
    first = world.extra["mesh.json"]
    repository.stage({"mesh.json": next_mesh(office)})
    assert past.read_bytes() == first
    # As it was edited before it was published; and taken back.
    repository.stage({"mesh.json": next_mesh(office, quorum=1)})
    repository.unstage(["mesh.json"])
    assert not past.exists()
    assert repository.plan().drafts == set()
    repository.stage({"mesh.json": next_mesh(office)})
    past.unlink()
    with pytest.raises(UsageError, match=r"mesh/history/1\.json: expected the version that is published"):
        repository.sign(office.key("alice"))
    repository.stage({})
    office.publish(repository, "alice")
    assert repository.published.files["mesh/history/1.json"] == first
    assert repository.validate().trust.mesh_version(1).until == office.clock.now + timedelta(days=7)
    third = next_mesh(office, version=3)
    for spoilt in (None, b"{}", next_mesh(office)):
        with pytest.raises(UsageError, match=r"mesh/history/1\.json: (it cannot be|expected the version as)"):
            repository.stage({"mesh.json": third, "mesh/history/1.json": spoilt})
    repository.stage({"mesh.json": third})
    assert sorted(repository.validate().trust.mesh_history) == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 1}, "its version must be the next: expected 2, found 1"),
        ({"version": 3}, "its version must be the next: expected 2, found 3"),
        ({"handover": None}, "handover: expected until when hosts may go by version 1"),
        (None, "mesh.json: it cannot be removed"),
    ],
)
def test_a_mesh_that_does_not_follow(
    office: Office, world: World, changes: dict[str, object] | None, said: str
) -> None:
    repository, past = with_mesh(office, world)
    found = None if changes is None else json.loads(next_mesh(office)) | changes
    data = found and canonical({member: value for member, value in found.items() if value is not None})
    with pytest.raises(UsageError, match=said):
        repository.stage({"mesh.json": data or None})
    assert not past.exists()


@pytest.mark.parametrize("name", ["mesh/history/1.json", "mesh/history/2.json", "mesh/history/7.json"])
def test_nothing_gets_into_the_history_that_was_not_in_force(office: Office, world: World, name: str) -> None:
    """A key would count for all entries that name that version, and nobody ever read that it was named."""
    repository, _ = with_mesh(office, world)
    other = mesh_file([witness("mallory")], version=int(name[-6]), handover="2099-01-01T00:00:00Z")
    for staged in ({name: other}, {"mesh.json": next_mesh(office), name: other}):
        with pytest.raises(UsageError, match="expected the version as it was published"):
            repository.stage(staged)


def test_a_false_signature_is_not_merged(office: Office, world: World, tmp_path: Path) -> None:
    """Under alice's name it would stand in the place of hers."""
    repository = office.published(world, targets=("alice", "bob"), threshold=2)
    repository.stage(edited(world, office))
    copy = shutil.copytree(repository.path, tmp_path / "copy")
    repository.sign(office.key("alice"))
    draft = copy / "staged/metadata/targets.json"
    value = json.loads(draft.read_bytes())
    signature = json.loads((repository.path / "staged/metadata/targets.json").read_bytes())["signatures"][0]
    value["signatures"] = [{**signature, "sig": "00" * 64}]
    draft.write_text(json.dumps(value))
    with pytest.raises(VerificationError, match="does not verify"):
        repository.merge(draft)
    value["signatures"] = [{"keyid": "somebody else's", "sig": "00" * 64}]
    draft.write_text(json.dumps(value))
    assert repository.merge(draft) == []
    office.publish(repository, "bob")
    assert verified(repository.published_path) == world.files()


def test_a_copy_that_was_doctored(office: Office, world: World, tmp_path: Path) -> None:
    """Who prepares a copy cannot hide a change by showing another past: what is published there is verified."""
    before = World()
    before.revocations["requesters"] = [4242]
    other = Office(tmp_path / "other", office.clock)
    other.top.mkdir()
    theirs = other.published(before)
    repository = office.published(world)
    repository.stage(edited(world, office))
    shutil.rmtree(repository.published_path / "metadata")
    shutil.copytree(theirs.published_path / "metadata", repository.published_path / "metadata")
    shutil.copytree(
        theirs.published_path / "targets", repository.published_path / "targets", dirs_exist_ok=True
    )
    path = repository.published_path / "metadata/1.targets.json"
    path.write_bytes(path.read_bytes().replace(b'"sig":"', b'"sig":"00', 1))
    with pytest.raises(VerificationError):
        repository.sign(office.key("alice"))


def test_links_in_a_copy_are_not_followed(office: Office, world: World, tmp_path: Path) -> None:
    repository = office.published(world)
    (tmp_path / "secret").write_bytes(b"secret")
    (repository.path / "staged/targets/policy/x.cedar").symlink_to(tmp_path / "secret")
    with pytest.raises(StoreError, match="symbolic link"):
        repository.plan()


def test_a_team_and_its_scope(office: Office, world: World) -> None:
    repository = office.published(world)
    repository.set_team("web", office.keys("carol"), paths=["/usr/bin/deploy"], uids=[7], max_depth=1)
    assert repository.plan().drafts == {"targets", "team-web"}
    with pytest.raises(UsageError, match="team-web version 1 has 0 of 1"):
        office.publish(repository, "alice")
    office.publish(repository, "carol")
    with pytest.raises(UsageError, match="nothing is delegated to role team-other"):
        repository.stage({"teams/other/authorities.json": b"{}"})
    repository.renew("team-web")
    assert repository.plan().drafts == {"team-web"}
    office.publish(repository, "carol")
    repository.set_team("web", office.keys("erin"), paths=["/usr/bin/deploy"], uids=[7], max_depth=1)
    office.publish(repository, "alice", "erin")
    repository.remove_team("web")
    office.publish(repository, "alice")
    found = repository.published
    assert found.roles["team-web"].version == 3, "readers refuse a snapshot that a role vanished from"
    repository.set_team("web", office.keys("carol"), paths=["/usr/bin/deploy"], uids=None, max_depth=0)
    office.publish(repository, "alice", "carol")
    assert repository.published.roles["team-web"].version == 4
    verified(repository.published_path)
