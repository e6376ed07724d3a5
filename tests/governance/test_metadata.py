"""TUF attacks, each against a client that saw version 1: refused, and what is accepted python-tuf accepts as well."""

import json
import time
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tuf.api.exceptions import RepositoryError

from attestd.errors import GovernanceRollbackError, MalformedError, VerificationError
from attestd.governance import metadata as under_test
from attestd.governance.draft import Delegation
from attestd.governance.metadata import Versions, target_path, verify_metadata, verify_target
from attestd.governance.signed import MAX_BYTES, MAX_TARGET_BYTES
from attestd.governance.targets import TargetFile
from tests.governance.tuf import (
    FILES,
    Oracle,
    drop_hashes,
    edit,
    publish_two,
    refused,
    relink,
    signed_file,
    tuf_id,
    verify,
)
from tests.repository import LIFETIME, Repository
from tests.world import NOW

ONLINE = ("timestamp.json", "{snapshot}.snapshot.json")


# --- what is right -----------------------------------------------------------------------------------------------------


def test_a_published_set_verifies(repository: Repository, oracle: Oracle) -> None:
    found = verify(repository)
    assert found.versions == Versions(root=1, timestamp=1, snapshot=1, targets={"targets": 1, "team-a": 1})
    assert dict(found.targets) == {
        name: TargetFile(
            length=len(data),
            sha256=sha256(data).hexdigest(),
            role="team-a" if name.startswith("teams/") else "targets",
        )
        for name, data in FILES.items()
    }
    assert (found.expires, found.expires_role, found.issued) == (NOW + LIFETIME, "root", NOW)
    assert oracle.update(*FILES) == {name: target.sha256 for name, target in found.targets.items()}


def test_the_next_version_verifies(repository: Repository, seen: Versions, oracle: Oracle) -> None:
    publish_two(repository)
    found = verify(repository, seen)
    assert found.versions.targets == {"targets": 2, "team-a": 2}
    assert verify(repository, found.versions).versions == found.versions, "what was seen is no rollback"
    assert oracle.update(*FILES)


def test_an_expired_set_verifies_and_says_when(repository: Repository) -> None:
    """Time is for those who decide: the same set is good before that moment and stale after it."""
    for role in ("team-a", "targets", "snapshot", "timestamp", "root"):
        repository.expires[role] = NOW - timedelta(days=len(repository.expires) + 1)
        if role == "root":
            repository.publish_root()
        repository.publish(FILES)
        found = verify(repository)
        assert (found.expires_role, found.expires) == (role, repository.expires[role])


@pytest.mark.parametrize("value", ["2026-03-01T12:00:00Z", None])
def test_issued(repository: Repository, value: str | None) -> None:
    edit(repository, "timestamp.json", lambda signed: signed.__setitem__("x-attestd-issued", value))
    assert verify(repository).issued == (NOW if value else None)
    edit(repository, "timestamp.json", lambda signed: signed.pop("x-attestd-issued"))
    assert verify(repository).issued is None


@pytest.mark.parametrize("value", [0, "now", "2026-03-01", [], "2026-13-01T12:00:00Z"])
def test_issued_is_a_time(repository: Repository, value: Any) -> None:
    edit(repository, "timestamp.json", lambda signed: signed.__setitem__("x-attestd-issued", value))
    refused(repository, error=MalformedError)


def test_signed_members_that_nobody_knows_are_tolerated(repository: Repository, oracle: Oracle) -> None:
    """TUF 4.1: they are signed, and may be from a later 1.x."""

    def add(signed: dict[str, Any]) -> None:
        signed["x-other"] = {"a": [1, None, True, "ü"]}
        signed["spec_version"] = "1.7"

    for name in ("1.team-a.json", "1.targets.json"):
        edit(repository, name, add)
    relink(repository)
    edit(repository, "1.snapshot.json", add)
    relink(repository)
    edit(repository, "timestamp.json", add)
    assert verify(repository).targets.keys() == FILES.keys()
    assert oracle.update(*FILES).keys() == FILES.keys()


