"""Installed artifacts, found by what is asked for."""

import os
import time
from pathlib import Path

import pytest

from attestd.agent import installed as module
from attestd.agent.installed import InstalledArtifacts
from attestd.authorization.artifact import parse_artifact
from attestd.errors import MalformedError, StoreError, UsageError
from tests.host import Host, sha256


@pytest.fixture(scope="module")
def host() -> "Host":  # only issues: nothing is started
    with Host.create() as host:
        yield host


@pytest.fixture
def installed(tmp_path: Path) -> InstalledArtifacts:
    return InstalledArtifacts(tmp_path / "authorizations")


def find(
    installed: InstalledArtifacts, *, uid: int = 5, argv0: str = "/bin/true", digest: str = ""
) -> list[bytes]:
    return list(installed.candidates(uid=uid, argv0=argv0, digest=digest))


def later() -> None:
    time.sleep(0.01)


def test_nothing_installed(installed: InstalledArtifacts) -> None:
    assert find(installed) == []


def test_found_by_argv0_or_digest_the_users_first_newest_first(
    host: Host, installed: InstalledArtifacts
) -> None:
    data = [host.issue("/bin/true", str(number)) for number in range(4)]
    for number, uid in ((0, None), (1, 5), (2, 6), (3, 5)):
        assert installed.install(data[number], uid=uid) == parse_artifact(data[number]).id
        later()
    assert find(installed) == [data[3], data[1], data[0]]
    assert find(installed, uid=6) == [data[2], data[0]]
    assert find(installed, uid=7) == [data[0]]
    assert find(installed, argv0="true") == []
    assert find(installed, argv0="true", digest=sha256("/bin/true")) == [data[3], data[1], data[0]]


def test_what_is_no_artifact_does_not_hide_the_others(
    host: Host, installed: InstalledArtifacts, tmp_path: Path
) -> None:
    data = host.issue("/bin/true")
    installed.install(data, uid=5)
    directory = tmp_path / "authorizations" / "5"
    (directory / "junk.auth.json").write_bytes(b"{}")
    (directory / "link.auth.json").symlink_to("/etc/passwd")
    (directory / "large.auth.json").write_bytes(b"[" * 300_000)
    os.mkfifo(directory / "pipe.auth.json")
    (directory / "directory.auth.json").mkdir()
    assert find(installed) == [data]


def test_removed_is_not_found_any_more(host: Host, installed: InstalledArtifacts, tmp_path: Path) -> None:
    data = host.issue("/bin/true")
    id_ = installed.install(data, uid=5)
    assert find(installed) == [data]
    later()
    (tmp_path / "authorizations" / "5" / f"{id_}.auth.json").unlink()
    assert find(installed) == []


def test_installing_twice_is_once(host: Host, installed: InstalledArtifacts) -> None:
    data = host.issue("/bin/true")
    assert installed.install(data, uid=5) == installed.install(data, uid=5)
    assert find(installed) == [data]


def test_no_artifact_is_not_installed(installed: InstalledArtifacts) -> None:
    with pytest.raises(MalformedError):
        installed.install(b"{}", uid=5)
    assert find(installed) == []


def test_limit_a_user(host: Host, installed: InstalledArtifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PER_USER", 2)
    data = [host.issue("/bin/true", str(number)) for number in range(3)]
    installed.install(data[0], uid=5)
    installed.install(data[1], uid=5)
    with pytest.raises(UsageError, match="2 authorizations"):
        installed.install(data[2], uid=5)
    installed.install(data[1], uid=5)  # the same again takes no room
    installed.install(data[2], uid=6)


def test_unwritable(tmp_path: Path, host: Host) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        InstalledArtifacts(tmp_path / "file").install(host.issue("/bin/true"), uid=5)


def test_what_is_known_is_not_parsed_again(
    installed: InstalledArtifacts, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = host.issue("/bin/true", "old"), host.issue("/bin/true", "new")
    installed.install(old, uid=5)
    assert find(installed) == [old]
    later()
    installed.install(new, uid=5)
    parsed: list[bytes] = []
    monkeypatch.setattr(module, "parse_artifact", lambda data: parsed.append(data) or parse_artifact(data))
    assert find(installed) == [new, old]
    assert parsed == [new]
