"""Runs in the machine, as root: what the host asks for over a virtio-serial port, one JSON object a line.

Asked:    {"id": 1, "argv": ["id", "-u"], "stdin": "", "uid": 0}
Answered: {"id": 1, "fd": 1, "data": "MAo="} as often as there is output, then {"id": 1, "status": 0}
Octets are in Base64. Each request has a thread, so that a command which runs on does not keep others from running.
"""

import base64
import json
import os
import subprocess
import sys
import threading
from typing import Any, BinaryIO

_PORT = "/dev/virtio-ports/attestd.vm"
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_writing = threading.Lock()


def _say(port: BinaryIO, **answer: Any) -> None:
    rest = memoryview(json.dumps(answer).encode() + b"\n")
    with _writing:
        while rest:
            rest = rest[port.write(rest) :]


def _forward(port: BinaryIO, identity: int, fd: int, stream: BinaryIO) -> None:
    while data := os.read(stream.fileno(), 65536):
        _say(port, id=identity, fd=fd, data=base64.b64encode(data).decode())


def _run(port: BinaryIO, request: dict[str, Any]) -> None:
    identity, uid = request["id"], request["uid"]
    try:
        process = subprocess.Popen(
            request["argv"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/",
            env=_ENVIRONMENT, user=uid, group=uid, extra_groups=[], start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        _say(port, id=identity, fd=2, data=base64.b64encode(str(error).encode()).decode())
        _say(port, id=identity, status=127)
        return
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise AssertionError("it was started with three pipes")
    readers = [
        threading.Thread(target=_forward, args=(port, identity, fd, stream))
        for fd, stream in ((1, process.stdout), (2, process.stderr))
    ]
    for reader in readers:
        reader.start()
    try:
        process.stdin.write(base64.b64decode(request["stdin"]))
        process.stdin.close()
    except BrokenPipeError:
        pass  # it did not want all of it
    for reader in readers:
        reader.join()
    _say(port, id=identity, status=process.wait())


def main() -> int:
    """Serves until the port is gone."""
    # It can be opened only once; lines are read with a buffer, and written without.
    with open(_PORT, "r+b", buffering=0) as port, open(os.dup(port.fileno()), "rb") as lines:
        # The host learns from this that somebody listens; what it sent before may be lost.
        port.write(b"\n")
        for line in lines:
            threading.Thread(target=_run, args=(port, json.loads(line)), daemon=True).start()
    return 0


if __name__ == "__main__":
    sys.exit(main())
