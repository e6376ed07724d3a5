"""Verifiers and databases that are killed while hosts attest: what was answered is never accepted again."""

import contextlib
import copy
import http.client
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controller.attesting import EVIDENCE, JSON, Remote, verifying
from tests.controller.running import Controller, PostgreSQL

HOSTS = 4


class Attester(threading.Thread):
    """A host that attests again and again, whatever happens.

    Attributes:
        answered: The evidence that a result was given for last.
        count: Of results.
        wrong: What should never have happened.
    """

    def __init__(self, controller: Controller, remote: Remote) -> None:
        super().__init__(daemon=True)
        self.controller, self.remote = controller, remote
        self.answered, self.count = b"", 0
        self.wrong: list[str] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.is_set():
            with contextlib.suppress(OSError, EOFError, http.client.HTTPException, AssertionError):
                self.ask()
                continue
            time.sleep(0.02)

    def ask(self) -> None:
        self.remote.tick()
        evidence = self.remote.answer(self.remote.challenge(self.controller))
        if self.answered:
            self.post(self.answered, {403, 503})
        if self.post(evidence, {200, 503}) == 200:
            self.answered, self.count = evidence, self.count + 1

    def post(self, evidence: bytes, expected: set[int]) -> int:
        answered = self.controller.post(EVIDENCE, evidence, JSON)
        if answered.status not in expected:
            self.wrong.append(f"{answered.status} {answered.body!r}")
        return answered.status


@contextlib.contextmanager
def load(controller: Controller, remote: Remote) -> Iterator[list[Attester]]:
    hosts = [remote.enrol(f"host {number}") for number in range(HOSTS)]
    threads = [Attester(controller, copy.copy(host)) for host in hosts]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        for thread in threads:
            thread.stopped.set()
        for thread in threads:
            thread.join(40)
    assert [words for thread in threads for words in thread.wrong] == []


def progress(threads: list[Attester], *, seconds: float = 60) -> None:
    """Waits until every one was given another result."""
    before = [thread.count for thread in threads]
    deadline = time.monotonic() + seconds
    while not all(thread.count > old for thread, old in zip(threads, before, strict=True)):
        assert time.monotonic() < deadline, before
        time.sleep(0.02)


@pytest.fixture
def remote() -> Remote:
    remote = Remote(boot=False, ima=False)
    for number in range(HOSTS):
        remote.enrol(f"host {number}")
    return remote


def test_the_controller_is_killed_under_load(remote: Remote, tmp_path: Path) -> None:
    with verifying(tmp_path / "state", remote) as controller, load(controller, remote) as threads:
        for _ in range(2):
            progress(threads)
            controller.kill()
            controller.start()
        progress(threads)


def test_the_database_is_killed_under_load(remote: Remote, tmp_path: Path, own_pg: PostgreSQL) -> None:
    """The verifier stays; it says 503 as long as there is none, and goes on by itself."""
    url = own_pg.database()
    with (
        verifying(tmp_path / "state", remote, database=url) as controller,
        load(controller, remote) as threads,
    ):
        progress(threads)
        own_pg.kill()
        time.sleep(0.5)
        controller.post("/v1/challenge", b"", JSON).problem(400)
        own_pg.start()
        progress(threads)
