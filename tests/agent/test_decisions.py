"""What is denied, why, and what stands in the log afterwards; through the real client."""

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from attestd.lineage.entry import EntryType
from tests.agent.test_exec import denied
from tests.host import Host, ask, wait_for

NOBODY = 65534


def recorded(host: Host, code: str) -> dict[str, object]:
    """The last denial, which must have this code."""
    body = host.entries(EntryType.DECISION_DENY)[-1].body
    assert body["code"] == code
    return body


def test_nothing_given_and_nothing_installed(shared: Host) -> None:
    result = shared.exec("/bin/true", options=["--json"])
    assert result.status == 77
    decision = result.json
    assert (decision["decision"], decision["code"], decision["exit"]) == ("deny", "missing_authorization", 77)
    body = recorded(shared, "missing_authorization")
    assert decision["body"] == body
    assert [check["outcome"] for check in body["checks"]] == ["rejected", *["not_evaluated"] * 15]  # type: ignore[attr-defined]


def test_denial_has_a_receipt(shared: Host) -> None:
    receipt = shared.top / "denied"
    shared.exec("/bin/true", options=["--receipt", str(receipt)])
    verified = shared.verify_receipt(receipt.read_bytes())
    assert verified.entry.type is EntryType.DECISION_DENY
    assert verified.approval is None


@pytest.mark.parametrize("uses", [1, 3])
def test_artifact_is_used_up(shared: Host, uses: int) -> None:
    artifact = shared.issue("/bin/echo", str(uses), max_uses=uses)
    for _ in range(uses):
        assert shared.exec("/bin/echo", str(uses), authorization=artifact).status == 0
    denied(shared.exec("/bin/echo", str(uses), authorization=artifact), "uses_exhausted")


def test_one_use_that_many_want_at_once(shared: Host) -> None:
    artifact = shared.issue("/bin/echo", "once", max_uses=1)
    clients = [shared.client("/bin/echo", "once", authorization=artifact) for _ in range(8)]
    results = [shared.finish(client) for client in clients]
    assert sorted(result.status for result in results) == [0] + [77] * 7
    assert sum(result.stdout == b"once\n" for result in results) == 1


def test_expired(shared: Host) -> None:
    artifact = shared.issue("/bin/true", now=datetime.now(UTC) - timedelta(seconds=100), ttl_s=60)
    denied(shared.exec("/bin/true", authorization=artifact), "expired")


def test_not_yet_valid(shared: Host) -> None:
    artifact = shared.issue("/bin/true", now=datetime.now(UTC) + timedelta(seconds=60))
    denied(shared.exec("/bin/true", authorization=artifact), "not_yet_valid")


def test_artifact_of_another_host(shared: Host) -> None:
    artifact = shared.issue("/bin/true", host_id="ab" * 32)
    assert shared.id in denied(shared.exec("/bin/true", authorization=artifact), "identity_mismatch")


def test_artifact_that_no_authority_signed(shared: Host) -> None:
    denied(
        shared.exec("/bin/true", authorization=shared.issue("/bin/true", signer="epoch")), "invalid_signature"
    )


def test_artifact_that_was_edited(shared: Host) -> None:
    envelope = json.loads(shared.issue("/bin/true"))
    signature = envelope["signatures"][0]["sig"]
    envelope["signatures"][0]["sig"] = ("A" if signature[0] != "A" else "B") + signature[1:]
    denied(shared.exec("/bin/true", authorization=json.dumps(envelope).encode()), "invalid_signature")


@pytest.mark.parametrize("data", [b"", b"{}", b"\0", b"[" * 10_000])
def test_artifact_that_is_none(shared: Host, data: bytes) -> None:
    denied(shared.exec("/bin/true", authorization=data), "malformed_authorization", status=65)
    recorded(shared, "malformed_authorization")


def test_artifact_over_the_limit(shared: Host) -> None:
    denied(shared.exec("/bin/true", authorization=b"{" * 300_000), "malformed_authorization", status=65)


def test_check_decides_and_neither_runs_nor_records(shared: Host) -> None:
    before = len(shared.entries())
    argv = ("/usr/bin/touch", str(shared.work / "made"))
    result = shared.exec(
        *argv, mode="check", authorization=shared.issue(*argv, max_uses=1), options=["--json"]
    )
    decision = json.loads(result.stdout)
    assert (result.status, decision["decision"], decision["id"]) == (0, "allow", None)
    result = shared.exec(*argv, mode="check", options=["--json"])
    assert (result.status, json.loads(result.stdout)["code"]) == (77, "missing_authorization")
    assert not (shared.work / "made").exists()
    assert [item.type for item in shared.entries()[before:] if item.type.startswith("decision")] == []


