# ruff: noqa: S608 - the statements are made of what stands in this file
"""Full verification: each check by its number, tampering with every table, and how the work is cut."""

from itertools import pairwise
from pathlib import Path

import pytest

from attestd.audit import verify
from attestd.audit.recover import recover
from attestd.audit.seal import Pending, SealResult
from attestd.audit.store import SealedBatch
from attestd.errors import RollbackError, StoreError, UsageError
from attestd.lineage.entry import EntryType
from attestd.strict import canonical
from attestd.tcg.attest import ClockInfo
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.quote import join_quote
from attestd.tlog.checkpoint import Batch, BatchMode, Checkpoint
from attestd.tlog.note import NoteSignature, format_note
from attestd.tlog.tree import leaf_hash
from tests.audit.harness import ARTIFACT, BOOT, NOW, Log, allow, delegated, record
from tests.audit.software_tpm import SoftwareTpm

NOON = "2026-01-31T12:00:00.000000Z"


def _entry(seq: int, **members: object) -> bytes:
    fields = {"v": 1, "type": EntryType.ATTESTATION, "time": NOON, "boot": BOOT, "body": {}}
    return canonical({**fields, "seq": seq, **members})


def _append(log: Log, *entries: bytes, first: int | None = None, counter: int | None = None) -> None:
    """Appends entries as an evil kernel would: real signatures by the real TPM, over what should not be sealed."""
    store = log.open()
    tail = store.tail()
    frontier, nodes = tail.frontier.append([leaf_hash(entry) for entry in entries])
    log.tpm.counter += 1
    checkpoint = Checkpoint(
        origin=log.origin,
        size=frontier.size,
        root=frontier.root(),
        batch=Batch(
            first=tail.frontier.size if first is None else first,
            mode=BatchMode.RECORD,
            counter=log.tpm.counter if counter is None else counter,
        ),
    )
    text = checkpoint.text()
    quote = log.tpm.quote(extra_data(Purpose.CHECKPOINT, host_id=log.keys.host_id, data=text))
    line = NoteSignature(log.origin, log.keys.attestation.key_id, join_quote(quote.attest, quote.signature))
    note = format_note(text, [line])
    if first is None:
        store.commit(SealedBatch(checkpoint, note, entries, nodes))
        return
    numbered = enumerate(entries, tail.frontier.size)
    rows = [f"INSERT INTO leaves VALUES ({seq}, x'{entry.hex()}')" for seq, entry in numbered]
    rows += [f"INSERT INTO nodes VALUES ({n.level}, {n.index}, x'{n.hash.hex()}')" for n in nodes]
    values = f"{checkpoint.size}, {first}, 'record', '{checkpoint.batch.counter:016x}', x'{note.hex()}'"
    log.tamper(*rows, f"INSERT INTO checkpoints VALUES ({values})")


def test_a_log_that_verifies(started: Log):
    report = started.verify()
    assert (report.size, report.checkpoints, report.time) == (5, 3, NOON)
    assert report.root == started.open().tail().frontier.root()
    assert report.types == {EntryType.LOG_START: 1, EntryType.DECISION_ALLOW: 2, EntryType.ATTESTATION: 2}


def test_an_empty_log_verifies_as_empty(log: Log):
    report = log.verify()
    assert (report.size, report.checkpoints, report.types) == (0, 0, {})


@pytest.mark.parametrize(
    ("tampering", "message"),
    [
        ("UPDATE checkpoints SET counter = '0000000000000008' WHERE size = 4", "other values than its row"),
        ("UPDATE checkpoints SET first = 0 WHERE size = 4", "other values than its row"),
        ("UPDATE checkpoints SET mode = 'release' WHERE size = 1", "other values than its row"),
        ("UPDATE checkpoints SET note = x'00' WHERE size = 1", "size 1 does not verify"),
        ("UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE size = 1) WHERE size = 4", "row"),
    ],
)
def test_check_1_an_edited_checkpoint(started: Log, tampering: str, message: str):
    started.tamper(tampering)
    with pytest.raises(RollbackError, match=message):
        started.verify()


def test_check_1_keys_of_another_tpm(started: Log):
    with pytest.raises(RollbackError, match="does not verify"):
        verify.verify_log(started.path, SoftwareTpm().keys(started.origin))


def test_check_2_a_missing_checkpoint(started: Log):
    started.tamper("DELETE FROM checkpoints WHERE size = 4")
    with pytest.raises(RollbackError, match="seals from leaf 4, the one before it ends at 1"):
        started.verify()


def test_check_2_overlapping_batches(started: Log):
    _append(started, _entry(5), first=3)
    with pytest.raises(RollbackError, match="seals from leaf 3, the one before it ends at 5"):
        started.verify()


