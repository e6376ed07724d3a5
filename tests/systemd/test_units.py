"""The units: what systemd itself says about them, and that every restriction the runner lacks has its reason."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from attestd.controller.configuration import ControllerConfiguration

UNITS = Path(__file__).parents[2] / "systemd"
NAMES = (
    "attestd.service",
    "attestd.socket",
    "attestd-runner.service",
    "attestd-runner.socket",
    "attestd-controller.service",
)
MAX_EXPOSURE = 2.0

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs the package systemd")


def settings(name: str) -> dict[str, list[str]]:
    """Each directive of a unit with its values."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        key, separator, value = line.partition("=")
        if separator and key.isalpha():
            found.setdefault(key, []).append(value)
    return found


def analyze(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def exposure(unit: Path) -> float:
    said = analyze("security", "--offline=yes", unit).stdout
    found = re.search(r"exposure level for \S+: ([\d.]+)", said)
    assert found is not None, said
    return float(found[1])


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """The units with programs that exist here: `verify` looks for them."""
    for name in NAMES:
        text = (UNITS / name).read_text()
        (tmp_path / name).write_text(re.sub(r"/usr/lib/attestd/bin/[\w-]+", "/bin/true", text))
    return tmp_path


def test_verify_has_nothing_to_say(copies: Path) -> None:
    done = analyze("verify", *(copies / name for name in NAMES))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    unit = copies / "attestd.service"
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHomes=yes"))
    assert "ProtectHomes" in analyze("verify", unit).stderr, "it would say so"


@pytest.mark.parametrize("name", ["attestd.service", "attestd-controller.service"])
def test_exposure(copies: Path, name: str) -> None:
    unit = copies / name
    assert exposure(unit) <= MAX_EXPOSURE
    unit.write_text(unit.read_text().replace("CapabilityBoundingSet=\n", ""))
    assert exposure(unit) > MAX_EXPOSURE, "it would be seen"


def test_the_agent_gets_one_device_and_no_network() -> None:
    agent = settings("attestd.service")
    assert (agent["DevicePolicy"], agent["DeviceAllow"]) == (["closed"], ["/dev/tpmrm0 rw"])
    assert (agent["User"], agent["Group"], agent["SupplementaryGroups"]) == (
        ["attestd"],
        ["attestd"],
        ["tss"],
    )
    assert (agent["PrivateNetwork"], agent["CapabilityBoundingSet"]) == (["yes"], [""])
    assert "WatchdogSec" in agent


def test_the_controller_gets_no_device_and_one_port() -> None:
    controller = settings("attestd-controller.service")
    assert (controller["User"], controller["DevicePolicy"]) == (["attestd-controller"], ["closed"])
    assert (controller["SocketBindDeny"], controller["SocketBindAllow"]) == (["any"], ["tcp:8440"])
    assert ControllerConfiguration().listen.endswith(":8440")
    assert controller["StateDirectory"] == ["attestd-controller"]
    assert not {"DeviceAllow", "SupplementaryGroups"} & set(controller)
    assert "WatchdogSec" in controller


RESTRICTS = re.compile(
    r"(Protect|Private|Restrict|SystemCall|Capability|Device|IPAddress|NoNew|Lock|MemoryDeny|Limit|OOMScore|"
    r"Inaccessible|RemoveIPC|ProcSubset|Keyring|User$)"
)


def test_every_restriction_that_the_runner_cannot_have_has_its_reason() -> None:
    runner = settings("attestd-runner.service")
    comments = "\n".join(
        line for line in (UNITS / "attestd-runner.service").read_text().splitlines() if line.startswith("#")
    )
    wanted = {name for name in settings("attestd.service") if RESTRICTS.match(name)} - {
        "SystemCallErrorNumber"
    }
    assert len(wanted) > 25
    for name in sorted(wanted):
        assert name not in runner, f"commands would inherit {name}="
        assert re.search(rf"\b{name}=", comments), f"{name}= is left off without a word"


def test_an_end_of_the_runner_is_no_end_of_a_command() -> None:
    runner, agent = settings("attestd-runner.service"), settings("attestd.service")
    assert runner["KillMode"] == ["process"]
    assert runner["Delegate"] == ["yes"]
    assert runner["OOMPolicy"] == ["continue"]
    assert agent["Restart"] == runner["Restart"] == ["always"]
    for unit in (agent, runner):  # Nothing ties the one's life to the other's.
        assert not {"BindsTo", "PartOf"} & set(unit)
        assert not {"attestd.service", "attestd-runner.service"} & set(" ".join(unit["Requires"]).split())


def test_sockets() -> None:
    """formats.md, "Where things live"."""
    agent, runner = settings("attestd.socket"), settings("attestd-runner.socket")
    assert (agent["ListenStream"], agent["SocketMode"]) == (["/run/attestd/agent.sock"], ["0666"])
    assert agent["PassCredentials"] == ["yes"]
    assert (runner["ListenStream"], runner["SocketMode"]) == (["/run/attestd-runner/runner.sock"], ["0660"])
    assert (runner["SocketUser"], runner["SocketGroup"]) == (["root"], ["attestd"])
