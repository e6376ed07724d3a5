"""`authorization delegate`, and approvals by people who see what they approve."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from attestd.authorization.artifact import parse_artifact
from attestd.strict import canonical
from tests.authorization.builders import golden
from tests.chains import statement_of
from tests.cli.conftest import Cli
from tests.host import Host
from tests.world import dsse, ed25519_key

WORDS = '1={"one_of":["a","b","c"]}'


def key(cli: Cli, name: str) -> str:
    cli.ok("authority", "keygen", "--no-passphrase", name)
    return f"{name}.pem"


@pytest.fixture
def team(cli: Cli) -> Cli:
    """An authority's artifact for a team, in `team.auth.json`."""
    key(cli, "team")
    key(cli, "member")
    cli.ok(
        "authorization", "issue", "--delegate-to", "team.pub", "--delegate-to", "member.pub", "--max-depth", "2",
        "--max-uses", "5", "--arg", WORDS, "--env-pass", "LANG", "-o", "team.auth.json", "--", "echo", "a",
    )  # fmt: skip
    return cli


def delegate(cli: Cli, *arguments: str, parent: str = "team.auth.json", by: str = "team") -> dict[str, Any]:
    return cli.ok(
        "authorization", "delegate", parent, "--key", f"{by}.pem", "--force", "--json", "-o", "child.auth.json", *arguments
    ).json  # fmt: skip


def test_what_a_delegate_issues_runs(team: Cli, running: Host) -> None:
    answer = delegate(team, "--reason", "for the team", "--", "echo", "b")
    data = Path("child.auth.json").read_bytes()
    assert answer["id"] == parse_artifact(data).id
    assert answer["statement"]["predicate"]["lineage"]["parent"] == answer["chain"][0]["id"]
    assert answer["chain_fault"] is None
    assert running.exec("echo", "b", authorization=data, cwd=team.work).stdout == b"b\n"
    assert running.exec("echo", "b", authorization=data, cwd=team.work).status == 77, "one use"
    assert running.exec("echo", "a", authorization=data, cwd=team.work).status == 77


