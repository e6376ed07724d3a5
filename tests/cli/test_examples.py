"""Every example of every help text is run, as a person would type it."""

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestd.cli import run
from attestd.cli.base import Command, NounGroup
from tests.cli.conftest import Cli, ran
from tests.cli.test_help import ALL
from tests.controller.logs import Log
from tests.controller.test_enroller import pending
from tests.controller.test_operators import Afar, asking
from tests.docs.forked import shared_command_line
from tests.fleet import attestd
from tests.host import Host, kill_and_wait
from tests.recorded_boots import next_boots
from tests.results import token, verifiers
from tests.softhsm import PIN
from tests.tcg.eventlog.build import BOOTS
from tests.world import World

EXAMPLES = {
    " ".join(path) or "attestd": command.example
    for path, command in ALL
    # That one serves, as others do that are tried.
    if isinstance(command, Command | NounGroup) and path != ("serve",)
}
ON_CONTROLLERS = [command for command in EXAMPLES if command.startswith("controller")]
BOOT = BOOTS / "uki-sb"
# What earlier examples would have left behind.
PREPARE = f"""
attestd authorization issue --max-uses unlimited -o id.auth.json -- id -u
attestd authorization install id.auth.json
attestd exec -a id.auth.json --receipt run.tlog-proof -- id -u
attestd quote --challenge 00112233 -o host.quote.json
attestd authority keygen --no-passphrase second
mkdir keys
cp {BOOT}/binary_bios_measurements {BOOT}/binary_runtime_measurements .
cp binary_bios_measurements yesterday.eventlog
cp binary_bios_measurements today.eventlog
cp {BOOTS}/shim-grub-ms-sb/binary_bios_measurements grub.eventlog
attestd platform measure --json > evidence.json
attestd platform measure --rules boot.json --ima binary_runtime_measurements --ima-policy ima.json
umask 077; echo passphrase > secret; echo {PIN} > pin
echo '@id("deny-nobody") forbid (principal == User::"65534", action, resource);' > night.cedar
printf 'sha256:\\n    0 : 0x%064d\\n    4 : 0x%064d\\n' 0 1 > pcrs.txt
"""
# A repository, made in this process: each of these lines would take a second.
REPOSITORY = """
authority keygen --no-passphrase third
governance init governance --root second.pub --targets second.pub --online second.pem --authorization second.pub --enroller second.pub --tpm-root {authority}/root.pem --tpm-platform {authority}/platform.pem --tpm-epoch {authority}/epoch.pem
governance sign --repository governance --key second.pem --yes
governance publish --repository governance
"""
# Another, with a platform policy.
FLEET = """
governance platform lab --repository fleet --values pcrs.txt --yes --root-key {authority}/root.pem --key {authority}/platform.pem
governance sign --repository fleet --key second.pem --yes
governance publish --repository fleet
"""
ATTESTD = f"{sys.executable} -I -m attestd"  # where it is ended by a signal


