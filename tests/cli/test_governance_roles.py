"""`attestd governance role`, `delegate`, `rule`, `revoke`: who may approve what, and what is no longer trusted."""

import json
from pathlib import Path

from tests.cli.conftest import Cli
from tests.cli.fleet import in_repository, publish, trust, trust_id, trust_keys
from tests.distribution.repositories import Reference, served, write_key


def test_roles(repository: Cli) -> None:
    run = in_repository(repository)
    write_key(Path(), "new")
    run("role", "targets", "--add", "carol.pem", "--remove", "bob.pem")
    run("role", "online", "--add", "new.pem", "--remove", trust_id("online"))
    run("role", "root", "--add", "new.pem", "--threshold", "2")
    diff = repository.ok("governance", "diff", "--repository", "governance").stdout
    for expected in (
        f"! roles: role targets: +key {trust_id('carol')}",
        f"  roles: role targets: -key {trust_id('bob')}",
        "  roles: role root: threshold 1 -> 2",
    ):
        assert expected in diff
    for name in ("root", "new", "alice", "carol"):
        run("sign", "--key", f"{name}.pem", "--yes")
    refused = repository("governance", "publish", "--repository", "governance")
    assert "online keys" in refused.stderr
    run("publish", "--online", "new.pem")
    run("refresh", "--online", "new.pem")
    refused = repository("governance", "role", "--repository", "governance", "root", "--remove", "alice.pem")
    assert "does not sign for root" in refused.stderr
    refused = repository("governance", "role", "--repository", "governance", "root")
    assert "nothing would change" in refused.stderr


def test_a_team(repository: Cli) -> None:
    run = in_repository(repository)
    run(
        "delegate", "web", "--key", "carol.pem", "--path", "/usr/bin/deploy", "--uid", "0", "--max-depth", "1"
    )
    team = {
        "v": 1,
        "version": 1,
        "keys": trust_keys("carol"),
        "authorizations": [
            {
                "name": "deploy",
                "paths": ["/usr/bin/deploy"],
                "uids": [0],
                "keys": list(trust_keys("carol")),
                "threshold": 1,
                "max_depth": 0,
            }
        ],
    }
    Path("team.json").write_text(json.dumps(team))
    run("add", "teams/web/authorities.json", "team.json")
    for name in ("alice", "bob"):
        run("sign", "--key", f"{name}.pem", "--yes")
    refused = repository("governance", "publish", "--repository", "governance")
    assert "team-web version 1 has 0 of 1 signatures" in refused.stderr
    run("sign", "--key", "carol.pem", "--yes")
    run("publish")
    assert [rule.name for rule in trust().authorities.rules] == ["all", "web/deploy"]
    # What goes beyond the team's scope never leaves the desk.
    team["authorizations"][0]["paths"] = ["/usr/bin/"]  # type: ignore[index]
    Path("team.json").write_text(json.dumps({**team, "version": 2}))
    refused = repository(
        "governance", "add", "--repository", "governance", "teams/web/authorities.json", "team.json"
    )
    assert refused.status == 1
    assert "goes beyond the team's scope" in refused.stderr
    run("delegate", "web", "--remove")
    assert "- " not in repository.ok("governance", "diff", "--repository", "governance").stderr
    publish(repository)
    assert not trust().authorities.teams
    refused = repository("governance", "delegate", "--repository", "governance", "web", "--remove")
    assert refused.status == 64
    run("delegate", "web", "--key", "carol.pem", "--path", "/usr/bin/deploy")
    with served(Path("web")) as url:
        anchor = Path("governance/published/metadata/1.root.json").read_bytes()
        Reference(Path("client"), url, anchor).download(["authorities.json"])


def test_rules(repository: Cli) -> None:
    run = in_repository(repository)
    two = ("--key", "bob.pem", "--key", "carol.pem")
    run("rule", "deploy", "--path", "/usr/bin/deploy", *two, "--uid", "0", "--max-depth", "1")
    run("rule", "rest", "--path", "/opt/", *two, "--threshold", "1", "--last")
    found = {rule.name: rule for rule in trust().authorities.rules}
    assert list(found) == ["deploy", "all", "rest"]
    assert (found["deploy"].threshold, found["deploy"].uids, found["deploy"].max_depth) == (2, {0}, 1)
    assert {key.key_id for key in found["rest"].keys} == {trust_id("bob"), trust_id("carol")}
    run("rule", "deploy", "--threshold", "1", "--path", "/usr/bin/deploy2")
    diff = repository.ok("governance", "diff", "--repository", "governance").stdout
    assert "authority deploy: added: key " in diff
    run("rule", "rest", "--remove")
    assert [rule.name for rule in trust().authorities.rules] == ["deploy", "all"]


def test_revoking(repository: Cli) -> None:
    run = in_repository(repository)
    digest = "ab" * 32
    run(
        "revoke",
        "--artifact",
        digest,
        "--key",
        digest,
        "--host",
        digest,
        "--subject",
        digest,
        "--requester",
        "7",
    )
    run("revoke", "--epoch", "2", "--epoch-key", "tpm epoch.pem")
    found = trust().revocations
    assert (found.artifacts, found.keys, found.hosts, found.subjects, found.requesters) == (
        *[{digest}] * 4,
        {7},
    )
    assert found.bump is not None
    assert (found.epoch, found.bump.epoch) == (2, 2)
    for wrong, said in (
        ((), "nothing to revoke"),
        (("--epoch", "3"), "--epoch-key is needed"),
        (("--epoch", "3", "--epoch-key", "alice.pem"), "not the epoch authority's"),
        (("--epoch", "2", "--epoch-key", "tpm epoch.pem"), "expected 3 or more"),
        (("--artifact", "abcd"), "artifacts"),
    ):
        refused = repository("governance", "revoke", "--repository", "governance", *wrong)
        assert refused.status in (64, 65), refused
        assert said in refused.stderr