def test_installed_artifacts_are_found_newest_first(host: Host) -> None:
    first, second = host.issue("/bin/echo", "1"), host.issue("/bin/echo", {"one_of": ["2", "3"]})
    for artifact in (first, second):
        assert "ok" in host.ask("install", artifact=artifact.decode())
    assert host.exec("/bin/echo", "1").stdout == b"1\n"
    assert host.exec("/bin/echo", "3").stdout == b"3\n"
    denied(host.exec("/bin/echo", "4"), "scope_violation")


def test_file_replaced_between_open_and_exec_is_not_what_runs(shared: Host) -> None:
    """The client opens the file once: what has its name later is nobody's business, and its bytes never run."""
    tool, other = shared.work / "swapped", shared.work / "other"
    shutil.copy("/bin/true", tool)
    shutil.copy("/bin/false", other)
    artifact = shared.issue(str(tool))
    stop = False

    def swap() -> None:
        while not stop:
            for source in ("/bin/false", "/bin/true"):
                shutil.copy(source, other)
                other.rename(tool)

    with ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(swap)
        try:
            results = [shared.exec(str(tool), authorization=artifact) for _ in range(25)]
        finally:
            stop = True
        swapping.result()
    assert {result.status for result in results} <= {0, 77}, results  # /bin/false (1) never ran
    shared.wait_settled()


def test_file_rewritten_while_it_is_hashed_is_not_what_runs(shared: Host) -> None:
    tool = shared.work / "rewritten"
    good, bad = Path("/bin/true").read_bytes(), Path("/bin/false").read_bytes()
    tool.write_bytes(good)
    tool.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(tool, NOBODY, NOBODY)  # what is root's is not copied: root may change what root runs
    artifact = shared.issue(str(tool))
    stop = False

    def rewrite() -> None:
        descriptor = os.open(tool, os.O_WRONLY)
        while not stop:
            for data in (bad, good):
                os.pwrite(descriptor, data, 0)
                time.sleep(0.002)
        os.close(descriptor)

    with ThreadPoolExecutor(1) as pool:
        rewriting = pool.submit(rewrite)
        try:
            # A file that is open for writing cannot be executed: only the runner's copy of it can.
            results = [shared.exec(str(tool), authorization=artifact) for _ in range(25)]
        finally:
            stop = True
        rewriting.result()
    assert {result.status for result in results} <= {0, 77}, results


# -- other requesters ---------------------------------------------------------------------------------------------------


@pytest.fixture
def reachable(host: Host) -> Host:
    """A host whose socket, like the service's, everybody can reach."""
    for path in (host.top, host.state, host.layout.agent_socket.parent, host.work):
        path.chmod(0o711)
    host.layout.agent_socket.chmod(0o666)
    return host


AS_NOBODY = ["/usr/bin/setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user")
def test_other_requester_than_the_artifact_names(reachable: Host) -> None:
    result = reachable.exec("/bin/true", authorization=reachable.issue("/bin/true"), prefix=AS_NOBODY)
    assert str(NOBODY) in denied(result, "identity_mismatch")
    assert recorded(reachable, "identity_mismatch")["requester"] == {"uid": NOBODY}


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user")
def test_command_runs_as_the_authorized_user_with_that_users_groups(reachable: Host) -> None:
    artifact = reachable.issue("/usr/bin/id", requester_uid=NOBODY, uid=NOBODY)
    result = reachable.exec("/usr/bin/id", authorization=artifact, prefix=AS_NOBODY)
    assert (
        result.stdout.decode().strip()
        == f"uid={NOBODY}(nobody) gid={NOBODY}(nogroup) groups={NOBODY}(nogroup)"
    )
    privileged = reachable.issue("/usr/bin/id", "-u", requester_uid=NOBODY, uid=0)
    assert reachable.exec("/usr/bin/id", "-u", authorization=privileged, prefix=AS_NOBODY).stdout == b"0\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user")
