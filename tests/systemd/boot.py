"""`make service-test`: what docs/operations.md says about the service, done under a real systemd, in namespaces.

Not part of the tests: it needs root, a kernel that lets it mount, a package index, and a minute.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_EXPOSURE = 2.0


@dataclass
class System:
    """A booted system.

    Attributes:
        init: The process id of its systemd, outside.
    """

    init: int

    def run(self, script: str, *, status: int | None = 0) -> str:
        """Runs a script in it as root; returns what it printed."""
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        done = subprocess.run(
            ["nsenter", "-t", str(self.init), "-m", "-p", "-u", "-i", "-C", "bash", "-c", f"cd {ROOT}\n{script}"],
            env={"PATH": PATH, "HOME": "/root", **pip}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert status is None or done.returncode == status, f"{script}\n{done.returncode}\n{done.stdout}"
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        return self.run(f"systemctl show -P {name} {unit}").strip()

    def until(self, script: str, *, seconds: float = 30) -> None:
        """Waits until a script succeeds."""
        deadline = time.monotonic() + seconds
        while "yes" not in self.run(f"if {script}; then echo yes; fi"):
            assert time.monotonic() < deadline, script
            time.sleep(0.2)


def cgroups() -> Path:
    """A place for the new system's cgroups."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return (
        Path(next(fields[1] for fields in mounts if fields[2] == "cgroup2")) / f"attestd-boot-{os.getpid()}"
    )


@contextlib.contextmanager
def booted() -> Iterator[System]:
    """Boots, and ends all of it."""
    work, place = tempfile.mkdtemp(prefix="boot-", dir="/tmp"), cgroups()
    place.mkdir()
    enter = f'echo $$ > {place}/cgroup.procs; exec "$@"'
    namespaces = [
        "unshare",
        "-m",
        "-p",
        "-u",
        "-i",
        "-C",
        "--fork",
        "--kill-child",
        "--propagation",
        "private",
    ]
    process = subprocess.Popen(
        ["bash", "-c", enter, "bash", *namespaces, f"{ROOT}/tests/systemd/boot.sh", work, str(ROOT)],
        stdin=subprocess.DEVNULL,
    )
    try:
        yield System(_wait_for_init(process))
    finally:
        process.send_signal(signal.SIGKILL)  # and with it, by --kill-child, everything in its pid namespace
        process.wait()
        for _ in range(50):
            for path in sorted(place.rglob("*/"), reverse=True):
                with contextlib.suppress(OSError):
                    path.rmdir()
            with contextlib.suppress(OSError):
                place.rmdir()
            if not place.exists():
                break
            time.sleep(0.1)
        shutil.rmtree(work)


def _wait_for_init(process: "subprocess.Popen[bytes]") -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, f"it does not boot: {process.returncode}"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children and Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n":
            system = System(int(children[0]))
            if "running" in system.run("systemctl is-system-running --wait", status=None):
                return system.init
        time.sleep(0.2)
    raise AssertionError("it does not boot")


# -- what is checked -------------------------------------------------------------------------------------------------


def installs_as_the_documentation_says(system: System) -> None:
    """Each command of its block, with the one TPM that there is here."""
    page = (ROOT / "docs/operations.md").read_text()
    block = re.search(r"## Install as a service\n.*?```sh\n(.*?)```", page, re.DOTALL)
    assert block is not None
    script = block[1].replace("--tpm device:/dev/tpmrm0", "--tpm embedded")
    said = system.run(f"set -e\n{script}")
    assert said.rstrip().endswith("healthy"), said


def units_are_sound(system: System) -> None:
    units = "attestd.service attestd.socket attestd-runner.service attestd-runner.socket attestd-controller.service"
    assert system.run(f"systemd-analyze verify {units}") == ""
    for unit in ("attestd", "attestd-controller"):
        said = system.run(f"systemd-analyze --no-pager security {unit}")
        found = re.search(r"exposure level for \S+: ([\d.]+)", said)
        assert found is not None
        assert float(found[1]) <= MAX_EXPOSURE
        print(f"   exposure of {unit} {found[1]}")


def each_user_gets_their_own(system: System) -> None:
    listed = system.run("stat -c '%A %U:%G %n' /run/attestd*/*.sock /var/lib/attestd /var/lib/attestd-runner")
    assert listed.splitlines() == [
        "srw-rw---- root:attestd /run/attestd-runner/runner.sock",
        "srw-rw-rw- root:root /run/attestd/agent.sock",
        "drwx------ attestd:attestd /var/lib/attestd",
        "drwx------ root:root /var/lib/attestd-runner",
    ], listed
    seen = "nsenter -t $(systemctl show -P MainPID attestd) -m ls -A /home /root /etc/attestd/authority /dev"
    hidden, _, devices = system.run(seen).partition("/dev:\n")
    assert not [line for line in hidden.splitlines() if line and not line.endswith(":")], hidden
    assert not {"sda", "vda", "mem", "kmsg"} & set(devices.split())
    system.run("useradd -m alice")
    runner = "import socket; socket.socket(socket.AF_UNIX).connect('/run/attestd-runner/runner.sock')"
    assert "Permission denied" in system.run(f'runuser -u alice -- python3 -c "{runner}"', status=1)


