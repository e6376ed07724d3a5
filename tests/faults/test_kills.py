"""kill -9 at random times: of a process that seals, and of agent, runner and TPM while clients run commands."""

import os

import pytest

from tests.faults.storm import SealingStorm, Storm
from tests.host import Host

SEALING_KILLS = 150
HOST_KILLS = 20


@pytest.mark.parametrize("half", [1, 2])
def test_sealing_killed_at_random_times(half: int, capsys: pytest.CaptureFixture[str]) -> None:
    with Host.create() as host, SealingStorm(host, seed=os.getpid() + half) as storm:
        storm.kill(SEALING_KILLS)
        storm.require_sound()
        with capsys.disabled():
            print(f"\n[sealing killed {storm.kills} times, {storm.released} allows released]")


@pytest.mark.parametrize("half", [1, 2])
def test_host_killed_at_random_times(half: int, capsys: pytest.CaptureFixture[str]) -> None:
    with Host.create() as host, Storm(host, seed=os.getpid() + half) as storm:
        storm.kill(HOST_KILLS)
        storm.settle()
        storm.end_clients()
        storm.require_sound()
        with capsys.disabled():
            print(f"\n[killed {dict(storm.kills)}: {storm.runs} commands ran]")
