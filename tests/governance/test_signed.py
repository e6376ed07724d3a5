"""Metadata that is properly signed and not what it must be: its form, its keys, the names in it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attestd.errors import MalformedError, VerificationError
from tests.governance.tuf import (
    FILES,
    Oracle,
    drop_hashes,
    edit,
    pem,
    refused,
    relink,
    tuf_id,
    tuf_public,
    verify,
)
from tests.repository import Repository
from tests.world import NOW, p256, spki

ONLINE = ("timestamp.json", "{snapshot}.snapshot.json")


# --- what is no metadata -----------------------------------------------------------------------------------------------

HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "not JSON": lambda data: data[1:],
    "truncated": lambda data: data[:-1],
    "trailing": lambda data: data + b"{}",
    "invalid UTF-8": lambda data: data.replace(b'"signed"', b'"signed\xff"'),
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "deep": lambda data: data.replace(
        b'"spec_version"', b'"x":' + b"[" * 100 + b"]" * 100 + b',"spec_version"'
    ),
    "very deep": lambda _: b"[" * 15_000,
    "duplicate": lambda data: data.replace(b'"spec_version"', b'"version":9,"spec_version"', 1),
    "duplicate at the top": lambda data: data.replace(b'"signed"', b'"signed":{},"signed"', 1),
    "huge integer": lambda data: data.replace(b'"spec_version"', b'"x":' + b"9" * 5_000 + b',"spec_version"'),
    "float": lambda data: data.replace(b'"spec_version"', b'"x":1.5,"spec_version"'),
    "exponent": lambda data: data.replace(b'"spec_version"', b'"x":1e3,"spec_version"'),
    "NaN": lambda data: data.replace(b'"spec_version"', b'"x":NaN,"spec_version"'),
    "lone surrogate": lambda data: data.replace(b'"spec_version"', b'"\\ud800":1,"spec_version"'),
    "array": lambda data: b"[" + data + b"]",
    "null": lambda _: b"null",
    "unsigned member": lambda data: data[:-1] + b',"x":1}',
    "no signatures": lambda data: b'{"signed":' + data.partition(b'"signed":')[2],
    "signatures of nothing": lambda _: b'{"signatures":[],"signed":{}}',
}
PUBLISHED = ("2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json", "1.team-a.json")


@pytest.mark.parametrize("name", ["root.json", *PUBLISHED])
@pytest.mark.parametrize("how", HOSTILE)
def test_not_metadata(repository: Repository, name: str, how: str) -> None:
    repository.publish_root()
    if name == "root.json":
        repository.root = HOSTILE[how](repository.root)
    else:
        data = HOSTILE[how](repository.metadata[name])
        assert data != repository.metadata[name]
        repository.metadata[name] = data
        if name.endswith(("targets.json", "team-a.json")):
            relink(repository)
        elif "snapshot" in name:
            edit(repository, "timestamp.json", lambda signed: drop_hashes(signed["meta"]["snapshot.json"]))
    refused(repository, error=MalformedError)


@pytest.mark.parametrize("name", ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"])
@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(("version", value) for value in (0, -1, True, "1", None, 2**31 + 1, [1])),
        *(
            ("spec_version", value)
            for value in ("2.0.0", "1", "1.0.0.0", "0.9.0", "\u0661.0.0", "", 1, "1.x")
        ),
        *(
            ("expires", value)
            for value in (
                "2036-01-01",
                "2036-1-1T00:00:00Z",
                "2036-01-01T00:00:00+00:00",
                "2036-02-30T00:00:00Z",
                "2036-01-01T00:00:00.5Z",
                0,
            )
        ),
        ("_type", "mirror"),
        ("_type", ["root"]),
    ],
)
def test_common_members(repository: Repository, name: str, member: str, value: Any) -> None:
    """Properly signed, so that nothing but the form is wrong. To Python True is 1 and the first day has any zeros."""
    repository.publish_root()
    edit(repository, name, lambda signed: signed.update({member: value}))
    if name.startswith("1."):
        relink_to(repository, name)
    refused(repository, error=MalformedError)


def relink_to(repository: Repository, name: str) -> None:
    parent = "timestamp.json" if "snapshot" in name else "1.snapshot.json"
    edit(repository, parent, lambda signed: [drop_hashes(meta) for meta in signed["meta"].values()])
    if parent == "1.snapshot.json":
        edit(repository, "timestamp.json", lambda signed: drop_hashes(signed["meta"]["snapshot.json"]))


@pytest.mark.parametrize(
    "name", ["root.json", "timestamp.json", "1.snapshot.json", "1.targets.json", "1.team-a.json"]
)
def test_every_byte_counts(repository: Repository, name: str) -> None:
    """A bit anywhere in any file: there is no byte that nobody looks at."""
    good = repository.root if name == "root.json" else repository.metadata[name]
    for at in range(0, len(good), 5):
        changed = bytearray(good)
        changed[at] ^= 1 << (at % 8)
        if name == "root.json":
            repository.root = bytes(changed)
        else:
            repository.metadata[name] = bytes(changed)
        with pytest.raises((MalformedError, VerificationError)):
            verify(repository)


# --- keys --------------------------------------------------------------------------------------------------------------


def two_ids(repository: Repository, twin: dict[str, Any]) -> None:
    """Root 2: two of `targets` and of its twin must sign, which is the same key in another spelling."""

    def change(signed: dict[str, Any]) -> None:
        signed["keys"]["twin"] = twin
        signed["roles"]["targets"] = {"keyids": [tuf_id(repository, "targets"), "twin"], "threshold": 2}

    repository.publish_root()
    edit(repository, "2.root.json", change)
    targets = json.loads(repository.metadata["1.targets.json"])
    targets["signatures"].append({**targets["signatures"][0], "keyid": "twin"})
    repository.metadata["1.targets.json"] = json.dumps(targets).encode()
    relink(repository)


def test_one_key_under_two_ids(repository: Repository, tmp_path: Path) -> None:
    """Key ids are anybody's choice. python-tuf counts ids, and lets one person sign as two."""
    two_ids(repository, tuf_public(repository, "targets").to_dict())
    assert "one key under two ids" in refused(repository, error=MalformedError)
    assert Oracle(repository, tmp_path / "new").update(*FILES), "if it refuses too, say so here"