ISSUE = "cd /home/alice; attestd authorization issue --force --requester alice --max-uses unlimited"
EXEC = "cd /home/alice; runuser -u alice -- attestd exec"


def a_directory_of_roots_becomes_the_agents(system: System) -> None:
    """Initialised before there was a user: the unit gives it to the user with all that is in it."""
    system.run(
        "systemctl stop attestd.socket attestd; chown -R root: /var/lib/attestd; systemctl start attestd"
    )
    assert system.run("find /var/lib/attestd ! -user attestd") == ""


def users_run_what_is_authorized(system: System) -> None:
    system.run(f"{ISSUE} -o id.auth.json -- id -un; chmod a+r *.json")
    assert system.run(f"{EXEC} -a id.auth.json -- id -un") == "alice\n"
    system.run(f"{EXEC} -a id.auth.json -- id -u", status=77)


def a_command_outlives_both(system: System) -> None:
    system.run(f"{ISSUE} -o sh.auth.json -- sh -c 'sleep 9; date > done'; chmod a+r *.json")
    system.run(f"({EXEC} -a sh.auth.json -- sh -c 'sleep 9; date > done') > /tmp/client 2>&1 &")
    system.until("pgrep -x sleep")
    cgroup = system.run("cat /proc/$(pgrep -x sleep)/cgroup").split("::")[1]
    assert "/attestd-runner.service/attestd-" in cgroup
    system.run("systemctl restart attestd-runner attestd")
    assert system.run("pgrep -x sleep")
    system.until("test -e /home/alice/done")
    system.until("journalctl -u attestd-runner -o cat | grep -q still_running=1")
    system.until("attestd audit tail | tail -3 | grep -q execution.exit")


def it_comes_back(system: System) -> None:
    """After kill -9, after it was stopped, and after it hung."""
    system.run("kill -9 $(systemctl show -P MainPID attestd)")
    assert system.run(f"{EXEC} -a id.auth.json -- id -un") == "alice\n"
    system.run("systemctl stop attestd.service")
    assert system.run(f"{EXEC} -a id.auth.json -- id -un") == "alice\n"
    short = "mkdir -p /run/systemd/system/attestd.service.d; cd /run/systemd/system/attestd.service.d\n"
    system.run(f"{short} printf '[Service]\\nWatchdogSec=2s\\n' > watchdog.conf; systemctl daemon-reload")
    system.run("systemctl restart attestd; kill -STOP $(systemctl show -P MainPID attestd)")
    system.until("test $(systemctl show -P NRestarts attestd) = 1 && systemctl is-active -q attestd")
    assert system.run(f"{EXEC} -a id.auth.json -- id -un") == "alice\n"
    system.run("journalctl -b | grep -q 'attestd.service: Watchdog timeout'")


def metrics_are_written_and_served(system: System) -> None:
    """As the table of docs/operations.md says: in a file with nothing else, over HTTP with a drop-in."""
    page = (ROOT / "docs/operations.md").read_text()
    path = re.search(r"metrics_file = \"(/\S+)\"", page)
    row = re.search(r"\| metrics over HTTP \| (.+) \|", page)
    assert path is not None
    assert row is not None
    wanted = "\\n".join(re.findall(r"`([^`]+)`", row[1]))
    place = "/run/systemd/system/attestd.service.d"
    system.run(
        f"mkdir -p {place}; printf '[Service]\\n{wanted}\\n' > {place}/metrics.conf; systemctl daemon-reload"
    )
    system.run(f"echo 'metrics_file = \"{path[1]}\"' >> /etc/attestd/attestd.toml")
    system.run("echo 'metrics_address = \"127.0.0.1:9753\"' >> /etc/attestd/attestd.toml")
    system.run("systemctl restart attestd")
    assert system.run(f"{EXEC} -a id.auth.json -- id -un") == "alice\n"
    system.until(f"runuser -u nobody -- grep -q '^attestd_condition{{name=\"tpm\"}} 1$' {path[1]}")
    get = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9753/metrics').read().decode())"
    served = system.run(f'runuser -u nobody -- python3 -c "{get}"')
    assert "\nattestd_runner_up 1\n" in served
    assert re.search(r"^attestd_decisions_total\{.*\} [1-9]", served, re.MULTILINE)
    system.run(
        f"rm {place}/metrics.conf; systemctl daemon-reload; sed -i /^metrics_address/d /etc/attestd/attestd.toml"
    )
    system.run("systemctl restart attestd")


