"""IMA extends PCR 10 with every file that is executed, and each extend spoils a release's session: still it comes."""

import struct
import time

import pytest

from swtpm.vm.machine import Machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

MAX_S = 10.0
RELEASES = 10
COUNT = "cat /sys/kernel/security/ima/runtime_measurements_count"
# Executes a file that is new each time, as fast as it can: a program that only ends.
FLOOD = """
import os, sys
program, path = sys.stdin.buffer.read(), f"/root/flood-{os.getpid()}"
for number in range(1 << 30):
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755), "wb") as file:
        file.write(program + b"%d %d" % (os.getpid(), number))
    os.waitpid(os.posix_spawn(path, [path], {}), 0)
"""


def _program() -> bytes:
    """The smallest one: x86-64, `exit(0)`."""
    code = b"\x31\xff\xb8\x3c\x00\x00\x00\x0f\x05"
    start, size = 0x400000, 64 + 56
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, start + size, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, start, start, size + len(code), size + len(code), 0x1000)
    return header + segment + code


def test_releases_come_while_files_are_executed_as_fast_as_the_machine_can(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    floods = [machine.start(f"exec python3 -IS -c '{FLOOD}'", stdin=_program()) for _ in range(2)]
    before, began, took = int(machine.run(COUNT).out), time.monotonic(), []
    for _ in range(RELEASES):
        asked = time.monotonic()
        assert machine.run("cd /root; attestd exec -a id.auth.json -- id -un").out == "root\n"
        took.append(time.monotonic() - asked)
    rate = (int(machine.run(COUNT).out) - before) / (time.monotonic() - began)
    assert not any(flood.printed[2] for flood in floods), [flood.printed for flood in floods]
    with capsys.disabled():
        print(
            f"\n   {rate:.0f} files executed a second; releases: {max(took):.1f} s at most, {sum(took) / RELEASES:.1f} s mean"
        )
    assert rate > 1
    assert max(took) <= MAX_S
    machine.run("attestd audit verify")
