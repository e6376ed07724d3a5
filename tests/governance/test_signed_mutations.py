"""Every member of every metadata file in turn replaced, left out, or joined by an unknown one, and signed again.

Nothing but our own errors; and what is accepted python-tuf accepts too, and finds the same targets.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attestd.errors import MalformedError, VerificationError
from tests.governance.mutations import added, removed, replaced
from tests.governance.tuf import FILES, Oracle, relink, signed_file, verify
from tests.repository import Repository

PUBLISHED = ("2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json", "1.team-a.json")


def variants(signed: Any) -> Iterator[Any]:
    yield from (changed for _, _, changed in replaced(signed))
    yield from (changed for _, changed in added(signed))
    yield from (changed for _, changed in removed(signed))


@pytest.mark.parametrize("name", PUBLISHED)
def test_mutations(repository: Repository, tmp_path: Path, name: str) -> None:
    repository.publish_root()
    role = name.removesuffix(".json").rpartition(".")[2]
    good = dict(repository.metadata)
    accepted = 0
    for number, changed in enumerate(variants(json.loads(good[name])["signed"])):
        repository.metadata = dict(good)
        repository.metadata[name] = signed_file(repository, changed, *repository.signers[role])
        if role in ("targets", "team-a"):
            relink(repository)
        elif role == "snapshot":
            timestamp = json.loads(good["timestamp.json"])["signed"]
            del timestamp["meta"]["snapshot.json"]["length"], timestamp["meta"]["snapshot.json"]["hashes"]
            repository.metadata["timestamp.json"] = signed_file(repository, timestamp, "timestamp")
        try:
            found = verify(repository)
        except (MalformedError, VerificationError):
            continue
        accepted += 1
        theirs = Oracle(repository, tmp_path / str(number)).update(*FILES)
        assert theirs == {target: file.sha256 for target, file in found.targets.items()}
    assert accepted, "unknown members are tolerated"
