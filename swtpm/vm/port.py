"""The host's end of the virtio-serial port: commands, and what they answer (`guest.py` is the other end)."""

import base64
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from swtpm.vm.tools import VmError

__all__ = ["Command", "Port", "Result"]

_RETRY_S: Final = 1.0
_SEND_S: Final = 60


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended, and what it printed."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        """Its standard output as text."""
        return self.stdout.decode(errors="replace")

    @property
    def err(self) -> str:
        """Its standard error as text."""
        return self.stderr.decode(errors="replace")


class Command:
    """One that was started.

    Attributes:
        printed: What it printed so far, by descriptor; kept also when the machine it ran in is gone.
    """

    def __init__(self) -> None:
        self.printed = {1: b"", 2: b""}
        self._status: int | None = None
        self._changed = threading.Condition()
        self._gone = False

    def wait(self, timeout_s: float) -> Result:
        """Waits for its end.

        Raises:
            VmError: It did not end in time, or the machine is gone.
        """
        with self._changed:
            in_time = self._changed.wait_for(lambda: self._gone or self._status is not None, timeout_s)
            if self._status is not None:
                return Result(self._status, self.printed[1], self.printed[2])
        problem = "the machine is gone" if in_time else f"takes longer than {timeout_s:.0f} s"
        last_words = b"".join(self.printed.values())[-1000:].decode(errors="replace")
        raise VmError(f"{problem}; it printed: {last_words}")

    def hear(self, answer: Mapping[str, Any] | None) -> None:
        """What the machine says of it; None: the machine is gone."""
        with self._changed:
            if answer is None:
                self._gone = True
            elif "status" in answer:
                self._status = answer["status"]
            else:
                self.printed[answer["fd"]] += base64.b64decode(answer["data"])
            self._changed.notify_all()


class Port:
    """A connection to the machine's port."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A machine in which nobody reads takes what fits into buffers, and then nothing: a thread of ours would wait for ever.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_S, 0))
        self._socket.connect(str(path))
        self._numbers = count(1)
        self._commands: dict[int, Command] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def start(self, argv: Sequence[str], *, stdin: bytes = b"", uid: int = 0) -> Command:
        """Asks for a command to be run."""
        number, command = next(self._numbers), Command()
        self._commands[number] = command
        request = {"id": number, "argv": argv, "stdin": base64.b64encode(stdin).decode(), "uid": uid}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise VmError(f"the machine is gone: {error}") from error
        return command

    def answers(self) -> bool:
        """Whether somebody is there by now: asked anew each time, for what was sent too early is lost."""
        try:
            return self.start(["true"]).wait(_RETRY_S).status == 0
        except VmError:
            return False

    def close(self) -> None:
        """Ends the connection; commands that run are told that the machine is gone."""
        # The reader is in recv: this ends it.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self) -> None:
        try:
            for line in self._socket.makefile("rb"):
                if line.strip():
                    answer = json.loads(line)
                    self._commands[answer["id"]].hear(answer)
        except (OSError, ValueError):
            pass  # the power was cut in the middle of a line
        for command in list(self._commands.values()):
            command.hear(None)
