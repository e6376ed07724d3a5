"""Two hosts, each with a TPM of its own, and the authorities that they share: what is published once holds on both."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from attestd.agent.keystore import load_keys
from attestd.agent.tpm_port import release_approval
from attestd.authorization.artifact import parse_artifact
from attestd.codes import Code
from attestd.errors import TpmRefusedError
from attestd.governance.platform import Approval
from attestd.lineage.entry import EntryType
from attestd.tpm.embedded import EmbeddedTpm
from tests.distribution.repositories import write_key
from tests.fleet import INTERVAL_S, Fleet, Member, attestd
from tests.host import Host, Result, sha256, wait_for

# From the moment it is published until a host denies: its interval, and what a loaded machine takes.
LIMIT_S = INTERVAL_S + 60.0
STALE = "tests.attacks.stale_agent"
TRUE = "/usr/bin/true"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet() as fleet:
        fleet.join(labels={"role": "web"})
        fleet.join(labels={"role": "db"})
        yield fleet


def said(result: Result, code: Code, words: str = "") -> None:
    assert result.status == 77, result
    assert f"denied: {code}: " in result.stderr
    assert words in result.stderr


def until_denied(run: Callable[[], Result], code: Code, words: str) -> float:
    """How long it takes until a command is denied."""
    start = time.monotonic()
    while (result := run()).status == 0:
        assert time.monotonic() - start < LIMIT_S, "it is not denied"
    said(result, code, words)
    return time.monotonic() - start


def test_a_wrong_root_does_not_stand_in_the_way_of_the_right_one(fleet: Fleet, tmp_path: Path) -> None:
    init = ("init", "--tpm", "embedded", "--governance", fleet.office / "web", "--root")
    wrong = tmp_path / "wrong.json"
    for content in (b"{}", fleet.anchor.read_bytes()[:-1]):
        wrong.write_bytes(content)
        refused = attestd(tmp_path, *init, wrong, state=tmp_path / "state")
        assert refused.status in (1, 65), refused
        assert not (tmp_path / "state" / "trust" / "root.json").exists()
    asked = attestd(tmp_path, *init, fleet.anchor, state=tmp_path / "state")
    assert "another root of trust" not in asked.stderr
    assert "--epoch-key" in asked.stderr, "it got as far as that"


def test_this_host_is_meant_where_none_is_named(fleet: Fleet, tmp_path: Path) -> None:
    host = fleet.hosts[1]
    issued = host.attestd(
        *("authorization", "issue", "--key", fleet.office / "alice.pem", "-o", tmp_path / "true.auth.json"),
        *("--", TRUE),
    )
    assert issued.status == 0, issued
    untrusted = parse_artifact((tmp_path / "true.auth.json").read_bytes())
    assert list(untrusted.statement.predicate.bindings.hosts) == [host.id]
    verified = host.attestd("authorization", "verify", tmp_path / "true.auth.json")
    assert "insufficient_approvals" in verified.stderr, verified


def test_two_authorities(fleet: Fleet) -> None:
    """One signature is not enough, two are; a stranger's counts for nothing."""
    host = fleet.hosts[0]
    said(host.exec(TRUE, authorization=host.authorize(TRUE, persons=["alice"])), Code.INSUFFICIENT_APPROVALS)
    assert host.exec(TRUE, authorization=host.authorize(TRUE)).status == 0
    strangers = host.authorize(TRUE, persons=["alice", "enroller"])
    said(host.exec(TRUE, authorization=strangers), Code.INSUFFICIENT_APPROVALS)


def test_a_published_forbid(fleet: Fleet) -> None:
    """It stops the command on each host within one update, and nothing else."""
    command = "/usr/bin/id"
    authorized = [(host, host.authorize(command)) for host in fleet.hosts]
    for host, artifact in authorized:
        assert host.exec(command, authorization=artifact).status == 0
    digest = sha256(os.path.realpath(command))
    forbid = f'@id("no-id") forbid (principal, action, resource == Executable::"{digest}");\n'
    version = fleet.add("policy/stop.cedar", forbid.encode())
    for host, artifact in authorized:
        until_denied(lambda: host.exec(command, authorization=artifact), Code.POLICY_CONFLICT, "no-id")  # noqa: B023 - called at once
        host.wait_version(version)
        assert host.exec(TRUE, authorization=host.authorize(TRUE)).status == 0


