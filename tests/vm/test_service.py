"""The services under a systemd that booted, with the TPM device and cgroup v2."""

import json

import pytest

from swtpm.vm.machine import Machine
from tests.vm.prepared import ALICE, ISSUE

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]


def test_agent_and_runner_are_healthy_with_the_tpm_device(machine: Machine) -> None:
    assert machine.run("attestd doctor").out.rstrip().endswith("healthy")
    status = json.loads(machine.run("attestd status --json").out)
    assert status["tpm"]["vendor"].startswith("SW"), status["tpm"]
    agent = "nsenter -t $(systemctl show -P MainPID attestd) -m"
    devices = machine.run(f"{agent} ls /dev").out.split()
    assert "tpmrm0" in devices
    assert machine.run("systemctl is-system-running").out == "running\n"


def test_root_and_users_run_what_is_authorized(machine: Machine) -> None:
    assert machine.run("cd /root; attestd exec -a id.auth.json -- id -un").out == "root\n"
    assert machine.run("cd /home/alice; attestd exec -a id.auth.json -- id -un", uid=ALICE).out == "alice\n"
    denied = machine.run("cd /home/alice; attestd exec -a id.auth.json -- id -u", uid=ALICE, status=77)
    assert "scope_violation" in denied.err
    machine.run("attestd audit verify")


def test_a_command_has_a_cgroup_of_its_own_by_which_it_is_ended(machine: Machine) -> None:
    machine.run(f"cd /root; {ISSUE} -o sleep.auth.json -- sleep 1000")
    client = machine.start("cd /root; attestd exec -a sleep.auth.json -- sleep 1000")
    machine.until("pgrep -x sleep")
    cgroup = machine.run("cut -d: -f3 /proc/$(pgrep -x sleep)/cgroup").out.strip()
    assert "/attestd-runner.service/attestd-" in cgroup
    machine.run(f"echo 1 > /sys/fs/cgroup{cgroup}/cgroup.kill")
    assert client.wait(30).status == 128 + 9


def test_restarting_the_agent_ends_no_execution(machine: Machine) -> None:
    machine.run(f"cd /root; {ISSUE} -o sh.auth.json -- sh -c 'read line; echo $line'")
    machine.run("mkfifo /root/gate")
    client = machine.start(
        "cd /root; attestd exec -a sh.auth.json -- sh -c 'read line; echo $line' < <(cat gate)"
    )
    machine.until('pgrep -x -f "sh -c read line; echo .line"')
    before = machine.run("systemctl show -P MainPID attestd").out
    machine.run("systemctl restart attestd.service")
    assert machine.run("systemctl show -P MainPID attestd").out != before
    machine.run("echo it goes on > /root/gate")
    ended = client.wait(60)
    assert (ended.status, ended.out) == (0, "it goes on\n")
    machine.until("attestd audit tail | tail -2 | grep -q execution.exit")