def test_files_of_python_tufs_own_making(repository: Repository, seen: Versions) -> None:
    """Lengths and hashes are optional: a snapshot that names only versions holds files together by these."""
    edit(
        repository, "1.snapshot.json", lambda signed: [drop_hashes(meta) for meta in signed["meta"].values()]
    )
    edit(repository, "timestamp.json", lambda signed: drop_hashes(signed["meta"]["snapshot.json"]))
    assert verify(repository, seen).versions == seen


# --- rollback ----------------------------------------------------------------------------------------------------------


def test_rollback_of_the_timestamp(repository: Repository, oracle: Oracle) -> None:
    old = repository.metadata["timestamp.json"]
    publish_two(repository)
    seen = verify(repository).versions
    oracle.update()
    repository.metadata["timestamp.json"] = old
    assert verify(repository).versions.snapshot == 1, "to a client that saw nothing the old set is a good one"
    assert "timestamp version 1, but version 2" in refused(repository, seen, error=GovernanceRollbackError)
    with pytest.raises(RepositoryError):
        oracle.update()


def rolled_back(repository: Repository, **versions: int) -> None:
    """Version 3 of snapshot and timestamp, by one who has the online keys: it names older roles."""
    repository.publish_snapshot()
    for role, version in versions.items():
        edit(
            repository,
            f"{repository.versions['snapshot']}.snapshot.json",
            lambda signed, role=role, version=version: signed["meta"][
                f"{role.replace('_', '-')}.json"
            ].update(version=version),
        )
    relink(repository)


@pytest.mark.parametrize("role", ["targets", "team_a"])
def test_rollback_of_a_targets_role(repository: Repository, oracle: Oracle, role: str) -> None:
    publish_two(repository)
    seen = verify(repository).versions
    oracle.update(*FILES)
    rolled_back(repository, **{role: 1})
    assert verify(repository).versions.targets[role.replace("_", "-")] == 1
    message = refused(repository, seen, error=GovernanceRollbackError)
    assert f"{role.replace('_', '-')} version 1, but version 2" in message
    with pytest.raises(RepositoryError):
        oracle.update()


def test_rollback_of_the_snapshot(repository: Repository, oracle: Oracle) -> None:
    publish_two(repository)
    seen = verify(repository).versions
    oracle.update()
    repository.versions["snapshot"] = 1
    repository.publish_timestamp()
    assert verify(repository).versions.snapshot == 1
    assert "snapshot version 1, but version 2" in refused(repository, seen, error=GovernanceRollbackError)
    with pytest.raises(RepositoryError):
        oracle.update()


def test_a_role_that_vanishes(repository: Repository, seen: Versions, oracle: Oracle) -> None:
    """What a team forbade would be gone with it."""
    del repository.delegations["team-a"], repository.versions["team-a"]
    repository.publish({"authorities.json": b"{}"})
    assert verify(repository).versions.targets == {"targets": 2}
    assert "no longer names role 'team-a'" in refused(repository, seen, error=GovernanceRollbackError)
    with pytest.raises(RepositoryError):
        oracle.update()


def test_rollback_of_the_root(repository: Repository) -> None:
    """Hidden roots: the client saw version 2, which took a key away, and is shown the repository of before."""
    old = dict(repository.metadata)
    repository.rotate("targets")
    repository.publish(FILES)
    seen = verify(repository).versions
    assert seen.root == 2
    repository.metadata = old
    assert "root version 1, but version 2" in refused(repository, seen, error=GovernanceRollbackError)


# --- fast-forward ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_fast_forward_ends_with_new_keys(repository: Repository, role: str) -> None:
    """One leaked online key, the highest version signed with it: new keys for that role, and versions start again."""
    good = dict(repository.versions)
    repository.versions[role] = 2**31 - 1
    repository.publish_snapshot() if role == "snapshot" else repository.publish_timestamp()
    seen = verify(repository).versions
    assert getattr(seen, role) == 2**31
    repository.versions = good
    repository.publish_snapshot()
    refused(repository, seen, error=GovernanceRollbackError)
    repository.rotate(role)
    repository.publish_snapshot()
    found = verify(repository, seen)
    assert getattr(found.versions, role) < 5
    refused(
        repository,
        Versions(root=2, timestamp=2**31, snapshot=2**31, targets={"targets": 1}),
        error=GovernanceRollbackError,
    )


