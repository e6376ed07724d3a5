"""The attacks on TUF, on a whole host: against what is downloaded, against the mirror on disk, against agent and runner.

Who serves the files can withhold and replace them; who broke into the agent can write the mirror. Neither has the
authorities' keys, or not enough of them.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from attestd.agent.ask import AgentSocket
from attestd.agent.doctor import examine
from attestd.authorization.artifact import parse_artifact
from attestd.distribution.repository import Repository
from attestd.distribution.settings import STANDALONE_DAYS
from attestd.distribution.signer import Authority, generate, load_authority
from attestd.governance.draft import (
    RoleKeys,
    add_signature,
    draft_root,
    draft_snapshot,
    draft_targets,
    draft_timestamp,
)
from attestd.lineage.entry import EntryType
from tests.host import Host, Result, wait_for
from tests.world import ed25519_key, signer

# What an attacker makes.
VERSION = 50
LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)


class Governed:
    """A host whose governance is published in a directory (`web`), and mirrored by its agent."""

    def __init__(self, host: Host, *, configuration: str = "") -> None:
        self.host, self.web, self.mirror = host, host.top / "web", host.layout.mirror
        self.repository = Repository(host.layout.repository)
        self.artifact = host.issue("/bin/true")
        self.put(self.web)
        for name in ("metadata", "targets"):
            shutil.rmtree(host.layout.trust / name)
        with host.layout.configuration.open("a") as file:
            file.write(f'governance_url = "{self.web}"\ngovernance_interval_s = 1\n{configuration}')

    def key(self, name: str) -> Authority:
        return load_authority(str(self.host.layout.authority / f"{name}.pem"))

    def put(self, directory: Path) -> None:
        """Puts what the authorities published last into a directory."""
        replace(directory, self.repository.published_path)

    def revoke(self, *artifacts: bytes) -> None:
        """The authorities revoke, and publish; the agent downloads it, the runner sees it."""
        self.host.revoke(artifacts=[parse_artifact(artifact).id for artifact in artifacts])
        self.put(self.web)
        self.wait_seen()

    def wait_seen(self) -> None:
        published = self.repository.published
        assert published.snapshot
        assert published.timestamp
        wanted = published.timestamp.version
        wait_for(
            "both see it",
            lambda: (
                self.host.status()["governance"].get("timestamp") == wanted
                and (self.host.runner_info()["governance"]["floor"] or {}).get("timestamp") == wanted
            ),
        )

    def exec(self) -> Result:
        return self.host.exec("/bin/true", authorization=self.artifact)

    def runner_problem(self) -> str:
        return str(self.host.runner_info()["governance"]["problem"] or "")


def replace(directory: Path, source: Path) -> None:
    """One directory's published files become another's."""
    for name in ("metadata", "targets"):
        shutil.rmtree(directory / name, ignore_errors=True)
        shutil.copytree(source / name, directory / name)


@pytest.fixture(scope="module")
def governed() -> Iterator[Governed]:
    """A running host, at version 3; `old` holds version 1. The targets role has two keys, and needs both."""
    with Host.create() as host:
        governed = Governed(host)
        shutil.copytree(governed.web, host.top / "old")
        host.start()
        second = generate("ed25519", host.layout.authority / "second.pem")
        governed.repository.set_keys(
            "targets", RoleKeys((governed.key("governance").public, second.public), threshold=2)
        )
        for key in (governed.key("governance-root"), governed.key("governance"), second):
            if governed.repository.plan().drafts:
                governed.repository.sign(key)
        governed.repository.renew("targets")
        for key in (governed.key("governance"), second):
            governed.repository.sign(key)
        governed.repository.publish([governed.key("online")])
        governed.put(governed.web)
        governed.wait_seen()
        assert governed.exec().status == 0
        shutil.copytree(governed.web, host.top / "good")
        yield governed


# what an attacker puts into a directory


def rollback(governed: Governed, directory: Path) -> None:
    """Everything as it was before."""
    replace(directory, governed.host.top / "old")


def mix_and_match(governed: Governed, directory: Path) -> None:
    """An older snapshot under the name of the newer one."""
    new = max((directory / "metadata").glob("*.snapshot.json"))
    new.write_bytes((governed.host.top / "old" / "metadata" / "1.snapshot.json").read_bytes())


def another_target(governed: Governed, directory: Path) -> None:
    """An older file under the name of the newer one."""
    target = next((directory / "targets").glob("*.authorities.json"))
    target.write_bytes(target.read_bytes().replace(b'"threshold":1', b'"threshold":0'))
    swap_timestamp(directory)


def swap_timestamp(directory: Path) -> None:
    """The same bytes, written anew: something changed, so all of it is looked at."""
    path = directory / "metadata" / "timestamp.json"
    path.write_bytes(path.read_bytes())


def wrong_signer(_: Governed, directory: Path) -> None:
    """A newer timestamp, signed by somebody else."""
    snapshot = max((directory / "metadata").glob("*.snapshot.json")).read_bytes()
    draft = draft_timestamp(version=VERSION, expires=LATER, issued=datetime.now(UTC), snapshot=snapshot)
    signed = add_signature(draft, signer(ed25519_key("mallory")))
    (directory / "metadata" / "timestamp.json").write_bytes(signed)


def below_threshold(governed: Governed, directory: Path) -> None:
    """New targets by one of two keys, named properly: the online key and one of the two were stolen."""
    online, one = governed.key("online").sign, governed.key("governance").sign
    files = {**governed.host.files(), "revocations.json": b"{}"}
    targets = add_signature(draft_targets(version=VERSION, expires=LATER, targets=files), one)
    snapshot = add_signature(
        draft_snapshot(version=VERSION, expires=LATER, roles={"targets": targets}), online
    )
    timestamp = draft_timestamp(version=VERSION, expires=LATER, issued=datetime.now(UTC), snapshot=snapshot)
    metadata = directory / "metadata"
    (metadata / f"{VERSION}.targets.json").write_bytes(targets)
    (metadata / f"{VERSION}.snapshot.json").write_bytes(snapshot)
    (metadata / "timestamp.json").write_bytes(add_signature(timestamp, online))


def own_root(governed: Governed, directory: Path) -> None:
    """A root of the attacker's own, after the newest."""
    keys = RoleKeys((governed.key("online").public,))
    version = len(list((governed.host.top / "good" / "metadata").glob("*.root.json"))) + 1
    draft = draft_root(version=version, expires=LATER, root=keys, targets=keys, snapshot=keys, timestamp=keys)
    (directory / "metadata" / f"{version}.root.json").write_bytes(
        add_signature(draft, governed.key("online").sign)
    )


