"""What docs/operations.md says to do when something is compromised, word by word; from then on it is denied."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from attestd.codes import Code
from attestd.lineage.entry import EntryType
from tests.docs.test_runbooks import TEXT, Case
from tests.host import Host

STEPS: Final[Mapping[str, str]] = dict(
    re.findall(r"<!-- revoking: ([a-z-]+) -->\n```sh\n(.*?)```", TEXT, re.DOTALL)
)
EXPECTED: Final = {
    "artifact": (Code.REVOKED, "artifact "),
    "file": (Code.REVOKED, "deploy, SHA-256 "),
    "user": (Code.REVOKED, "requester uid 0 "),
    "host": (Code.REVOKED, "host "),
    "key": (Code.REVOKED, "the artifact is signed by key "),
    "state": (Code.ENVIRONMENT_UNTRUSTED, "does not approve at epoch 2"),
}


@dataclass
class Desk:
    """A running host where `deploy` is authorized, and the person who acts."""

    host: Host
    case: Case
    deploy: Path
    artifact: bytes

    def run(self) -> tuple[int, str]:
        result = self.host.exec(str(self.deploy), authorization=self.artifact)
        return result.status, result.stderr

    def follow(self, step: str, *, lines: int | None = None) -> None:
        for line in STEPS[step].splitlines()[:lines]:
            known = line.replace("/usr/local/bin/deploy", str(self.deploy))
            self.case.shell(known.replace("mallory", "root").replace("HOST-ID", self.host.id))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Host.create() as host:
        host.start()
        deploy = host.work / "deploy"
        deploy.write_bytes(Path("/usr/bin/true").read_bytes() + b"deploy")
        deploy.chmod(0o755)
        artifact = host.issue(str(deploy))
        (tmp_path / "deploy.auth.json").write_bytes(artifact)
        yield Desk(host, Case(host, b"", tmp_path), deploy, artifact)


def test_every_kind_is_told() -> None:
    assert STEPS.keys() == EXPECTED.keys()


@pytest.mark.parametrize("step", [step for step in EXPECTED if step != "state"])
def test_it_is_denied_at_once(desk: Desk, step: str) -> None:
    assert desk.run() == (0, "")
    desk.follow(step)
    code, words = EXPECTED[step]
    status, shown = desk.run()
    assert status == 77
    assert f"denied: {code}: " in shown
    assert words in shown
    other = desk.host.run("/usr/bin/true").status
    assert (other == 0) == (step in ("artifact", "file"))


def test_a_platform_key(desk: Desk) -> None:
    """Which the page names beside keys that authorize: what rests on it is left out, and says so."""
    desk.case.shell("attestd governance revoke --key /etc/attestd/authority/platform.pub")
    status, shown = desk.run()
    assert status == 77
    assert f"denied: {Code.ENVIRONMENT_UNTRUSTED}: the platform is in no approved state" in shown


def test_a_platform_state(desk: Desk) -> None:
    """It ends at once, in the TPM as well; then a person approves the state that is good."""
    desk.follow("state", lines=1)
    status, shown = desk.run()
    assert status == 77
    code, words = EXPECTED["state"]
    assert f"denied: {code}: " in shown
    assert words in shown
    desk.host.wait_entry(EntryType.REVOCATION)
    assert desk.host.status()["tpm"]["epoch"] == 2
    for line in STEPS["state"].splitlines()[1:]:
        desk.case.shell(line)
    assert desk.run() == (0, "")
