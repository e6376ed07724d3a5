"""A secret goes through a whole host, allowed and denied: it is in no file, no log, and nothing that anybody is told."""

import json
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from attestd.authorization.pattern import ArgForm
from attestd.gate.concealment import concealed_places
from attestd.lineage.entry import EntryType
from attestd.strict import canonical
from tests.docs.forked import shared_command_line
from tests.host import Host, Result

PRINTF = "/usr/bin/printf"
ARGUMENT, TOKEN, WRONG = "hidd3nargument", "hidd3ntoken", "hidd3n-wrong"
CONTROL = "pla1nargument"
PATTERN = ArgForm(prefix="", charset="alnum", most=40)


def issue(host: Host, **members: Any) -> bytes:
    return host.issue(PRINTF, "%s", PATTERN, env_pass=["TOKEN"], **members)


def attestd(host: Host, *arguments: str, stdin: str = "") -> Result:
    """The command line in a process of its own."""
    done = subprocess.run(
        [shared_command_line(), *arguments], input=stdin.encode(), capture_output=True, check=False,
        env={"PATH": "/usr/bin:/bin", "ATTESTD_STATE_DIR": str(host.state)}, timeout=60,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr.decode())


def publish(host: Host, name: str, data: bytes) -> None:
    host.publish({name: data})
    time.sleep(0.1)  # seen within 20 ms


@pytest.fixture
def marked() -> Iterator[Host]:
    """A host whose governance calls an argument and a variable of one program secret."""
    with Host.create() as host:
        host.start()
        plain = host.exec(PRINTF, "%s", CONTROL, authorization=issue(host), env={"TOKEN": CONTROL})
        assert plain.stdout.decode() == CONTROL, plain
        host.wait_settled()
        authorities = json.loads(host.files()["authorities.json"])
        (rule,) = authorities["authorizations"]
        of_printf = {**rule, "name": "printf", "paths": [PRINTF], "secret": {"argv": [2], "env": ["TOKEN"]}}
        authorities |= {"version": authorities["version"] + 1, "authorizations": [of_printf, rule]}
        publish(host, "authorities.json", canonical(authorities))
        yield host


def holding(host: Host, value: str) -> list[str]:
    """The files of a host that hold a value."""
    files = [path for path in host.top.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 20
    return [str(path) for path in files if value.encode() in path.read_bytes()]


def test_a_secret_is_nowhere(marked: Host) -> None:
    artifact, told = issue(marked), []
    receipt = marked.top / "s.tlog-proof"
    env = {"TOKEN": TOKEN}
    allowed = marked.exec(
        PRINTF, "%s", ARGUMENT, authorization=artifact, env=env, options=["--receipt", str(receipt)]
    )
    assert (allowed.status, allowed.stdout.decode()) == (0, ARGUMENT), allowed
    verified = marked.verify_receipt(receipt.read_bytes())
    assert verified.entry.type is EntryType.DECISION_ALLOW
    assert set(concealed_places(verified.entry.body)) == {"argv[2]", "env:TOKEN"}

    def denied(*argv: str, code: str, authorization: bytes | None = artifact) -> None:
        for mode in ("exec", "check"):
            result = marked.exec(*argv, authorization=authorization, env=env, mode=mode, options=["--json"])
            assert code in result.stderr + result.stdout.decode(), result
            told.append(result.stderr + result.stdout.decode())

    expired = issue(marked, now=datetime.now(UTC) - timedelta(hours=1), ttl_s=60)
    denied(PRINTF, "%s", WRONG, code="scope_violation")
    denied(PRINTF, ARGUMENT, code="scope_violation")
    denied(PRINTF, "%s", "x", ARGUMENT, code="scope_violation")
    denied(PRINTF, "%s", ARGUMENT, code="missing_authorization", authorization=None)
    denied(PRINTF, "%s", ARGUMENT, code="malformed_authorization", authorization=b"{}")
    denied(PRINTF, "%s", ARGUMENT, code="expired", authorization=expired)
    policies = marked.files()["policy/exec.cedar"]
    forbid = b'@id("no") forbid (principal, action, resource) when { context.command_line like "*%s*" };\n'
    publish(marked, "policy/exec.cedar", policies + forbid)
    denied(PRINTF, "%s", ARGUMENT, code="policy_conflict")
    publish(marked, "policy/exec.cedar", policies)
    timestamp = marked.layout.trust / "metadata/timestamp.json"
    good = timestamp.read_bytes()
    timestamp.write_bytes(b"{}")
    denied(PRINTF, "%s", ARGUMENT, code="governance_mismatch")
    timestamp.write_bytes(good)
    marked.wait_settled()

    decisions = marked.entries(EntryType.DECISION_ALLOW, EntryType.DECISION_DENY)
    assert len(decisions) >= 8
    told += [attestd(marked, "why", str(entry.seq)).stdout.decode() for entry in decisions]
    commands = (
        "audit tail -n 100",
        "audit tail -n 100 --json",
        "doctor",
        "status",
        "governance replay",
        "audit verify",
    )
    for command in commands:
        result = attestd(marked, *command.split())
        assert result.stdout, result
        told.append(result.stdout.decode() + result.stderr)
    told += [marked.agent_log, marked.runner_log]
    assert CONTROL in "".join(told), "what is not secret is told"
    assert holding(marked, CONTROL), "and it is in the log"
    for value in (ARGUMENT, TOKEN, WRONG):
        assert holding(marked, value) == []
        assert not any(value in words for words in told)
    marked.require_sound()


def test_who_has_the_salt_can_say_whether_it_was_this_value(marked: Host) -> None:
    for _ in range(2):
        result = marked.exec(PRINTF, "%s", ARGUMENT, authorization=issue(marked), env={"TOKEN": TOKEN})
        assert result.status == 0, result
    plain, first, second = marked.entries(EntryType.DECISION_ALLOW)
    assert first.body["argv"][2] != second.body["argv"][2], "a salt a decision"
    assert marked.layout.salt_key.stat().st_mode & 0o777 == 0o600
    for place, value in (("argv[2]", ARGUMENT), ("env:TOKEN", f"{TOKEN}\n")):
        result = attestd(marked, "audit", "confirm", str(first.seq), place, stdin=value)
        assert (result.status, "was this value" in result.stdout.decode()) == (0, True), result
    other = attestd(marked, "audit", "confirm", "--json", str(first.seq), "argv[2]", stdin=WRONG)
    assert (other.status, json.loads(other.stdout)["confirmed"]) == (1, False)
    for seq, place, words in (
        (first.seq, "argv[1]", "expected one of argv[2], env:TOKEN"),
        (plain.seq, "argv[2]", "it conceals nothing"),
    ):
        result = attestd(marked, "audit", "confirm", str(seq), place, stdin=ARGUMENT)
        assert result.status == 64
        assert words in result.stderr
    marked.layout.salt_key.chmod(0o644)
    result = attestd(marked, "audit", "confirm", str(first.seq), "argv[2]", stdin=ARGUMENT)
    assert "others can read it" in result.stderr
    marked.layout.salt_key.unlink()
    assert "No such file" in attestd(marked, "audit", "confirm", str(first.seq), "argv[2]").stderr


def test_the_key_stays(marked: Host) -> None:
    before = marked.layout.salt_key.read_bytes()
    marked.stop()
    marked.start()
    assert marked.layout.salt_key.read_bytes() == before
    marked.stop()
    marked.layout.salt_key.write_bytes(b"short")
    refused = attestd(marked, "serve")
    assert refused.status != 0
    assert "salt.key: expected 32 bytes, found 5" in refused.stderr