def test_a_delegate_needs_no_host(team: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere, where nothing of attestd was ever initialised."""
    monkeypatch.setenv("ATTESTD_STATE_DIR", str(tmp_path / "nothing"))
    delegate(team, "--", "echo", "b")
    assert "delegates to key" in team.ok("authorization", "inspect", "child.auth.json").stdout


def test_a_policy_stays_and_its_text_may_be_pinned(team: Cli, running: Host) -> None:
    answer = delegate(team, "--policy", "exec", "--policy-digest", "current", "--", "echo", "a")
    governance = answer["statement"]["predicate"]["governance"]
    assert governance["policy_digest"] == running.trust.policies.digest("exec")
    refused = team(
        "authorization", "delegate", "team.auth.json", "--key", "team.pem", "--policy", "other", "echo", "a"
    )
    assert refused.status == 77
    assert "governance.policy" in refused.stderr
    unknown = team(
        "authorization", "delegate", "team.auth.json", "--key", "team.pem", "--policy", "other", "--policy-digest",
        "current", "echo", "a",
    )  # fmt: skip
    assert unknown.status == 64
    assert "policy 'other' is not in force: choose with --policy (exec)" in unknown.stderr


def test_every_option_narrows(team: Cli, running: Host) -> None:
    Path("plan").write_text("x")
    answer = delegate(
        team, "--ttl", "1m", "--max-uses", "2", "--requester", str(os.geteuid()), "--host", running.id,
        "--host-label", "role=ci", "--env-pass", "LANG", "--input", "plan", "--arg", '1={"one_of":["a","b"]}',
        "--max-evidence-age", "5s", "--on-trust-loss", "kill", "--delegate-to", "member.pub", "--reason", "r",
        "--requested-by", "w", "--on-behalf-of", "x", "--", "echo", "a",
    )  # fmt: skip
    predicate = answer["statement"]["predicate"]
    assert predicate["validity"]["max_uses"] == 2
    assert predicate["bindings"]["host_labels"] == {"role": "ci"}
    assert predicate["scope"]["env"]["pass"] == ["LANG"]
    assert predicate["scope"]["argv"] == ["echo", {"one_of": ["a", "b"]}]
    assert [item["name"] for item in predicate["scope"]["inputs"]] == [str(Path("plan").resolve())]
    assert predicate["environment"]["max_evidence_age_s"] == 5
    assert len(predicate["lineage"]["delegate_to"]) == predicate["lineage"]["max_depth"] == 1
    assert predicate["attribution"] == {
        "approved_by": [], "on_behalf_of": "x", "reason": "r", "requested_by": "w"
    }  # fmt: skip
    third = delegate(team, "--", "echo", "b", parent="child.auth.json", by="member")
    assert len(third["chain"]) == 3
    assert len(team.ok("authorization", "verify", "--json", "child.auth.json").json["chain"]) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--", "echo", "d"], "scope.argv[1]"),
        (["--", "echo"], "scope.argv: the parent has 2 arguments"),
        (["--ttl", "7d", "--", "echo", "a"], "validity.not_after"),
        (["--max-uses", "6", "--", "echo", "a"], "validity.max_uses"),
        (["--max-uses", "unlimited", "--", "echo", "a"], "validity.max_uses"),
        (["--host", "ab" * 32, "--", "echo", "a"], "bindings.hosts"),
        (["--requester", "12345", "--", "echo", "a"], "bindings.requesters"),
        (["--env-pass", "TERM", "--", "echo", "a"], "scope.env.pass"),
        (["--env-set", "TERM=x", "--", "echo", "a"], "scope.env.set"),
        (["--max-evidence-age", "61s", "--", "echo", "a"], "environment.max_evidence_age_s"),
        (["--on-trust-loss", "report", "--", "echo", "a"], "enforcement.on_trust_loss"),
        (["--delegate-to", "ab" * 32, "--", "echo", "a"], "lineage.delegate_to"),
        (["--delegate-to", "team.pub", "--max-depth", "2", "--", "echo", "a"], "lineage.max_depth"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wider_is_refused(arguments: list[str], words: str, team: Cli) -> None:
    result = team(
        "authorization", "delegate", "team.auth.json", "--key", "team.pem", "-o", "x.auth.json", *arguments
    )
    assert result.status == 77, result
    assert "denied: scope_violation" in result.stderr
    assert words in result.stderr
    assert not Path("x.auth.json").exists()


def test_what_makes_no_sense_is_refused(team: Cli) -> None:
    key(team, "stranger")
    for arguments, words in (
        (["--", "echo", "a"], "--key is needed"),
        (["--key", "stranger.pem", "--", "echo", "a"], "is no delegate of artifact"),
        (["--key", "team.pem", "--delegate-to", "nofile", "--", "echo", "a"], "expected a public key's file"),
        (["--key", "team.pem", "--max-depth", "1", "--", "echo", "a"], "must both allow delegation"),
        (["--key", "team.pem", "--arg", '1={"int":[1,2]}', "--", "echo", "a"], "its pattern allows"),
    ):
        result = team("authorization", "delegate", "team.auth.json", *arguments)
        assert result.status == 64, result
        assert words in result.stderr


def test_the_chain_in_words(team: Cli, running: Host) -> None:
    ids = {name: team.ok("authority", "show", "--json", f"{name}.pub").json for name in ("team", "member")}
    team_id, member_id = (json.dumps(ids[name]) for name in ("team", "member"))
    delegate(team, "--delegate-to", "member.pub", "--", "echo", "a")
    delegate(team, "--", "echo", "a", parent="child.auth.json", by="member")
    links = parse_artifact(Path("child.auth.json").read_bytes()).links
    keys = [
        links[0].envelope.signatures[0].key_id,
        *(link.envelope.signatures[0].key_id for link in links[1:]),
    ]
    assert keys[1] in team_id
    assert keys[2] in member_id
    verified = team.ok("verify", "artifact", "--trust", running.layout.trust, "child.auth.json").stdout
    for shown in (verified, team.ok("authorization", "inspect", "child.auth.json").stdout):
        for words in (
            *(link.id for link in links), f"issued by authorities: key {keys[0]}",
            f"issued by delegates of link 1: key {keys[1]}", f"issued by delegates of link 2: key {keys[2]}",
            "2 links may follow", "may not be delegated further", 'narrower: argument 1: {"one_of": ["a", "b", "c"]} -> "a"',
            "narrower: validity.max_uses: 5 -> 1",
        ):  # fmt: skip
            assert words in shown, words


def test_a_broken_chain_is_shown_as_one(team: Cli) -> None:
    delegate(team, "--", "echo", "a")
    value = json.loads(Path("child.auth.json").read_bytes())
    wider = statement_of(Path("child.auth.json").read_bytes())
    wider["predicate"]["scope"]["cwd"] = "/"
    value["chain"][1] = json.loads(dsse(canonical(wider), [ed25519_key("x")]))
    Path("bad.auth.json").write_bytes(canonical(value))
    assert (
        "the chain does not hold: link 2 is wider"
        in team.ok("authorization", "inspect", "bad.auth.json").stdout
    )
    result = team("authorization", "verify", "bad.auth.json")
    assert result.status == 1
    assert "invalid_signature" in result.stderr
    refused = team("authorization", "delegate", "bad.auth.json", "--key", "team.pem", "--", "echo", "a")
    assert refused.status in (64, 77)


# -- approvals -----------------------------------------------------------------------------------------------------------


def members(value: Any) -> list[str]:
    """Everything that a statement says, as it could be shown."""
    if isinstance(value, dict):
        return [text for name, member in value.items() for text in (str(name), *members(member))]
    if isinstance(value, list):
        return [text for member in value for text in members(member)]
    return [] if value is None else [str(value)]


def test_whoever_approves_sees_all_of_it(cli: Cli) -> None:
    """Each value of a statement that has all there can be, and patterns to their last choice."""
    statement = golden()
    choices = [f"choice-{number}-{'x' * 90}" for number in range(200)]
    statement["predicate"]["scope"]["argv"][2] = {"one_of": choices}
    Path("all.auth.json").write_bytes(dsse(canonical(statement), [ed25519_key("someone")]))
    key(cli, "second")
    shown = cli.ok("authorization", "approve", "--yes", "--key", "second.pem", "all.auth.json").stdout
    predicate = statement["predicate"]
    for group in (
        "scope",
        "bindings",
        "environment",
        "attribution",
        "validity",
        "enforcement",
        "secrets",
        "tool",
    ):
        for text in members(predicate[group]):
            if text in predicate[group] or text in (
                "quorum",
                "digest",
                "sha256",
                "name",
                "uid",
                "set",
                "pass",
            ):
                continue  # a member's own name: shown in words
            if text in ("one_of", "prefix", "charset", "max", "int", "verifiers", "witnesses"):
                continue
            assert text in shown, (group, text)
    for item in statement["subject"]:
        assert item["name"] in shown
        assert item["digest"]["sha256"] in shown
    assert predicate["lineage"]["delegate_to"][0] in shown
    assert predicate["governance"]["metadata"]["change"] in shown
    assert f"version {predicate['governance']['min_version']} or later" in shown
    assert len(parse_artifact(Path("all.auth.json").read_bytes()).envelope.signatures) == 2


def test_without_a_terminal_one_says_yes(cli: Cli) -> None:
    key(cli, "second")
    cli.ok("authorization", "issue", "--", "id")
    before = Path("id.auth.json").read_bytes()
    for options in ([], ["--json"]):
        result = cli("authorization", "approve", "--key", "second.pem", *options, "id.auth.json")
        assert result.status == 64
        assert "--yes" in result.stderr
        assert Path("id.auth.json").read_bytes() == before
    answer = cli.ok("authorization", "approve", "--key", "second.pem", "--yes", "--json", "id.auth.json").json
    assert len(answer["signatures"]) == 2


@pytest.mark.parametrize(("answer", "signed"), [(b"y\n", 2), (b"n\n", 1), (b"\n", 1)])
def test_on_a_terminal_one_is_asked(answer: bytes, signed: int, cli: Cli) -> None:
    key(cli, "second")
    cli.ok("authorization", "issue", "--reason", "CHG-77", "--", "id")
    main, side = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "attestd", "authorization", "approve", "--key", "second.pem", "id.auth.json"],
            stdin=side, stdout=side, stderr=side, cwd=cli.work,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "dumb", "COLUMNS": "200"},
        )  # fmt: skip
        shown = read_until(main, b"Sign all of this")
        assert b"CHG-77" in shown, "first what, then the question"
        os.write(main, answer)
        read_until(main, b"\n")
        drain(process, main)
    finally:
        os.close(main)
        os.close(side)
    assert (process.returncode == 0) is (signed == 2)
    assert len(parse_artifact(Path("id.auth.json").read_bytes()).envelope.signatures) == signed


def read_until(descriptor: int, words: bytes) -> bytes:
    found, deadline = b"", time.monotonic() + 60
    while words not in found:
        assert time.monotonic() < deadline, found
        if select.select([descriptor], [], [], 1)[0]:
            found += os.read(descriptor, 65_536)
    return found


def drain(process: "subprocess.Popen[bytes]", descriptor: int) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None:
        assert time.monotonic() < deadline
        if select.select([descriptor], [], [], 0.1)[0]:
            os.read(descriptor, 65_536)


def test_approvals_of_a_chain_go_where_they_count(team: Cli) -> None:
    delegate(team, "--", "echo", "a")
    key(team, "second")
    said = team.ok("authorization", "approve", "--yes", "--key", "member.pem", "child.auth.json").stdout
    assert "You sign link 2 of 2" in said
    said = team.ok("authorization", "approve", "--yes", "--key", "second.pem", "child.auth.json").stdout
    assert "You sign link 1 of 2" in said
    assert '"one_of"' not in said
    assert "one of 'a', 'b', 'c'" in said, "the first link's own scope"
    links = parse_artifact(Path("child.auth.json").read_bytes()).links
    assert [len(link.envelope.signatures) for link in links] == [2, 2]
    assert team.ok("authorization", "verify", "child.auth.json").status == 0
    again = team("authorization", "approve", "--yes", "--key", "member.pem", "child.auth.json")
    assert again.status == 64
    assert "each key counts once" in again.stderr
