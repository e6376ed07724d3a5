"""Cosignatures in the log: under their checkpoint wherever that goes, never more than a note holds, never changed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestd.audit.cosignatures import CosignedLog
from attestd.audit.export import export_log
from attestd.errors import RollbackError, StoreError, UsageError
from attestd.lineage.cosigned import MAX_COSIGNATURES
from attestd.lineage.receipt import parse_receipt
from attestd.tlog.note import NoteSignature, parse_note
from tests.audit.harness import Log, record
from tests.world import witness

ONE, TWO = witness("one"), witness("two")


@pytest.fixture
def cosigned(started: Log) -> Iterator[CosignedLog]:
    """With checkpoints of sizes 1, 4 and 5."""
    with contextlib.closing(CosignedLog.open(started.path)) as store:
        yield store


def line(store: CosignedLog, size: int, by: object = ONE) -> NoteSignature:
    return by.cosign(parse_note(store.checkpoint(size).note).text, time=1)  # type: ignore[attr-defined]


def test_they_stand_under_their_checkpoint(cosigned: CosignedLog, started: Log, tmp_path: Path) -> None:
    lines = [line(cosigned, 5), line(cosigned, 5, TWO)]
    own = parse_note(cosigned.checkpoint(5).note).signatures
    cosigned.add_cosignatures(5, lines[:1])
    cosigned.add_cosignatures(5, [lines[1], lines[0], lines[1]])
    note = parse_note(cosigned.checkpoint(5).note)
    assert note.signatures == (*own, *lines)
    reader = started.open()
    last = reader.last_checkpoint()
    assert last is not None
    assert parse_note(last.note) == note
    assert parse_receipt(reader.receipt(4)).note == note
    assert len(parse_receipt(reader.receipt(3)).note.signatures) == 2
    assert [len(parse_note(found.note).signatures) for found in reader.checkpoints()] == [1, 2, 3]
    export_log(reader, str(tmp_path / "export"))
    assert parse_note((tmp_path / "export" / "checkpoint").read_bytes()) == note
    # The log goes on, and verifies.
    started.seal([record(5)])
    assert started.verify().size == 6


def test_how_far_a_witness_came(cosigned: CosignedLog) -> None:
    assert cosigned.last_cosigned([ONE.key, TWO.key]) == 0
    cosigned.add_cosignatures(4, [line(cosigned, 4)])
    cosigned.add_cosignatures(1, [line(cosigned, 1), line(cosigned, 1, TWO)])
    assert [cosigned.last_cosigned([found.key]) for found in (ONE, TWO)] == [4, 1]
    assert cosigned.last_cosigned([ONE.key, TWO.key]) == 4


def test_no_more_than_a_note_holds(cosigned: CosignedLog, started: Log) -> None:
    good = [line(cosigned, 4, witness(f"many{number}")) for number in range(40)]
    assert list(cosigned.add_cosignatures(4, good[:20])) == good[:MAX_COSIGNATURES]
    assert list(cosigned.add_cosignatures(4, good[20:])) == []
    # Who cosigns once more has the line that is there.
    again = witness("many1").cosign(parse_note(cosigned.checkpoint(4).note).text, time=2)
    assert list(cosigned.add_cosignatures(4, [again])) == [good[1]]
    assert len(parse_note(cosigned.checkpoint(4).note).signatures) == 2 + MAX_COSIGNATURES
    started.verify()


def test_no_checkpoint_of_that_size(cosigned: CosignedLog) -> None:
    with pytest.raises(UsageError, match="no checkpoint of size 3"):
        cosigned.add_cosignatures(3, [])
    cosigned.add_cosignatures(4, [line(cosigned, 4)])


def test_a_disk_that_takes_nothing(started: Log) -> None:
    with contextlib.closing(CosignedLog.open(started.path, readonly=True)) as store:
        lines = [line(store, 4)]
        with pytest.raises(StoreError, match="cannot keep cosignatures"):
            store.add_cosignatures(4, lines)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("INSERT INTO cosignatures VALUES (3, 'w', '00000000', 'x')", "cosignatures"),
        ("INSERT INTO cosignatures VALUES (4, 'w', '00000000', 'no line')", "does not verify"),
    ],
)
def test_rows_that_are_no_cosignatures(started: Log, statement: str, message: str) -> None:
    """Who edits the file can take them away, and receipts then lack them; what he adds shows."""
    started.tamper(statement)
    with pytest.raises(RollbackError, match=message):
        started.verify()
