"""`attestd audit` and `attestd why`: the log, read with and without an agent."""

import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attestd.gate.model import CHECKS
from attestd.lineage.entry import EntryType
from tests.cli.conftest import Cli, ran
from tests.host import Host


def test_tail(cli: Cli, running: Host) -> None:
    every = running.entries()
    lines = cli.ok("audit", "tail", "-n", "3").stdout.splitlines()
    assert len(lines) == 3
    assert str(every[-1].seq) in lines[-1] or len(running.entries()) > len(every)
    assert cli.ok("audit", "tail", "-n", "0").stdout == ""
    objects = [
        json.loads(line) for line in cli.ok("audit", "tail", "-n", "1000", "--json").stdout.splitlines()
    ]
    assert [item["seq"] for item in objects] == list(range(len(objects)))
    assert objects[0]["type"] == "log.start"
    assert [item["id"] for item in objects][: len(every)] == [item.id for item in every]
    shown = cli.ok("audit", "tail", "-n", "1000").stdout
    assert "missing_authorization: root (0): /usr/bin/id" in shown or os.geteuid() != 0
    assert f"entry {ran(running)} ended with status 0" in shown


def test_tail_follows(cli: Cli, running: Host) -> None:
    command = [sys.executable, "-I", "-m", "attestd", "audit", "tail", "-f", "-n", "1", "--json"]
    environment = {"PATH": "/usr/bin:/bin", "ATTESTD_STATE_DIR": str(running.state)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert running.exec("/usr/bin/env", "new").status == 77
        deadline = time.monotonic() + 60
        found = b""
        while b'"new"' not in found:
            assert select.select([process.stdout], [], [], deadline - time.monotonic())[0], found
            found += os.read(process.stdout.fileno(), 65536)
        process.send_signal(2)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == b"attestd: interrupted\n"


def test_show(cli: Cli, running: Host) -> None:
    number = ran(running)
    entry = running.entries()[int(number)]
    for wanted in (number, entry.id):
        found = cli.ok("audit", "show", wanted, "--json").json
        assert found["id"] == entry.id
        assert found["body"] == entry.body
    assert entry.id in cli.ok("audit", "show", number).stdout
    size = len(running.entries())
    for wanted, words in (
        ("999999", f"no entry 999999 in the log, which has {size} entries"),
        ("zz", "neither"),
        ("ab" * 32, "no entry"),
    ):
        result = cli("audit", "show", wanted)
        assert result.status == 64
        assert words in result.stderr


def test_why_explains_every_check(cli: Cli, running: Host) -> None:
    denied = next(item for item in running.entries(EntryType.DECISION_DENY))
    found = cli.ok("why", denied.id, "--json").json
    assert found["decision"] == "deny"
    assert found["code"] == "missing_authorization"
    assert [check["name"] for check in found["checks"]] == list(CHECKS)
    assert found["checks"][0]["outcome"] == "rejected"
    assert {check["outcome"] for check in found["checks"][1:]} == {"not_evaluated"}
    shown = cli.ok("why", str(denied.seq)).stdout
    assert "DENIED: missing_authorization" in shown
    assert found["hint"] in shown
    for name in CHECKS:
        assert name in shown
    allowed = cli.ok("why", ran(running), "--json").json
    assert allowed["decision"] == "allow"
    assert {check["outcome"] for check in allowed["checks"]} == {"verified"}


def test_why_from_a_receipt(cli: Cli, running: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.ok("audit", "prove", ran(running), "-o", "run.tlog-proof")
    monkeypatch.setenv("ATTESTD_STATE_DIR", "/nonexistent")
    assert cli.ok("why", "run.tlog-proof", "--json").json["source"] == "the receipt run.tlog-proof"
    assert "ALLOWED" in cli.ok("why", "./run.tlog-proof").stdout
    Path("bad.tlog-proof").write_text("nonsense")
    assert cli("why", "bad.tlog-proof").status == 65
    assert cli("why", "nothere.tlog-proof").status == 64
    assert cli("why", "2").status == 69


def test_a_denial_says_how_to_ask_why(cli: Cli, running: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    said = running.exec("/usr/bin/env", "denied").stderr.splitlines()[-1]
    seq = running.entries(EntryType.DECISION_DENY)[-1].seq
    assert said == f"attestd: recorded as entry {seq}: `attestd why {seq}` shows each check"
    found = cli.ok("why", "--json").json
    assert (found["seq"], found["source"]) == (seq, "the agent")
    monkeypatch.setenv("ATTESTD_SOCKET", "/nonexistent")
    found = cli.ok("why", "--json").json
    assert (found["seq"], found["source"]) == (seq, f"the log {running.layout.log}")


def test_why_is_about_decisions(cli: Cli) -> None:
    result = cli("why", "0")
    assert result.status == 64
    assert "log.start" in result.stderr


def test_verify_compares_with_the_tpm(cli: Cli, running: Host) -> None:
    found = cli.ok("audit", "verify", "--json").json
    assert found["verified"] is True
    assert int(found["counter"], 16) > 0
    assert found["size"] == len(running.entries())
    assert "it is the newest" in cli.ok("audit", "verify").stdout


def test_without_an_agent_the_file_is_read(own: Host, own_cli: Cli) -> None:
    assert own_cli.ok("audit", "show", "0", "--json").json["source"].startswith("the log ")
    assert "log.start" in own_cli.ok("audit", "tail").stdout
    verified = own_cli.ok("audit", "verify", "--json")
    assert verified.json["counter"] is None
    assert "not compared with the TPM" in verified.stderr
    own.layout.log.unlink()
    for command in (["tail"], ["show", "0"], ["verify"], ["prove", "0"], ["export", "x"]):
        assert own_cli("audit", *command).status == 69


def test_a_log_that_was_rolled_back(own: Host, own_cli: Cli, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for path in own.layout.agent.glob("log.db*"):
        shutil.copy2(path, kept)
    own.start()
    own_cli.ok("audit", "verify")
    # The agent goes on with its open file; whoever reads the path finds the old copy.
    for path in own.layout.agent.glob("log.db*"):
        path.unlink()
    for path in kept.iterdir():
        shutil.copy2(path, own.layout.agent)
    result = own_cli("audit", "verify")
    assert result.status == 1
    assert "rolled back" in result.stderr


def test_export_needs_a_new_directory(cli: Cli) -> None:
    answer = cli.ok("audit", "export", "log", "--json").json
    assert answer["size"] > 2
    assert (Path("log") / "checkpoint").exists()
    assert cli("audit", "export", "log").status == 64


def test_prove_to_stdout(cli: Cli, running: Host) -> None:
    assert cli.ok("audit", "prove", "2").stdout.encode() == running.receipt(2)
    cli.ok("audit", "prove", "2", "-o", "r")
    assert cli("audit", "prove", "2", "-o", "r").status == 64
    cli.ok("audit", "prove", "2", "-o", "r", "--force")
