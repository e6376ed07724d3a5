"""Targets: TUF metadata, as a mirror gives it and as a role that went bad signs it."""

import json
from functools import lru_cache
from typing import Any

from securesystemslib.exceptions import FormatError
from tuf.api.metadata import Metadata

from attestd.errors import MalformedError, VerificationError
from attestd.governance.metadata import Versions, verify_metadata, verify_target
from tests.fuzz.target import target, value_of
from tests.governance.tuf import FILES, drop_hashes, edit, signed_file
from tests.repository import Repository
from tests.world import NOW

NAMES = {
    "root": "2.root.json",
    "timestamp": "timestamp.json",
    "snapshot": "1.snapshot.json",
    "targets": "1.targets.json",
    "team-a": "1.team-a.json",
}


@lru_cache
def repository() -> Repository:
    """Two roots and a team; snapshot and timestamp name versions alone, so that what they name may be any file."""
    found = Repository("fuzz", now=NOW)
    found.publish(FILES)
    found.publish_root()
    edit(found, NAMES["snapshot"], lambda signed: [drop_hashes(meta) for meta in signed["meta"].values()])
    edit(found, NAMES["timestamp"], lambda signed: drop_hashes(signed["meta"]["snapshot.json"]))
    return found


def _seeds() -> list[bytes]:
    return [repository().metadata[name] for name in NAMES.values()]


@target(MalformedError, VerificationError, seeds=_seeds, is_json=True)
def tuf_mirror(data: bytes) -> None:
    """In the place of the file that it claims to be: nobody signed it again, so it says what it said, or nothing."""
    good = verify_metadata(repository().fetch, root=repository().root, floor=None)
    found = _verify(_role(value_of(data)), data)
    assert found.targets == good.targets


@target(MalformedError, VerificationError, FormatError, seeds=_seeds, is_json=True)
def tuf_role(data: bytes) -> None:
    """Signed with the keys of its role: what is accepted python-tuf can read, and it is a floor to itself."""
    value = value_of(data)
    signed = value["signed"] if isinstance(value, dict) and "signed" in value else value
    role = _role(value)
    file = signed_file(repository(), signed, *repository().signers[role])
    found = _verify(role, file)
    assert Metadata.from_bytes(file).signed.expires >= found.expires
    assert Versions.from_json(found.versions.to_json()) == found.versions
    for name, expected in found.targets.items():
        if name in FILES and expected.length == len(FILES[name]):
            verify_target(name, expected, FILES[name])


def _role(value: Any) -> str:
    """The role that would sign it. Both targets roles have files of one type: their names tell them apart."""
    signed = value.get("signed") if isinstance(value, dict) else None
    type_ = signed.get("_type") if isinstance(signed, dict) else None
    if type_ == "targets" and "delegations" not in signed:
        return "team-a"
    return type_ if isinstance(type_, str) and type_ in NAMES else "timestamp"


def _verify(role: str, file: bytes) -> Any:
    files = {**repository().metadata, NAMES[role]: file}
    return verify_metadata(
        lambda name, limit: (files.get(name) or b"")[: limit + 1] or None, root=repository().root, floor=None
    )


@target(MalformedError, seeds=lambda: [json.dumps(repository_versions()).encode()], is_json=True)
def governance_versions(data: bytes) -> None:
    """What a floor is kept as."""
    found = Versions.from_json(value_of(data))
    assert Versions.from_json(json.loads(json.dumps(found.to_json()))) == found


def repository_versions() -> dict[str, Any]:
    """The versions of the whole repository."""
    return verify_metadata(repository().fetch, root=repository().root, floor=None).versions.to_json()
