"""What the machine boots, and what happens to its PCRs while it runs, decides what is released."""

import json

import pytest

from swtpm.vm.firmware import Boot, uki
from swtpm.vm.machine import Machine
from swtpm.vm.tools import VmError

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

ID = "cd /root; attestd exec -a id.auth.json -- id -un"


def denied(machine: Machine) -> str:
    """Asks for what is authorized, is denied for the platform's state; what `why` says, from the sealed log."""
    machine.until("systemctl is-active -q attestd")
    done = machine.run(ID.replace("exec", "exec --json"), status=77)
    decision = json.loads(done.err)
    assert (decision["decision"], decision["code"], done.out) == ("deny", "environment_untrusted", "")
    return machine.run(f"attestd why {decision['seq']}").out


def test_a_pcr_that_is_extended_at_run_time_ends_releases(machine: Machine) -> None:
    assert machine.run(ID).out == "root\n"
    machine.run(f"tpm2_pcrextend 11:sha256={'5a' * 32}")
    assert "PCR 11" in denied(machine)
    machine.run("attestd audit verify")


OTHER_LINE = Boot(cmdline=f"{Boot().cmdline} init=/bin/sh")
OTHER_BOOTS = {
    "kernel": (Boot(kernel=1), "PCR 11"),
    "Secure Boot": (Boot(secure_boot=False), "PCR 7"),
}


def test_another_command_line_is_refused_and_named(machine: Machine) -> None:
    machine.reboot(OTHER_LINE)
    before = Boot().cmdline
    change = f"kernel command line in section .cmdline changed: `{before}` -> `{before} init=/bin/sh` (event "
    assert f"PCR 11: {change}" in " ".join(denied(machine).split())


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


def test_after_predict_and_approve_the_next_boot_releases(machine: Machine) -> None:
    machine.run("cat > /root/new.efi", stdin=uki(OTHER_LINE).read_bytes())
    said = machine.run("attestd platform predict --uki /root/new.efi --approve --yes")
    assert "init=/bin/sh" in said.out + said.err
    machine.reboot(OTHER_LINE)
    machine.until("systemctl is-active -q attestd")
    assert machine.run(ID).out == "root\n"


def test_a_file_that_the_ima_policy_does_not_allow_ends_releases_and_is_named(machine: Machine) -> None:
    machine.run("cp /usr/bin/true /opt/known; /opt/known")
    data = " ".join(f"--exclude '/{name}/**'" for name in ("etc", "home", "root", "run", "usr", "var"))
    machine.run(f"cd /root; attestd platform measure --ima-policy ima.json {data}")
    machine.run("cd /root; attestd platform rules --ima ima.json --yes")
    assert machine.run(ID).out == "root\n"
    machine.run("cp /usr/bin/true /opt/unknown; /opt/unknown")
    assert "/opt/unknown" in denied(machine)
