# ruff: noqa: S608 - the statements are made of what stands in this file
import sqlite3

import pytest

from attestd.audit.files import open_log
from attestd.audit.seal import Pending
from attestd.audit.store import LogStore, Spooled
from attestd.errors import RollbackError, StoreError, UsageError
from attestd.lineage.entry import EntryType, parse_entry
from attestd.tlog.checkpoint import BatchMode, parse_checkpoint
from attestd.tlog.note import parse_note
from attestd.tlog.proof import parse_proof
from attestd.tlog.tree import leaf_hash, verify_inclusion
from tests.audit.harness import ARTIFACT, BOOT, HOST_ID, LOG_ID, NOW, Log, record


def test_the_log_says_whose_it_is(log: Log):
    store = log.open()
    assert (store.origin, store.host_id, store.log_id) == (f"attestd/{HOST_ID}/{LOG_ID}", HOST_ID, LOG_ID)
    assert store.created == "2026-01-31T12:00:00Z"
    log.tamper("DELETE FROM log")
    with pytest.raises(RollbackError, match="whose it is"):
        log.open()


def test_an_empty_log(log: Log):
    store = log.open()
    assert (store.size, store.last_checkpoint(), store.checkpoint_covering(0)) == (0, None, None)
    assert (list(store.entries(0, 0)), list(store.checkpoints()), store.find(b"\0" * 32)) == ([], [], None)
    assert store.tail().frontier.size == 0
    with pytest.raises(UsageError, match="no entry 0, it has 0"):
        store.entry(0)


def test_entries_and_checkpoints_are_read_back(started: Log):
    store = started.open()
    entries = dict(store.entries(1, 5))
    assert [parse_entry(data).seq for data in entries.values()] == list(entries) == [1, 2, 3, 4]
    assert store.entry(2) == entries[2]
    shapes = [(c.size, c.first, c.mode, c.counter) for c in store.checkpoints()]
    assert shapes == [
        (1, 0, BatchMode.RECORD, 8),
        (4, 1, BatchMode.RELEASE, 9),
        (5, 4, BatchMode.RECORD, 10),
    ]
    assert [c.size for c in store.checkpoints(1, 4)] == [4]
    assert store.charges(0, 5) == [(1, ARTIFACT, 1), (3, ARTIFACT, 2)]
    assert (store.uses(ARTIFACT), store.uses("00" * 32)) == (2, 0)


def test_a_decision_is_found_by_its_id(started: Log):
    store = started.open()
    assert store.find(leaf_hash(store.entry(3))) == 3
    assert store.find(b"\0" * 32) is None


def test_a_receipt_proves_its_entry_in_the_first_checkpoint_that_covers_it(started: Log):
    store = started.open()
    for seq in range(5):
        proof = parse_proof(store.receipt(seq))
        text = parse_note(proof.checkpoint).text
        checkpoint = parse_checkpoint(text)
        assert proof.extra == store.entry(seq)
        assert checkpoint.batch.first <= seq < checkpoint.size
        verify_inclusion(
            leaf=leaf_hash(proof.extra),
            index=proof.index,
            size=checkpoint.size,
            proof=proof.proof,
            root=checkpoint.root,
        )


def test_more_entries_than_are_held_in_memory_at_once(log: Log):
    log.seal([record(number) for number in range(2500)])
    store = log.open()
    numbers = [parse_entry(data).body["number"] for _, data in store.entries(10, 2400)]
    assert numbers == list(range(10, 2400))
    assert len(store.entry_chunk(0, 2500)) < 2500


def test_a_reader_sees_what_is_appended_meanwhile(started: Log):
    reader = LogStore.open(started.path, readonly=True)
    started.seal([record()])
    assert reader.size == 6
    reader.close()


def test_two_writers_do_not_fork_the_log(started: Log):
    first, second = started.sealer(), started.sealer()
    first.seal([record()], now=NOW, boot=BOOT)
    with pytest.raises(StoreError, match="the log has 6 leaves"):
        second.seal([record()], now=NOW, boot=BOOT)
    assert started.verify().size == 6


def test_what_was_spooled_is_sealed_once(started: Log):
    item = Spooled("runner", 17)
    pending = Pending(EntryType.EXECUTION_START, {"pid": 1}, spooled=item)
    started.seal([record(), pending])
    store = started.open()
    assert (store.is_sealed(item), store.is_sealed(Spooled("runner", 18))) == (True, False)
    with pytest.raises(StoreError, match="cannot append"):
        started.seal([pending])
    assert store.size == 7


def test_leaves_and_checkpoints_must_end_together(started: Log):
    entry = started.open().entry(4)
    for tampering in ("DELETE FROM leaves WHERE seq = 4", "DELETE FROM checkpoints WHERE size = 5"):
        started.tamper(tampering)
        with pytest.raises(RollbackError, match="leaves, its last checkpoint covers"):
            started.open().tail()
        if "leaves" in tampering:
            started.tamper(f"INSERT INTO leaves VALUES (4, x'{entry.hex()}')")


@pytest.mark.parametrize(
    ("tampering", "read"),
    [
        ("DELETE FROM nodes WHERE level = 0 AND idx = 4", lambda store: store.tail()),
        ("DELETE FROM nodes WHERE level = 0 AND idx = 2", lambda store: store.receipt(3)),
        ("DELETE FROM nodes WHERE level = 0 AND idx = 2", lambda store: store.nodes(0, 0, 5)),
        ("DELETE FROM leaves WHERE seq = 2", lambda store: list(store.entries(0, 5))),
        ("DELETE FROM checkpoints WHERE size = 5", lambda store: store.receipt(4)),
        ("UPDATE checkpoints SET counter = '000000000000000g' WHERE size = 5", LogStore.last_checkpoint),
    ],
)
def test_missing_and_edited_rows_are_rollback(started: Log, tampering: str, read):
    started.tamper(tampering)
    with pytest.raises(RollbackError):
        read(started.open())


def test_values_of_another_type_are_rollback(started: Log):
    """STRICT is asked when SQLite writes, not when it reads a file that was edited: here by way of a lax schema."""
    lax = sqlite3.connect(started.path, isolation_level=None)
    lax.execute("DROP TRIGGER leaves_no_update")
    lax.execute("DROP TRIGGER checkpoints_no_update")
    lax.execute("PRAGMA writable_schema = ON")
    schema = lax.execute(
        "SELECT name, sql FROM sqlite_schema WHERE name IN ('leaves', 'checkpoints')"
    ).fetchall()
    for name, sql in schema:
        loose = sql.replace("STRICT", "").replace("BLOB", "ANY")
        lax.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (loose, name))
    lax.close()
    lax = sqlite3.connect(started.path, isolation_level=None)
    lax.execute("UPDATE leaves SET entry = 'text' WHERE seq = 4")
    lax.execute(
        "UPDATE checkpoints SET note = 5, counter = x'00112233445566778899aabbccddeeff' WHERE size = 5"
    )
    store = LogStore(lax)
    with pytest.raises(RollbackError, match="str where bytes belong"):
        store.entry(4)
    with pytest.raises(RollbackError, match="was edited"):
        store.last_checkpoint()
    lax.close()


def test_a_log_that_cannot_be_read_is_a_store_error(started: Log):
    store = LogStore(open_log(started.path))
    store.close()
    with pytest.raises(StoreError, match="cannot read"):
        store.last_checkpoint()
    with pytest.raises(StoreError, match="cannot read"):
        list(store.entries(0, 1))
