"""Agent, runner and TPM ended at every moment: nothing runs unrecorded, nothing recorded is lost, service resumes."""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attestd.audit.seal import CRASH_POINTS
from attestd.lineage.entry import EntryType
from tests.agent.test_exec import denied
from tests.agent.test_signals import begin
from tests.host import ENTRY, WAIT_S, Host, Logged, kill_and_wait, wait_for


def marker(host: Host, name: str) -> tuple[tuple[str, ...], Path]:
    """A command that leaves a trace when it ran."""
    path = host.work / name
    return ("/bin/sh", "-c", f"echo >> {path}"), path


def runs(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def notes(host: Host) -> list[str]:
    return list(host.entries(EntryType.AGENT_START)[-1].body["notes"])


# -- the agent ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_agent_killed_at_each_step_of_sealing(stopped: Host, point: str) -> None:
    """The first batch is agent.start; the second is the allow."""
    host = stopped.start("--crash", f"{point}:{1 if point == 'release_signed' else 2}")
    argv, path = marker(host, "ran")
    artifact = host.issue(*argv, max_uses=1)
    result = host.exec(*argv, authorization=artifact)
    assert host.wait_ended() == -signal.SIGKILL
    assert (result.status, runs(path)) == (69, 0)
    assert "agent_unavailable" in result.stderr
    committed = point in ("committed", "stepped")
    assert len(host.entries(EntryType.DECISION_ALLOW)) == committed

    host.start()
    again = host.exec(*argv, authorization=artifact)
    if committed:
        # The use is gone: a void refunds none.
        (void,) = host.entries(EntryType.DECISION_VOID)
        assert void.body["leaf"] == host.entries(EntryType.DECISION_ALLOW)[0].id
        assert "uses_exhausted" in again.stderr
        assert runs(path) == 0
    else:
        assert (again.status, runs(path)) == (0, 1)
    assert any("committed but not counted" in note for note in notes(host)) == (point == "committed")
    host.wait_settled()
    host.require_sound()


def test_agent_killed_at_random_times(stopped: Host) -> None:
    host, seed = stopped, os.getpid()
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    argv, path = marker(host, "ran")
    finished = 0
    artifact = host.issue(*argv)
    for _ in range(5):
        host.start()
        clients = [host.client(*argv, authorization=artifact) for _ in range(3)]
        time.sleep(rng.uniform(0, 0.15))
        host.kill_agent()
        finished += sum(host.finish(client).status == 0 for client in clients)
    host.start()
    host.wait_settled()
    host.require_sound()
    starts = len(host.entries(EntryType.EXECUTION_START))
    assert finished <= runs(path) == starts, f"seed {seed}"
    assert host.exec(*argv, authorization=artifact).status == 0


def test_agent_killed_and_restarted_while_a_command_runs(host: Host) -> None:
    marked = host.work / "hung-up"
    process = begin(
        host, "/bin/sh", "-c", f"trap 'echo > {marked}; exit 4' HUP; echo ready; while :; do sleep 0.02; done"
    )
    host.kill_agent()
    host.start()
    assert process.poll() is None
    process.kill()  # the runner notices, though the agent that handed the client over is gone
    host.finish(process)
    end = host.wait_entry(EntryType.EXECUTION_EXIT)
    assert (end.body["status"], marked.exists()) == (4, True)
    host.require_sound()


def test_command_outlives_the_agent_and_its_client_gets_the_status(host: Host) -> None:
    argv = ("/bin/sh", "-c", "echo ready; read line; echo $line; exit 4")
    process = host.client(*argv, authorization=host.issue(*argv), stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert host.stop() == 0
    result = host.finish(process, b"still here\n")
    assert (result.status, result.stdout) == (4, b"still here\n")
    # In the runner's spool, and now in the log.
    assert not host.entries(EntryType.EXECUTION_EXIT)
    host.start()
    assert host.wait_entry(EntryType.EXECUTION_EXIT).body["status"] == 4
    host.require_sound()


def test_orderly_stop_with_entries_waiting(host: Host) -> None:
    for _ in range(3):
        assert host.run("/bin/true").status == 0
        host.exec("/bin/true")
    assert host.stop() == 0
    assert host.entries()[-1].type is EntryType.AGENT_STOP
    assert host.entries()[-1].body == {"releases": 3}
    host.require_sound()  # every exit is in the log: the spool was drained


def test_two_agents_on_one_directory(host: Host) -> None:
    second = subprocess.run(
        [sys.executable, "-m", ENTRY, str(host.state)],
        cwd=Path(__file__).parent.parent.parent, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 1
    assert "an agent is running" in second.stderr
    assert host.run("/bin/true").status == 0


# -- the runner ---------------------------------------------------------------------------------------------------------


def test_runner_killed_while_a_command_runs(host: Host) -> None:
    gate = host.work / "gate"
    process = begin(host, "/bin/sh", "-c", f"echo ready; while ! test -e {gate}; do sleep 0.02; done; exit 4")
    host.kill_runner()
    process.wait(WAIT_S)
    gate.touch()  # before, the command holds the client's output
    result = host.finish(process)
    assert result.status == 69
    assert "agent_unavailable" in result.stderr
    end = host.wait_entry(EntryType.EXECUTION_EXIT)
    assert (end.body["status"], end.body["signal"]) == (None, None)
    assert "runner" in end.body["error"]
    assert host.run("/bin/true").status == 0  # the agent started another runner
    host.wait_settled()
    host.require_sound()


def test_no_runner_at_the_moment_of_release(host: Host) -> None:
    """The allow is sealed, and nobody can run it: the client is told, and it is void as soon as a runner is there."""
    argv, path = marker(host, "ran")
    artifact = host.issue(*argv)
    allowed: list[Logged] = []
    for _ in range(20):
        ran, known = runs(path), len(host.entries(EntryType.DECISION_ALLOW))
        host.kill_runner()
        result = host.exec(*argv, authorization=artifact)
        if result.status == 0:  # On a busy machine the agent has another one before it is asked.
            assert runs(path) == ran + 1
            continue
        assert (result.status, runs(path)) == (69, ran)
        assert result.stderr.startswith("attestd: denied: agent_unavailable: ")
        if allowed := host.entries(EntryType.DECISION_ALLOW)[known:]:
            break
        wait_for("a new runner", lambda: host.status()["runner"])  # The agent had noticed before it decided.
    [allow] = allowed
    void = host.outcome(allow.id)
    assert void.type is EntryType.DECISION_VOID
    host.require_sound()


def test_hanging_runner_is_a_denial(host: Host) -> None:
    runner = host.runner_pid
    os.kill(runner, signal.SIGSTOP)
    try:
        process = host.client("/bin/true", authorization=host.issue("/bin/true"))
        time.sleep(1)
        assert host.status()["log"]["fatal"] is None  # others are served
        assert process.poll() is None
    finally:
        os.kill(runner, signal.SIGCONT)
    assert host.finish(process).status == 0


def test_runner_killed_at_random_times(host: Host) -> None:
    rng = random.Random(0)  # noqa: S311 - not for secrets
    argv, path = marker(host, "ran")
    artifact = host.issue(*argv)
    finished = 0
    for _ in range(5):
        clients = [host.client(*argv, authorization=artifact) for _ in range(4)]
        time.sleep(rng.uniform(0.01, 0.15))
        with contextlib.suppress(OSError):
            host.kill_runner()
        finished += sum(host.finish(client).status == 0 for client in clients)
        wait_for("a runner", lambda: host.exec(*argv, authorization=artifact).status == 0)
        finished += 1
    host.wait_settled()
    host.require_sound()
    starts = len(host.entries(EntryType.EXECUTION_START))
    # A start is committed before the command runs: one may have been recorded and its child told nothing any more.
    assert finished <= runs(path) <= starts <= runs(path) + 5


# -- the TPM ------------------------------------------------------------------------------------------------------------


def test_tpm_loses_power_while_the_agent_is_down(host: Host) -> None:
    assert host.run("/bin/true").status == 0
    host.kill_agent()
    host.kill_tpm()
    host.start()
    (note,) = [note for note in notes(host) if "log counter went from" in note]
    assert "without orderly shutdown" in note
    host.wait_settled()
    assert host.run("/bin/true").status == 0
    host.wait_settled()
    host.require_sound()


def test_tpm_loses_power_under_a_running_agent(host: Host) -> None:
    artifact = host.issue("/bin/true")
    assert host.exec("/bin/true", authorization=artifact).status == 0
    before = int(host.status()["log"]["counter"], 16)
    host.kill_tpm()
    # The agent starts the embedded TPM again. Its counter jumped, and its PCRs are the approved ones again.
    result = host.exec("/bin/true", authorization=artifact)
    if result.status != 0:  # it had not noticed by itself, as it looks at the TPM now and then
        denied(result, "tpm_unavailable", status=69)
    wait_for("service", lambda: host.exec("/bin/true", authorization=artifact).status == 0)
    assert int(host.status()["log"]["counter"], 16) >= (before | 255) + 1
    host.wait_settled()
    host.require_sound()


def test_hanging_tpm_is_a_denial_and_service_resumes(stopped: Host) -> None:
    host = stopped.start(env={"ATTESTD_TPM_DEADLINE_S": "1"})
    artifact = host.issue("/bin/true")
    assert host.exec("/bin/true", authorization=artifact).status == 0
    pid = int((host.layout.tpm / "swtpm.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        sentence = denied(host.exec("/bin/true", authorization=artifact), "tpm_unavailable", status=69)
        assert "not answer" in sentence
        sentence = denied(host.exec("/bin/true", authorization=artifact), "tpm_unavailable", status=69)
        assert "has not answered" in sentence, "it is known by now"
        assert host.status()["conditions"]["tpm"]["code"] == "tpm_unavailable"
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for("service", lambda: host.exec("/bin/true", authorization=artifact).status == 0)
    assert host.stop() == 0
    (aggregated,) = host.entries(EntryType.DENIALS_AGGREGATED)
    assert aggregated.body["codes"]["tpm_unavailable"] >= 2
    host.require_sound()


# -- the log ------------------------------------------------------------------------------------------------------------


# ruff: noqa: S608 - an attacker's SQL
def edit(host: Host, *statements: str) -> None:
    """What somebody with the disk does: triggers out of the way first."""
    connection = sqlite3.connect(host.layout.log, isolation_level=None)
    with contextlib.closing(connection):
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        for _, sql in triggers:
            connection.execute(sql)


def refuses_to_serve(host: Host) -> str:
    host.start(wait=False)
    assert host.wait_ended() == 1
    assert "RollbackError" in host.agent_log, host.agent_log
    return host.agent_log


@pytest.fixture
def used(host: Host) -> Host:
    """A host that has run something, and whose agent was stopped."""
    for _ in range(2):
        assert host.run("/bin/true").status == 0
    assert host.stop() == 0
    return host


def copy_log(host: Host, to: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(host.layout.log)) as source,
        contextlib.closing(sqlite3.connect(to)) as target,
    ):
        source.backup(target)


def test_older_copy_of_the_log(used: Host) -> None:
    old = used.top / "old.db"
    copy_log(used, old)
    used.start()
    assert used.run("/bin/true").status == 0
    assert used.stop() == 0
    for path in used.layout.agent.glob("log.db*"):
        path.unlink()
    shutil.copy(old, used.layout.log)
    used.layout.log.chmod(0o600)
    assert "log counter" in refuses_to_serve(used)


def test_last_batch_cut_off(used: Host) -> None:
    size = len(used.entries())
    edit(
        used,
        f"DELETE FROM leaves WHERE seq = {size - 1}",
        f"DELETE FROM nodes WHERE (idx + 1) << level >= {size}",
        f"DELETE FROM checkpoints WHERE size = {size}",
    )
    assert "log counter" in refuses_to_serve(used)


def test_leaf_cut_off(used: Host) -> None:
    edit(used, f"DELETE FROM leaves WHERE seq = {len(used.entries()) - 1}")
    assert "rows were deleted" in refuses_to_serve(used)


def test_last_checkpoint_with_another_signature(used: Host) -> None:
    last = "(SELECT max(size) FROM checkpoints)"
    earlier = f"(SELECT note FROM checkpoints WHERE size < {last} ORDER BY size DESC LIMIT 1)"
    edit(used, f"UPDATE checkpoints SET note = {earlier} WHERE size = {last}")
    refuses_to_serve(used)


def test_edited_entry_is_found_in_the_background_and_ends_the_agent(used: Host) -> None:
    edit(
        used, "UPDATE leaves SET entry = CAST(replace(entry, '/bin/true', '/bin/fals') AS BLOB) WHERE seq = 2"
    )
    used.start(wait=False)
    assert used.wait_ended() == 1, used.agent_log
    assert "does not verify" in used.agent_log


def test_log_of_another_host(used: Host) -> None:
    edit(used, f"UPDATE log SET host_id = '{'ab' * 32}'")
    used.start(wait=False)
    assert used.wait_ended() == 1
    assert "has no record of host abab" in used.agent_log


def test_runner_survives_the_agent_and_serves_the_next(host: Host) -> None:
    runner = host.runner_pid
    host.kill_agent()
    host.start()
    assert host.runner_pid == runner
    assert host.run("/bin/true").status == 0


def test_nothing_is_left_behind() -> None:
    home = {path: path.stat().st_mtime_ns for path in Path.home().iterdir()}
    with Host.create() as host:
        host.start()
        assert host.run("/bin/true").status == 0
        process = begin(host, "/bin/sh", "-c", "echo ready; exec sleep 60")
        kill_and_wait(process.pid)
        assert host.processes()
    assert host.processes() == []
    assert not host.top.exists()
    assert {path: path.stat().st_mtime_ns for path in Path.home().iterdir()} == home
