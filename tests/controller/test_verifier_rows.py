"""What a verifier remembers, the same on SQLite and PostgreSQL."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from attestd.appraisal.host_state import HostState
from attestd.appraisal.vector import Status
from attestd.controller.store.engine import Store, migrate
from attestd.controller.store.schema import verifier_logs
from attestd.controller.verifier.rows import Change, Row, Rows, Said, last_said
from attestd.tcg.attest import ClockInfo

ONE, TWO = "1" * 64, "2" * 64
LOG, OTHER = "a" * 64, "b" * 64
SAID = Said(ONE, datetime(2026, 3, 1, tzinfo=UTC), "local", Status.AFFIRMING, 0, 7, 1, "attestd 0.1.0")


@pytest.fixture
def rows(url: str) -> Iterator[Rows]:
    migrate(url)
    store = Store.open(url)
    yield Rows(store, max_log_bytes=1000)
    store.close()


def change(
    clock: int,
    before: Row | None = None,
    *,
    host: str = ONE,
    log: str | None = LOG,
    data: bytes | None = b"log",
) -> Change:
    state = HostState.of(ClockInfo(clock, 7, 1, safe=True), eventlog=log, ima={})
    return Change("00", before, state, data, replace(SAID, host=host))


def read(rows: Rows, host: str = ONE) -> Row:
    [row] = rows.read([host])
    assert row is not None
    return row


def log_bytes(rows: Rows) -> int:
    with rows._store.read() as connection:
        return sum(connection.execute(select(verifier_logs.c.size)).scalars())


def test_a_row_is_replaced_only_if_it_is_the_one_that_was_read(rows: Rows) -> None:
    assert rows.read([ONE]) == [None]
    assert rows.replace([change(1), change(2)]) == [True, False]
    first = read(rows)
    assert rows.replace([change(2)]) == [False]
    assert rows.replace([change(2, first), change(1, host=TWO), change(3, first)]) == [True, True, False]
    assert rows.replace([change(3, first)]) == [False]
    assert rows.replace([change(3, read(rows))]) == [True]
    assert [row is not None for row in rows.read([TWO, "3" * 64, ONE])] == [True, False, True]
    assert last_said(rows._store) == {ONE: SAID, TWO: replace(SAID, host=TWO)}
    assert last_said(rows._store, [TWO]) == {TWO: replace(SAID, host=TWO)}


def test_logs_are_kept_as_long_as_a_host_names_them(rows: Rows) -> None:
    assert rows.log(LOG) is None
    rows.replace([change(1), change(1, host=TWO)])
    assert rows.log(LOG) == b"log"
    assert read(rows).has_logs
    rows.replace([change(2, read(rows), log=OTHER, data=b"other")])
    assert rows.log(LOG) == b"log"  # The other host's too.
    rows.replace([change(2, read(rows, TWO), host=TWO, log=None, data=None)])
    assert (rows.log(LOG), rows.log(OTHER)) == (None, b"other")
    # Governance has the host no more.
    rows.forget_logs([TWO])
    assert (rows.log(OTHER), log_bytes(rows)) == (None, 0)
    assert not read(rows).has_logs


def test_more_logs_than_there_is_room_for(rows: Rows) -> None:
    """A host that fills it takes room from others that send logs, and nothing else."""
    noise = bytes(number * 7919 % 251 for number in range(4000))
    assert rows.replace([change(1, data=noise * 2)]) == [True]
    assert log_bytes(rows) <= 1000
    large = change(1, host=TWO, log=OTHER, data=b"".join(bytes([n % 256, n * n % 251]) for n in range(9000)))
    assert rows.replace([large]) == [True]
    assert not read(rows, TWO).has_logs
    assert log_bytes(rows) <= 1000
