"""Kept boots: bounded, the approved one stays, damaged files explain nothing and deny nothing."""

import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from attestd.agent.boots import MAX_BOOTS, Boot, Boots, parse_boot
from attestd.errors import MalformedError, StoreError

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def boot(number: int = 0, *, approved: tuple[str, ...] = (), seen: datetime | None = None) -> Boot:
    moment = seen or NOW + timedelta(minutes=number)
    return Boot(
        eventlog=b"log %d" % number,
        userspace=b"",
        command_line="root=/dev/vda2 quiet",
        kernel="6.1.0-1-amd64",
        bank="sha256",
        pcrs={4: bytes(32), 11: bytes([number]) * 32},
        approved=approved,
        first_seen=moment,
        last_seen=moment,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "boots"


def test_kept_and_read_again(directory: Path) -> None:
    boots = Boots(directory)
    assert boots.all() == ()
    for number in (1, 0, 2):
        boots.note(boot(number, approved=("local",)))
    expected = tuple(boot(number, approved=("local",)) for number in (2, 1, 0))
    assert boots.all() == Boots(directory).all() == expected
    assert boots.find(boot(1).digest) == expected[1]
    assert boots.find("00" * 32) is None
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


def test_at_most_eight_and_the_last_approved_one(directory: Path) -> None:
    """However often another state is booted, there is something to compare it with."""
    boots = Boots(directory)
    boots.note(boot(0, approved=("local",)))
    boots.note(boot(1, approved=("local",)))
    for number in range(2, 20):
        boots.note(boot(number))
    kept = [int(item.eventlog.split()[1]) for item in boots.all()]
    assert kept == [*range(19, 12, -1), 1]
    assert len(kept) == MAX_BOOTS == len(list(directory.iterdir()))
    assert Boots(directory).all() == boots.all()
    found = boots.last_approved("local")
    assert found is not None
    assert found.digest == boot(1).digest
    assert boots.last_approved("other") is None


def test_an_approved_boot_keeps_its_approved_values(directory: Path) -> None:
    """What is extended later in that very boot is told against them."""
    boots = Boots(directory)
    approved = boot(approved=("local",))
    boots.note(approved)
    later = NOW + timedelta(hours=1)
    extended = replace(boot(seen=later), pcrs={11: b"\xff" * 32}, userspace=b"more")
    boots.note(extended)
    assert boots.all() == (approved,)
    boots.note(replace(extended, approved=("other",)))
    (found,) = boots.all()
    assert (found.approved, found.first_seen) == (("local", "other"), NOW)
    assert found.pcrs == {4: bytes(32), 11: b"\xff" * 32}
    assert found.userspace == b"more"


def test_approved_later(directory: Path) -> None:
    boots = Boots(directory)
    boots.note(boot())
    assert boots.last_approved("local") is None
    boots.note(boot(approved=("local",), seen=NOW + timedelta(days=1)))
    (found,) = boots.all()
    assert (found.approved, found.first_seen, found.last_seen) == (("local",), NOW, NOW + timedelta(days=1))


def test_written_only_when_something_is_new(directory: Path) -> None:
    boots = Boots(directory)
    boots.note(boot())
    (path,) = directory.iterdir()
    before = path.stat().st_ino
    boots.note(boot(seen=NOW + timedelta(seconds=30)))
    assert path.stat().st_ino == before
    boots.note(replace(boot(), userspace=b"more"))
    assert path.stat().st_ino != before
    again = Boots(directory)
    again.note(replace(boot(), userspace=b"more", last_seen=NOW + timedelta(days=1)))
    assert Boots(directory).all()[0].last_seen == NOW + timedelta(days=1), (
        "another agent, another boot perhaps"
    )


def test_damaged_files_are_none(directory: Path) -> None:
    boots = Boots(directory)
    boots.note(boot(0))
    boots.note(boot(1))
    (directory / f"{boot(0).digest}.json").write_bytes(b"{")
    (directory / f"{boot(2).digest}.json").write_bytes(boot(3).to_bytes())
    (directory / "notes.txt").write_bytes(b"")
    (directory / f"{'ab' * 32}.json").mkdir()
    assert Boots(directory).all() == (boot(1),)
    with pytest.raises(MalformedError, match="kept boot"):
        parse_boot(b"{}")


def test_where_nothing_can_be_written(directory: Path) -> None:
    directory.write_bytes(b"a file")
    boots = Boots(directory)
    with pytest.raises(StoreError):
        boots.note(boot())
    assert boots.all() == ()
