"""Python programs without their imports: forked from one process that has them, as `python -m MODULE` would run them.

An agent, a runner or a controller takes half a second or more of the processor to import what it needs, and most tests
start one. What runs is the program itself, with its own command line, environment, directory and descriptors.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["AGENT", "CONTROLLER", "ROOT", "Child", "is_forked", "spawn"]

ROOT = Path(__file__).parent.parent
# Imported by the server before the first program that asks for them is forked.
AGENT = (
    *("attestd.agent.assemble", "attestd.agent.service", "tpm2_pytss._libtpm2_pytss"),
    *("attestd.runner.loop", "attestd.runner.recover", "attestd.runner.server"),
)
CONTROLLER = ("attestd.cli.controller", "attestd.cli.controller_desk", "attestd.controller.service")
# Room for a command line: what /proc says of a process is what it was executed with, so that is overwritten.
_ROOM = 2048
_lock = threading.Lock()
_path: list[Path] = []
_forked: list[int] = []


def is_forked() -> bool:
    """Whether this program was started by `spawn`."""
    return bool(_forked)


class Child:
    """A process of the server's, used as a `subprocess.Popen` is."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        try:
            self._handle: int | None = os.pidfd_open(pid)
        except ProcessLookupError:  # ended and waited for
            self._handle = None

    def __del__(self) -> None:
        if self._handle is not None:
            os.close(self._handle)

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        found = self._look(timeout)
        if found is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return found

    def send_signal(self, number: int) -> None:
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout_s: float | None) -> int | None:
        if self.returncode is None:
            if self._handle is not None and not select.select([self._handle], [], [], timeout_s)[0]:
                return None
            self.returncode = int(_ask({"wait": self.pid}))
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None
        return self.returncode


def spawn(
    module: str,
    *arguments: Any,
    imported: Sequence[str],
    env: Mapping[str, str],
    output: int,
    cwd: str | Path = ROOT,
    session: bool = False,
    strict: bool = False,
) -> Child:
    """Runs a module as `python -m` does.

    Args:
        module: Run as `__main__`.
        arguments: Its command line.
        imported: What the server imports before.
        env: The whole environment; not that of the linker or the interpreter, which run already.
        output: The descriptor of its stdout and stderr; from stdin it reads nothing.
        cwd: Its working directory.
        session: Whether in a session of its own.
        strict: Whether warnings are errors (`python -W error`).
    """
    with _lock:
        if not _path:
            _start()
    request = {
        "module": module, "arguments": [str(word) for word in arguments], "imported": list(imported), "env": dict(env),
        "cwd": str(cwd), "session": session, "strict": strict,
    }  # fmt: skip
    return Child(int(_ask(request, output)))


def _ask(request: Mapping[str, Any], *descriptors: int) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(_path[0]))
        socket.send_fds(sock, [json.dumps(request).encode()], descriptors)
        return sock.recv(64)


def _start() -> None:
    directory = tempfile.TemporaryDirectory(prefix="forking-", dir="/tmp")
    path = Path(directory.name) / "sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen(64)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forking", str(listener.fileno()), str(path), "-" * _ROOM],
            cwd=ROOT, pass_fds=[listener.fileno()], stdin=subprocess.PIPE, env={"PATH": os.environ["PATH"]},
        )  # fmt: skip

    def end() -> None:
        process.kill()
        process.wait()
        directory.cleanup()

    atexit.register(end)
    _path.append(path)


# --- the server ------------------------------------------------------------------------------------------------------


class _Server:
    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._ended: dict[int, int] = {}

    def serve(self) -> dict[str, Any] | None:
        """Answers until whoever started it ends; returns in a child, with what that is to run."""
        signal.signal(signal.SIGCHLD, lambda *_: self._reap())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ends whoever started it
        while True:
            if 0 in select.select([0, self._listener], [], [])[0]:
                return None
            client, _ = self._listener.accept()
            with client:
                data, descriptors, _, _ = socket.recv_fds(client, 65536, 1)
                request = json.loads(data)
                if "wait" in request:
                    client.send(b"%d" % self._status(request["wait"]))
                    continue
                for name in request["imported"]:
                    importlib.import_module(name)
                gc.freeze()  # pages that children share stay so
                pid = os.fork()
                if pid == 0:
                    for sock in (client, self._listener):
                        sock.detach()
                    _become(request, *descriptors)
                    return request
                for descriptor in descriptors:
                    os.close(descriptor)
                client.send(b"%d" % pid)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                self._ended[found[0]] = os.waitstatus_to_exitcode(found[1])

    def _status(self, pid: int) -> int:
        while pid not in self._ended:
            self._reap()
            time.sleep(0.001)
        return self._ended.pop(pid)


def _become(request: Mapping[str, Any], output: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    null = os.open("/dev/null", os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.closerange(3, 256)
    if request["session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    _forked.append(os.getpid())
    sys.argv = ["", *request["arguments"]]
    _show([sys.executable, "-m", request["module"], *request["arguments"]])
    if request["strict"]:
        sys.warnoptions[:] = ["error"]
        warnings.simplefilter("error")


def _show(command: Sequence[str]) -> None:
    """What /proc and `ps` say of this process."""
    begin, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    words = b"\0".join(map(os.fsencode, command)) + b"\0"
    assert len(words) < end - begin, "the command line is too long: raise _ROOM"
    ctypes.memmove(begin, words.ljust(end - begin, b"\0"), end - begin)


def main() -> None:
    _path.append(Path(sys.argv[2]))
    request = _Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    if request is not None:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    # As the module that programs import: what it knows is theirs too.
    from tests.forking import main

    main()
