"""What a command sees that runs through client, agent, TPM, log and runner; and what is recorded of it."""

import json
import os
import shutil
from pathlib import Path

from attestd.authorization.issue import DEFAULT_PATH
from attestd.lineage.entry import EntryType
from tests.host import Host, Result, sha256

PYTHON = os.path.realpath("/usr/bin/python3")


def script(host: Host, name: str, text: str) -> Path:
    path = host.work / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def denied(result: Result, code: str, status: int = 77) -> str:
    """The sentence of a denial, after checking that it is one, with its hint."""
    assert result.status == status, result
    assert result.stdout == b""
    first, second, *third = result.stderr.splitlines()
    assert first.startswith(f"attestd: denied: {code}: ")
    assert second.startswith("attestd: hint: ")
    assert all(line.startswith("attestd: recorded as entry ") for line in third)
    return first.removeprefix(f"attestd: denied: {code}: ")


def test_binary_runs_and_everything_about_it_is_recorded(shared: Host) -> None:
    receipt = shared.top / "receipt"
    result = shared.run("/bin/echo", "two words", options=["--json", "--receipt", str(receipt)])
    assert (result.status, result.stdout) == (0, b"two words\n")
    decision = result.json
    assert (decision["decision"], decision["code"], decision["exit"]) == ("allow", None, 0)
    verified = shared.verify_receipt(receipt.read_bytes())
    assert verified.leaf == decision["id"]
    assert verified.entry.seq == decision["seq"]
    assert verified.approval is not None

    (allow,) = [item for item in shared.entries(EntryType.DECISION_ALLOW) if item.id == decision["id"]]
    assert allow.body == decision["body"]
    assert allow.body["argv"] == ["/bin/echo", "two words"]
    assert allow.body["executable"] == {"path": os.path.realpath("/bin/echo"), "sha256": sha256("/bin/echo")}
    assert allow.body["requester"] == {"uid": os.geteuid()}
    assert allow.body["isolation"] == "user"
    assert [check["outcome"] for check in allow.body["checks"]] == ["verified"] * 16
    start = shared.outcome(allow.id, EntryType.EXECUTION_START)
    end = shared.outcome(allow.id)
    assert (end.type, end.body["status"], end.body["signal"], end.body["error"]) == (
        EntryType.EXECUTION_EXIT, 0, None, None,
    )  # fmt: skip
    for item in (start, end):
        assert (item.body["request"], item.body["seq"]) == (allow.body["id"], allow.seq)
        proven = shared.verify_receipt(shared.receipt(item.seq))
        assert (proven.entry.type, proven.approval) == (item.type, None)


def test_without_json_nothing_is_said(shared: Host) -> None:
    assert shared.run("/bin/true") == Result(0, b"", "")


def test_only_the_authorized_environment_reaches_the_command(shared: Host) -> None:
    artifact = shared.issue("/usr/bin/env", env_pass=["LANG", "SECRET"], env_set={"TZ": "UTC"})
    result = shared.exec(
        "/usr/bin/env",
        authorization=artifact,
        env={"LANG": "de_AT", "SECRET": "a=b\nc", "OTHER": "x", "TZ": "x"},
    )
    assert result.status == 0, result
    expected = f"LANG=de_AT\nPATH={DEFAULT_PATH}\nSECRET=a=b\nc\nTZ=UTC\n"
    assert sorted(result.stdout.decode().splitlines()) == sorted(expected.splitlines())


def test_variable_that_is_to_be_passed_and_is_not_set_does_not_reach_the_command(shared: Host) -> None:
    artifact = shared.issue("/usr/bin/env", env_pass=["LANG"])
    result = shared.exec("/usr/bin/env", authorization=artifact)
    assert result.stdout.decode() == f"PATH={DEFAULT_PATH}\n"


def test_working_directory_is_the_requesters(shared: Host) -> None:
    assert shared.run("/bin/pwd").stdout.decode().strip() == os.path.realpath(shared.work)


def test_other_working_directory_than_authorized_is_denied(shared: Host) -> None:
    result = shared.exec("/bin/pwd", authorization=shared.issue("/bin/pwd"), cwd="/")
    assert "/" in denied(result, "scope_violation")