def test_check_2_a_counter_that_skips_values_without_a_reset(started: Log):
    """Batches were sealed and counted, and are not here: the log was cut, and went on."""
    _append(started, _entry(5), counter=12)
    with pytest.raises(
        RollbackError, match="log counter 12, the one before it 10, and the TPM was not reset"
    ):
        started.verify()


def test_check_2_a_counter_that_skips_values_in_a_reset(started: Log):
    started.tpm.clock = ClockInfo(clock=5, reset_count=4, restart_count=0, safe=False)
    _append(started, _entry(5), counter=255)
    assert started.verify().size == 6


@pytest.mark.parametrize("counter", [10, 9])
def test_check_2_a_counter_that_does_not_rise(started: Log, counter: int):
    _append(started, _entry(5), counter=counter)
    with pytest.raises(RollbackError, match=f"has log counter {counter}, the one before it 10"):
        started.verify()


def test_check_2_a_clock_that_goes_back(started: Log):
    started.tpm.clock = ClockInfo(clock=10**6, reset_count=2, restart_count=9, safe=True)
    _append(started, _entry(5))
    with pytest.raises(RollbackError, match="quoted at TPM clock"):
        started.verify()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (_entry(4), "entry 5 says that it is entry 4"),
        (_entry(5, time="2026-01-31T11:59:59.999999Z"), "the one before it of"),
        (_entry(5, time="2026-01-31T12:00:01Z"), "no six fractional digits"),
        (_entry(5, time="2026-02-31T12:00:00.000000Z"), "entry 5: time"),
        (_entry(5, time="tomorrow, about noon, or later"), "entry 5: time"),
        (_entry(5).replace(b"attestation", b"unheard.of"), "entry 5 is not an entry"),
        (_entry(5).replace(b'"v":1', b'"v":2'), "entry 5 is not an entry"),
        (_entry(5).replace(b'"v":1', b'"v":1,"w":1'), "entry 5 is not an entry"),
        (_entry(5).replace(b',"v":1', b""), "entry 5 is not an entry"),
        (_entry(5).replace(b'"v":1', b'"v": 1'), "entry 5 is not an entry"),
        (_entry(5).replace(b'"v":1', b'"v":1,"v":1'), "entry 5 is not an entry"),
        (_entry(5).replace(b'"body":{}', b'"body":'), "entry 5 is not an entry"),
        (b"\xff\xfe", "entry 5 is not an entry"),
        (b"[]", "entry 5 is not an entry"),
    ],
)
def test_check_3_what_is_not_the_next_entry(started: Log, entry: bytes, message: str):
    _append(started, entry, _entry(6, time="2026-01-31T13:00:00.000000Z"))
    with pytest.raises(RollbackError, match=message):
        started.verify()


def test_check_3_a_boot_id_with_escapes_is_an_entry(started: Log):
    _append(started, _entry(5, boot='of "another\u00e9" kind'))
    assert started.verify().size == 6


def test_check_4_an_allow_under_a_quote_only_checkpoint(started: Log):
    _append(started, _entry(5, type=EntryType.DECISION_ALLOW, body={"artifact": ARTIFACT}))
    with pytest.raises(RollbackError, match="has mode record, but a decision"):
        started.verify()


@pytest.mark.parametrize(
    ("tampering", "message"),
    [
        ("DELETE FROM charges WHERE seq = 3", "entry 3: each decision.allow is charged"),
        (f"INSERT INTO charges VALUES ('{ARTIFACT}', 3, 2)", "entry 2: each decision.allow is charged"),
        (f"UPDATE charges SET artifact = '{'00' * 32}', n = 1 WHERE seq = 3", "which it does not name"),
    ],
)
def test_check_4_edited_charges(started: Log, tampering: str, message: str):
    started.tamper(tampering)
    with pytest.raises(RollbackError, match=message):
        started.verify()


@pytest.mark.parametrize(
    "tampering",
    [
        f"DELETE FROM charges WHERE artifact = '{ARTIFACT}'",
        f"DELETE FROM charges WHERE artifact = '{ARTIFACT}' AND seq = 1",
        f"DELETE FROM charges WHERE artifact = '{'01' * 32}'",
        f"UPDATE charges SET artifact = '{'03' * 32}', n = 1 WHERE seq = 1 AND artifact = '{ARTIFACT}'",
        f"INSERT INTO charges VALUES ('{'03' * 32}', 1, 0)",
        f"INSERT INTO charges VALUES ('{'01' * 32}', 2, 1)",
    ],
)
def test_check_4_a_delegated_use_is_charged_to_its_whole_chain(log: Log, tampering: str):
    log.seal([delegated(0, artifact="01" * 32), delegated(1, artifact="02" * 32)])
    assert log.verify().size == 2
    log.tamper(tampering)
    with pytest.raises(RollbackError, match="charged"):
        log.verify()


