"""A controller as people run it, and PostgreSQL from Debian's packages on a Unix socket."""

import contextlib
import glob
import http.client
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.docs.forked import shared_command_line
from tests.forking import CONTROLLER, Child, spawn

START_S = 60.0


@dataclass(frozen=True)
class Answered:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self, status: int) -> str:
        """The words of an error, which is one as RFC 9457 says."""
        assert self.status == status, (self.status, self.body)
        assert self.headers["content-type"] == "application/problem+json"
        found = self.json
        assert found["status"] == status
        assert found["type"] == "about:blank"
        assert found["correlation_id"]
        return str(found["detail"])


class Client:
    """A peer at an address."""

    def __init__(self, port: int, *, tls: Any = None) -> None:
        self.port, self.tls = port, tls

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answered:
        """One request on a connection of its own."""
        with contextlib.closing(self.connect()) as connection:
            return ask_on(connection, method, path, body, headers)

    def connect(self) -> http.client.HTTPConnection:
        if self.tls is not None:
            return http.client.HTTPSConnection("localhost", self.port, timeout=60, context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answered:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answered:
        return self.ask("POST", path, body, headers)

    def open(self, *, source: str = "127.0.0.1") -> socket.socket:
        """A bare connection, from an address of this host."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60, source_address=(source, 0))

    def say(self, *parts: bytes) -> bytes:
        """Sends bytes as they are; returns everything until the other side closes."""
        with self.open() as sock:
            for part in parts:
                sock.sendall(part)
            return read_all(sock)


def ask_on(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answered:
    connection.request(method, path, body, dict(headers or {}))
    response = connection.getresponse()
    return Answered(
        response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    )


def read_all(sock: socket.socket) -> bytes:
    """Until the end, which may be a reset."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            data += part
    return data


class Controller(Client):
    """A controller's process.

    Attributes:
        state: Its `--state-dir`.
    """

    def __init__(
        self, state: Path, *, environment: Mapping[str, str] | None = None, **configuration: Any
    ) -> None:
        super().__init__(0)
        self.environment = {**_ENVIRONMENT, **(environment or {})}
        self.state, self.configuration = (
            state,
            {"listen": "127.0.0.1:0", "requests_per_s": 0, **configuration},
        )
        self.said: list[str] = []
        self.process: Child | None = None
        self._reader: threading.Thread | None = None
        state.mkdir(exist_ok=True)
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in self.configuration.items()]
        (state / "controller.toml").write_text("".join(lines))

    def attestd(self, *arguments: Any, status: int = 0) -> "subprocess.CompletedProcess[str]":
        """Runs `attestd controller …`."""
        words = ["controller", *map(str, arguments), "--state-dir", str(self.state)]
        if arguments[0] == "serve":
            done = self._serve_and_end(words)
        else:
            done = subprocess.run(
                [shared_command_line(), *words], capture_output=True, text=True, check=False, timeout=START_S,
                env=self.environment,
            )  # fmt: skip
        assert done.returncode == status, done
        return done

    def _serve_and_end(self, words: list[str]) -> "subprocess.CompletedProcess[str]":
        """It does not start: everything that it says counts as stderr."""
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            process = spawn(
                "attestd", *words, imported=CONTROLLER, env=self.environment, output=output.fileno()
            )
            try:
                status = process.wait(START_S)
            finally:
                process.kill()
            output.seek(0)
            return subprocess.CompletedProcess(words, status, "", output.read())

    def init(self, *arguments: str) -> Self:
        self.attestd("init", *arguments)
        return self

    def start(self) -> Self:
        """Starts it and waits until it answers."""
        self.said = []
        source, output = os.pipe()
        self.process = spawn(
            *("attestd", "controller", "serve", "--state-dir", self.state),
            imported=CONTROLLER, env=self.environment, output=output, strict=True,
        )  # fmt: skip
        os.close(output)
        self._reader = threading.Thread(target=self._read, args=[source], daemon=True)
        self._reader.start()
        self.port = int(self.wait_said(r"controller.ready url=\S+:(\d+) "))
        return self

    def wait_said(self, pattern: str) -> str:
        """Waits for a line in its journal; returns the first group, or the line."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for line in list(self.said):
                if found := re.search(pattern, line):
                    return found[1] if found.groups() else line
            assert self.process is not None
            if self.process.poll() is not None:
                time.sleep(0.1)
                raise AssertionError(f"it ended: {self.process.returncode}: {self.said}")
            time.sleep(0.02)
        raise AssertionError(f"{pattern}: {self.said}")

    def kill(self) -> None:
        """As a crash."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """In order; returns the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        status = process.wait(START_S)
        assert self._reader is not None
        self._reader.join(5)
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _read(self, source: int) -> None:
        with open(source, encoding="utf-8") as journal:
            for line in journal:
                self.said.append(line.rstrip())


_ENVIRONMENT = {"PATH": os.environ["PATH"]}


class PostgreSQL:
    """A server of its own in a temporary directory, without a port."""

    def __init__(self) -> None:
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
        assert found, "PostgreSQL is not installed: make setup"
        self._programs = Path(found[-1])
        # As root it does not run: Debian's package made a user for it.
        self._user = (
            {"user": "postgres", "group": "postgres", "extra_groups": ()} if os.geteuid() == 0 else {}
        )
        self._top = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        if self._user:
            account = pwd.getpwnam("postgres")
            os.chown(self._top, account.pw_uid, account.pw_gid)
            self._top.chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0

    def create(self) -> Self:
        done = subprocess.run(
            [
                self._programs / "initdb",
                *("-D", self._top / "data", "-U", "attestd", "-A", "trust", "-E", "UTF8"),
                "--no-locale",
                "--no-sync",
            ],
            capture_output=True, text=True, check=False, timeout=60, cwd="/", **self._user,
        )  # fmt: skip
        assert done.returncode == 0, done
        return self

    def start(self) -> Self:
        options = {"listen_addresses": "", "unix_socket_directories": self._top, "fsync": "off"}
        self._process = subprocess.Popen(
            [
                self._programs / "postgres",
                "-D",
                self._top / "data",
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **self._user,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while self.sql("SELECT 1", check=False) != "1":
            assert time.monotonic() < deadline, "it does not start"
            time.sleep(0.05)
        return self

    def sql(self, statement: str, *, database: str = "postgres", check: bool = True) -> str:
        done = subprocess.run(
            [
                self._programs / "psql",
                *("-h", self._top, "-U", "attestd", "-d", database, "-XAtqc", statement),
            ],
            capture_output=True, text=True, check=False, timeout=60, cwd="/",
        )  # fmt: skip
        assert not check or done.returncode == 0, done
        return done.stdout.strip()

    def database(self) -> str:
        """A new database's URL."""
        self._count += 1
        name = f"test{self._count}"
        self.sql(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://attestd@/{name}?host={self._top}"

    def kill(self) -> None:
        """As a crash: no process of it is left."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)

    def remove(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._top)


@contextlib.contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    server = PostgreSQL()
    try:
        yield server.create().start()
    finally:
        server.remove()