def test_stdin_stdout_and_stderr_are_the_requesters(shared: Host) -> None:
    code = "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.stderr.write('to stderr')"
    argv = ("/usr/bin/python3", "-c", code)
    result = shared.exec(*argv, authorization=shared.issue(*argv), stdin=b"abc" * 100_000)
    assert (result.status, result.stdout, result.stderr) == (0, b"ABC" * 100_000, "to stderr")


def test_no_other_descriptor_reaches_the_command(shared: Host) -> None:
    argv = ("/usr/bin/python3", "-c", "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))")
    result = shared.run(*argv)
    assert json.loads(result.stdout)[:-1] == [0, 1, 2]  # the last one is that of listdir itself


def test_exit_status_is_the_commands(shared: Host) -> None:
    ids = {}
    for status in (0, 1, 3, 65, 77, 127, 255):
        result = shared.run("/bin/sh", "-c", f"exit {status}", options=["--json"])
        assert (result.status, result.json["decision"]) == (status, "allow")
        ids[status] = result.json["id"]
    for status, decision in ids.items():
        assert shared.outcome(decision).body["status"] == status


def test_changed_binary_is_denied(shared: Host) -> None:
    tool = shared.work / "tool"
    shutil.copy("/bin/echo", tool)
    artifact = shared.issue(str(tool), "x")
    assert shared.exec(str(tool), "x", authorization=artifact).stdout == b"x\n"
    with tool.open("ab") as file:
        file.write(b"\0")
    sentence = denied(shared.exec(str(tool), "x", authorization=artifact), "identity_mismatch")
    assert sha256(tool)[:8] in sentence


def test_other_arguments_are_denied(shared: Host) -> None:
    artifact = shared.issue("/bin/echo", {"one_of": ["a", "b"]})
    assert shared.exec("/bin/echo", "b", authorization=artifact).stdout == b"b\n"
    denied(shared.exec("/bin/echo", "c", authorization=artifact), "scope_violation")
    denied(shared.exec("/bin/echo", "a", "b", authorization=artifact), "scope_violation")


def test_script_runs_with_its_authorized_interpreter(shared: Host) -> None:
    path = script(shared, "hello", f"#!{PYTHON} -I\nimport sys\nprint(sys.argv[1:], sys.flags.isolated)\n")
    artifact = shared.issue(str(path), "1", files=[path, PYTHON])
    assert shared.exec(str(path), "1", authorization=artifact).stdout == b"['1'] 1\n"
    denied(shared.exec(str(path), "1", authorization=shared.issue(str(path), "1")), "identity_mismatch")


def test_script_with_env_runs_what_the_childs_path_finds(shared: Host) -> None:
    path = script(shared, "hello", "#!/usr/bin/env python3\nprint('by env')\n")
    artifact = shared.issue(str(path), files=[path, "/usr/bin/env", PYTHON])
    result = shared.exec(str(path), authorization=artifact, env={"PATH": "/nowhere"})
    assert (result.status, result.stdout) == (0, b"by env\n"), result


def test_interpreter_that_is_a_script_is_refused(shared: Host) -> None:
    inner = script(shared, "inner", "#!/bin/sh\necho inner\n")
    outer = script(shared, "outer", f"#!{inner}\n")
    artifact = shared.issue(str(outer), files=[outer, inner, "/bin/sh"])
    assert "is itself a script" in denied(
        shared.exec(str(outer), authorization=artifact), "identity_mismatch"
    )


def test_pinned_input_is_what_was_pinned(shared: Host) -> None:
    plan = shared.work / "plan"
    plan.write_text("the plan")
    artifact = shared.issue("/bin/cat", str(plan), inputs=[plan])
    assert shared.exec("/bin/cat", str(plan), authorization=artifact).stdout == b"the plan"
    plan.write_text("another plan")
    denied(shared.exec("/bin/cat", str(plan), authorization=artifact), "scope_violation")


def test_log_is_sound_after_all_this(shared: Host) -> None:
    shared.run("/bin/true")
    shared.wait_settled()
    shared.require_sound()