def test_a_delegates_artifact_runs_on_another_host(fleet: Fleet) -> None:
    """Inside its scope, on the host that it names; not with other words, and not where it was delegated."""
    here, there = fleet.hosts
    fleet.governance("rule", "all", "--max-depth", "1")
    version = fleet.publish()
    for host in fleet.hosts:
        host.wait_version(version)
    write_key(fleet.office, "delegate")
    parent, child = here.top / "parent.auth.json", there.top / "child.auth.json"
    parent.write_bytes(
        here.authorize(
            *("/usr/bin/echo", "a", "b"),
            options=(
                *("--host", there.id, "--delegate-to", fleet.key_id("delegate")),
                *("--max-depth", "1", "--arg", '2={"one_of":["b","c"]}', "--cwd", "/"),
            ),
        )
    )
    delegated = there.attestd(
        *("authorization", "delegate", parent, "--key", fleet.office / "delegate.pem", "-o", child),
        *("--host", there.id, "--", "/usr/bin/echo", "a", "c"),
    )
    assert delegated.status == 0, delegated
    artifact = child.read_bytes()
    said(there.exec("/usr/bin/echo", "a", "b", authorization=artifact, cwd="/"), Code.SCOPE_VIOLATION)
    said(here.exec("/usr/bin/echo", "a", "c", authorization=artifact, cwd="/"), Code.IDENTITY_MISMATCH)
    assert there.exec("/usr/bin/echo", "a", "c", authorization=artifact, cwd="/").status == 0


def test_a_parent_on_another_host(fleet: Fleet) -> None:
    """Its record is not kept here: the agent downloads it when the receipt is handed in, and governance names that host."""
    here, there = fleet.hosts
    receipt = there.top / "parent.tlog-proof"
    done = here.exec(TRUE, authorization=here.authorize(TRUE), options=["--receipt", str(receipt)])
    assert done.status == 0, done

    def kept() -> list[str]:
        return [path.name.split(".")[1] for path in (there.layout.mirror / "targets/hosts").glob("*.json")]

    assert kept() == [there.id]
    child = {"authorization": there.authorize(TRUE), "options": ["--json", "--parent", str(receipt)]}
    assert there.exec(TRUE, **child).status == 0
    assert sorted(kept()) == sorted([here.id, there.id])


def test_an_epoch_bump(fleet: Fleet) -> None:
    """Published once, both TPMs move; what was approved for the epoch before then ends in the TPM itself."""
    states = [host.trust.platforms["fleet"].approvals[0] for host in fleet.hosts]
    present = fleet.trust.revocations.epoch
    authorized = [(host, host.authorize(TRUE)) for host in fleet.hosts]
    revoked = fleet.governance(
        *("revoke", "--epoch", "+1", "--epoch-key", "tpm epoch.pem"),
        *("--keep", "all", "--platform-key", "tpm platform.pem", "--json"),
    ).json
    assert revoked["kept"] == {"platform/fleet.json": [states[0].pcr_digest.hex()]}
    version, start = fleet.publish(), time.monotonic()
    for host, artifact in authorized:
        moved = wait_for("the TPM moves", lambda: host.entries(EntryType.REVOCATION))[-1]  # noqa: B023 - called at once
        assert moved.body == {"from": present, "to": present + 1, "governance": version}
        assert host.status()["tpm"]["epoch"] == present + 1
        assert host.status()["epoch"]["problem"] is None
        assert host.exec(TRUE, authorization=artifact).status == 0, "the state was approved again"
    assert time.monotonic() - start < LIMIT_S
    for host, old in zip(fleet.hosts, states, strict=True):
        new = host.trust.platforms["fleet"].approvals[0]
        assert host.stop() == 0
        assert signs(host, new)
        with pytest.raises(TpmRefusedError, match="the epoch is past that of the approval"):
            signs(host, old)
        host.start()
        assert host.entries(EntryType.AGENT_START)[-1].body["epoch"] == present + 1


def signs(host: Host, approval: Approval) -> bytes:
    """The release key's signature, by whoever has the TPM and all that the agent has."""
    embedded = EmbeddedTpm(host.layout.tpm)
    embedded.start()
    try:
        with embedded.open() as tpm:
            tpm.load_keys(*load_keys(host.layout.keys))
            return tpm.sign_release(bytes(32), release_approval(approval))
    finally:
        embedded.stop()


