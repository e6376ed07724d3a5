"""`attestd platform`, `status`, `doctor`: measured, refused, approved, and what the doctor says meanwhile."""

import hashlib
import io
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestd.agent.findings import of_status
from tests.cli.conftest import Cli
from tests.host import Host


def test_from_measurement_to_approval(own: Host, own_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    own.start()
    cli, command = own_cli, ("/usr/bin/id", "-u")
    assert cli.ok("platform", "show", "--json").json["approved"] is True
    assert own.run(*command).status == 0
    receipt = cli.ok("audit", "prove", "2").stdout
    Path("measured").write_bytes(b"something new")

    extended = cli.ok("platform", "extend", "--pcr", "11", "measured")
    assert hashlib.sha256(b"something new").hexdigest() in extended.stdout
    assert "refuses to release" in extended.stderr
    shown = cli.ok("platform", "show").stdout
    assert "NOT APPROVED" in shown
    found = cli.ok("platform", "show", "--json").json
    assert found["approved"] is False
    changed = [index for index, pcr in found["pcrs"].items() if pcr["now"] not in pcr["approved"]]
    assert changed == ["11"]
    assert own.run(*command).status == 77
    sick = cli("doctor", "--json")
    assert sick.status == 1
    [finding] = sick.json["findings"]
    assert finding["area"] == "platform local"
    assert "platform approve" in finding["remedy"]

    monkeypatch.setattr("sys.stdin", io.StringIO())
    refused = cli("platform", "approve")
    assert refused.status == 64, "nobody said yes"
    assert cli.ok("platform", "show", "--json").json["version"] == 1
    approved = cli.ok("platform", "approve", "--yes", "--json")
    assert approved.json["version"] == 2
    assert approved.json["pcrs"]["11"]["now"] in approved.stderr, "what is signed is shown first"
    assert own.run(*command).status == 0
    assert "approved already" in cli.ok("platform", "approve").stderr
    assert cli.ok("doctor").stdout.endswith("healthy\n")
    # Receipts of the first version still verify: it is in the history.
    Path("old.tlog-proof").write_text(receipt)
    cli.ok("verify", "receipt", "old.tlog-proof", "--trust", own.layout.trust)
    assert own.stop() == 0


def test_extend_by_digest_outside_the_policy(cli: Cli) -> None:
    result = cli.ok("platform", "extend", "--pcr", "23", "--digest", "ab" * 32, "--json")
    assert result.json == {"pcr": 23, "sha256": "ab" * 32}
    assert result.stderr == ""
    assert cli("platform", "extend", "--pcr", "23", "--digest", "abcd").status == 64


def test_another_key_approves_nothing(own: Host, own_cli: Cli) -> None:
    own.start()
    own.extend(11)
    before = own.trust.digest
    own_cli.ok("authority", "keygen", "--no-passphrase", "--kind", "p256", "other")
    result = own_cli("platform", "approve", "--yes", "--key", "other.pem")
    assert result.status == 64
    assert "no platform authority" in result.stderr
    assert own.trust.digest == before
    assert not own.trust.history


def test_without_an_agent_the_tpm_is_read(own: Host, own_cli: Cli) -> None:
    found = own_cli.ok("platform", "show", "--json").json
    assert found["attested"] is False
    assert found["approved"] is True
    assert "no agent answers" in own_cli.ok("platform", "show").stdout
    assert own_cli("platform", "show", "--platform", "other").status == 64


def test_status(cli: Cli, running: Host) -> None:
    status = cli.ok("status", "--json").json
    assert status["agent"]["host"] == running.id
    assert status["log"]["counter"] == status["log"]["tpm_counter"]
    assert status["runner"]["pid"] == running.runner_pid
    shown = cli.ok("status").stdout
    for words in (running.id, "approved", "software", "of 3 failures", str(running.layout.log)):
        assert words in shown


def test_status_of_a_sick_host(cli: Cli, running: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    status = running.status()
    denial = {"code": "agent_unavailable", "sentence": "no runner", "hint": "start it"}
    status["runner"] = {}
    status["conditions"]["runner"] = denial
    status["clock"]["problem"] = "the wall clock is behind"
    status["tpm"] = {"error": "no answer within 10 s"}
    status["log"]["verified"] = {"problem": "leaf 3 was edited", "size": 0, "time": ""}
    status["platforms"] = {
        "local": {"state": "not approved", "findings": ["PCR 11 differs", "PCR 12 differs"]}
    }
    monkeypatch.setattr("attestd.agent.ask.AgentSocket.ask", lambda *_, **__: status)
    shown = cli.ok("status").stdout
    for words in (
        "does not answer",
        "start it",
        "clock is behind",
        "within 10 s",
        "leaf 3",
        "PCR 11 differs\n",
        "PCR 12",
    ):
        assert words in shown
    status["governance"] = {"error": "authorities.json is missing"}
    status["log"] |= {"verified": {}, "fatal": "rolled back"}
    shown = cli.ok("status").stdout
    assert "authorities.json is missing" in shown
    assert "rolled back" in shown


def test_quote(cli: Cli) -> None:
    first, second = (json.loads(cli.ok("quote").stdout) for _ in range(2))
    assert first["challenge"] != second["challenge"]
    cli.ok("quote", "-o", "q.json")
    assert cli("quote", "-o", "q.json").status == 64
    assert cli("quote", "--platform", "other").status == 64


def findings(cli: Cli) -> dict[str, str]:
    result = cli("doctor", "--json")
    assert result.status == (1 if result.json["findings"] else 0)
    assert result.json["healthy"] is (result.status == 0)
    assert all(finding["remedy"] for finding in result.json["findings"])
    return {finding["area"]: finding["found"] for finding in result.json["findings"]}


def test_a_healthy_host(cli: Cli) -> None:
    assert findings(cli) == {}


def test_doctor_without_an_agent(own: Host, own_cli: Cli) -> None:
    assert findings(own_cli).keys() == {"agent"}
    own.layout.keys.chmod(0o644)
    assert "0644" in findings(own_cli)["files"]
    own.layout.keys.chmod(0o600)
    [record] = (own.layout.trust / "targets/hosts").iterdir()
    whole = record.read_bytes()
    record.write_bytes(b"")
    found = findings(own_cli)
    assert "the record of this host is published, but cannot be read here: " in found["governance"]
    assert "log" not in found
    record.write_bytes(whole)
    assert "governance" not in findings(own_cli)
    (own.layout.trust / "metadata" / "timestamp.json").unlink()
    assert "timestamp.json" in findings(own_cli)["trust"]
    (own.layout.trust / "metadata" / "timestamp.json").mkdir()
    own.layout.log.unlink()
    assert "does not exist" in findings(own_cli)["log"]
    own.layout.host.unlink()
    assert "is missing" in findings(own_cli)["files"]
    shutil.rmtree(own.layout.agent)
    assert "No such file" in findings(own_cli)["log"]
    assert own_cli("status").status == 69


def test_doctor_looks_at_the_record_on_disk(running: Host, cli: Cli) -> None:
    """The agent goes by what it has read, until it starts again."""
    [record] = (running.layout.trust / "targets/hosts").glob(f"*.{running.id}.json")
    away = record.rename(record.with_name("away"))
    try:
        found = findings(cli)
    finally:
        away.rename(record)
    assert found.keys() == {"governance"}
    assert "cannot be read here" in found["governance"]
    assert not findings(cli)


def test_doctor_where_nothing_is(nowhere: Cli) -> None:
    assert findings(nowhere).keys() == {"installation"}


def test_doctor_sees_what_governance_took_back(own: Host, own_cli: Cli) -> None:
    own.revoke(epoch=2)
    assert "approves no state at epoch 2" in findings(own_cli)["platform local"]
    record = own.trust.hosts[own.id]
    own.revoke(keys=list(record.enrollers))
    words = "does not verify: host record: every enroller key is revoked"
    assert f"the record of this host is published, but {words}" in findings(own_cli)["governance"]
    refused = own_cli("init")
    assert refused.status == 1, refused
    assert f"governance has no usable record of host {own.id}: host record: every enroller" in refused.stderr


def test_doctor_sees_a_full_disk(own_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTESTD_DISK_RESERVE_MB", str(1 << 20))
    assert "every decision is denied" in findings(own_cli)["disk"]


SOON = "2020-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("member", "value", "area"),
    [
        ("runner", {}, "runner"),
        ("runner", {"version": "9"}, "runner"),
        ("tpm", {"error": "no answer"}, "TPM"),
        ("tpm", {"in_lockout": True, "lockout_counter": 3, "max_auth_fail": 3}, "TPM lockout"),
        ("tpm", {"self_test": "failure mode"}, "TPM self test"),
        ("tpm", {"transient_free": 0}, "TPM objects"),
        ("tpm", {"sessions_free": 0}, "TPM sessions"),
        ("tpm", {"nv_counters_free": 0}, "TPM NV"),
        ("tpm", {"epoch": None}, "epoch"),
        ("tpm", {"epoch": 2}, "epoch"),
        ("governance", {"epoch": 2}, "epoch"),
        ("governance", {"error": "does not verify"}, "governance"),
        ("governance", {"host_record_until": None}, "governance"),
        ("governance", {"host_record_until": SOON}, "governance"),
        (
            "governance",
            {"host_record_until": None, "host_record_fault": {"reason": "r", "refused": True}},
            "governance",
        ),
        (
            "governance",
            {"host_record_until": None, "host_record_fault": {"reason": "r", "refused": False}},
            "governance",
        ),
        ("governance", {"platforms_until": {"local": SOON}}, "governance"),
        ("clock", {"problem": "behind"}, "clock"),
        ("log", {"fatal": "rolled back"}, "audit log"),
        ("log", {"verified": {"problem": "edited", "size": 0}}, "audit log"),
        ("disk", {"free": 1}, "disk"),
        ("conditions", {"tpm": {"code": "c", "sentence": "wedged", "hint": "h"}}, "tpm"),
    ],
)
def test_what_the_doctor_reads_in_the_status(
    member: str, value: dict[str, object], area: str, running: Host
) -> None:
    healthy, now = running.status(), datetime.now(UTC)
    assert not [item for item in of_status(healthy, now=now) if item.remedy]
    changed = {**healthy, member: {**healthy[member], **value} if value else {}}
    assert [item.area for item in of_status(changed, now=now) if item.remedy] == [area]


def test_the_epoch_of_the_tpm_is_shown(cli: Cli, running: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    status = running.status()
    assert status["tpm"]["epoch"] == status["governance"]["epoch"] == 1
    for held, words in ((None, "releases nothing"), (7, "7, governance says 1"), (1, "1")):
        changed = {**status, "tpm": {**status["tpm"], "epoch": held}}
        monkeypatch.setattr("attestd.agent.ask.AgentSocket.ask", lambda *_, changed=changed, **__: changed)
        line = next(line for line in cli.ok("status").stdout.splitlines() if line.strip().startswith("epoch"))
        assert line.split(maxsplit=1)[1].endswith(words)


def test_being_verified_is_healthy(running: Host) -> None:
    status = running.status()
    found = of_status({**status, "log": {**status["log"], "verified": {}}}, now=datetime.now(UTC))
    [audit] = [item for item in found if item.area == "audit log"]
    assert audit.found.endswith(", being verified")
    assert audit.remedy is None


def test_accept_clock(cli: Cli, running: Host) -> None:
    result = cli.ok("doctor", "--accept-clock")
    assert "the clock is accepted" in result.stdout
    assert "clock accepted" in [entry.body.get("what") for entry in running.entries()]


def test_quorums_of_a_platform_policy(own_cli: Cli, own: Host) -> None:
    changed = own_cli.ok("platform", "rules", "--verifiers", "1", "--witnesses", "2", "--yes")
    said = " ".join(changed.stderr.split())
    assert "platform policy local: verifiers 0 -> 1" in said
    assert "a quorum of 1 verifier, and mesh.json has 0: everything is denied" in said
    assert "a quorum of 2 witnesses, and mesh.json has 0" in said
    policy = own.trust.platforms["local"]
    assert (policy.verifier_quorum, policy.witness_quorum) == (1, 2)
    assert own_cli.ok("platform", "rules", "--json").json["quorums"] == {"verifiers": 1, "witnesses": 2}
    lowered = own_cli.ok("platform", "rules", "--witnesses", "0", "--yes")
    assert "1 verifier, 0 witnesses" in lowered.stdout
    assert "already" in own_cli.ok("platform", "rules", "--verifiers", "1").stderr
    assert own_cli("platform", "rules", "--verifiers", "17").status == 64
