"""The list of targets: the same whichever way it was read, in a few bytes each."""

import json
import time
from hashlib import sha256

import pytest
from tuf.api.metadata import Targets

from attestd.errors import MalformedError, VerificationError
from attestd.governance import metadata as under_test
from attestd.governance.metadata import verify_metadata
from attestd.governance.signed import parse_signed
from attestd.governance.targets import TargetFile, TargetList, pack_target, packed_length, parse_targets
from tests.repository import Repository
from tests.world import NOW

FILES = {f"hosts/{sha256(b'%d' % number).hexdigest()}.json": b"%d" % number for number in range(300)}


@pytest.fixture
def repository() -> Repository:
    found = Repository("targets", now=NOW)
    found.publish(FILES)
    return found


def listed(data: bytes, **more: object) -> dict[str, bytes]:
    return dict(parse_targets(data, what="targets.json", **more).files)  # type: ignore[arg-type]


EXPECTED = {name: pack_target(sha256(data).hexdigest(), len(data)) for name, data in FILES.items()}


def test_both_ways_read_the_same(repository: Repository) -> None:
    own = repository.metadata["1.targets.json"]
    other = json.dumps(json.loads(own), indent=1).encode()
    quick, slow = parse_targets(own, what="x"), parse_targets(other, what="x")
    assert quick.files == slow.files == EXPECTED
    assert quick.signed.payload == slow.signed.payload == parse_signed(own, Targets, what="x").payload
    assert quick.signed.signatures.keys() == slow.signed.signatures.keys()
    assert quick.signed.content == slow.signed.content
    assert quick.signed.content.targets == {}


def test_with_delegations(repository: Repository) -> None:
    """Role, keys, paths: what `parse_signed` reads of them."""
    from attestd.governance.draft import Delegation

    repository.signers["team-a"] = ["a", "b"]
    repository.delegations["team-a"] = Delegation("team-a", repository.role_keys("team-a"), ("teams/a/*",))
    repository.publish({**FILES, "teams/a/x.json": b"{}"})
    data = repository.metadata["2.targets.json"]
    found, whole = parse_targets(data, what="x"), parse_signed(data, Targets, what="x")
    assert found.signed.content.delegations == whole.content.delegations
    assert found.signed.payload == whole.payload
    assert listed(repository.metadata["1.team-a.json"]).keys() == {"teams/a/x.json"}
    trusted = verify_metadata(repository.fetch, root=repository.root, floor=None).targets
    assert trusted["teams/a/x.json"] == TargetFile(2, sha256(b"{}").hexdigest(), "team-a")
    assert "teams/a/x.json" in trusted
    assert set(trusted) == {*FILES, "teams/a/x.json"}
    assert len(trusted) == len(FILES) + 1
    with pytest.raises(KeyError):
        trusted.packed("nothing")
    with pytest.raises(KeyError):
        trusted["nothing"]


def test_an_escape_takes_the_slow_way(repository: Repository) -> None:
    """TUF's canonical JSON writes it otherwise than the file does."""
    value = json.loads(repository.metadata["1.targets.json"])
    value["signatures"][0]["keyid"] = 'a"b'
    data = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    found = parse_targets(data, what="x")
    assert found.files == EXPECTED
    assert found.signed.payload == parse_signed(data, Targets, what="x").payload


@pytest.mark.parametrize(
    ("place", "new"),
    [
        (("signed", "_type"), "snapshot"),
        (("signed", "version"), 0),
        (("signed", "version"), True),
        (("signed", "expires"), "2026-13-01T00:00:00Z"),
        (("signed", "targets", "../x"), {"hashes": {"sha256": "00" * 32}, "length": 1}),
        (("signed", "targets", "x"), {"hashes": {"sha256": "0"}, "length": 1}),
        (("signed", "targets", "x"), {"hashes": {"sha256": "00" * 32}, "length": -1}),
        (("signed", "targets", "x"), {"hashes": {"sha256": "00" * 32}, "length": 1 << 40}),
        (("signatures", 0, "sig"), "zz"),
        (("more",), 1),
    ],
)
def test_what_is_no_targets_file(repository: Repository, place: tuple[str | int, ...], new: object) -> None:
    value = json.loads(repository.metadata["1.targets.json"])
    inner = value
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = new
    with pytest.raises(MalformedError):
        listed(json.dumps(value, separators=(",", ":"), sort_keys=True).encode())


def test_one_key_twice(repository: Repository) -> None:
    value = json.loads(repository.metadata["1.targets.json"])
    value["signatures"] *= 2
    with pytest.raises(MalformedError, match="Multiple signatures"):
        listed(json.dumps(value, separators=(",", ":"), sort_keys=True).encode())


def test_equal_parts_are_used_again(repository: Repository) -> None:
    before = listed(repository.metadata["1.targets.json"])
    repository.publish({**FILES, min(FILES): b"changed"})
    after = listed(repository.metadata["2.targets.json"], known=before)
    assert after == {**EXPECTED, min(FILES): pack_target(sha256(b"changed").hexdigest(), 7)}
    assert [name for name in after if after[name] is not before[name]] == [min(FILES)]
    assert packed_length(after[min(FILES)]) == 7


def test_a_list_of_files_that_are_described() -> None:
    files = {"a": TargetFile(1, "11" * 32, "targets"), "b": TargetFile(2, "22" * 32, "team-a")}
    found = TargetList.of(files)
    assert dict(found) == files
    assert found.is_same(found)
    assert not found.is_same(TargetList.of(files)), "which says nothing"


# --- what was verified before ----------------------------------------------------------------------------------------


def test_roles_that_did_not_change_are_used_again(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = verify_metadata(repository.fetch, root=repository.root, floor=None)
    repository.publish_snapshot()
    parsed: list[str] = []
    monkeypatch.setattr(under_test, "parse_targets", lambda _, **more: parsed.append(more["what"]))
    again = verify_metadata(repository.fetch, root=repository.root, floor=None, previous=first)
    assert again.versions.snapshot == 2
    assert again.targets.is_same(first.targets)
    assert parsed == []


def test_what_was_verified_before_is_not_believed_by_other_keys(repository: Repository) -> None:
    """The same file, of a role whose key was taken away since: nobody counts for it any more."""
    first = verify_metadata(repository.fetch, root=repository.root, floor=None)
    repository.signers["targets"] = ["another"]
    repository.publish_root()
    with pytest.raises(VerificationError, match=r"1\.targets\.json"):
        verify_metadata(repository.fetch, root=repository.root, floor=None, previous=first)


def test_a_hundred_thousand_are_read_in_a_second() -> None:
    """A start is not kept waiting; the limit has room for that many, and some more."""
    repository = Repository("many", now=NOW)
    names = (sha256(b"%d" % number).hexdigest() for number in range(100_000))
    entry = {"hashes": {"sha256": "00" * 32}, "length": 2000}
    value = json.loads(repository.sign(_empty()))
    value["signed"]["targets"] = {f"hosts/{name}.json": entry for name in names}
    data = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    began = time.thread_time()
    assert len(listed(data)) == 100_000
    assert time.thread_time() - began < 4, "of a slow machine"


def _empty() -> bytes:
    from attestd.governance.draft import draft_targets

    return draft_targets(version=1, expires=NOW, targets={})
