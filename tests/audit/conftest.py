from collections.abc import Iterator
from pathlib import Path

import pytest

from attestd.audit.seal import Pending
from attestd.lineage.entry import EntryType
from tests.audit.harness import Log, allow, record


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "log.db")
    yield log
    log.close()


@pytest.fixture
def started(log: Log) -> Log:
    """A log with its first entry, a release of two and a record of one, at sizes 1, 4 and 5."""
    log.seal([Pending(EntryType.LOG_START, {"previous": None})], [allow(1), record(2), allow(3)], [record(4)])
    return log
