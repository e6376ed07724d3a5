"""A real runner process, and an agent and client that speak to it over real sockets, with real receipts."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attestd.gate.execution import Execution, File
from attestd.gate.script import parse_shebang
from attestd.observe import observe_file, read_start
from attestd.strict import canonical, parse_json
from attestd.tlog.tree import leaf_hash
from attestd.wire import Frame, FrameReader, Kind, close_all, encode_fields, send_frame
from tests.world import SALT, Granted, World

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
WAIT_S = 60
ROOT = Path(__file__).parents[2]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def look(path: Path | str) -> tuple[File, bool]:
    """A file as the runner will see it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        seen = observe_file(descriptor)
        return File(seen.path, seen.sha256), seen.writable
    finally:
        os.close(descriptor)


def shebang_files(path: Path | str) -> list[str]:
    """The files that it takes to run a script, as a client would find them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        shebang = parse_shebang(read_start(descriptor))
    finally:
        os.close(descriptor)
    if shebang is None:
        return []
    if shebang.lookup is None:
        return [shebang.interpreter]
    found = next(
        f"{place}/{shebang.lookup}"
        for place in PATH.split(":")
        if os.path.exists(f"{place}/{shebang.lookup}")
    )
    return [shebang.interpreter, found]


@dataclass
class Submitted:
    """An execution that was handed to the runner: its answer, the client's end, and what the client asked with."""

    answer: Frame
    client: socket.socket
    argv: Sequence[str] = ()
    descriptors: list[int] = field(
        default_factory=list
    )  # stdin, stdout, stderr, cwd, executable, until the go

    def __post_init__(self) -> None:
        self.reader = FrameReader(self.client)

    def receive(self) -> Frame:
        frame = self.reader.receive()
        assert frame is not None
        return frame

    def refusal(self) -> str:
        assert self.answer.kind == Kind.REJECTED, self.answer.kind
        return self.answer.fields(3)[0].decode()

    def start(self) -> Frame:
        """Gives the go; returns the STARTED frame."""
        assert self.answer.kind == Kind.ACCEPTED, self.answer.fields(3)
        ready = self.receive()
        assert ready.kind == Kind.READY
        self.go()
        return self.receive()

    def go(self) -> None:
        """What the client sends when it is asked."""
        payload = encode_fields([argument.encode() for argument in self.argv])
        send_frame(self.client, Kind.GO, payload, self.descriptors)
        close_all(self.descriptors)
        self.descriptors.clear()

    def signal(self, number: int) -> None:
        send_frame(self.client, Kind.SIGNAL, encode_fields([str(int(number)).encode()]))

    def end(self) -> tuple[int, str]:
        """Waits for the end: status and message."""
        frame = self.receive()
        assert frame.kind == Kind.EXITED, frame.kind
        status, message = frame.fields(2)
        return int(status), message.decode()