def test_another_key_beside_the_old_one_forgets_nothing(repository: Repository) -> None:
    """Only when those who signed cannot sign any more do their versions no longer bind."""
    publish_two(repository)
    seen = verify(repository).versions
    repository.rotate("timestamp", "timestamp", "another")
    repository.versions |= {"timestamp": 0}
    repository.publish_timestamp()
    refused(repository, seen, error=GovernanceRollbackError)


def test_taking_fewer_keys_away_than_the_threshold_forgets_nothing(repository: Repository) -> None:
    repository.thresholds["timestamp"] = 2
    repository.rotate("timestamp", "t1", "t2", "t3")
    publish_two(repository)
    seen = verify(repository).versions
    repository.rotate("timestamp", "t1", "t2", "t4")
    repository.versions["timestamp"] = 0
    repository.publish_timestamp()
    refused(repository, seen, error=GovernanceRollbackError)
    repository.rotate("timestamp", "t1", "t5", "t6")
    repository.versions["timestamp"] = 0
    repository.publish_timestamp()
    assert verify(repository, seen).versions.timestamp == 1


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_taking_one_of_two_keys_away_revives_nothing(repository: Repository, role: str) -> None:
    """The key that stays has signed what is old, too: that must not count again because the other one went."""
    repository.rotate(role, "kept", "gone")
    repository.publish(FILES)
    old = dict(repository.metadata)
    publish_two(repository)
    seen = verify(repository).versions
    repository.rotate(role, "kept")
    stale = repository.metadata["3.root.json"]
    repository.metadata.clear()
    repository.metadata |= {**old, "3.root.json": stale}
    refused(repository, seen, error=GovernanceRollbackError)


@pytest.mark.parametrize("is_away", [False, True])
def test_keys_that_come_back_revive_nothing(repository: Repository, *, is_away: bool) -> None:
    """Taken away, seen or not, and named again later: what they signed before is as old as it was."""
    old = dict(repository.metadata)
    publish_two(repository)
    seen = verify(repository).versions
    repository.rotate("timestamp", "another")
    if is_away:
        repository.publish_timestamp()
        seen = verify(repository, seen).versions
    repository.rotate("timestamp", "timestamp")
    roots = {name: data for name, data in repository.metadata.items() if name.endswith(".root.json")}
    repository.metadata.clear()
    repository.metadata |= {**old, **roots}
    refused(repository, seen, error=GovernanceRollbackError)


# --- mix and match -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["snapshot", "targets", "team-a"])
@pytest.mark.parametrize("how", ["hash", "length"])
def test_mix_and_match(repository: Repository, oracle: Oracle, role: str, how: str) -> None:
    """Another file of that version, signed by the right keys: not the one that belongs to this set."""
    publish_two(repository)
    name = f"2.{role}.json"
    edit(repository, name, lambda signed: signed.update(expires="2035-01-01T00:00:00Z"))
    if how == "length":
        repository.metadata[name] += b" "
    assert "does not match" in refused_or_too_long(repository)
    with pytest.raises(Exception, match=r"match|length|bytes"):
        oracle.update(*FILES)


def refused_or_too_long(repository: Repository) -> str:
    """A file that is longer than its parent says is not read to its end."""
    with pytest.raises((MalformedError, VerificationError)) as raised:
        verify(repository)
    return str(raised.value).replace("the limit is", "does not match")


@pytest.mark.parametrize("role", ["snapshot", "targets", "team-a"])
def test_an_old_file_under_a_new_name(
    repository: Repository, seen: Versions, oracle: Oracle, role: str
) -> None:
    publish_two(repository)
    repository.metadata[f"2.{role}.json"] = repository.metadata[f"1.{role}.json"]
    for name in ("2.snapshot.json", "timestamp.json"):
        if name != f"2.{role}.json":
            edit(repository, name, lambda signed: [drop_hashes(meta) for meta in signed["meta"].values()])
    assert f"2.{role}.json is version 1" in refused(repository, seen)
    with pytest.raises(RepositoryError):
        oracle.update(*FILES)


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json", "1.team-a.json"])
def test_a_missing_file(repository: Repository, tmp_path: Path, name: str) -> None:
    del repository.metadata[name]
    assert f"{name} is missing" in refused(repository)
    with pytest.raises(Exception, match="not found"):
        Oracle(repository, tmp_path / "new").update(*FILES)