@dataclass(frozen=True)
class Kind:
    """One kind of revocation: what is revoked, what it stops, and in which words."""

    options: Callable[[Fleet], Sequence[Any]]
    stops: str
    words: str


# In an order in which each is the first that is found.
KINDS: Final = {
    "artifact": Kind(
        lambda fleet: [word for host in fleet.hosts for word in ("--artifact", made(host)["artifact"].id)],
        "artifact",
        "artifact ",
    ),
    "executable": Kind(lambda fleet: ["--subject", fleet.hosts[0].work / "tool"], "tool", "tool, SHA-256"),
    "interpreter": Kind(
        lambda fleet: ["--subject", sha256(fleet.hosts[0].work / "shell")], "script", "shell, SHA-256"
    ),
    "input": Kind(lambda fleet: ["--subject", fleet.hosts[0].work / "plan"], "input", "plan, SHA-256"),
    "requester": Kind(lambda _: ["--requester", os.geteuid()], "true", "requester uid "),
    "host": Kind(lambda fleet: [w for host in fleet.hosts for w in ("--host", host.id)], "true", "host "),
    "key": Kind(lambda fleet: ["--key", fleet.key_id("bob")], "true", "the artifact is signed by key "),
}


@dataclass(frozen=True)
class Made:
    """An authorization, for a command."""

    command: tuple[str, ...]
    artifact: bytes

    @property
    def id(self) -> str:
        return parse_artifact(self.artifact).id


_made: dict[str, dict[str, Made]] = {}


def made(host: Member) -> dict[str, Made]:
    """What is authorized on a host, by name; its files are the same on all hosts of a fleet."""
    if host.id not in _made:
        mark = host.office.parent.name.encode()
        for name, source in (("tool", TRUE), ("shell", "/usr/bin/dash")):
            path = host.work / name
            path.write_bytes(Path(source).read_bytes() + mark)
            path.chmod(0o755)
        (host.work / "script").write_text(f"#!{host.work}/shell\nexit 0\n")
        (host.work / "script").chmod(0o755)
        (host.work / "plan").write_bytes(mark)
        _made[host.id] = {
            name: Made(command, host.authorize(*command, options=["--reason", name, *options]))
            for name, command, options in (
                ("artifact", (TRUE,), ()),
                ("tool", ("./tool",), ()),
                ("script", ("./script",), ()),
                ("input", ("/usr/bin/cat", str(host.work / "plan")), ("--input", "plan")),
                ("true", (TRUE,), ()),
            )
        }
    return _made[host.id]


def test_each_kind_of_revocation() -> None:
    """Denied by an agent that sees it; where the agent was broken into and does not care, the runner refuses."""
    with Fleet() as fleet:
        honest, stale = fleet.join(), fleet.join()
        assert stale.stop() == 0
        stale.start(entry=STALE)
        for what, kind in KINDS.items():
            is_first = what not in ("host", "key")  # The requester is revoked before.
            for host in fleet.hosts if is_first else ():
                ran = run_made(host, kind)
                assert ran.status == 0, (what, ran)
            version = fleet.revoke(*kind.options(fleet))
            if is_first:
                until_denied(lambda: run_made(honest, kind), Code.REVOKED, kind.words)  # noqa: B023 - called at once
            honest.wait_version(version)
            said(run_made(honest, kind), Code.REVOKED, kind.words)
            decision = honest.entries(EntryType.DECISION_DENY)[-1].body
            assert decision["code"] == Code.REVOKED
            assert decision["governance"]["version"] == version
            assert 0 <= decision["governance"]["age_s"] < 60
            wait_for("the runner sees it", lambda: runner_version(stale) == version)  # noqa: B023 - called at once
            refused = stale.agent_log.count("runner.refused")
            ran = run_made(stale, kind)
            # What a revoked host sealed is nothing that a runner looks further into.
            said(ran, Code.EVIDENCE_INVALID if what in ("host", "key") else Code.REVOKED)
            assert stale.agent_log.count("runner.refused") == refused + 1, "its agent allowed it"


def run_made(host: Member, kind: Kind) -> Result:
    item = made(host)[kind.stops]
    return host.exec(*item.command, authorization=item.artifact)


def runner_version(host: Member) -> int | None:
    found = host.runner_info()["governance"].get("version")
    return None if found is None else int(found)
