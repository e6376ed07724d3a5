"""`keys.json`."""

import os
from pathlib import Path

import pytest

from attestd.agent.keystore import load_keys, save_keys
from attestd.errors import MalformedError, StoreError, UsageError
from attestd.tpm.keys import AuthValues, KeyBlobs

BLOBS = KeyBlobs(
    ak_public=b"1", ak_private=b"\0" * 300, release_public=b"3", release_private=bytes(range(256))
)
AUTH = AuthValues.generate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_keys(tmp_path / "keys.json", BLOBS, AUTH)
    return tmp_path / "keys.json"


def test_what_is_saved_is_loaded(path: Path) -> None:
    assert load_keys(path) == (BLOBS, AUTH)
    assert path.stat().st_mode & 0o777 == 0o600


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="attestd init"):
        load_keys(tmp_path / "keys.json")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_others_can_read_it(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(UsageError, match="chmod 600"):
        load_keys(path)


def test_symbolic_link(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(StoreError):
        load_keys(link)


def test_every_byte_counts(path: Path) -> None:
    good = path.read_bytes()
    for change in (good[:-1], good + b" ", b"", good.replace(b'"v":1', b'"v":2'), good.replace(b'"ak"', b'"ax"', 1),
                   good.replace(b"AA", b"A-", 1), b"{" * 70_000):  # fmt: skip
        path.write_bytes(change)
        with pytest.raises(MalformedError):
            load_keys(path)
    assert os.listdir(path.parent) == ["keys.json"]  # nothing temporary stays
