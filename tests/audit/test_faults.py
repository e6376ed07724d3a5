"""Crashes between any two steps, and every write failing, both persisted and not."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestd.audit.files import open_log
from attestd.audit.recover import recover, unsettled_allows, void_body
from attestd.audit.seal import CRASH_POINTS, Pending, Sealer
from attestd.audit.store import LogStore
from attestd.errors import RollbackError, StoreError, TpmUnavailableError
from attestd.lineage.entry import EntryType
from tests.audit.harness import ARTIFACT, BOOT, NOW, Log, allow, record

NOW_TEXT = "2026-01-31T12:00:00.000000Z"


class _Crash(BaseException):
    """The process is gone: nothing catches this."""


def _crash_at(point: str) -> Callable[[str], None]:
    def crash(reached: str) -> None:
        if reached == point:
            raise _Crash

    return crash


def _void(store: LogStore, seq: int) -> Pending:
    return Pending(EntryType.DECISION_VOID, void_body(store, seq, reason="agent crashed"))


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_crash_at_any_point_loses_nothing_and_releases_nothing(started: Log, point: str):
    sealer = started.sealer(crash_point=_crash_at(point))
    with pytest.raises(_Crash):
        sealer.seal([record(), allow(9)], now=NOW, boot=BOOT)
    started.close()

    recovery = started.recover()
    committed = point in {"committed", "stepped"}
    assert started.open().size == (7 if committed else 5)
    assert recovery.counter == started.tpm.counter == (11 if committed else 10)
    assert recovery.voids == ((6,) if point == "committed" else ())
    assert bool(recovery.notes) == (point == "committed")
    # In the end each allow of the crashed batch is known to be unreleased, or must be asked for at the runner.
    unsettled = unsettled_allows(started.open(), since="2026-01-31T12:00:00.000000Z")
    assert (6 in unsettled) == committed

    sealer = started.sealer(counter=recovery.counter)
    if committed:
        sealer.seal([_void(started.open(), 6)], now=NOW, boot=BOOT)
        assert 6 not in unsettled_allows(started.open(), since="2026-01-31T12:00:00.000000Z")
    assert sealer.seal([allow()], now=NOW, boot=BOOT).sealed[0].type is EntryType.DECISION_ALLOW
    assert started.verify().size == started.open().size
    assert started.recover().voids == ()


def test_the_crash_points_are_reached_in_order(log: Log):
    reached: list[str] = []
    log.sealer(crash_point=reached.append).seal([allow()], now=NOW, boot=BOOT)
    assert tuple(reached) == CRASH_POINTS


def test_a_use_of_a_voided_allow_is_not_refunded(started: Log):
    sealer = started.sealer(crash_point=_crash_at("committed"))
    with pytest.raises(_Crash):
        sealer.seal([allow(max_uses=3)], now=NOW, boot=BOOT)
    started.close()
    recovery = started.recover()
    denied = started.sealer(counter=recovery.counter).seal([allow(max_uses=3)], now=NOW, boot=BOOT)
    assert denied.sealed[0].type is EntryType.DECISION_DENY


class _FailingConnection:
    """Fails one statement of the connection, before or after it has taken effect."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.statements: list[str] = []
        self.fail_at: int | None = None
        self.takes_effect = False
        self.stays_broken = False

    def _run(self, method: Callable[..., sqlite3.Cursor], sql: str, parameters: Any) -> sqlite3.Cursor:
        self.statements.append(sql)
        number = len(self.statements) - 1
        if self.fail_at is None or number < self.fail_at or (number > self.fail_at and not self.stays_broken):
            return method(sql, parameters)
        if self.takes_effect and number == self.fail_at:
            method(sql, parameters)
        raise sqlite3.OperationalError("disk I/O error")

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._run(self.connection.execute, sql, parameters)

    def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:
        return self._run(self.connection.executemany, sql, parameters)

    def close(self) -> None:
        self.connection.close()


def _statements_of_a_seal(log: Log) -> int:
    connection = _FailingConnection(open_log(log.path))
    sealer = Sealer(LogStore(connection), log.tpm, log.keys, counter=log.tpm.counter)
    before = len(connection.statements)
    sealer.seal([record(), allow(9, max_uses=5)], now=NOW, boot=BOOT)
    connection.close()
    return len(connection.statements) - before


