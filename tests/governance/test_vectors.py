"""The golden examples: one of each trust file, an artifact, both decisions, and the receipt that joins them."""

import json
from pathlib import Path

import pytest

from attestd.distribution.local import TrustSource, load_trust
from attestd.gate.release import verify_release
from attestd.governance.trust import Trust
from attestd.lineage.entry import EntryType, parse_entry
from attestd.lineage.receipt import parse_receipt, verify_receipt
from tests.governance.make_vectors import DIRECTORY, golden_world, vectors
from tests.governance.tuf import Oracle
from tests.world import SALT

VECTORS = vectors()
LEAF = "afd0ee621d77e7d12b41de0625059c442555feeb7b80a0e735b3a527079f575a"


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_the_checked_in_file_is_what_the_generator_writes(name: str) -> None:
    assert (DIRECTORY / name).read_bytes() == VECTORS[name]


def test_no_file_without_a_generator() -> None:
    found = {str(path.relative_to(DIRECTORY)) for path in DIRECTORY.rglob("*") if path.is_file()}
    assert found == set(VECTORS)


def _trust() -> Trust:
    trust = DIRECTORY / "trust"
    return load_trust(TrustSource.at(trust, owners={trust.stat().st_uid}))


def test_the_golden_trust_verifies() -> None:
    trust = _trust()
    assert trust.version == 1
    assert trust.versions.to_json() == {
        "root": 1,
        "timestamp": 1,
        "snapshot": 1,
        "targets": {"targets": 1, "team-payments": 1},
    }
    assert trust.unusable == {}
    assert trust.platforms["local"].reference() == golden_world().values
    assert trust.platforms["local"].approvals[0].max_epoch == 3
    assert [rule.name for rule in trust.authorities.rules] == ["local", "payments/all"]
    assert trust.revocations.bump is not None


def test_the_golden_trust_is_a_repository_for_python_tuf(tmp_path: Path) -> None:
    oracle = Oracle(golden_world().publish(), tmp_path)
    assert oracle.update(*golden_world().files()).keys() == golden_world().files().keys()


def test_the_golden_receipt_verifies() -> None:
    receipt = parse_receipt((DIRECTORY / "deploy.tlog-proof").read_bytes())
    verified = verify_receipt(receipt, trust=_trust())
    assert verified.entry_bytes == (DIRECTORY / "decision.allow.json").read_bytes()
    assert verified.leaf == LEAF


def test_the_golden_receipt_releases() -> None:
    world = golden_world()
    released = verify_release(
        receipt=(DIRECTORY / "deploy.tlog-proof").read_bytes(),
        artifact=(DIRECTORY / "deploy.auth.json").read_bytes(),
        execution=world.execution(),
        here=world.here(trust=_trust()),
        salt=SALT,
    )
    assert released.leaf == LEAF


def test_the_golden_bodies_have_the_members_of_the_format() -> None:
    allow = parse_entry((DIRECTORY / "decision.allow.json").read_bytes())
    deny = parse_entry((DIRECTORY / "decision.deny.json").read_bytes())
    members = {
        "argv",
        "artifact",
        "attribution",
        "authority",
        "checks",
        "code",
        "cwd",
        "env",
        "executable",
        "governance",
        "id",
        "inputs",
        "interpreters",
        "isolation",
        "mesh",
        "parent",
        "platform",
        "policy",
        "requester",
        "terms",
        "uid",
        "verifiers",
        "witness_quorum",
    }
    assert (allow.type, set(allow.body)) == (EntryType.DECISION_ALLOW, members)
    assert (deny.type, set(deny.body)) == (EntryType.DECISION_DENY, members | {"denial"})
    assert deny.body["code"] == "scope_violation"
    assert json.loads((DIRECTORY / "decision.deny.json").read_bytes())["seq"] == 2
