"""After many releases: as many descriptors, threads, processes and TPM handles as after few, and as much memory."""

import os

import pytest

from tests.faults.releases import Releases
from tests.host import Host

COUNT = 300


def test_nothing_leaks(capsys: pytest.CaptureFixture[str]) -> None:
    with Host.create() as host:
        releases = Releases(host.start())
        releases.run(100)
        before = releases.measure()
        releases.run(COUNT)
        after = releases.measure()
        assert after.fixed == before.fixed
        grown = after.memory - before.memory
        assert grown < 4 << 20, f"{grown / COUNT:.0f} bytes a release"
        with capsys.disabled():
            print(f"\n[{COUNT} releases: {after.fixed}, {grown >> 10} KiB more]")
        assert releases.tpm_handles() == (2, 0)
        host.start()
        host.wait_settled()
        host.require_sound()
        assert os.path.getsize(host.layout.log) > 0
