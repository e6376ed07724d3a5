"""One thread, priorities, deadlines: a TPM that hangs is a denial, and comes back."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

import pytest

from attestd.errors import TpmRefusedError, TpmUnavailableError
from attestd.tpm import capabilities
from attestd.tpm.device import Tpm
from attestd.tpm.embedded import EmbeddedTpm
from attestd.tpm.owner import Priority, TpmOwner
from tests.tpm.provisioned import DIGEST, Provisioned, provision

LONG_S = 30.0


@pytest.fixture
def running(embedded_tpm: EmbeddedTpm) -> EmbeddedTpm:
    embedded_tpm.start()
    return embedded_tpm


@pytest.fixture
def owner(running: EmbeddedTpm) -> Iterator[TpmOwner]:
    made = TpmOwner(running.open)
    yield made
    made.close()


def clock(tpm: Tpm) -> int:
    return tpm.properties().clock_ms


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Frozen:
    """swtpm stopped with SIGSTOP: a TPM that accepts commands and never answers."""

    def __init__(self, embedded: EmbeddedTpm) -> None:
        pid = embedded._daemon.pid()
        assert pid is not None
        self.pid = pid

    def __enter__(self) -> Self:
        os.kill(self.pid, signal.SIGSTOP)
        return self

    def __exit__(self, *_: object) -> None:
        self.thaw()

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


def test_results_and_errors_come_back(owner: TpmOwner) -> None:
    assert owner.submit(Priority.OTHER, clock, LONG_S).result() > 0

    def refused(_: Tpm) -> None:
        raise TpmRefusedError("no")

    with pytest.raises(TpmRefusedError, match="no"):
        owner.submit(Priority.OTHER, refused, LONG_S).result()
    assert owner.submit(Priority.OTHER, clock, LONG_S).result() > 0, "the thread serves on"


def test_all_calls_run_in_one_thread_that_is_not_ours(owner: TpmOwner) -> None:
    idents = {
        owner.submit(Priority.OTHER, lambda _: threading.get_ident(), LONG_S).result() for _ in range(5)
    }
    assert len(idents) == 1
    assert threading.get_ident() not in idents


def test_sealing_goes_first_and_within_a_priority_first_come_first_served(owner: TpmOwner) -> None:
    gate, order = threading.Event(), list[str]()
    owner.submit(Priority.OTHER, lambda _: gate.wait(), LONG_S)
    names = ["other 1", "evidence 1", "seal 1", "other 2", "evidence 2", "seal 2"]
    futures = [
        owner.submit(Priority[name.split()[0].upper()], lambda _, name=name: order.append(name), LONG_S)
        for name in names
    ]
    gate.set()
    for future in futures:
        future.result()
    assert order == ["seal 1", "seal 2", "evidence 1", "evidence 2", "other 1", "other 2"]


def test_a_wedged_tpm_fails_at_the_deadline_then_at_once_and_recovers(
    owner: TpmOwner, running: EmbeddedTpm
) -> None:
    with Frozen(running) as frozen:
        start = time.monotonic()
        stuck = owner.submit(Priority.SEAL, clock, 1.0)
        queued = owner.submit(Priority.SEAL, clock, 1.2)
        patient = owner.submit(Priority.OTHER, clock, LONG_S)
        with pytest.raises(TpmUnavailableError, match="deadline"):
            stuck.result(timeout=LONG_S)
        assert time.monotonic() - start >= 1.0
        with pytest.raises(TpmUnavailableError, match="has not answered"):
            owner.submit(Priority.SEAL, clock, LONG_S).result(timeout=LONG_S / 2)
        assert owner.wedged_s > 0

        with pytest.raises(TpmUnavailableError, match="deadline"):
            queued.result(timeout=LONG_S)
        frozen.thaw()
        assert patient.result(timeout=LONG_S) > 0, "who could wait is served"
    until(lambda: owner.wedged_s == 0)
    assert owner.submit(Priority.SEAL, clock, LONG_S).result() > 0


def test_what_is_past_its_deadline_never_runs(owner: TpmOwner) -> None:
    gate, ran = threading.Event(), list[str]()
    owner.submit(Priority.SEAL, lambda _: gate.wait(), LONG_S)
    late = owner.submit(Priority.SEAL, lambda _: ran.append("late"), 0.05)
    at_once = owner.submit(Priority.SEAL, lambda _: ran.append("at once"), 0.0)
    for future in (late, at_once):
        with pytest.raises(TpmUnavailableError, match="deadline"):
            future.result(timeout=LONG_S)
    gate.set()
    owner.submit(Priority.OTHER, lambda _: ran.append("end"), LONG_S).result()
    assert ran == ["end"]


def test_what_was_cancelled_never_runs(owner: TpmOwner) -> None:
    gate, ran = threading.Event(), list[str]()
    owner.submit(Priority.SEAL, lambda _: gate.wait(), LONG_S)
    unwanted = owner.submit(Priority.SEAL, lambda _: ran.append("unwanted"), LONG_S)
    assert unwanted.cancel()
    gate.set()
    owner.submit(Priority.OTHER, lambda _: ran.append("end"), LONG_S).result()
    assert ran == ["end"]


def test_a_result_that_nobody_waits_for_any_more(owner: TpmOwner) -> None:
    gate, started = threading.Event(), threading.Event()

    def slow(_: Tpm) -> None:
        started.set()
        gate.wait()

    future = owner.submit(Priority.SEAL, slow, LONG_S)
    started.wait()
    future.cancel()
    gate.set()
    assert owner.submit(Priority.OTHER, clock, LONG_S).result() > 0


def test_a_callback_may_submit(owner: TpmOwner, running: EmbeddedTpm) -> None:
    """Callbacks of a future that its deadline failed run in the watcher: under no lock of ours."""
    answers: list[object] = []
    with Frozen(running):
        future = owner.submit(Priority.SEAL, clock, 0.1)
        future.add_done_callback(
            lambda _: answers.append(owner.submit(Priority.SEAL, clock, LONG_S).exception(timeout=1))
        )
        until(lambda: bool(answers))
    assert isinstance(answers[0], TpmUnavailableError)


def test_a_lost_connection_is_opened_again(running: EmbeddedTpm) -> None:
    hosts: list[Provisioned] = []

    def opened() -> Tpm:
        tpm = running.open()
        if hosts:
            tpm.load_keys(hosts[0].blobs, hosts[0].auth_values)
        else:
            hosts.append(provision(tpm))
        return tpm

    owner = TpmOwner(opened)
    try:
        approval = hosts[0].approval()
        running.kill()
        with pytest.raises(TpmUnavailableError):
            owner.submit(Priority.SEAL, lambda tpm: tpm.sign_release(DIGEST, approval), LONG_S).result()
        with pytest.raises(TpmUnavailableError):
            owner.submit(Priority.SEAL, clock, LONG_S).result()
        running.start()
        hosts[0].assert_signed(
            owner.submit(Priority.SEAL, lambda tpm: tpm.sign_release(DIGEST, approval), LONG_S).result()
        )
    finally:
        owner.close()


def test_no_tpm_is_said_when_it_is_made() -> None:
    threads = threading.active_count()
    with pytest.raises(TpmUnavailableError, match="no TPM"):
        TpmOwner(lambda: Tpm("device:/dev/no-such-tpm"))
    until(lambda: threading.active_count() == threads)


def test_closing_refuses_the_rest_and_leaves_nothing_loaded(running: EmbeddedTpm) -> None:
    threads = threading.active_count()

    def opened() -> Tpm:
        tpm = running.open()
        provision(tpm)
        return tpm

    owner = TpmOwner(opened)
    gate = threading.Event()
    running_call = owner.submit(Priority.OTHER, lambda _: gate.wait(), LONG_S)
    until(lambda: owner._current is not None)
    waiting = owner.submit(Priority.OTHER, clock, LONG_S)
    threading.Timer(0.1, gate.set).start()
    owner.close()
    assert running_call.result() is True
    for future in (waiting, owner.submit(Priority.SEAL, clock, LONG_S)):
        with pytest.raises(TpmUnavailableError, match="stopping"):
            future.result(timeout=LONG_S)
    owner.close()
    until(lambda: threading.active_count() == threads)
    with Tpm(running.tcti) as after:
        assert capabilities.handles(after._channel, capabilities.TRANSIENT) == ()


def test_closing_does_not_wait_for_a_wedged_tpm(running: EmbeddedTpm) -> None:
    owner = TpmOwner(running.open)
    with Frozen(running):
        stuck = owner.submit(Priority.SEAL, clock, 0.3)
        until(lambda: owner._current is not None)
        start = time.monotonic()
        owner.close(patience_s=0.1)
        assert time.monotonic() - start < LONG_S
        with pytest.raises(TpmUnavailableError, match="deadline"):
            stuck.result(timeout=LONG_S)
    owner.close()