@pytest.mark.parametrize("role", ["targets", "team-a"])
def test_a_role_that_the_snapshot_does_not_name(repository: Repository, role: str) -> None:
    edit(repository, "1.snapshot.json", lambda signed: signed["meta"].pop(f"{role}.json"))
    relink(repository)
    assert f"the snapshot does not name role {role!r}" in refused(repository)


def test_one_kind_of_file_for_another(repository: Repository) -> None:
    """Snapshot and timestamp are often signed by one key: what the file is decides, not who signed."""
    repository.rotate("timestamp", "snapshot")
    repository.publish_snapshot()
    repository.metadata["timestamp.json"] = repository.metadata["1.snapshot.json"]
    assert "expected metadata of type 'timestamp'" in refused(repository, error=MalformedError)


# --- signers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json", "1.team-a.json"]
)
@pytest.mark.parametrize("signers", [("stranger",), ("snapshot", "stranger"), ()])
def test_wrong_signer(repository: Repository, tmp_path: Path, name: str, signers: tuple[str, ...]) -> None:
    """A stranger, or someone with another role: each role signs for itself."""
    if "snapshot" in name:
        signers = tuple("timestamp" if signer == "snapshot" else signer for signer in signers)
    if name == "2.root.json":
        repository.rotate("targets")
        repository.publish(FILES)
    signed = json.loads(repository.metadata[name])["signed"]
    repository.metadata[name] = signed_file(repository, signed, *signers)
    if name.endswith(("targets.json", "team-a.json")):
        relink(repository)
    elif "snapshot" in name:
        edit(repository, "timestamp.json", lambda signed: drop_hashes(signed["meta"]["snapshot.json"]))
    assert "signed by 0/1 keys" in refused(repository)
    with pytest.raises(RepositoryError):
        Oracle(repository, tmp_path / "new").update(*FILES)


@pytest.mark.parametrize("role", ["targets", "timestamp", "snapshot", "team-a"])
def test_key_compromise_below_the_threshold(repository: Repository, tmp_path: Path, role: str) -> None:
    """One of the two keys, signing once, twice, or with a copy of its signature under the other's name."""
    repository.thresholds[role] = 2
    repository.signers[role] = ["one", "two", "three"]
    repository.publish_root()
    if role == "team-a":
        repository.delegations["team-a"] = Delegation(
            role, repository.role_keys(role), repository.delegations[role].paths
        )
    repository.publish({**FILES, "platform/local.json": b"newer", "teams/a/authorities.json": b"newer"})
    assert verify(repository)
    name = next(reversed([name for name in repository.metadata if name.endswith(f"{role}.json")]))
    honest = json.loads(repository.metadata[name])
    one = json.loads(signed_file(repository, honest["signed"], "one"))["signatures"]
    for number, (signatures, error) in enumerate(
        (
            (one, VerificationError),
            ([*one, {"keyid": tuf_id(repository, "two"), "sig": one[0]["sig"]}], VerificationError),
            ([*one, {"keyid": tuf_id(repository, "two"), "sig": ""}], VerificationError),
            ([*one, {"keyid": "x", "sig": one[0]["sig"]}], VerificationError),
            ([*one, *one], MalformedError),
        )
    ):
        repository.metadata[name] = json.dumps({**honest, "signatures": signatures}).encode()
        if role in ("targets", "team-a"):
            relink(repository)
        elif role == "snapshot":
            edit(
                repository,
                "timestamp.json",
                lambda signed: signed["meta"]["snapshot.json"].pop("length", None),
            )
            edit(
                repository,
                "timestamp.json",
                lambda signed: signed["meta"]["snapshot.json"].pop("hashes", None),
            )
        refused(repository, error=error)
        with pytest.raises(Exception, match=r"signed by 1/2|deserialize"):
            Oracle(repository, tmp_path / str(number)).update(*FILES)