@pytest.mark.parametrize(
    ("tampering", "message"),
    [
        (
            "UPDATE leaves SET entry = replace(entry, '\"number\":2', '\"number\":3') WHERE seq = 2",
            "tree is not that",
        ),
        ("UPDATE leaves SET entry = CAST(replace(entry, '2', '3') AS BLOB) WHERE seq = 2", "entry"),
        ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 0 AND idx = 2", "not that of the leaves"),
        ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 1 AND idx = 0", "not that of the leaves"),
        ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 2 AND idx = 0", "not that of the leaves"),
        ("DELETE FROM nodes WHERE level = 0 AND idx = 1", "edited or deleted"),
        ("DELETE FROM leaves WHERE seq = 1", "rows were deleted"),
    ],
)
def test_check_5_edited_leaves_and_nodes(started: Log, tampering: str, message: str):
    if "replace(entry, '\"" in tampering:
        tampering = tampering.replace("replace(entry", "CAST(replace(CAST(entry AS TEXT)").replace(
            ") WHERE", ") AS BLOB) WHERE"
        )
    started.tamper(tampering)
    with pytest.raises(RollbackError, match=message):
        started.verify()


def test_check_5_swapped_leaves(started: Log):
    started.tamper(
        "UPDATE leaves SET seq = 100 WHERE seq = 1",
        "UPDATE leaves SET seq = 1 WHERE seq = 3",
        "UPDATE leaves SET seq = 3 WHERE seq = 100",
    )
    with pytest.raises(RollbackError, match="entry 1 says that it is entry 3"):
        started.verify()


def test_check_5_a_rewritten_tree_with_the_old_signature(started: Log):
    """Leaf, nodes and all agree with each other; only the signed root is that of the history that happened."""
    store = started.open()
    forged = _entry(4, body={"number": 5})
    frontier, nodes = store.tail().frontier.__class__.load(4, store.node).append([leaf_hash(forged)])
    assert frontier.size == 5
    started.tamper(
        f"UPDATE leaves SET entry = x'{forged.hex()}' WHERE seq = 4",
        *(
            f"UPDATE nodes SET hash = x'{node.hash.hex()}' WHERE level = {node.level} AND idx = {node.index}"
            for node in nodes
        ),
    )
    with pytest.raises(RollbackError, match="signs root"):
        started.verify()


@pytest.mark.parametrize(
    ("tampering", "table"),
    [
        ("INSERT INTO nodes VALUES (0, 5, zeroblob(32))", "nodes"),
        ("INSERT INTO nodes VALUES (9, 0, zeroblob(32))", "nodes"),
        (f"INSERT INTO charges VALUES ('{ARTIFACT}', 3, 5)", "charges"),
        (f"UPDATE charges SET n = 9 WHERE artifact = '{ARTIFACT}' AND n = 2", "charges"),
        ("INSERT INTO spooled VALUES ('runner', 1, 5)", "spooled"),
        ("INSERT INTO spooled VALUES ('runner', 1, -1)", "spooled"),
    ],
)
def test_check_6_rows_left_over(started: Log, tampering: str, table: str):
    started.tamper(tampering)
    with pytest.raises(RollbackError, match=f"do not explain: {table}"):
        started.verify()


def test_truncation_shows_against_the_tpm_not_in_the_rows(started: Log):
    """What is cut off clean verifies: that it is not the newest log only the TPM, or a witness, can say."""
    started.tamper(
        "DELETE FROM leaves WHERE seq >= 4",
        "DELETE FROM nodes WHERE level = 0 AND idx >= 4",
        "DELETE FROM checkpoints WHERE size = 5",
    )
    assert started.verify().size == 4
    with pytest.raises(RollbackError, match="rolled back"):
        recover(started.open(), started.tpm, started.keys, clock=started.tpm.clock)


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_SEGMENT", 4)


def _long(log: Log) -> list[SealResult]:
    return log.seal(*([record(n) for n in range(n % 5 + 1)] for n in range(12)), [allow()])


@pytest.mark.usefixtures("small_segments")
def test_progress_is_told_segment_by_segment(log: Log):
    size = _long(log)[-1].checkpoint.size
    told: list[tuple[int, int]] = []
    log.verify(progress=lambda done, total: told.append((done, total)))
    assert len(told) > 3
    assert told == sorted(told)
    assert told[-1] == (size, size)