class Bench:
    """A world, a runner that trusts it, and a connection for each request."""

    def __init__(self, directory: Path, *, uid: int | None = None) -> None:
        self.directory = directory
        self.state = directory / "runner"
        self.socket = directory / "runner.sock"
        isolation = "user" if os.geteuid() == 0 else "none"
        self.world = World(
            now=datetime.now(UTC), boot=BOOT, uid=os.getuid() if uid is None else uid, isolation=isolation
        )
        self.trust = directory / "trust"
        self.trust.mkdir()
        self.world.write_trust(self.trust)
        self.state.mkdir(mode=0o700)
        (self.state / "host.json").write_bytes(canonical({"v": 1, "host": self.world.host.id}))
        self.process: subprocess.Popen[bytes] | None = None
        self.grants = 0
        self.clients: list[socket.socket] = []
        self.asked_with: list[list[int]] = []

    def start(self, *program: str) -> "Bench":
        """Starts the runner, or another program with its options."""
        command: list[str | Path] = [sys.executable, *(program or ("-I", "-m", "attestd.runner"))]
        command += ["--state-dir", self.state, "--trust", self.trust, "--socket", self.socket]
        self.log = (self.directory / "runner.log").open("ab")
        self.process = subprocess.Popen(command, stderr=self.log, cwd=ROOT)
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            try:
                self.ask(Kind.INFO)
            except OSError:
                assert self.process.poll() is None, (self.directory / "runner.log").read_text()
                time.sleep(0.02)
            else:
                return self
        raise AssertionError("the runner did not start")

    def close_clients(self) -> None:
        for client in self.clients:
            client.close()
        self.clients.clear()
        for descriptors in self.asked_with:
            close_all(descriptors)
            descriptors.clear()
        self.asked_with.clear()

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(WAIT_S)
        self.log.close()
        self.process = None
        return status

    def ask(self, kind: bytes, fields: Sequence[bytes] = (), descriptors: Sequence[int] = ()) -> Frame:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(WAIT_S)
            sock.connect(str(self.socket))
            send_frame(sock, kind, encode_fields(list(fields)), list(descriptors))
            frame = FrameReader(sock).receive()
            assert frame is not None
            return frame

    def info(self) -> dict[str, Any]:
        return dict(parse_json(self.ask(Kind.INFO).fields(1)[0], max_bytes=4096, what="info"))

    def spool(self) -> list[dict[str, Any]]:
        fields = self.ask(Kind.SPOOL, [b"256"]).fields(256)
        return [parse_json(field, max_bytes=1 << 16, what="spooled") for field in fields]

    def wait_spooled(self, type_: str, leaf: str) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            for item in self.spool():
                if item["type"] == type_ and item["body"]["leaf"] == leaf:
                    return dict(item["body"])
            time.sleep(0.02)
        raise AssertionError(f"no {type_} in the spool")

    def last_leaf(self) -> str:
        """The id of the decision that was granted last."""
        return leaf_hash(self.world.log.entries[-1]).hex()

    def execution(
        self, path: Path | str, *arguments: str, inputs: Sequence[Path] = (), **changes: Any
    ) -> Execution:
        """What running a real file with these arguments is."""
        executable, writable = look(path)
        interpreters = [look(item) for item in shebang_files(path)]
        pinned = [look(item) for item in inputs]
        seen = [(executable, writable), *interpreters, *pinned]
        execution = Execution(
            executable=executable,
            interpreters=tuple(item for item, _ in interpreters),
            argv=(str(path), *arguments),
            cwd="/",
            uid=self.world.uid,
            env={"PATH": PATH},
            inputs=tuple(item for item, _ in pinned),
            requester_uid=os.getuid(),
            writable=frozenset(item.path for item, changeable in seen if changeable),
        )
        return replace(execution, **changes)

    def grant(self, execution: Execution, **changes: Any) -> Granted:
        self.world.now = datetime.now(UTC)
        self.grants += 1  # equal artifacts would share their uses
        return self.world.grant(execution, **{"reason": f"grant {self.grants}", **changes})

    def submit(
        self,
        granted: Granted,
        *,
        stdio: tuple[int, int, int] | None = None,
        receipt: bytes | None = None,
        artifact: bytes | None = None,
        argv: Sequence[str] | None = None,
        env: dict[str, str] | None = None,
        salt: bytes | None = None,
        cwd: str | None = None,
        files: Sequence[Path | str] | None = None,
        client_end: int | None = None,
        tokens: Sequence[str] = (),
    ) -> Submitted:
        """Hands an execution over as the agent does; keywords replace what is handed over."""
        run = granted.execution
        client, server = connected_pair(self.directory)
        self.clients.append(client)
        null = os.open("/dev/null", os.O_RDWR)
        names = (
            [item.path for item in (run.executable, *run.interpreters, *run.inputs)]
            if files is None
            else files
        )
        opened = [os.open(cwd or run.cwd, os.O_RDONLY), *(os.open(name, os.O_RDONLY) for name in names)]
        environment = dict(run.env) if env is None else env
        fields = [
            granted.receipt if receipt is None else receipt,
            granted.artifact if artifact is None else artifact,
            b"",
            SALT if salt is None else salt,
            str(len(run.interpreters)).encode(),
            str(len(run.inputs)).encode(),
            str(len(environment)).encode(),
            "\n".join(tokens).encode(),
            *(f"{name}={value}".encode() for name, value in environment.items()),
            *(argument.encode() for argument in (run.argv if argv is None else argv)),
        ]
        descriptors = [
            server.fileno() if client_end is None else client_end,
            *(stdio or (null, null, null)),
            *opened,
        ]
        asked_with = [os.dup(descriptor) for descriptor in descriptors[1:6]]
        self.asked_with.append(asked_with)
        try:
            answer = self.ask(Kind.EXECUTE, fields, descriptors)
        finally:
            close_all([null, *opened])
            server.close()
        client.settimeout(WAIT_S)
        return Submitted(answer, client, run.argv if argv is None else argv, asked_with)

    def run(self, execution: Execution, **submit: Any) -> tuple[int, str, bytes]:
        """Grants, submits, goes; returns status, message, and what it wrote to stdout and stderr."""
        reader, writer = os.pipe()
        null = os.open("/dev/null", os.O_RDONLY)
        try:
            submitted = self.submit(self.grant(execution), stdio=(null, writer, writer), **submit)
        finally:
            os.close(writer)
            os.close(null)
        with submitted.client, os.fdopen(reader, "rb") as output:
            frame = submitted.start()
            if frame.kind == Kind.STARTED:
                status, message = submitted.end()
            else:
                field, text = frame.fields(2)
                status, message = int(field), text.decode()
            return status, message, output.read()


def connected_pair(directory: Path) -> tuple[socket.socket, socket.socket]:
    """A client's connected socket and the agent's end, as connect and accept make them."""
    path = directory / f"pair-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(path))
        server, _ = listener.accept()
    path.unlink()
    return client, server


def read_until(descriptor: int, wanted: bytes) -> bytes:
    """What can be read until something wanted has come."""
    data = b""
    deadline = time.monotonic() + WAIT_S
    while wanted not in data:
        assert time.monotonic() < deadline, data
        if select.select([descriptor], [], [], 0.5)[0]:
            data += os.read(descriptor, 65536)
    return data