def test_one_key_in_two_spellings(repository: Repository) -> None:
    value = tuf_public(repository, "targets").to_dict()
    two_ids(repository, {**value, "keyval": {"public": value["keyval"]["public"].upper()}})
    assert "one key under two ids" in refused(repository, error=MalformedError)


def test_one_p256_key_in_two_pems(repository: Repository) -> None:
    der = spki(p256("twin"))

    def change(signed: dict[str, Any]) -> None:
        for name, width in (("a", 64), ("b", 32)):
            key = {"keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256", "keyval": {"public": pem(der, width)}}
            signed["keys"][name] = key

    repository.publish_root()
    edit(repository, "2.root.json", change)
    assert "one key under two ids" in refused(repository, error=MalformedError)


def test_one_key_under_two_ids_of_a_delegation(repository: Repository) -> None:
    def change(signed: dict[str, Any]) -> None:
        keys = signed["delegations"]["keys"]
        keys["twin"] = dict(next(iter(keys.values())))

    edit(repository, "1.targets.json", change)
    relink(repository)
    assert "one key under two ids" in refused(repository, error=MalformedError)


def test_a_role_with_an_unknown_key(repository: Repository) -> None:
    edit(
        repository,
        "1.targets.json",
        lambda signed: signed["delegations"]["roles"][0]["keyids"].append("00"),
    )
    relink(repository)
    assert "unknown key 00" in refused(repository, error=MalformedError)


@pytest.mark.parametrize(
    "key",
    [
        {"keytype": "rsa", "scheme": "rsassa-pss-sha256", "keyval": {"public": "x"}},
        {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "00"}},
        {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "xx" * 32}},
        {"keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256", "keyval": {"public": "x"}},
        {"keytype": "ecdsa", "scheme": "ed25519", "keyval": {"public": "00" * 32}},
    ],
)
def test_keys_of_other_kinds(repository: Repository, key: dict[str, Any]) -> None:
    repository.publish_root()
    edit(repository, "2.root.json", lambda signed: signed["keys"].update(other=key))
    refused(repository, error=MalformedError)


def test_a_p256_key_signs(repository: Repository) -> None:
    """Authorities may have any key that attestd knows; its key is checked by its kind, not by what the file calls it."""
    from attestd.governance.draft import RoleKeys, add_signature, draft_root
    from tests.world import signer

    key = p256("tuf root")
    keys = RoleKeys((signer(key)(b"")[0],))
    roles = {role: repository.role_keys(role) for role in ("targets", "snapshot", "timestamp")}
    draft = draft_root(version=1, expires=NOW, root=keys, **roles)
    repository.root = add_signature(draft, signer(key))
    assert verify(repository).expires_role == "root"
    wrong = json.loads(repository.root)
    wrong["signatures"][0]["sig"] = "3006020101020101"
    repository.root = json.dumps(wrong).encode()
    refused(repository)


# --- target files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/x",
        "a//b",
        "a/./b",
        "a/../b",
        ".x",
        "a/.b",
        "a\\b",
        "a\0",
        "ü",
        "",
        "a/",
        "a b",
        "a/b/c/d/e",
        "x" * 200,
    ],
)
def test_names_that_are_no_names(repository: Repository, name: str) -> None:
    """A name becomes a path below the mirror, and a URL."""

    def change(signed: dict[str, Any]) -> None:
        signed["targets"][name] = signed["targets"]["authorities.json"]

    edit(repository, "1.targets.json", change)
    relink(repository)
    refused(repository, error=MalformedError)


@pytest.mark.parametrize(
    "hashes",
    [
        {},
        {"md5": "00" * 16},
        {"sha256": "00"},
        {"sha256": "AA" * 32},
        {"sha256": "00" * 32, "sha512": "00" * 64},
        None,
    ],
)
def test_targets_have_one_digest(repository: Repository, hashes: Any) -> None:
    """Its SHA-256 is the file's name: another digest beside it would give it two."""
    edit(
        repository,
        "1.targets.json",
        lambda signed: signed["targets"]["authorities.json"].update(hashes=hashes),
    )
    relink(repository)
    refused(repository, error=MalformedError)