# --- root --------------------------------------------------------------------------------------------------------------


def test_root_rotation(repository: Repository, seen: Versions, oracle: Oracle) -> None:
    """By k of the old and k of the new keys; the anchor stays where it is."""
    repository.thresholds["root"] = 2
    repository.rotate("root", "r1", "r2", "r3")
    repository.rotate("root", "r2", "r4")
    repository.publish(FILES)
    assert verify(repository, seen).versions.root == 3
    assert oracle.update(*FILES).keys() == FILES.keys()


@pytest.mark.parametrize(
    "signers", [("root",), ("r1", "r2"), ("root", "r1"), ("r1", "r1"), ("targets", "r1", "r2")]
)
def test_root_rotation_by_too_few(repository: Repository, tmp_path: Path, signers: tuple[str, ...]) -> None:
    """Old keys alone, new keys alone, below the new threshold."""
    repository.thresholds["root"] = 2
    repository.rotate("root", "r1", "r2")
    repository.publish(FILES)
    signed = json.loads(repository.metadata["2.root.json"])["signed"]
    repository.metadata["2.root.json"] = signed_file(repository, signed, *dict.fromkeys(signers))
    assert "signed by" in refused(repository)
    with pytest.raises(RepositoryError):
        Oracle(repository, tmp_path / "new").update()


def test_an_anchor_that_does_not_sign_itself(repository: Repository) -> None:
    repository.root = signed_file(repository, json.loads(repository.root)["signed"], "targets")
    refused(repository)


def test_a_gap_between_roots(repository: Repository, tmp_path: Path) -> None:
    """Roots behind the gap are not looked at: what they let sign does not count."""
    repository.rotate("timestamp")
    repository.rotate("timestamp")
    repository.publish(FILES)
    assert verify(repository).versions.root == 3
    del repository.metadata["2.root.json"]
    assert "timestamp.json" in refused(repository)
    with pytest.raises(RepositoryError):
        Oracle(repository, tmp_path / "new").update()


def test_a_root_of_another_version(repository: Repository, tmp_path: Path) -> None:
    """Version 3 as the one after version 1: 2, which takes a key away, would never be seen."""
    repository.publish_root()
    repository.publish_root()
    repository.metadata["2.root.json"] = repository.metadata.pop("3.root.json")
    assert "2.root.json is version 3" in refused(repository)
    with pytest.raises(RepositoryError):
        Oracle(repository, tmp_path / "new").update()


def test_a_newer_anchor(repository: Repository, seen: Versions) -> None:
    repository.rotate("root")
    repository.publish(FILES)
    repository.root = repository.metadata["2.root.json"]
    assert verify(repository, seen).versions.root == 2


def test_roots_without_end(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "MAX_ROOTS", 3)
    for _ in range(2):
        repository.publish_root()
    assert verify(repository).versions.root == 3
    repository.publish_root()
    assert "3 root versions after the anchor" in refused(repository)


def test_consistent_snapshots_only(repository: Repository) -> None:
    repository.publish_root()
    edit(repository, "2.root.json", lambda signed: signed.update(consistent_snapshot=False))
    assert "consistent_snapshot" in refused(repository, error=MalformedError)


# --- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json", "1.team-a.json"]
)
def test_endless_data(repository: Repository, name: str) -> None:
    """No more is asked for than a role may have, or than its parent says; what is longer is not parsed."""
    asked: dict[str, int] = {}

    def fetch(wanted: str, max_bytes: int) -> bytes | None:
        asked[wanted] = max_bytes
        return b" " * (max_bytes + 1) if wanted == name else repository.fetch(wanted, max_bytes)

    with pytest.raises(MalformedError, match="the limit is"):
        verify_metadata(fetch, root=repository.root, floor=None)
    kind = name.removesuffix(".json").rpartition(".")[2].replace("team-a", "targets")
    limit = len(repository.metadata[name]) if name.startswith("1.") else MAX_BYTES[kind]
    assert asked[name] == limit


def test_an_anchor_over_its_limit(repository: Repository) -> None:
    repository.root += b" " * MAX_BYTES["root"]
    assert "the limit is" in refused(repository, error=MalformedError)


