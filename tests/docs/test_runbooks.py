"""The runbooks for keys of docs/operations.md, word by word: what happened, what it says to do, and that all goes on."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from attestd.lineage.entry import EntryType
from attestd.tpm.embedded import EmbeddedTpm
from tests.agent.test_rekey import clear
from tests.docs.forked import shared_command_line
from tests.host import Host

TEXT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
RUNBOOKS: dict[str, str] = dict(re.findall(r"<!-- runbook: ([a-z-]+) -->\n```sh\n(.*?)```", TEXT, re.DOTALL))


@dataclass
class Case:
    """A running host, what it sealed before, and a person's working directory."""

    host: Host
    receipt: bytes
    work: Path

    def shell(self, line: str) -> None:
        """One line, in bash."""
        layout = self.host.layout
        for documented, here in {
            "/etc/attestd": str(self.host.state),
            "/var/lib/attestd": str(layout.agent),
            "/srv": str(self.work),
        }.items():
            line = line.replace(documented, here)
        done = subprocess.run(
            ["/bin/bash", "-e", "-c", f'attestd() {{ {shared_command_line()} "$@"; }}\n{line}'],
            cwd=self.work, env={"PATH": "/usr/bin:/bin", "ATTESTD_STATE_DIR": str(self.host.state)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"

    def follow(self, runbook: str) -> None:
        """Each line; the service is started and stopped here."""
        for line in RUNBOOKS[runbook].splitlines():
            match line.split():
                case ["systemctl", "stop", "attestd"]:
                    if self.host.agent is not None and self.host.agent.poll() is None:
                        assert self.host.stop() == 0
                case ["systemctl", "start", "attestd"]:
                    self.host.start()
                case _:
                    self.shell(line)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    with Host.create() as host:
        host.start()
        assert host.run("/bin/true").status == 0
        host.wait_settled()
        passphrase = tmp_path / "passphrase"
        passphrase.write_text("correct horse\n")
        passphrase.chmod(0o600)
        yield Case(host, host.receipt(host.entries(EntryType.DECISION_ALLOW)[0].seq), tmp_path)


def nothing(case: Case) -> None:
    assert case


def forget(name: str) -> Callable[[Case], None]:
    def lose(case: Case) -> None:
        (case.host.layout.authority / f"{name}.pem").unlink()

    return lose


def cleared(case: Case) -> None:
    assert case.host.stop() == 0
    clear(case.host)
    case.host.start(wait=False)
    assert case.host.wait_ended() != 0


def disk_lost(case: Case) -> None:
    case.shell("attestd backup /srv/attestd-backup.tar")
    artifact = case.host.issue("/bin/true")
    (case.work / "true.auth.json").write_bytes(artifact)
    case.shell("attestd authorization install true.auth.json")
    (case.work / "attestd-backup.tar").unlink()
    case.shell("attestd backup /srv/attestd-backup.tar")
    assert case.host.stop() == 0
    case.host.kill_runner()
    EmbeddedTpm(case.host.layout.tpm).stop()
    layout = case.host.layout
    for path in (layout.agent, layout.runner, layout.trust, layout.configuration):
        (shutil.rmtree if path.is_dir() else os.unlink)(path)
    for path in (layout.agent, layout.runner):  # a new disk, prepared by make install
        path.mkdir(mode=0o700)


HAPPENED: dict[str, Callable[[Case], None]] = {
    "authorization": forget("local"),
    "enroller": nothing,
    "platform": forget("platform"),
    "platform-stolen": nothing,
    "root": forget("root"),
    "epoch": forget("epoch"),
    "host-keys": nothing,
    "tpm-cleared": cleared,
    "disk-lost": disk_lost,
}
REKEYED = {"root", "epoch", "host-keys", "tpm-cleared", "disk-lost"}


def test_every_runbook_is_followed() -> None:
    assert RUNBOOKS.keys() == HAPPENED.keys()


@pytest.mark.parametrize("runbook", HAPPENED)
def test_runbook(case: Case, runbook: str) -> None:
    host = case.host
    before = host.trust.hosts[host.id]
    HAPPENED[runbook](case)
    case.follow(runbook)
    after = host.trust
    assert after.unusable == {}
    changed = after.hosts[host.id].release_spki != before.release_spki
    assert changed == (runbook in REKEYED)
    assert host.verify_receipt(case.receipt).approval is not None
    if runbook == "authorization":  # encrypted, so the host's tools would ask
        secret = case.work / "passphrase"
        case.shell(
            "attestd authority protect --no-passphrase --passphrase-file"
            f" {secret} {host.layout.authority / 'local.pem'}"
        )
    assert host.run("/bin/true").status == 0
    host.wait_settled()
    new = host.receipt(host.entries(EntryType.DECISION_ALLOW)[-1].seq)
    assert host.verify_receipt(new).host.release_spki == after.hosts[host.id].release_spki
    host.require_sound()