@pytest.mark.usefixtures("small_segments")
def test_segments_give_what_the_whole_gives(log: Log, monkeypatch: pytest.MonkeyPatch):
    _long(log)
    segmented = log.verify()
    monkeypatch.setattr(verify, "_SEGMENT", 1 << 20)
    assert log.verify() == segmented


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("what", ["time", "node", "leaf"])
def test_a_segment_does_not_get_by_on_what_the_rows_claim_before_it(log: Log, what: str):
    """Each segment starts from rows: what is wrong with them must show in the segment before."""
    _long(log)
    first_cut = next(verify._cuts(log.open(), 0, 100))[1]
    last = first_cut - 1
    later = _entry(last, time="2026-01-31T11:00:00.000000Z")
    log.tamper(
        {
            "time": f"UPDATE leaves SET entry = x'{later.hex()}' WHERE seq = {last}",
            "node": f"UPDATE nodes SET hash = zeroblob(32) WHERE level = 0 AND idx = {last}",
            "leaf": f"UPDATE leaves SET entry = x'{_entry(last, body={'x': 1}).hex()}' WHERE seq = {last}",
        }[what]
    )
    with pytest.raises(RollbackError):
        log.verify()


@pytest.mark.usefixtures("small_segments")
def test_a_segment_starts_where_the_one_before_it_ended(log: Log):
    results = _long(log)
    cuts = list(verify._cuts(log.open(), 0, results[-1].checkpoint.size))
    segments = [verify._verify_segment(log.path, log.keys, start, stop) for start, stop in cuts]
    assert all(after.start == before.end for before, after in pairwise(segments))
    assert segments[0].start == verify._Edge()


def test_several_processes_find_the_same(log: Log, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verify, "_SEGMENT", 16)
    _long(log)
    assert log.verify(processes=2) == log.verify()
    log.tamper("UPDATE nodes SET hash = zeroblob(32) WHERE level = 1 AND idx = 9")
    with pytest.raises(RollbackError, match="not that of the leaves"):
        log.verify(processes=2)


def test_going_on_from_an_earlier_report(started: Log):
    report = started.verify()
    started.seal([record()], [allow()])
    told: list[tuple[int, int]] = []
    later = started.verify(since=report, progress=lambda done, total: told.append((done, total)))
    assert later == started.verify()
    assert told == [(7, 7)]


def test_going_on_finds_that_what_was_verified_has_changed(started: Log):
    report = started.verify()
    started.seal([record()])
    started.tamper("UPDATE nodes SET hash = zeroblob(32) WHERE level = 2 AND idx = 0")
    with pytest.raises(RollbackError, match="at size 5 is not what the leaves before it give"):
        started.verify(since=report)


def test_going_on_from_a_report_that_is_ahead_of_the_log(started: Log, tmp_path: Path):
    started.copy_to(tmp_path / "copy")
    started.seal([record()])
    report = started.verify()
    started.restore_from(tmp_path / "copy")
    with pytest.raises(RollbackError, match="no checkpoint of size 6"):
        started.verify(since=report)


def test_going_on_from_the_same_size_finds_another_log(started: Log, tmp_path: Path):
    started.copy_to(tmp_path / "copy")
    started.seal([record(1)])
    report = started.verify()
    started.restore_from(tmp_path / "copy")
    started.seal([record(2)])
    with pytest.raises(RollbackError, match="at size 6"):
        started.verify(since=report)


def test_going_on_from_a_report_without_a_checkpoint_of_its_size(started: Log, tmp_path: Path):
    started.copy_to(tmp_path / "copy")
    started.seal([record(1)])
    report = started.verify()
    started.restore_from(tmp_path / "copy")
    started.seal([record(1), record(2)])
    with pytest.raises(RollbackError, match="no checkpoint of size 6"):
        started.verify(since=report)


@pytest.mark.parametrize("processes", [0, -1])
def test_no_processes_is_a_usage_error(started: Log, processes: int):
    with pytest.raises(UsageError, match="processes"):
        started.verify(processes=processes)


def test_keys_of_another_log_are_a_usage_error(started: Log):
    with pytest.raises(UsageError, match="do not verify"):
        verify.verify_log(started.path, started.tpm.keys(started.origin + "1"))


def test_what_is_appended_meanwhile_is_left_for_the_next_time(log: Log, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verify, "_SEGMENT", 4)
    size = _long(log)[-1].checkpoint.size
    sealer = log.sealer()

    def append(_done: int, _total: int) -> None:
        sealer.seal([record(), allow()], now=NOW, boot=BOOT)

    assert log.verify(progress=append).size == size


def test_a_missing_file_is_a_store_error(tmp_path: Path, log: Log):
    with pytest.raises(StoreError, match="cannot open"):
        verify.verify_log(str(tmp_path / "no.db"), log.keys)


def test_the_first_entry_of_a_log_is_checked_like_any_other(log: Log):
    log.seal([Pending(EntryType.LOG_START, {})])
    log.tamper("UPDATE nodes SET hash = zeroblob(32)")
    with pytest.raises(RollbackError, match="not that of the leaves"):
        log.verify()
