"""IMA extends PCR 10 with every new file that is executed, and each extend spoils a release's session: still it comes."""

import time

import pytest

from swtpm.vm.machine import Machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

MAX_S = 10.0
RELEASES = 10
COUNT = "cat /sys/kernel/security/ima/runtime_measurements_count"
# Writes a script and executes it, one after the other, as fast as a shell can; on each processor.
FLOOD = (
    "cd /root; n=0; while :; do n=$((n + 1)); printf '#!/bin/sh\\n: %d\\n' $n > $$; chmod +x $$; ./$$; done"
)


def test_releases_come_while_files_are_executed(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    floods = [machine.start(FLOOD) for _ in range(2)]
    before, began, took = int(machine.run(COUNT).out), time.monotonic(), []
    for _ in range(RELEASES):
        asked = time.monotonic()
        assert machine.run("cd /root; attestd exec -a id.auth.json -- id -un").out == "root\n"
        took.append(time.monotonic() - asked)
    rate = (int(machine.run(COUNT).out) - before) / (time.monotonic() - began)
    assert not any(flood.printed[2] for flood in floods), [flood.printed for flood in floods]
    mean = sum(took) / RELEASES
    with capsys.disabled():
        print(f"\n   {rate:.1f} new files a second; releases: {max(took):.1f} s at most, {mean:.1f} s mean")
    assert rate > 1
    assert max(took) <= MAX_S
    machine.run("attestd audit verify")
