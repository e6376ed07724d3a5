"""`attestd authorization`: what is issued is what runs, and nothing else."""

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from attestd.authorization.artifact import parse_artifact
from attestd.authorization.issue import DEFAULT_PATH
from attestd.strict import parse_time
from tests.cli.conftest import Cli
from tests.host import Host, sha256


def issued(cli: Cli, *arguments: str) -> dict[str, Any]:
    """The predicate of what `issue` signs."""
    answer = cli.ok("authorization", "issue", "--json", "--force", "-o", "out.auth.json", *arguments).json
    artifact = parse_artifact(Path("out.auth.json").read_bytes())
    assert answer["id"] == artifact.id
    assert answer["statement"] == json.loads(artifact.envelope.payload)
    return {**answer["statement"]["predicate"], "subject": answer["statement"]["subject"]}


def test_the_narrowest_values(cli: Cli, running: Host) -> None:
    found = issued(cli, "--", "id", "-u")
    assert found["subject"] == [{"name": "/usr/bin/id", "digest": {"sha256": sha256("/usr/bin/id")}}]
    assert found["scope"] == {
        "argv": ["id", "-u"],
        "cwd": str(cli.work.resolve()),
        "uid": os.geteuid(),
        "env": {"pass": [], "set": {"PATH": DEFAULT_PATH}},
        "inputs": [],
    }
    assert found["bindings"] == {
        "hosts": [running.id],
        "host_labels": {},
        "requesters": [{"uid": os.geteuid()}],
    }
    assert found["environment"]["platform"] == "local"
    assert found["governance"]["min_version"] == running.trust.version
    assert found["attribution"]["requested_by"]
    validity = found["validity"]
    assert validity["max_uses"] == 1
    assert parse_time(validity["not_after"]) - parse_time(validity["not_before"]) == timedelta(hours=1)
    assert abs(parse_time(validity["not_before"]) - datetime.now(UTC)) < timedelta(minutes=5)
    assert found["enforcement"]["on_trust_loss"] == "kill"


def test_what_is_given(cli: Cli) -> None:
    Path("plan").write_text("x")
    found = issued(
        cli, "--ttl", "15m", "--max-uses", "unlimited", "--requester", "nobody", "--cwd", "/", "--host", "ab" * 32,
        "--env-pass", "LANG", "--env-set", "TZ=UTC", "--input", "plan", "--reason", "CHG-1", "--requested-by", "ci",
        "--on-behalf-of", "somebody", "--platform", "other", "--", "/usr/bin/id",
    )  # fmt: skip
    assert found["validity"]["max_uses"] is None
    assert found["scope"]["cwd"] == "/"
    assert found["scope"]["uid"] == 65534  # who asks is who it runs as
    assert found["bindings"]["requesters"] == [{"uid": 65534}]
    assert found["bindings"]["hosts"] == ["ab" * 32]
    assert found["scope"]["env"] == {"pass": ["LANG"], "set": {"PATH": DEFAULT_PATH, "TZ": "UTC"}}
    [pinned] = found["scope"]["inputs"]
    assert pinned == {"name": str(Path("plan").resolve()), "digest": {"sha256": sha256("plan")}}
    assert found["attribution"]["reason"] == "CHG-1"
    assert found["attribution"]["requested_by"] == "ci"
    assert found["attribution"]["on_behalf_of"] == "somebody"
    assert found["environment"]["platform"] == "other"
    assert issued(cli, "--requester", "nobody", "--uid", "7", "--", "id")["scope"]["uid"] == 7