def endless(_: Governed, directory: Path) -> None:
    """A timestamp without end."""
    with (directory / "metadata" / "timestamp.json").open("r+b") as file:
        file.truncate(1 << 40)


def nothing(_: Governed, directory: Path) -> None:
    """No timestamp at all."""
    (directory / "metadata" / "timestamp.json").unlink()


def no_json(_: Governed, directory: Path) -> None:
    """Half a timestamp."""
    path = directory / "metadata" / "timestamp.json"
    path.write_bytes(path.read_bytes()[:-20])


ATTACKS = [
    rollback,
    mix_and_match,
    wrong_signer,
    below_threshold,
    own_root,
    endless,
    nothing,
    no_json,
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_served_is_not_taken(governed: Governed, attack: Callable[[Governed, Path], None]) -> None:
    """The agent keeps what it has, says so, and goes on until that expires."""
    host = governed.host
    if attack is mix_and_match:
        (
            governed.mirror / "metadata" / max((governed.web / "metadata").glob("*.snapshot.json")).name
        ).unlink()
    attack(governed, governed.web)
    try:
        wait_for("the agent says so", lambda: host.status()["governance_update"]["problem"])
        if attack is not mix_and_match:
            assert governed.exec().status == 0
            assert governed.runner_problem() == ""
    finally:
        replace(governed.web, host.top / "good")
        own = governed.web / "metadata" / "3.root.json"
        assert not own.exists()
    wait_for("it is updated again", lambda: not host.status()["governance_update"]["problem"])
    assert governed.exec().status == 0


@pytest.mark.parametrize("attack", [*ATTACKS, another_target])
def test_what_is_in_the_mirror_is_not_believed(
    governed: Governed, attack: Callable[[Governed, Path], None]
) -> None:
    """Whoever writes the mirror, in whatever way: all is denied, by the agent and by the runner, until it is right."""
    host, away = governed.host, governed.host.top / "away"
    governed.web.rename(away)
    wait_for("nobody repairs it", lambda: host.status()["governance_update"]["problem"])
    try:
        attack(governed, governed.mirror)
        wait_for("the runner refuses", governed.runner_problem)
        wait_for("the agent denies", lambda: "error" in host.status()["governance"])
        result = governed.exec()
        assert result.status == 77
        assert "governance_mismatch" in result.stderr
        assert any("governance" in item for item in doctor(host))
    finally:
        away.rename(governed.web)
    wait_for("it is repaired", lambda: governed.exec().status == 0)
    wait_for("the runner goes by it", lambda: not governed.runner_problem())


def doctor(host: Host) -> list[str]:
    """What the doctor finds wrong."""
    agent = AgentSocket(os.fsencode(host.layout.agent_socket))
    return [item.area for item in examine(host.layout, agent) if item.remedy is not None]


# freeze


def expire(governed: Governed, *, ago: timedelta) -> None:
    """The authorities' last timestamp is as old as that; an attacker withholds everything newer."""
    past = datetime.now(UTC).replace(microsecond=0) - timedelta(days=STANDALONE_DAYS) - ago
    repository = Repository(governed.host.layout.repository, clock=lambda: past)
    repository.refresh([governed.key("online")])
    governed.put(governed.web)


@pytest.mark.parametrize("grace_s", [0, 7200])
def test_freeze(grace_s: int) -> None:
    """Withheld updates end in denial once what there is has expired, for agent and runner; later with a grace."""
    with Host.create() as host:
        governed = Governed(host, configuration=f"governance_grace_s = {grace_s}\n")
        expire(governed, ago=timedelta(hours=1))
        host.start()
        result = governed.exec()
        if grace_s:
            assert result.status == 0, result
            assert any("freshness" in area for area in doctor(host))
            expire(governed, ago=timedelta(hours=3))
            governed.wait_seen()
            result = governed.exec()
        assert result.status == 77
        assert "governance metadata expired: role 'timestamp'" in result.stderr
        revoked = host.issue("/bin/true", "x")
        governed.revoke(revoked)
        result = host.exec("/bin/true", "x", authorization=revoked)
        assert "revoked" in result.stderr, "what is known to be revoked stays so"


# a broken agent


def answers(host: Host) -> bool:
    """Whether there is a runner again."""
    try:
        return bool(host.runner_info())
    except OSError:
        return False


def test_a_broken_agent_cannot_withdraw_a_revocation() -> None:
    """The revocation was in the mirror for a second; the agent ignores it, and puts older metadata back."""
    with Host.create() as host:
        governed = Governed(host)
        shutil.copytree(governed.web, host.top / "old")
        host.start(entry="tests.attacks.stale_agent")
        assert governed.exec().status == 0
        host.revoke(artifacts=[parse_artifact(governed.artifact).id])
        governed.put(governed.web)
        wait_for("the runner sees it", lambda: host.runner_info()["governance"].get("version") == 2)
        shutil.rmtree(governed.web)
        for restart in (False, True):
            replace(governed.mirror, host.top / "old")
            if restart:
                host.kill_runner()
                wait_for("another runner", lambda: answers(host))
            result = governed.exec()
            assert "governance_mismatch: the runner refuses" in result.stderr, result
            assert "version 1" in result.stderr
        replace(governed.mirror, governed.repository.published_path)
        wait_for("the runner goes by it", lambda: not governed.runner_problem())
        assert "revoked" in governed.exec().stderr
        host.wait_settled()
        assert not host.entries(EntryType.EXECUTION_START)[1:], "nothing ran but the first"


def test_without_a_floor_the_attack_works() -> None:
    """What the runner's record is for."""
    with Host.create() as host:
        governed = Governed(host)
        shutil.copytree(governed.web, host.top / "old")
        host.start(entry="tests.attacks.stale_agent")
        host.revoke(artifacts=[parse_artifact(governed.artifact).id])
        governed.put(governed.web)
        wait_for("the runner sees it", lambda: host.runner_info()["governance"].get("version") == 2)
        shutil.rmtree(governed.web)
        replace(governed.mirror, host.top / "old")
        (host.layout.runner / "governance.json").unlink()
        host.kill_runner()
        wait_for("another runner", lambda: answers(host))
        assert governed.exec().status == 0


def test_older_governance_at_the_agents_start() -> None:
    """The log tells what was seen: an agent that starts on older metadata denies, and can be asked why."""
    with Host.create() as host:
        governed = Governed(host)
        shutil.copytree(governed.web, host.top / "old")
        host.start()
        governed.revoke()
        host.wait_entry(EntryType.GOVERNANCE_UPDATE)
        assert host.stop() == 0
        host.kill_runner()
        (host.layout.runner / "governance.json").unlink()
        shutil.rmtree(governed.web)
        replace(governed.mirror, host.top / "old")
        assert "trust" in doctor(host), "the doctor sees it without an agent"
        host.start()
        result = governed.exec()
        assert result.status == 77
        assert "governance_mismatch" in result.stderr
        assert "version 1" in host.status()["governance"]["error"]
        assert any("governance" in area for area in doctor(host))


# whoever holds enough of the authorities' keys


def test_a_revocation_is_not_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer version leaves out what an earlier one revoked, properly signed: agent and runner deny until it is back.

    The agent's memory ends with it. The runner's does not.
    """
    with Host.create() as host:
        host.start()
        artifact = host.issue("/bin/true")
        wanted = parse_artifact(artifact).id
        host.revoke(artifacts=[wanted])
        wait_for("the runner sees it", lambda: host.runner_info()["governance"].get("version") == 2)
        assert "revoked" in host.exec("/bin/true", authorization=artifact).stderr
        with monkeypatch.context() as patch:
            patch.setattr("attestd.distribution.acceptance.require_still_revoked", lambda *_: None)
            host.revoke(artifacts=[])
        result = host.exec("/bin/true", authorization=artifact)
        assert (
            f"governance_mismatch: this host's governance does not verify: revocations.json version 3: artifacts: expected {wanted}"
            in result.stderr
        )
        assert host.stop() == 0
        host.kill_runner()
        host.start()
        result = host.exec("/bin/true", authorization=artifact)
        assert (
            "governance_mismatch: the runner refuses: revocations.json version 3: artifacts" in result.stderr
        )
        assert any("runner's governance" in area for area in doctor(host))
        host.revoke(artifacts=[wanted])
        wait_for(
            "it is back", lambda: "revoked: artifact" in host.exec("/bin/true", authorization=artifact).stderr
        )
        assert host.run("/bin/true", "x").status == 0
