"""The command line for pages with a hundred commands: forked from one process that has everything imported.

`command_line(directory)` puts an `attestd` into a directory that does what the real one does, less its 0.4 s of imports.
"""

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLIENT = """#!/usr/bin/python3 -IS
import json, os, socket, sys
if "serve" in sys.argv[1:3]:  # goes on, and is ended by a signal
    os.execv({real!r}, sys.argv)
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    words = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(words).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(words)
    sys.exit(server.recv(1)[0])
"""


@contextlib.contextmanager
def command_line(directory: Path) -> Iterator[None]:
    """An `attestd` in a directory, for as long as this lasts."""
    path = directory / "attestd.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.docs.forked", str(server.fileno())],
            cwd=ROOT, pass_fds=[server.fileno()], stdin=subprocess.DEVNULL,
        )  # fmt: skip
    client = directory / "attestd"
    client.write_text(CLIENT.format(path=str(path), real=str(Path(sys.executable).with_name("attestd"))))
    client.chmod(0o755)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@cache
def shared_command_line() -> Path:
    """The program, for as long as the tests of this process last."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="forked-", dir="/tmp")))
    stack.enter_context(command_line(directory))
    return directory / "attestd"


def _serve(server: socket.socket) -> None:
    from attestd.cli import command_line as commands
    from tests.cli.test_help import commands as every

    for _, _ in every(commands):
        pass  # imports them
    import attestd.controller.service  # what commands import late
    import attestd.governance.cedar  # noqa: F401
    from attestd.distribution import pkcs8

    pkcs8._N = 2  # what guessing a passphrase costs is not what these pages are about

    while True:
        client, _ = server.accept()
        if os.fork() == 0:
            if os.fork() == 0:  # nobody waits for a grandchild
                _run(client)
            os._exit(0)
        client.close()
        os.wait()


def _run(client: socket.socket) -> None:
    from attestd.cli import run

    size, descriptors, _, _ = socket.recv_fds(client, 4, 3)
    data = b""
    while len(data) < int.from_bytes(size, "big"):
        data += client.recv(1 << 16)
    arguments, directory, environment = json.loads(data)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - until the process ends
        for number, mode in enumerate("rww")
    )
    status = run(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    client.sendall(bytes([status]))
    os._exit(0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