class Workplace:
    """A directory, always of the same path, for authorizations are bound to it."""

    def __init__(self, host: Host, top: Path) -> None:
        self.host, self.top, self.work, self.kept = host, top, top / "work", top / "kept"
        self.work.mkdir()
        status, shown = self.run(PREPARE)
        assert status == 0, shown
        with contextlib.chdir(self.work), contextlib.redirect_stdout(io.StringIO()):
            for line in REPOSITORY.format(authority=host.layout.authority).strip().splitlines():
                assert run(shlex.split(line)) == 0, line
            shutil.copytree("governance", "copy")
            shutil.copytree("governance", "fleet")
            for line in FLEET.format(authority=host.layout.authority).strip().splitlines():
                assert run(shlex.split(line)) == 0, line
            for name, data in next_boots().items():
                Path(name).write_bytes(data)
        (record,) = (host.layout.repository / "staged/targets/hosts").iterdir()
        (self.work / "web1.request.json").write_bytes(b64decode(json.loads(record.read_bytes())["payload"]))
        (self.work / "trust").symlink_to(host.layout.trust)
        vouched = World(now=datetime.now(UTC))
        vouched.extra["mesh.json"] = verifiers("one")
        vouched.write_trust(self.work / "vouched")
        (self.work / "result.jwt").write_text(token(vouched, "one"))
        (self.work / "log.db").symlink_to(host.layout.log)
        self.work.rename(self.kept)

    def fresh(self, example: str) -> None:
        """The prepared files, but for those that the example makes."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.kept, self.work, symlinks=True)
        for path in self.work.iterdir():
            generated = any(
                "keygen" in line and line.endswith(f" {path.stem}") for line in example.splitlines()
            )
            if (
                f"-o {path.name}" in example
                or f"--rules {path.name}" in example
                or f"--ima-policy {path.name}" in example
                or (generated and path.suffix in (".pem", ".pub"))
                or (path.name == "id.auth.json" and "issue -- id" in example)
            ):
                path.unlink()

    def run(self, script: str) -> tuple[int, str]:
        """Runs lines in bash, up to the first that fails."""
        with (self.top / "output").open(
            "wb"
        ) as output:  # not a pipe: what goes on in the background would hold it
            done = subprocess.run(
                ["/bin/bash", "-e", "-c", f'attestd() {{ {shared_command_line()} "$@"; }}\n{script}'],
                cwd=self.work, env={"PATH": "/usr/bin:/bin", "ATTESTD_STATE_DIR": str(self.host.state)},
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False, timeout=60,
            )  # fmt: skip
        return done.returncode, (self.top / "output").read_text()

    def adapted(self, example: str) -> str:
        """The example on this machine: its directories, no TPM device, no server, and an end to what has none."""
        lines = []
        for line in example.strip().splitlines():
            # Of a host that came again, records are joined in tests/controller.
            if "device:" in line or "https://" in line or "--ended" in line:
                continue
            if "tail -f" in line:
                line = line.replace("attestd", f"timeout -s INT 1 {ATTESTD}", 1) + " || test $? = 124"  # noqa: PLW2901
            if "verify result" in line:
                line = line.replace("trust/", "vouched/")  # noqa: PLW2901 - this host has no verifiers
            if "audit confirm" in line:
                line += " || test $? = 64"  # noqa: PLW2901 - nothing is secret on this host
            lines.append(line)
            if "serve" in line:
                state = line.partition("--state-dir ")[2].removesuffix(" &")
                lines += [f"until attestd status --state-dir {state} > status 2>&1; do sleep 0.1; done"]
        places = {
            "attestd why 2": f"attestd why {ran(self.host)}",
            "/etc/attestd/trust": str(self.host.layout.trust),
            "/etc/attestd/authority": str(self.host.layout.authority),
            "/tmp/attestd-": f"{self.top}/",
            "/srv/data": "/srv/",
            "/boot/efi/EFI/Linux/": "",
            "--platform prod": "--platform lab",
        }
        script = "\n".join(lines)
        for old, new in places.items():
            script = script.replace(old, new)
        return script


@pytest.fixture(scope="module")
def workplace(running: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    top = tmp_path_factory.mktemp("x")
    found = Workplace(running, top)
    yield found
    started = Host(top)
    while left := started.processes():
        kill_and_wait(left[0])


@pytest.mark.parametrize("command", [command for command in EXAMPLES if command not in ON_CONTROLLERS])
@pytest.mark.usefixtures("token")
def test_example(command: str, workplace: Workplace, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    example = EXAMPLES[command]
    workplace.fresh(example)
    script = workplace.adapted(example)
    assert "attestd" in script
    if any(word in script for word in ("exec", "serve", "timeout", "confirm")):
        status, shown = workplace.run(script)
        assert status == 0, f"{script}\n{shown}"
        return
    monkeypatch.chdir(workplace.work)
    if command == "authority import":
        cli.ok("authority", "keygen", "--hsm", "hsm:7?label=attestd", "--passphrase-file", "pin", "made")
    if (
        command == "authority keygen"
    ):  # the token already has a key for the example of import, or the other way round
        script = script.replace("hsm:7", "hsm:8")
    for line in script.splitlines():  # in this process: ten times as fast
        name, *arguments = shlex.split(line)
        assert name == "attestd"
        cli.ok(*arguments)
    if "--expires" in script or "--until" in script:
        cli.ok("platform", "approve", "--yes")  # without end again: other tests want this host healthy


class Operator:
    """At a controller with TLS, where a host waits; its own machine knows who vouches for it."""

    def __init__(self, top: Path) -> None:
        self.afar, self.top = Afar(top, roles=["enroller", "lineage"]), top
        for name in ("pem", "key"):
            shutil.copy(top / f"alice.{name}", top / f"me.{name}")
        shutil.copytree(self.afar.controller.state / "trust", top / "trust")
        (top / "1.root.json").write_bytes((top / "trust/root.json").read_bytes())
        (top / "logs").write_text(Log("example.com/log").vkey + "\n")
        self._count = 0

    def waiting(self) -> str:
        """A host that waits: its id."""
        self._count += 1
        host = asking(self.afar, f"host {self._count}")
        pending(host.enrol(self.afar.controller))
        return host.host.id

    def adapted(self, line: str) -> str:
        """A line about a host that waits, at this controller."""
        host = self.waiting()
        places = {
            "https://one.example:8440": self.afar.url,
            "HOST-ID": host,
            "81f0c3a2b4d5": host[:12],
            "/srv/web": str(self.top / "web"),
            "/tmp/mesh": str(self.top / "mesh"),
        }
        for old, new in places.items():
            line = line.replace(old, new)
        return line


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    operator = Operator(tmp_path_factory.mktemp("operator"))
    with operator.afar.controller:
        yield operator


@pytest.mark.parametrize("command", ON_CONTROLLERS)
def test_example_on_a_controller(
    command: str, operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Initialised ones are made anew; what is decided is confirmed as at a terminal."""
    fresh = command in ("controller", "controller init")
    state = tmp_path / "new" if fresh else operator.afar.controller.state
    shutil.rmtree(operator.top / "mesh", ignore_errors=True)
    if command == "controller serve":
        shutil.copytree(operator.afar.controller.state, operator.top / "mesh")
    monkeypatch.setenv("SSL_CERT_FILE", str(operator.top / "servers.pem"))
    monkeypatch.setenv("ATTESTD_CONTROLLER_LISTEN", "127.0.0.1:0")
    with contextlib.ExitStack() as stack:
        for line in EXAMPLES[command].replace("\\\n", " ").strip().splitlines():
            name, *words = shlex.split(operator.adapted(line).removesuffix(" &"))
            assert name == "attestd"
            if words[:2] == ["controller", "serve"]:
                stack.enter_context(serving(words, state))
                continue
            monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
            done = attestd(operator.top, *words, state=state)
            assert done.status == 0, f"{line}\n{done}"


@contextlib.contextmanager
def serving(words: list[str], state: Path) -> Iterator[None]:
    """A controller that is ready, when the others are."""
    with subprocess.Popen(
        [sys.executable, "-I", "-m", "attestd", *words], env={**os.environ, "ATTESTD_STATE_DIR": str(state)},
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        try:
            yield
            said = []
            while not any("controller.ready" in line for line in said):
                said.append(process.stderr.readline())
                assert said[-1], said
        finally:
            process.terminate()
            process.stderr.read()
            status = process.wait(30)
        assert status == 0
