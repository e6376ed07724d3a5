"""A host in the service's layout: agent and runner are two users, as their units run them."""

import atexit
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.host import Host, wait_for
from tests.systemd.entry import below

USER = "nobody"
ROOT = Path(__file__).parents[2]
ENTRY = [sys.executable, "-m", "tests.systemd.entry"]


class ServiceHost(Host):
    """As `Host`, but root sets it up, and the agent is somebody else."""

    @classmethod
    def create(cls) -> "ServiceHost":
        """Initialised by root, with the command; that is done once a process and copied."""
        host = cls._at(Path(tempfile.mkdtemp(prefix="s-", dir="/tmp")))
        subprocess.run(["cp", "-a", f"{_template()}/.", host.top], check=True)
        return host

    @classmethod
    def _at(cls, top: Path) -> "ServiceHost":
        host = cls(top)
        host.layout = below(top, USER)
        return host

    def command(self, *arguments: str, **settings: Any) -> "subprocess.CompletedProcess[str]":
        """Runs `attestd` as root, to its end."""
        return subprocess.run(
            [*ENTRY, str(self.top), USER, *arguments],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
            env={"PATH": os.environ["PATH"]}, **settings,
        )  # fmt: skip

    def start(
        self,
        *options: str,
        wait: bool = True,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        stderr: Any = None,
        **popen: Any,
    ) -> "ServiceHost":
        """Starts `attestd serve --system` with its layout; `prefix` is what starts it."""
        with (self.top / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(
                [*prefix, *ENTRY, str(self.top), USER, "serve", "--system", *options],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=stderr or log,
                env={"PATH": os.environ["PATH"], **(env or {})}, **popen,
            )  # fmt: skip
        if wait:
            wait_for("the agent serves", self._serves)
        return self


class Manager:
    """What a service manager is to a service: who listens for its notifications, and holds its sockets."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self._notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notifications.bind(str(self.path))
        self.path.chmod(0o666)
        self._sockets: list[socket.socket] = []
        self.said: list[str] = []

    def close(self) -> None:
        for sock in (self._notifications, *self._sockets):
            sock.close()

    def listen(self, path: Path, *, mode: int, gid: int = 0) -> int:
        """A listening socket, as a socket unit makes it; its descriptor."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sockets.append(listener)
        path.parent.mkdir(parents=True, exist_ok=True)
        listener.bind(str(path))
        os.chown(path, 0, gid)
        path.chmod(mode)
        listener.listen(64)
        return listener.fileno()

    def hears(self, wanted: str) -> bool:
        """Whether a service said this, by now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.said += self._notifications.recv(4096, socket.MSG_DONTWAIT).decode().splitlines()
        return wanted in self.said

    def wait(self, wanted: str) -> None:
        wait_for(f"the service says {wanted}", lambda: self.hears(wanted))

    def starts(self, descriptor: int) -> dict[str, Any]:
        """How to start a service with a listener: the arguments of `Popen` and a command to put in front."""
        script = f'export LISTEN_PID=$$ WATCHDOG_PID=$$; exec "$@" 3<&{descriptor} {descriptor}<&-'
        return {
            "prefix": ["bash", "-c", script, "bash"],
            "pass_fds": [descriptor],
            "env": {"NOTIFY_SOCKET": str(self.path), "LISTEN_FDS": "1", "WATCHDOG_USEC": "400000"},
        }


@cache
def _template() -> Path:
    top = Path(tempfile.mkdtemp(prefix="s-", dir="/tmp"))
    atexit.register(shutil.rmtree, top)
    host = ServiceHost._at(top)
    for path in (top, host.work, top / "etc", top / "var", top / "var" / "lib", top / "run"):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
    done = host.command("init", "--tpm", "embedded", umask=0o077)
    assert done.returncode == 0, done.stderr
    return top