def a_rolled_back_log_stays_down(system: System) -> None:
    """And who asks is told at once, every time."""
    system.run("systemctl stop attestd.socket attestd.service; cp -a /var/lib/attestd/log.db /root/old.db")
    system.run(f"systemctl start attestd; for n in 1 2 3; do ({EXEC} -a id.auth.json -- id -un); done")
    system.run("systemctl stop attestd.socket attestd.service; rm -f /var/lib/attestd/log.db-*")
    system.run("mv /var/lib/attestd/log.db /root/new.db; cp -a /root/old.db /var/lib/attestd/log.db")
    system.run("systemctl start attestd", status=1)
    for _ in range(2):
        began = time.monotonic()
        assert "agent_unavailable" in system.run(f"{EXEC} -a id.auth.json -- id -un", status=69)
        assert time.monotonic() - began < 5
    assert (system.show("attestd", "ExecMainStatus"), system.show("attestd", "NRestarts")) == ("1", "0")
    lines = system.run("journalctl -u attestd -o json -n 200").splitlines()
    said = [json.loads(line) for line in lines]
    critical = [line["MESSAGE"] for line in said if line["PRIORITY"] == "2"]
    assert len(critical) == 3, critical
    assert all(line.startswith("agent.cannot_serve error=") for line in critical)
    assert {line["PRIORITY"] for line in said if line["MESSAGE"].startswith("agent.ready")} == {"6"}
    system.run("mv /root/new.db /var/lib/attestd/log.db; systemctl reset-failed; systemctl start attestd")
    assert system.run(f"{EXEC} -a id.auth.json -- id -un") == "alice\n"


def uninstall_leaves_state(system: System) -> None:
    system.run("make uninstall")
    assert system.run("systemctl list-unit-files 'attestd*' --no-legend", status=None) == ""
    assert system.run("command -v attestd; ls -d /usr/lib/attestd", status=None).startswith("ls:")
    system.run("test -e /var/lib/attestd/log.db -a -e /etc/attestd/trust/root.json && id attestd")
    assert "attestd" not in system.run("ps -eo args | grep -v grep | grep /usr/lib/attestd", status=None)


def a_controller_serves(system: System) -> None:
    """In its sandbox, over this host's own governance, whose enroller it is: its log is witnessed."""
    system.run("systemctl start attestd-controller", status=1)
    assert system.show("attestd-controller", "ExecMainStatus") == "64", "its packages are not there"
    system.run("make install CONTROLLER=1")
    system.run(
        "install -m 600 -o attestd-controller /etc/attestd/authority/local.pem /etc/attestd/enroller.pem;"
        " attestd controller init --role governance --role witness --role enroller --governance /etc/attestd/trust"
        " --enroller-key /etc/attestd/enroller.pem --ak-trust-domain host.test"
        " --witness-name witness.test/1; systemctl start attestd-controller"
    )
    get = "import sys, urllib.request as r; print(r.urlopen('http://127.0.0.1:8440' + sys.argv[1]).read().decode())"
    assert '"healthy":true' in system.run(f'runuser -u nobody -- python3 -c "{get}" /healthz')
    assert "root" in system.run(f'runuser -u nobody -- python3 -c "{get}" /governance/metadata/1.root.json')
    assert "/v1/enrollments" in system.run(f'runuser -u nobody -- python3 -c "{get}" /openapi.json')
    owned = system.run("find /var/lib/attestd-controller ! -user attestd-controller")
    assert owned == "", owned
    vkey = system.run("head -1 /var/lib/attestd-controller/witness.vkeys")
    assert vkey in system.run(f'runuser -u nobody -- python3 -c "{get}" /witness/vkeys')
    system.run("kill -9 $(systemctl show -P MainPID attestd-controller)")
    system.until(f'python3 -c "{get}" /healthz 2> /dev/null | grep -q true')
    system.run("systemctl stop attestd-controller")
    assert (
        system.show("attestd-controller", "Result"),
        system.show("attestd-controller", "ExecMainStatus"),
    ) == (
        "success",
        "0",
    )


CHECKS: list[Callable[[System], None]] = [
    installs_as_the_documentation_says,
    units_are_sound,
    each_user_gets_their_own,
    a_directory_of_roots_becomes_the_agents,
    users_run_what_is_authorized,
    a_command_outlives_both,
    it_comes_back,
    metrics_are_written_and_served,
    a_rolled_back_log_stays_down,
    a_controller_serves,
    uninstall_leaves_state,
]


def main() -> int:
    with booted() as system:
        for check in CHECKS:
            check(system)
            print(f"ok {check.__name__.replace('_', ' ')}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
