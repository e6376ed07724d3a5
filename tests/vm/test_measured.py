"""What the machine boots, and what happens to its PCRs while it runs, decides what is released."""

import json

import pytest

from swtpm.vm.firmware import Boot
from swtpm.vm.machine import Machine
from swtpm.vm.tools import VmError

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

ID = "cd /root; attestd exec -a id.auth.json -- id -un"


def denied(machine: Machine) -> str:
    """Asks for what is authorized, is denied for the platform's state; what `why` says, from the sealed log."""
    machine.until("systemctl is-active -q attestd")
    done = machine.run(ID.replace("exec", "exec --json"), status=77)
    decision = json.loads(done.err)
    assert (decision["decision"], decision["code"], done.out) == ("deny", "environment_untrusted", "")
    machine.run("attestd audit verify")
    return machine.run(f"attestd why {decision['seq']}").out


def test_a_pcr_that_is_extended_at_run_time_ends_releases_until_the_next_boot(machine: Machine) -> None:
    assert machine.run(ID).out == "root\n"
    machine.run(f"tpm2_pcrextend 11:sha256={'5a' * 32}")
    assert "PCR 11" in denied(machine)
    machine.reboot()
    machine.until("systemctl is-active -q attestd")
    assert machine.run(ID).out == "root\n"


OTHER_BOOTS = {
    "command line": (Boot(cmdline=f"{Boot().cmdline} init=/bin/sh"), "PCR 11"),
    "kernel": (Boot(kernel=1), "PCR 11"),
    "Secure Boot": (Boot(secure_boot=False), "PCR 7"),
}


@pytest.mark.parametrize("what", OTHER_BOOTS)
def test_nothing_is_released_after_another_boot(machine: Machine, what: str) -> None:
    boot, pcr = OTHER_BOOTS[what]
    machine.cut()
    machine.boot(boot)
    assert pcr in denied(machine)


def test_the_firmware_refuses_an_image_that_is_not_signed(machine: Machine) -> None:
    machine.cut()
    with pytest.raises(VmError, match="Access Denied"):
        machine.boot(Boot(signed=False))
