"""The repository of a host that stands alone: made, signed and published by itself, and finished if it was cut off."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestd.distribution import signer, staging
from attestd.distribution.local import TrustSource, load_trust
from attestd.distribution.standalone import LOCAL_KEYS, local_repository, open_local_repository, publish_local
from attestd.errors import UsageError
from tests.world import World


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    (tmp_path / "authority").mkdir(mode=0o700)
    (tmp_path / "trust").mkdir(mode=0o755)
    return tmp_path / "authority"


def test_made_and_published(authority: Path, tmp_path: Path) -> None:
    world, trust = World(), tmp_path / "trust"
    repository = local_repository(authority, trust=trust)
    publish_local(repository, authority, world.files())
    source = TrustSource.at(trust, owners={os.geteuid()})
    found = load_trust(source)
    assert found.version == 1
    assert (found.expires - datetime.now(UTC)).days >= 3649
    anchor = (trust / "root.json").read_bytes()
    publish_local(local_repository(authority, trust=trust), authority, {})
    assert load_trust(source).version == 1
    world.revocations |= {"version": 2, "requesters": [4242]}
    publish_local(
        open_local_repository(authority), authority, {"revocations.json": world.files()["revocations.json"]}
    )
    assert load_trust(source).revocations.requesters == {4242}
    assert (trust / "root.json").read_bytes() == anchor
    assert {path.stat().st_mode & 0o077 for path in authority.rglob("*.pem")} == {0}


def test_a_host_without(authority: Path) -> None:
    with pytest.raises(UsageError, match="--repository"):
        open_local_repository(authority)


class Crash(Exception):
    pass


def test_cut_off_anywhere(authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    left = [0]

    def step() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Crash

    for name in ("published", "staging", "settings", "standalone"):
        module = f"attestd.distribution.{name}"
        write = staging.write_atomic

        def failing(path: Path, data: bytes, *, mode: int, write=write) -> None:  # type: ignore[no-untyped-def]
            step()
            write(path, data, mode=mode)

        monkeypatch.setattr(f"{module}.write_atomic", failing)
    create = signer._create
    monkeypatch.setattr(signer, "_create", lambda *args, **kwargs: (step(), create(*args, **kwargs)))
    for number in range(1, 100):
        top = tmp_path / str(number)
        for name in ("authority", "trust"):
            (top / name).mkdir(parents=True)
        (top / "trust").chmod(0o755)
        left[0] = number
        for _ in range(2):  # cut off, then called again
            try:
                repository = local_repository(top / "authority", trust=top / "trust")
                publish_local(repository, top / "authority", world.files())
            except Crash:
                continue
            break
        assert load_trust(TrustSource.at(top / "trust", owners={os.geteuid()})).version >= 1
        assert sorted(path.stem for path in (top / "authority").glob("*.pem")) == sorted(LOCAL_KEYS)
        if left[0] > 0:
            break
    assert number > 20
