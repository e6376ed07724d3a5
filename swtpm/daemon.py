"""One swtpm process over Unix sockets: start, ask whether it lives, stop in order.

It is a daemon in its own session, so that neither the end nor the terminal of whoever started it ends it.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["MAX_SOCKET_PATH", "TOOLS_PATH", "Daemon", "SwtpmError", "tool"]

TOOLS_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_SOCKET_PATH: Final = 107
_START_S: Final = 10.0
_STARTS: Final = 2
_ANSWER_S: Final = 5.0
_END_S: Final = 5.0

# Control channel (swtpm_ioctls(3)): command, UINT32; GET_CAPABILITY is answered by 8 octets, SHUTDOWN by 4.
_GET_CAPABILITY: Final = (b"\0\0\0\x01", 8)
_SHUTDOWN: Final = (b"\0\0\0\x03", 4)
_TPM2_SHUTDOWN_CLEAR: Final = bytes.fromhex("80010000000c000001450000")
_TPM2_SUCCESS: Final = bytes.fromhex("80010000000a00000000")


class SwtpmError(Exception):
    """A tool is missing, or failed, or does not answer; the message has its words."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A swtpm process, found again by its directory.

    Attributes:
        directory: Holds its sockets, process id and log; only we may enter it.
    """

    directory: Path

    @property
    def tcti(self) -> str:
        """The tpm2-tss TCTI string. A connection that stays open makes others wait."""
        return f"swtpm:path={self._data}"

    @property
    def socket_path(self) -> Path:
        """The longest path that a socket will have."""
        return self.directory / "sock.ctrl"

    def start(self, state: Path) -> None:
        """Starts it on a state directory, with TPM2_Startup(CLEAR): a TPM reset. Returns when it answers.

        Raises:
            SwtpmError: A path is too long or unusable, swtpm is missing, fails or does not answer.
        """
        for path in (self.socket_path, state):
            if "," in str(path) or len(os.fsencode(self.socket_path)) > MAX_SOCKET_PATH:
                raise SwtpmError(
                    f"{path}: a path for swtpm has no comma, and that of its sockets at most {MAX_SOCKET_PATH} "
                    "bytes: choose another, shorter directory"
                )
        for _ in range(_STARTS):
            if self._start(state):
                return
            # Whoever began to start one before us may have been killed before that was a swtpm, which `kill` could
            # find: it is one by now, and has the lock on the state.
            if not self.kill():
                break
        raise SwtpmError(f"swtpm does not start on {state}: {self._last_words()}")

    def _start(self, state: Path) -> bool:
        for path in (self._data, self.socket_path, self._pid_file):
            path.unlink(missing_ok=True)
        command = [
            tool("swtpm"), "socket", "--tpm2", "--daemon",
            "--tpmstate", f"dir={state},mode=0600",
            "--server", self._server,
            "--ctrl", f"type=unixio,path={self.socket_path},mode=0600",
            "--pid", f"file={self._pid_file}",
            "--log", f"file={self._log},level=1,truncate",
            "--flags", "not-need-init,startup-clear",
        ]  # fmt: skip
        # Its output goes to the log: a pipe would be held open by the daemon.
        done = subprocess.run(
            command, env={"PATH": TOOLS_PATH}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, check=False, umask=0o077, cwd="/",
        )  # fmt: skip
        deadline = time.monotonic() + _START_S
        while done.returncode == 0 and time.monotonic() < deadline:
            if self.pid() is not None and self.answers():
                return True
            time.sleep(0.01)
        return False

    def answers(self) -> bool:
        """Whether it is there.

        Raises:
            SwtpmError: It is, and hangs.
        """
        try:
            self._control(_GET_CAPABILITY)
        except (FileNotFoundError, ConnectionError):
            return False
        except OSError as error:
            raise SwtpmError(
                f"swtpm in {self.directory} (pid {self.pid()}) does not answer: {error}"
            ) from error
        return True

    def pid(self) -> int | None:
        """Its process id, if that process is this swtpm: ids are reused."""
        try:
            pid = int(self._pid_file.read_text())
        except (OSError, ValueError):
            return None
        return pid if self._is_ours(pid) else None

    def _is_ours(self, pid: int) -> bool:
        try:
            return b"\0" + os.fsencode(self._server) + b"\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def stop(self) -> None:
        """Ends it in order: TPM2_Shutdown, then the process. Does nothing where there is none.

        Raises:
            SwtpmError: Another client holds the connection, or it hangs; it is left running.
        """
        pid = self.pid()
        if pid is None or not self.answers():
            return
        self._shutdown_tpm()
        with contextlib.suppress(OSError):
            self._control(_SHUTDOWN)
        self._wait_or_kill(pid, patience_s=_END_S)

    def kill(self) -> bool:
        """Ends it at once, as a power cut would; returns whether there was one."""
        # One whose starter was killed in between may have no pid file yet; it holds the lock on the state.
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and self._is_ours(int(name))]
        for pid in pids:
            self._wait_or_kill(pid, patience_s=0)
        return bool(pids)

    def _shutdown_tpm(self) -> None:
        try:
            answer = _exchange(self._data, _TPM2_SHUTDOWN_CLEAR, len(_TPM2_SUCCESS))
        except OSError as error:
            raise SwtpmError(
                f"swtpm in {self.directory} does not take TPM2_Shutdown: in use by another process? {error}"
            ) from error
        if answer != _TPM2_SUCCESS:
            raise SwtpmError(f"swtpm in {self.directory} refused TPM2_Shutdown: {answer.hex()}")

    def _control(self, request: tuple[bytes, int]) -> bytes:
        return _exchange(self.socket_path, *request)

    def _wait_or_kill(self, pid: int, patience_s: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            try:
                ended = select.select([process], [], [], patience_s)[0]
                # Checked again now that the descriptor pins the process.
                if not ended and self._is_ours(pid):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                    select.select([process], [], [], _END_S)
            finally:
                os.close(process)
        self._pid_file.unlink(missing_ok=True)

    def _last_words(self) -> str:
        try:
            return self._log.read_text(errors="replace").strip()[-1000:] or "it says nothing"
        except OSError:
            return "it left no log"

    @property
    def _server(self) -> str:
        return f"type=unixio,path={self._data},mode=0600"

    @property
    def _data(self) -> Path:
        return self.directory / "sock"

    @property
    def _pid_file(self) -> Path:
        return self.directory / "swtpm.pid"

    @property
    def _log(self) -> Path:
        return self.directory / "swtpm.log"


def _exchange(path: Path, request: bytes, response_size: int) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_S)
        connection.connect(str(path))
        connection.sendall(request)
        response = b""
        while len(response) < response_size:
            received = connection.recv(response_size - len(response))
            if not received:
                raise ConnectionResetError(f"{path}: closed after {len(response)} octets")
            response += received
        return response


def tool(name: str) -> str:
    """The path of one of swtpm's programs.

    Raises:
        SwtpmError: Not installed.
    """
    path = shutil.which(name, path=TOOLS_PATH)
    if path is None:
        raise SwtpmError(f"{name} is not installed: apt-get install swtpm swtpm-tools")
    return path