def test_others_installed_artifacts_and_operations_are_not_for_everybody(reachable: Host) -> None:
    assert "ok" in reachable.ask("install", artifact=reachable.issue("/bin/true").decode())
    denied(reachable.exec("/bin/true", prefix=AS_NOBODY), "missing_authorization")
    script = (
        "import sys; from tests.host import ask; from pathlib import Path; import json\n"
        f"path = Path({str(reachable.layout.agent_socket)!r})\n"
        "print(json.dumps([ask(path, request) for request in json.loads(sys.argv[1])]))"
    )
    own = reachable.entries(EntryType.DECISION_DENY)[-1]
    denied(reachable.exec("/bin/echo"), "missing_authorization")
    requests = [
        {"op": "extend", "pcr": 16, "data": "A" * 43 + "="},
        {"op": "accept_clock"},
        {"op": "install", "everyone": True, "artifact": "{}"},
        {"op": "decision", "id": "0"},
        {"op": "decision", "id": own.id},
        {"op": "decision"},
        {"op": "status"},
    ]
    output = subprocess.check_output(
        [*AS_NOBODY, sys.executable, "-c", script, json.dumps(requests)],
        cwd=Path(__file__).parent.parent.parent,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    answers = json.loads(output)
    assert [answer.get("error", {}).get("kind") for answer in answers] == ["forbidden"] * 4 + [None] * 3
    assert answers[4]["ok"]["seq"] == answers[5]["ok"]["seq"] == own.seq


# -- floods -------------------------------------------------------------------------------------------------------------


def test_flood_of_denials_is_aggregated(host: Host) -> None:
    results = [host.exec("/bin/true", options=["--json"]) for _ in range(26)]
    assert {result.status for result in results} == {77}
    ids = [result.json["id"] for result in results]
    assert all(ids[:20])
    assert ids[20:] == [None] * 6
    assert [("has no receipt" in result.json["hint"]) for result in results] == [False] * 20 + [True] * 6
    receipt = host.top / "none"
    host.exec("/bin/true", options=["--receipt", str(receipt)])
    assert not receipt.exists()
    assert len(host.entries(EntryType.DECISION_DENY)) == 20
    assert host.run("/bin/true").status == 0  # others' denials do not keep the authorized from running
    host.wait_settled()
    assert host.stop() == 0  # which flushes what would be sealed every 10 s
    aggregated = [item.body for item in host.entries(EntryType.DENIALS_AGGREGATED)]
    assert {body["uid"] for body in aggregated} == {os.geteuid()}
    assert sum(body["codes"].pop("missing_authorization") for body in aggregated) == 7
    assert not any(body["codes"] for body in aggregated)
    assert len(aggregated) < 4, "every 10 s one"


# -- environment and governance --------------------------------------------------------------------------------------------


def test_changed_pcr_until_an_authority_approves_it(host: Host) -> None:
    artifact = host.issue("/bin/echo", "x")
    assert host.exec("/bin/echo", "x", authorization=artifact).status == 0
    host.extend(7)
    # The agent's evidence is still the old one: it decides to allow, and the TPM itself refuses to release.
    result = host.exec("/bin/echo", "x", authorization=artifact, options=["--json"])
    assert (result.status, result.json["code"]) == (77, "environment_untrusted")
    assert "refuses" in result.json["sentence"]
    seq = result.json["seq"]
    verified = host.verify_receipt(host.receipt(seq))
    assert (verified.entry.type, verified.at.released) == (EntryType.DECISION_DENY, False)
    assert verified.at.checkpoint.batch.mode == "record"
    # From then on it knows, and decides so itself.
    sentence = denied(host.exec("/bin/echo", "x", authorization=artifact), "environment_untrusted")
    assert "7" in sentence
    host.approve_present_state()
    assert host.exec("/bin/echo", "x", authorization=artifact).stdout == b"x\n"
    host.wait_entry(EntryType.GOVERNANCE_UPDATE)
    host.wait_settled()
    host.require_sound()


def test_edited_trust_directory_denies_everything_until_it_is_put_right(host: Host) -> None:
    artifact = host.issue("/bin/true")
    path = next((host.layout.trust / "targets" / "platform").glob("*.local.json"))
    good = path.read_bytes()
    assert host.exec("/bin/true", authorization=artifact).status == 0
    path.write_bytes(good.replace(b'"pcr_digest":"', b'"pcr_digest":"0'))

    def status() -> int:
        return host.exec("/bin/true", authorization=artifact).status

    # A file that is edited where it lies is noticed within a second, where looking at all of them takes no time,
    wait_for("it is noticed", lambda: status() != 0)
    denied(host.exec("/bin/true", authorization=artifact), "governance_mismatch")
    path.write_bytes(good)
    wait_for("it is noticed", lambda: status() == 0)
    path = host.layout.trust / "metadata" / "timestamp.json"
    good = path.read_bytes()
    path.write_bytes(good[:-1])  # and what names everything at once.
    denied(host.exec("/bin/true", authorization=artifact), "governance_mismatch")
    path.write_bytes(good)
    path = host.layout.trust / "root.json"
    path.chmod(0o666)
    assert "others can write" in denied(host.exec("/bin/true", authorization=artifact), "governance_mismatch")
    path.chmod(0o644)
    wait_for("it is put right", lambda: status() == 0)


def test_revoked_artifact(host: Host) -> None:
    artifact = host.issue("/bin/true")
    result = host.exec("/bin/true", authorization=artifact, options=["--json"])
    host.revoke(artifacts=[result.json["body"]["artifact"]["id"]])
    denied(host.exec("/bin/true", authorization=artifact), "revoked")


def test_log_is_sound_after_all_this(shared: Host) -> None:
    shared.wait_settled()
    shared.require_sound()
    assert ask(shared.layout.agent_socket, {"op": "nothing"})["error"]["kind"] == "usage"
    assert wait_for("status", shared.status)["conditions"] == dict.fromkeys(("clock", "log", "runner", "tpm"))
