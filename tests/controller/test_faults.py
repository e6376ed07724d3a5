"""Processes that end at any moment, under load: nothing that was answered is lost, everything goes on without help."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controller.logs import Log
from tests.controller.running import Controller, PostgreSQL
from tests.controller.test_witness import PATH, start

LOGS = 6


class Grower(threading.Thread):
    """A host: its log grows, and it asks for cosignatures, again and again, whatever happens.

    Attributes:
        cosigned: The largest size that it was given a cosignature of.
        wrong: What should never have happened.
    """

    def __init__(self, controller: Controller, log: Log) -> None:
        super().__init__(daemon=True)
        self.controller, self.log, self.cosigned = controller, log, 0
        self.wrong: list[str] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        old = 0
        while not self.stopped.is_set():
            if len(self.log.leaves) < old + 2:
                self.log.grow(2)
            with contextlib.suppress(OSError, EOFError):  # down, or in the middle of going down
                old = self.ask(old)
                continue
            time.sleep(0.02)

    def ask(self, old: int) -> int:
        import http.client

        with contextlib.suppress(http.client.HTTPException):
            answered = self.controller.post(PATH, self.log.request(old, old + 2))
            if answered.status == 200:
                self.cosigned = old + 2
                return self.cosigned
            if answered.status == 409:
                found = int(answered.body)
                if found < self.cosigned:
                    self.wrong.append(f"told {found}, had {self.cosigned}")
                return found
            if answered.status != 503:
                self.wrong.append(f"{answered.status} {answered.body!r}")
        time.sleep(0.02)
        return old


@contextlib.contextmanager
def load(controller: Controller, logs: list[Log]) -> Iterator[list[Grower]]:
    growers = [Grower(controller, log) for log in logs]
    for grower in growers:
        grower.start()
    try:
        yield growers
    finally:
        for grower in growers:
            grower.stopped.set()
        for grower in growers:
            grower.join(40)
    assert [words for grower in growers for words in grower.wrong] == []


def progress(growers: list[Grower], *, seconds: float = 30) -> None:
    """Waits until every one was given more than it had."""
    before = [grower.cosigned for grower in growers]
    deadline = time.monotonic() + seconds
    while not all(grower.cosigned > old for grower, old in zip(growers, before, strict=True)):
        assert time.monotonic() < deadline, [grower.cosigned for grower in growers]
        time.sleep(0.02)


@pytest.fixture
def logs() -> list[Log]:
    return [Log(f"example.com/{number}") for number in range(LOGS)]


def listed(logs: list[Log]) -> str:
    return "".join(f"{log.vkey}\n" for log in logs)


def test_the_controller_is_killed_under_load(tmp_path: Path, url: str, logs: list[Log]) -> None:
    with start(tmp_path / "state", url, listed(logs), witness_mldsa=False) as controller:
        controller.init().start()
        with load(controller, logs) as growers:
            for _ in range(3):
                progress(growers)
                controller.kill()
                controller.start()
            progress(growers)


def test_the_database_is_killed_under_load(tmp_path: Path, own_pg: PostgreSQL, logs: list[Log]) -> None:
    """The controller stays; it says 503 as long as there is none, and goes on by itself."""
    with start(tmp_path / "state", own_pg.database(), listed(logs), witness_mldsa=False) as controller:
        controller.init().start()
        assert controller.process is not None
        pid = controller.process.pid
        with load(controller, logs) as growers:
            for _ in range(2):
                progress(growers)
                own_pg.kill()
                time.sleep(0.5)
                controller.post(PATH, logs[0].request(0, 1)).problem(503)
                own_pg.start()
            progress(growers)
        assert controller.process.pid == pid
        assert "password" not in "".join(controller.said)


def test_a_full_disk(tmp_path: Path, logs: list[Log]) -> None:
    """What cannot be stored, or anchored, is not cosigned."""
    with start(tmp_path / "state", "", listed(logs), witness_mldsa=False) as controller:
        controller.init().start()
        logs[0].grow(9)
        assert controller.post(PATH, logs[0].request(0, 3)).status == 200
        anchors = controller.state / "controller" / "witness-anchors"
        hidden = anchors.rename(
            anchors.with_name("hidden")
        )  # Nothing can be written there: as root, modes do not help.
        controller.post(PATH, logs[0].request(3, 6)).problem(503)
        hidden.rename(anchors)
        # It was stored all the same, so the log is told so; and the anchor follows.
        assert controller.post(PATH, logs[0].request(3, 9)).body == b"6\n"
        assert controller.post(PATH, logs[0].request(6, 9)).status == 200
        controller.kill()
        controller.start()
        assert controller.post(PATH, logs[0].request(0, 3)).body == b"9\n"
