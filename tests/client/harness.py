"""An agent that decides nothing, between the real client and a real runner."""

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attestd.gate.execution import Execution, File
from attestd.gate.script import parse_shebang
from attestd.observe import observe_directory, observe_file, read_start
from attestd.runner.request import peer_of
from attestd.tlog.tree import leaf_hash
from attestd.wire import Frame, FrameReader, Kind, encode_fields, send_frame
from tests.runner.harness import PATH, WAIT_S, Bench
from tests.world import SALT

# As an installed `attestd` would be started: the interpreter, no site, one path.
LAUNCH = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from attestd.__main__ import main; sys.exit(main())"
)
ROOT = Path(__file__).parents[2]


def client_command(*arguments: str | bytes | Path) -> list[Any]:
    return [sys.executable, "-I", "-S", "-c", LAUNCH, str(ROOT), *arguments]


def run_client(
    *arguments: str | bytes | Path, state_dir: Path | None = None, **options: Any
) -> "subprocess.CompletedProcess[bytes]":
    """Runs the client to its end."""
    command = client_command(*arguments)
    environment = {"PATH": PATH, **({"ATTESTD_STATE_DIR": str(state_dir)} if state_dir else {})}
    defaults = {"capture_output": True, "timeout": WAIT_S, "stdin": subprocess.DEVNULL, "env": environment}
    return subprocess.run(command, check=False, **{**defaults, **options})


class FakeAgent:
    """Serves one client at a time. It allows everything, unless `answer` says otherwise.

    Attributes:
        requests: The fields of each request.
        needs: What it asks for first.
        answers: What it got.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.state_dir = bench.directory
        (self.state_dir / "run").mkdir()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.state_dir / "run" / "agent.sock"))
        self.listener.listen()
        self.requests: list[list[bytes]] = []
        self.needs: list[bytes] = []
        self.answers: list[list[bytes]] = []
        self.answer: Callable[[socket.socket, Frame], None] = self.allow
        self.decision_json = b""
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(WAIT_S)
        self.listener.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with sock, contextlib.suppress(OSError, EOFError):  # a client may go away at any time
                sock.settimeout(WAIT_S)
                self._reader = FrameReader(sock)
                frame = self._reader.receive()
                assert frame is not None
                self.requests.append(frame.fields(100))
                try:
                    self.answer(sock, frame)
                finally:
                    frame.close()

    def ask(self, sock: socket.socket) -> Frame:
        send_frame(sock, Kind.NEED, encode_fields(self.needs))
        frame = self._reader.receive()
        assert frame is not None
        assert frame.kind == Kind.HERE
        self.answers.append(frame.fields(100))
        return frame

    def decide(self, sock: socket.socket, *fields: bytes) -> None:
        send_frame(sock, Kind.DECISION, encode_fields(list(fields)))

    def deny(self, *fields: bytes) -> None:
        """Denies from now on."""
        self.answer = lambda sock, _frame: self.decide(sock, b"deny", *fields)

    def allow(self, sock: socket.socket, frame: Frame) -> None:
        """Grants what is asked, and hands it over to the runner."""
        mode, _options, _artifact, _parent, *argv = frame.fields(100)
        *_stdio, cwd, executable = frame.descriptors
        extra = self.ask(sock).descriptors if self.needs else []
        execution = Execution(
            executable=_file(executable),
            interpreters=tuple(_file(number) for number in extra),
            argv=tuple(argument.decode() for argument in argv),
            cwd=observe_directory(cwd),
            uid=self.bench.world.uid,
            env={"PATH": PATH},
            inputs=(),
            requester_uid=peer_of(sock.fileno()).uid,
        )
        granted = self.bench.grant(execution)
        entries = self.bench.world.log.entries
        leaf, seq = leaf_hash(entries[-1]).hex().encode(), str(len(entries) - 1).encode()
        self.decide(sock, b"allow", b"0", b"", b"", b"", leaf, seq, self.decision_json, granted.receipt)
        if mode == b"check":
            return
        shebang = parse_shebang(read_start(executable))
        fields = [
            granted.receipt,
            granted.artifact,
            b"",
            SALT,
            str(shebang.interpreters if shebang else 0).encode(),
            b"0",
        ]
        fields += [b"1", b"", f"PATH={PATH}".encode(), *argv]
        answer = self.bench.ask(Kind.EXECUTE, fields, [sock.fileno(), *frame.descriptors, *extra])
        if answer.kind == Kind.REJECTED:
            code, sentence, hint = answer.fields(3)
            send_frame(sock, Kind.REFUSED, encode_fields([b"77", code, sentence, hint]))


def _file(descriptor: int) -> File:
    seen = observe_file(descriptor)
    return File(seen.path, seen.sha256)


def frames(*kinds_and_fields: tuple[bytes, Sequence[bytes]]) -> Callable[[socket.socket, Frame], None]:
    """An answer that sends these frames, whatever was asked."""

    def send(sock: socket.socket, _frame: Frame) -> None:
        for kind, fields in kinds_and_fields:
            send_frame(sock, kind, encode_fields(list(fields)))

    return send


def modules_loaded(*arguments: str, state_dir: Path, status: int = 0) -> list[str]:
    """The modules that a client imports, in the order of loading, as the interpreter reports them."""
    command = client_command(*arguments)
    command[1:1] = ["-X", "importtime"]
    done = subprocess.run(
        command,
        capture_output=True,
        check=False,
        timeout=WAIT_S,
        stdin=subprocess.DEVNULL,
        env={"PATH": PATH, "ATTESTD_STATE_DIR": str(state_dir)},
    )
    assert done.returncode == status, done.stderr
    lines = done.stderr.decode().splitlines()
    return [line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")][1:]
