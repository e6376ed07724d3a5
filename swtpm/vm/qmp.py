"""QEMU's monitor (QMP): as much of it as snapshots need."""

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from swtpm.vm.tools import VmError

__all__ = ["Monitor"]

_TIMEOUT_S: Final = 60.0


class Monitor:
    """A connection to it."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_TIMEOUT_S)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")
        self._lines.readline()  # its greeting
        self._ask("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._socket.close()

    def human(self, command: str) -> None:
        """A command of the human monitor, which says nothing if all is well.

        Raises:
            VmError: It said something.
        """
        said = self._ask("human-monitor-command", {"command-line": command})
        if said:
            raise VmError(f"{command}: {said.strip()}")

    def _ask(self, command: str, arguments: dict[str, str] | None = None) -> Any:
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments or {}}).encode())
        for line in self._lines:
            answer = json.loads(line)
            if "error" in answer:
                raise VmError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise VmError(f"{command}: QEMU is gone")