@pytest.mark.parametrize("takes_effect", [False, True])
@pytest.mark.parametrize("stays_broken", [False, True])
def test_every_statement_failing_persisted_or_not(started: Log, takes_effect: bool, stays_broken: bool):
    count = _statements_of_a_seal(started)
    assert count >= 8  # uses, BEGIN, size, leaves, nodes, charges, spooled, checkpoint, COMMIT
    expected_unreleased = 0
    for number in range(count):
        connection = _FailingConnection(open_log(started.path))
        store = LogStore(connection)
        sealer = Sealer(store, started.tpm, started.keys, counter=started.tpm.counter)
        size = store.size
        connection.fail_at = len(connection.statements) + number
        connection.takes_effect, connection.stays_broken = takes_effect, stays_broken
        with pytest.raises(StoreError):
            sealer.seal([record(), allow(9, max_uses=100)], now=NOW, boot=BOOT)
        connection.fail_at = None  # the disk is back
        if stays_broken and connection.connection.in_transaction:
            connection.connection.rollback()  # as a crash, or SQLite itself, would
        persisted = store.size != size
        assert persisted == (takes_effect and number == count - 1)

        result = sealer.seal([allow(10, max_uses=100)], now=NOW, boot=BOOT)
        assert result.unreleased == ((size + 1,) if persisted else ())
        assert result.checkpoint.batch.first == size + (2 if persisted else 0)
        assert sealer.seal([record()], now=NOW, boot=BOOT).unreleased == ()
        expected_unreleased += persisted
        connection.close()
    assert expected_unreleased == (1 if takes_effect else 0)
    assert started.verify().size == started.open().size
    assert started.recover().voids == ()


@pytest.mark.parametrize("counted", [False, True])
def test_a_tpm_that_goes_away_at_the_counter_step(started: Log, counted: bool):
    def fail(name: str) -> None:
        if name == "step_counter":
            raise TpmUnavailableError("no answer within 5 s")

    sealer = started.sealer()
    setattr(started.tpm, "after" if counted else "before", fail)
    with pytest.raises(TpmUnavailableError):
        sealer.seal([allow(9), record()], now=NOW, boot=BOOT)
    if not counted:  # Still away: the batch stays in doubt, and nothing else is sealed.
        with pytest.raises(TpmUnavailableError):
            sealer.seal([record()], now=NOW, boot=BOOT)
    started.tpm.before = started.tpm.after = lambda _: None
    result = sealer.seal([record()], now=NOW, boot=BOOT)
    assert result.unreleased == (5,)
    assert result.checkpoint.batch.first == 7
    assert started.verify().size == 8


def test_a_log_that_changes_under_a_sealer_in_doubt_is_final(started: Log):
    connection = _FailingConnection(open_log(started.path))
    sealer = Sealer(LogStore(connection), started.tpm, started.keys, counter=started.tpm.counter)
    connection.fail_at = len(connection.statements) + 3
    with pytest.raises(StoreError):
        sealer.seal([record()], now=NOW, boot=BOOT)
    connection.fail_at = None
    started.seal([record(99)])
    with pytest.raises(RollbackError, match="changed under the sealer"):
        sealer.seal([record()], now=NOW, boot=BOOT)
    connection.close()


_BATCHES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["allow", "once", "record"]), min_size=1, max_size=4),
        st.sampled_from([None, None, *CRASH_POINTS]),
        st.booleans(),
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=_BATCHES)
def test_any_history_of_crashes_and_refusals_verifies(tmp_path_factory: pytest.TempPathFactory, batches):
    log = Log(tmp_path_factory.mktemp("history") / "log.db")
    log.seal([record()])
    kinds = {"allow": allow(1), "once": allow(2, artifact="01" * 32, max_uses=1), "record": record()}
    released: set[int] = set()
    voids: set[int] = set()
    for names, crash, approved in batches:
        log.tpm.state = log.tpm.approved if approved else b"bad"
        recovery = recover(log.open(), log.tpm, log.keys, clock=log.tpm.clock)
        voids.update(recovery.voids)
        sealer = log.sealer(counter=recovery.counter, crash_point=_crash_at(crash or ""))
        try:
            result = sealer.seal([kinds[name] for name in names], now=NOW, boot=BOOT)
        except _Crash:
            log.close()
            continue
        released.update(item.seq for item in result.sealed if item.type is EntryType.DECISION_ALLOW)
        assert approved or not released & {item.seq for item in result.sealed}
    voids.update(log.recover().voids)
    assert not released & voids
    assert log.open().uses("01" * 32) <= 1
    report = log.verify()
    assert report.types[EntryType.DECISION_ALLOW] == log.open().uses("01" * 32) + log.open().uses(ARTIFACT)
    log.close()
