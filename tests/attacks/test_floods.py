"""Floods: signals, requests, denials, connections, descriptors, memory; and clients that do not read or do not write.

Nobody else may have to wait for long, nothing may be released unrecorded, and the flood may cost only what is bounded.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator

from attestd.wire import Kind, encode_fields, encode_frame
from tests.attacks.conftest import running
from tests.runner.harness import Bench

# -- the runner ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def signals_without_end(bench: Bench) -> Iterator[None]:
    """A requester that may run something sends it signals as fast as the socket takes them."""
    submitted = bench.submit(bench.grant(bench.execution("/bin/sleep", "60")))
    assert submitted.start().kind == Kind.STARTED
    frames = encode_frame(Kind.SIGNAL, encode_fields([b"28"])) * 10_000

    def flood() -> None:
        with contextlib.suppress(OSError):
            while True:
                submitted.client.sendall(frames)

    thread = threading.Thread(target=flood)
    thread.start()
    yield
    submitted.client.shutdown(socket.SHUT_RDWR)
    thread.join()


def is_served(bench: Bench, *, within_s: float) -> bool:
    """Whether the runner answers somebody else."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(within_s)
        sock.connect(str(bench.socket))
        sock.sendall(encode_frame(Kind.INFO))
        try:
            return sock.recv(1) == Kind.INFORMED
        except TimeoutError:
            return False


def test_signals_without_end(bench: Bench) -> None:
    with running("fairness") as weakened, signals_without_end(weakened):
        assert not is_served(weakened, within_s=1)
    with signals_without_end(bench):
        assert is_served(bench, within_s=5)
        assert bench.run(bench.execution("/bin/echo", "on"))[2] == b"on\n"