@pytest.mark.parametrize(
    ("pattern", "example"),
    [
        ({"one_of": ["prod", "stage"]}, "prod"),
        ({"int": [1, 5]}, "3"),
        ({"prefix": "/srv/", "charset": "name", "max": 9}, "/srv/x"),
    ],
    ids=str,
)
def test_arguments_that_vary(pattern: dict[str, Any], example: str, cli: Cli) -> None:
    found = issued(cli, "--arg", f"2={json.dumps(pattern)}", "--", "echo", "-n", example)
    assert found["scope"]["argv"] == ["echo", "-n", pattern]
    refused = cli("authorization", "issue", "--arg", f"2={json.dumps(pattern)}", "--", "echo", "-n", "other")
    assert refused.status == 64
    assert "'other'" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--", "nonexistent"], "command not found"),
        (["--", "/etc/passwd"], "not executable"),
        (["--", "./missing-interpreter"], "command not found"),
        (["--", "./of-script"], "itself a script"),
        (["--", "./relative"], "absolute path"),
        (["--cwd", "nowhere", "--", "id"], "No such file"),
        (["--input", "nowhere", "--", "id"], "No such file"),
        (["--input", "/", "--", "id"], "regular file"),
        (["--env-set", "LD_PRELOAD=x", "--", "id"], "LD_PRELOAD"),
        (["--env-pass", "PYTHONPATH", "--", "id"], "PYTHONPATH"),
        (["--arg", '0={"int":[1,2]}', "--", "id", "1"], "arguments 1 to 1"),
        (["--arg", '2={"int":[1,2]}', "--", "id", "1"], "arguments 1 to 1"),
        (["--key", "nokey", "--", "id"], "nokey"),
        (
            ["--policy", "nopolicy", "--", "id"],
            "policy 'nopolicy' is not in force: choose with --policy (exec)",
        ),
        (["--policy", "team/exec", "--policy-digest", "current", "--", "id"], "choose with --policy (exec)"),
        (["--policy-digest", "ab", "--", "id"], "policy_digest"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_issued(arguments: list[str], words: str, cli: Cli) -> None:
    script("missing-interpreter", "#!/no/such/thing")
    script("of-script", f"#!{cli.work}/missing-interpreter")
    script("relative", "#!bin/sh")
    result = cli("authorization", "issue", *arguments)
    assert result.status in (64, 69), result
    assert words in result.stderr
    assert not list(cli.work.glob("*.auth.json"))


def test_a_policy_and_its_text_are_pinned(cli: Cli, running: Host) -> None:
    present = running.trust.policies.digest("exec")
    assert issued(cli, "--", "id")["governance"]["policy_digest"] is None
    found = issued(cli, "--policy", "exec", "--policy-digest", "current", "--", "id")["governance"]
    assert (found["policy"], found["policy_digest"]) == ("exec", present)
    assert running.exec("id", authorization=Path("out.auth.json").read_bytes(), cwd=cli.work).status == 0
    assert issued(cli, "--policy-digest", "ab" * 32, "--", "id")["governance"]["policy_digest"] == "ab" * 32
    denied = running.exec("id", authorization=Path("out.auth.json").read_bytes(), cwd=cli.work)
    assert "governance_mismatch" in denied.stderr


def script(name: str, first: str) -> Path:
    path = Path(name)
    path.write_text(f"{first}\nprint('ran')\n")
    path.chmod(0o755)
    return path


def test_a_script_pins_its_interpreters(cli: Cli) -> None:
    script("job", "#!/usr/bin/env python3")
    subjects = [item["name"] for item in issued(cli, "--", "./job")["subject"]]
    assert subjects == [
        str(Path("job").resolve()),
        os.path.realpath("/usr/bin/env"),
        os.path.realpath("/usr/bin/python3"),
    ]


def test_nothing_is_overwritten_unless_asked(cli: Cli) -> None:
    assert cli.ok("authorization", "issue", "--", "/usr/bin/id").status == 0
    first = Path("id.auth.json").read_bytes()
    refused = cli("authorization", "issue", "--", "/usr/bin/id", "-u")
    assert refused.status == 64
    assert "--force" in refused.stderr
    assert Path("id.auth.json").read_bytes() == first
    cli.ok("authorization", "issue", "--force", "--", "/usr/bin/id", "-u")
    assert Path("id.auth.json").read_bytes() != first


def test_issue_run_install_run(cli: Cli, running: Host) -> None:
    script("job", "#!/usr/bin/env python3")
    cli.ok("authorization", "issue", "--max-uses", "2", "-o", "job.auth.json", "--", "./job")
    data = Path("job.auth.json").read_bytes()
    here = {"cwd": cli.work}
    assert running.exec("./job", authorization=data, **here).stdout == b"ran\n"
    assert running.exec("./job", **here).status == 77
    answer = cli.ok("authorization", "install", "--json", "job.auth.json").json
    assert answer == {"id": parse_artifact(data).id, "everyone": False}
    assert running.exec("./job", **here).stdout == b"ran\n"
    assert running.exec("./job", **here).status == 77, "two uses"


def test_what_is_no_artifact_is_malformed(cli: Cli) -> None:
    Path("bad.auth.json").write_text("{}")
    for command in (["inspect"], ["verify"], ["install"], ["approve"]):
        result = cli("authorization", *command, "bad.auth.json")
        assert result.status == 65, command
        assert result.stdout == ""


def test_inspect_shows_everything(cli: Cli, running: Host) -> None:
    cli.ok(
        "authorization", "issue", "--reason", "because\x1b[31m", "--env-set", "TZ=UTC", "--arg", '1={"int":[1,9]}',
        "-o", "x.auth.json", "--", "sleep", "5",
    )  # fmt: skip
    shown = cli.ok("authorization", "inspect", "x.auth.json").stdout
    for words in (
        "an integer from 1 to 9", "TZ=UTC", f"PATH={DEFAULT_PATH}", running.id, "because\\u001b[31m", "59 min left",
        sha256("/usr/bin/sleep"), str(cli.work), "local, evidence at most 60 s old", "kill",
    ):  # fmt: skip
        assert words in shown
    assert "\x1b" not in shown
    whole = cli.ok("authorization", "inspect", "--json", "x.auth.json").json
    assert whole["statement"] == json.loads(parse_artifact(Path("x.auth.json").read_bytes()).envelope.payload)


def test_verify_says_who_signed(cli: Cli, running: Host) -> None:
    cli.ok("authorization", "issue", "--", "id")
    [key] = running.trust.authorities.rules[0].keys
    answer = cli.ok("authorization", "verify", "--json", "id.auth.json").json
    assert answer["verified"] is True
    assert answer["signed_by"] == [key.key_id]
    assert answer["rule"] == "local"
    assert (
        key.key_id
        in cli.ok("authorization", "verify", "--trust", running.layout.trust, "id.auth.json").stdout
    )


def test_a_stranger_signs_in_vain(cli: Cli) -> None:
    cli.ok("authority", "keygen", "--no-passphrase", "stranger")
    cli.ok("authorization", "issue", "--key", "stranger.pem", "--", "id")
    result = cli("authorization", "verify", "id.auth.json")
    assert result.status == 1
    assert "does NOT verify" in result.stdout
    assert "invalid_signature" in result.stderr
    failed = cli("authorization", "verify", "--json", "id.auth.json")
    assert failed.status == 1
    assert failed.json["verified"] is False
    # An authority of this host approves it: now it does.
    cli.ok("authorization", "approve", "--yes", "id.auth.json")
    assert cli.ok("authorization", "verify", "id.auth.json").status == 0
    assert cli("authorization", "approve", "--yes", "id.auth.json").status == 64, "each key counts once"


def test_approve_keeps_the_id_and_the_mode(cli: Cli) -> None:
    cli.ok("authority", "keygen", "--no-passphrase", "second")
    cli.ok("authorization", "issue", "--", "id")
    path = Path("id.auth.json")
    path.chmod(0o640)
    before = parse_artifact(path.read_bytes())
    cli.ok("authorization", "approve", "--yes", "--key", "second.pem", "-o", "both.auth.json", "id.auth.json")
    assert len(parse_artifact(path.read_bytes()).envelope.signatures) == 1
    cli.ok("authorization", "approve", "--yes", "--key", "second.pem", "id.auth.json")
    after = parse_artifact(path.read_bytes())
    assert after.id == before.id
    assert len(after.envelope.signatures) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert Path("both.auth.json").read_bytes() == path.read_bytes()