def test_a_length_beyond_the_limit_asks_for_no_more(repository: Repository) -> None:
    edit(repository, "timestamp.json", lambda signed: signed["meta"]["snapshot.json"].update(length=1 << 40))
    asked: dict[str, int] = {}

    def fetch(name: str, max_bytes: int) -> bytes | None:
        asked[name] = max_bytes
        return repository.fetch(name, max_bytes)

    with pytest.raises(VerificationError):
        verify_metadata(fetch, root=repository.root, floor=None)
    assert asked["1.snapshot.json"] == MAX_BYTES["snapshot"]


def test_too_many_targets(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "MAX_TARGETS", len(FILES) - 1)
    assert "more than 3 targets" in refused(repository, error=MalformedError)


def test_more_bytes_than_hosts_download(repository: Repository) -> None:
    """A team that signs much is refused where it is published: else each host would keep what it has until it expires."""

    def fill(signed: dict[str, Any]) -> None:
        one = {"hashes": {"sha256": "00" * 32}, "length": 16 << 20}
        signed["targets"] = {f"teams/a/{number}": one for number in range(32)}

    edit(repository, "1.team-a.json", fill)
    relink(repository)
    assert "the limit is 536870912" in refused(repository, error=MalformedError)


def test_target_files_of_any_size(repository: Repository) -> None:
    edit(
        repository,
        "1.targets.json",
        lambda signed: signed["targets"]["authorities.json"].update(length=MAX_TARGET_BYTES + 1),
    )
    relink(repository)
    refused(repository, error=MalformedError)


# --- targets -----------------------------------------------------------------------------------------------------------


def test_verify_target() -> None:
    file = TargetFile(length=3, sha256=sha256(b"abc").hexdigest(), role="targets")
    verify_target("a.json", file, b"abc")
    with pytest.raises(VerificationError, match="expected 3 bytes, found 4"):
        verify_target("a.json", file, b"abcd")
    with pytest.raises(VerificationError, match="expected SHA-256"):
        verify_target("a.json", file, b"abd")


def test_target_path() -> None:
    assert target_path("authorities.json", "ab") == "ab.authorities.json"
    assert target_path("platform/history/local-1.json", "ab") == "platform/history/ab.local-1.json"


def test_target_paths_are_those_of_python_tuf(repository: Repository) -> None:
    from tuf.api.metadata import TargetFile as Oracles

    for name, file in verify(repository).targets.items():
        oracle = Oracles.from_data(name, FILES[name], ["sha256"])
        assert oracle.get_prefixed_paths() == [target_path(name, file.sha256)]
        assert repository.targets[target_path(name, file.sha256)] == FILES[name]


def test_a_thousand_targets_are_verified_in_less_than_a_second() -> None:
    """CPU time, all signatures and the digest of every file; it takes about 20 ms."""
    files = {f"hosts/{number:064x}.json": number.to_bytes(2048, "big") for number in range(1000)}
    repository = Repository("many", now=NOW)
    repository.publish(files)
    started = time.process_time()
    found = verify(repository)
    for name, data in files.items():
        verify_target(name, found.targets[name], data)
    assert time.process_time() - started < 1


# --- versions ----------------------------------------------------------------------------------------------------------


def test_versions_as_json(seen: Versions) -> None:
    value = json.loads(json.dumps(seen.to_json()))
    assert value == {"root": 1, "timestamp": 1, "snapshot": 1, "targets": {"targets": 1, "team-a": 1}}
    assert Versions.from_json(value) == seen


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"root": 1, "timestamp": 1, "snapshot": 1},
        {"root": 0, "timestamp": 1, "snapshot": 1, "targets": {}},
        {"root": True, "timestamp": 1, "snapshot": 1, "targets": {}},
        {"root": 1, "timestamp": 1, "snapshot": 1, "targets": {"../x": 1}},
        {"root": 1, "timestamp": 1, "snapshot": 1, "targets": {"targets": 2**31 + 1}},
        {"root": 1, "timestamp": 1, "snapshot": 1, "targets": {}, "x": 1},
    ],
)
def test_what_are_no_versions(value: Any) -> None:
    with pytest.raises(MalformedError):
        Versions.from_json(value)
