"""The golden examples: one of each trust file, an artifact, both decisions, and the receipt that joins them."""

import json
from pathlib import Path

import pytest

from attestd.distribution.local import load_trust
from attestd.gate.release import verify_release
from attestd.governance.trust import Trust, parse_trust
from attestd.lineage.entry import EntryType, parse_entry
from attestd.lineage.receipt import parse_receipt, verify_receipt
from tests.governance.make_vectors import DIRECTORY, golden_world, vectors
from tests.world import BOOT, NOW

VECTORS = vectors()
LEAF = "7bcdaed50c99f5459493134e050b7f320df82df87dc28cdcddaa0e8e793d1d0f"


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_the_checked_in_file_is_what_the_generator_writes(name: str) -> None:
    assert (DIRECTORY / name).read_bytes() == VECTORS[name]


def test_no_file_without_a_generator() -> None:
    found = {str(path.relative_to(DIRECTORY)) for path in DIRECTORY.rglob("*") if path.is_file()}
    assert found == set(VECTORS)


def checked_in() -> dict[str, bytes]:
    trust = DIRECTORY / "trust"
    return {str(path.relative_to(trust)): path.read_bytes() for path in trust.rglob("*") if path.is_file()}


def test_the_golden_trust_verifies() -> None:
    trust = parse_trust(checked_in())
    assert trust.version == 1 + 1 + 2
    assert trust.platforms["local"].reference() == golden_world().values
    assert trust.platforms["local"].approvals[0].max_epoch == 3


def test_the_golden_trust_verifies_as_a_directory(tmp_path: Path) -> None:
    directory = golden_world().write_trust(tmp_path / "trust")
    loaded = load_trust(directory, owners=[directory.stat().st_uid])
    assert loaded.digest == parse_trust(checked_in()).digest


def _trust() -> Trust:
    return parse_trust(checked_in())


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
        trust=_trust(),
        host_id=world.host.id,
        boot=BOOT,
        now=NOW,
        isolation="user",
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
        "parent",
        "platform",
        "policy",
        "requester",
        "terms",
        "uid",
        "witness_quorum",
    }
    assert (allow.type, set(allow.body)) == (EntryType.DECISION_ALLOW, members)
    assert (deny.type, set(deny.body)) == (EntryType.DECISION_DENY, members | {"denial"})
    assert deny.body["code"] == "scope_violation"
    assert json.loads((DIRECTORY / "decision.deny.json").read_bytes())["seq"] == 2
