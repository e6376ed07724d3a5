"""`attestd exec` as a process: what it passes, what it returns, what it says."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from attestd.client.run import main as run_main
from attestd.wire import Frame, Kind, encode_fields, send_frame
from tests.client.harness import FakeAgent, client_command, frames, run_client
from tests.runner.harness import PATH, WAIT_S


def run(
    agent: FakeAgent, *arguments: str | bytes | Path, **options: object
) -> "subprocess.CompletedProcess[bytes]":
    return run_client(*arguments, state_dir=agent.state_dir, **options)


def test_a_command_runs_and_its_status_and_output_come_back(agent: FakeAgent) -> None:
    done = run(agent, "exec", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert agent.requests == [[b"exec", b"", b"", b"", b"sh", b"-c", b"echo out; echo err >&2; exit 7"]]


def test_stdin_and_cwd_are_the_callers(agent: FakeAgent, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    done = run(agent, "exec", "sh", "-c", "pwd; cat", input=b"given", stdin=None, cwd=tmp_path)
    assert done.stdout == f"{tmp_path}\ngiven".encode()


def test_artifact_parent_and_receipt(agent: FakeAgent, tmp_path: Path) -> None:
    (tmp_path / "a.auth.json").write_bytes(b"artifact")
    (tmp_path / "p.tlog-proof").write_bytes(b"parent")
    receipt = tmp_path / "receipt"
    receipt.write_bytes(b"longer than what is written over it" * 1000)
    done = run(
        agent,
        "exec",
        "-a",
        tmp_path / "a.auth.json",
        f"--parent={tmp_path}/p.tlog-proof",
        "--receipt",
        receipt,
        "cat",
        receipt,
    )
    # Written before the command started: it could read its own receipt.
    assert done.stdout == receipt.read_bytes()
    assert done.stdout.startswith(b"c2sp.org/tlog-proof@v1\n")
    assert agent.requests[0][:5] == [b"exec", b"receipt", b"artifact", b"parent", b"cat"]


def test_a_file_over_the_limit_is_sent_for_the_agent_to_deny(agent: FakeAgent, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 1_000_000)
    run(agent, "exec", "-a", tmp_path / "big", "true")
    assert len(agent.requests[0][2]) == 256 * 1024 + 1


def test_a_denial_is_said_with_its_hint(agent: FakeAgent) -> None:
    agent.deny(
        b"77",
        b"expired",
        b"it was valid until \x1b[31myesterday\x1b[0m",
        b"ask\nagain",
        b"id",
        b"3",
        b"",
        b"",
    )
    done = run(agent, "exec", "true")
    assert done.returncode == 77
    assert done.stdout == b""
    assert done.stderr == (
        b"attestd: denied: expired: it was valid until \\u001b[31myesterday\\u001b[0m\nattestd: hint: ask\\u000aagain\n"
        b"attestd: recorded as entry 3: `attestd why 3` shows each check\n"
    )


def test_a_denial_as_json_is_one_object_on_stderr(agent: FakeAgent) -> None:
    document = json.dumps(
        {"decision": "deny", "sentence": "\x9b evil \u202e \U000e0001"}, ensure_ascii=False
    ).encode()
    agent.deny(b"65", b"malformed_authorization", b"s", b"h", b"id", b"3", document, b"")
    done = run(agent, "exec", "--json", "true")
    assert done.returncode == 65
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.isascii()
    assert json.loads(done.stderr) == json.loads(document)


def test_an_allow_as_json_is_on_stderr_too(agent: FakeAgent) -> None:
    agent.decision_json = b'{"decision":"allow"}'
    done = run(agent, "exec", "--json", "echo", "out")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\n", b'{"decision":"allow"}\n')
    assert agent.requests[0][1] == b"json"


def test_a_denial_writes_its_receipt_too(agent: FakeAgent, tmp_path: Path) -> None:
    agent.deny(b"77", b"expired", b"s", b"h", b"id", b"3", b"", b"proof of the denial")
    assert run(agent, "exec", "--receipt", tmp_path / "r", "true").returncode == 77
    assert (tmp_path / "r").read_bytes() == b"proof of the denial"


def test_check_runs_nothing(agent: FakeAgent, tmp_path: Path) -> None:
    agent.decision_json = b'{"decision":"allow"}'
    done = run(agent, "check", "touch", tmp_path / "flag")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"attestd: allowed\n"
    assert not (tmp_path / "flag").exists()
    done = run(agent, "check", "--json", "touch", tmp_path / "flag")
    assert done.stdout == b'{"decision":"allow"}\n'
    agent.deny(b"77", b"expired", b"s", b"h", b"", b"", b'{"decision":"deny"}', b"")
    done = run(agent, "check", "--json", "true")
    assert (done.returncode, done.stdout, done.stderr) == (77, b'{"decision":"deny"}\n', b"")


def test_check_explains(agent: FakeAgent) -> None:
    checks = [
        {"n": 1, "name": "authorization_present", "outcome": "verified", "detail": "900 bytes"},
        {"n": 2, "name": "authorization_form", "outcome": "rejected", "detail": "no \x1b object"},
        {"n": 16, "name": "uses", "outcome": "not_evaluated", "detail": ""},
    ]
    document = json.dumps({"body": {"checks": checks}}).encode()
    agent.deny(b"65", b"malformed_authorization", b"no object", b"ask again", b"", b"", document, b"")
    done = run(agent, "check", "true")
    assert done.returncode == 65
    assert done.stdout.decode().splitlines() == [
        "    ok  1 authorization_present  900 bytes",
        "DENIED  2 authorization_form     no \\u001b object",
        "     - 16 uses",
    ]
    assert done.stderr.startswith(b"attestd: denied: malformed_authorization: no object\n")


@pytest.mark.parametrize("document", [b"", b"{", b"[]", b"{}", b'{"body":{"checks":[{}]}}', b"[" * 100_000])
def test_a_document_that_does_not_explain(agent: FakeAgent, document: bytes) -> None:
    agent.deny(b"77", b"expired", b"s", b"h", b"", b"", document, b"")
    done = run(agent, "check", "true")
    assert (done.returncode, done.stdout) == (77, b"")
    assert done.stderr == b"attestd: denied: expired: s\nattestd: hint: h\n"


def test_a_script_and_its_interpreters(agent: FakeAgent, tmp_path: Path) -> None:
    """The agent asks for them; the client opens them."""
    path = tmp_path / "script"
    path.write_text("#!/usr/bin/env python3\nimport sys; print(*sys.argv[1:])\n")
    path.chmod(0o755)
    agent.needs = [b"file:/usr/bin/env", f"lookup:python3:{PATH}".encode()]
    done = run(agent, "exec", path, "word")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"word\n", b"")
    assert agent.answers == [[b"+", b"+"]]


def test_what_the_client_answers(agent: FakeAgent, tmp_path: Path) -> None:
    """Also what it does not hand out: an agent that was broken into must not read root's files through it."""
    secret = tmp_path / "secret"
    secret.write_text("s")
    secret.chmod(0o600)
    agent.needs = [
        b"env:GIVEN",
        b"env:MISSING",
        f"file:{secret}".encode(),
        b"file:/etc/hostname",
        b"file:/nonexistent",
        b"file:/dev/null",
        b"lookup:sh:/bin",
        b"lookup:nonexistent:/bin:/usr/bin",
    ]

    def answer(sock: socket.socket, _frame: Frame) -> None:
        frame = agent.ask(sock)
        agent.counted = len(frame.descriptors)  # type: ignore[attr-defined]
        frame.close()
        agent.decide(sock, b"deny", b"77", b"expired", b"s", b"h", b"", b"", b"", b"")

    agent.answer = answer
    environment = {"PATH": PATH, "ATTESTD_STATE_DIR": str(agent.state_dir), "GIVEN": "a=b"}
    run(agent, "exec", "cat", env=environment)
    assert agent.answers[-1] == [
        b"+a=b",
        b"-not set",
        b"-private, and the command line does not name it",
        b"+",
        b"-No such file or directory",
        b"-not a regular file",
        b"+",
        b"-nonexistent: command not found",
    ]
    assert agent.counted == 2  # type: ignore[attr-defined]
    agent.needs = [f"file:{secret}".encode()]
    run(agent, "exec", "cat", secret, env=environment)
    assert agent.answers[-1] == [b"+"]
    run(agent, "exec", "cat", secret.name, env=environment, cwd=tmp_path)
    assert agent.answers[-1] == [b"+"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (frames((Kind.NEED, [b"password:"])), b"asks for"),
        (frames((Kind.EXITED, [b"0", b""])), b"instead of a decision"),
        (frames((Kind.DECISION, [b"allow"])), b"expected 9"),
        (frames((Kind.DECISION, [b"deny", b"-1", b"c", b"s", b"h", b"", b"", b"", b""])), b"exit status"),
        (
            frames(
                (Kind.DECISION, [b"allow", b"0", b"", b"", b"", b"id", b"7", b"", b""]),
                (Kind.READY, [b"other"]),
            ),
            b"something else",
        ),
        (
            frames((Kind.DECISION, [b"allow", b"0", b"", b"", b"", b"id", b"7", b"", b""]), (b"?", [])),
            b"sent b'?'",
        ),
        (
            frames(
                (Kind.DECISION, [b"allow", b"0", b"", b"", b"", b"id", b"7", b"", b""]),
                (Kind.EXITED, [b"256", b""]),
            ),
            b"exit status",
        ),
        (lambda _sock, _frame: None, b"connection closed"),
        (lambda sock, _frame: sock.send(b"D\xff\xff\xff\xff"), b"announces"),
    ],
)
def test_an_agent_or_runner_that_does_not_keep_to_the_protocol(
    agent: FakeAgent, answer: object, words: bytes
) -> None:
    assert callable(answer)
    agent.answer = answer
    done = run(agent, "exec", "true")
    assert done.returncode == 69
    assert done.stderr.startswith(
        b"attestd: denied: agent_unavailable: the connection to agent and runner broke: "
    )
    assert words in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_deny_with_status_zero_is_still_a_failure(agent: FakeAgent) -> None:
    agent.deny(b"0", b"expired", b"s", b"h", b"", b"", b"", b"")
    assert run(agent, "exec", "true").returncode == 70


def test_the_runners_refusal(agent: FakeAgent) -> None:
    allow = (Kind.DECISION, [b"allow", b"0", b"", b"", b"", b"id", b"7", b"", b""])
    agent.answer = frames(allow, (Kind.REFUSED, [b"77", b"identity_mismatch", b"other bytes", b"look"]))
    done = run(agent, "exec", "true")
    assert done.returncode == 77
    assert done.stderr == (
        b"attestd: denied: identity_mismatch: other bytes\nattestd: hint: look\n"
        b"attestd: recorded as entry 7: `attestd why 7` shows each check\n"
    )


def test_a_message_at_the_end(agent: FakeAgent) -> None:
    """As when a command is ended for lost trust."""
    allow = (Kind.DECISION, [b"allow", b"0", b"", b"", b"", b"id", b"7", b"", b""])
    agent.answer = frames(allow, (Kind.EXITED, [b"137", b"attestd: terminated: environment_untrusted: \x1b"]))
    done = run(agent, "exec", "true")
    assert (done.returncode, done.stderr) == (137, b"attestd: terminated: environment_untrusted: \\u001b\n")


def test_what_could_not_be_started(agent: FakeAgent, tmp_path: Path) -> None:
    path = tmp_path / "nonsense"
    path.write_bytes(b"\x00\x01")
    path.chmod(0o755)
    done = run(agent, "exec", path)
    assert done.returncode == 126
    assert done.stderr == b"attestd: the command could not be started: execute: Exec format error\n"


def test_no_agent(tmp_path: Path) -> None:
    done = run_client("exec", "true", state_dir=tmp_path)
    assert done.returncode == 69
    assert done.stderr.startswith(b"attestd: denied: agent_unavailable: no agent answers at ")
    assert b"attestd: hint: start one with `attestd serve`" in done.stderr
    done = run_client("exec", "--json", "true", state_dir=tmp_path)
    document = json.loads(done.stderr)
    assert (document["decision"], document["code"], document["exit"]) == ("deny", "agent_unavailable", 69)


def test_a_socket_path_that_is_too_long(tmp_path: Path) -> None:
    done = run_client("exec", "--state-dir", tmp_path / ("x" * 100), "true")
    assert done.returncode == 64
    assert b"the limit is 107" in done.stderr
    assert b"hint: use a shorter --state-dir" in done.stderr


def test_a_command_line_that_is_too_large(agent: FakeAgent) -> None:
    done = run(agent, "exec", "true", *["x" * 100_000] * 17)
    assert done.returncode == 64
    assert b"the limit is 1048576" in done.stderr


def test_a_request_that_is_too_large(
    agent: FakeAgent, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part is within its limit, together they are not."""
    big = tmp_path / "big"
    big.write_bytes(b"x" * 256 * 1024)
    monkeypatch.setattr("attestd.client.run._signal.signal", lambda _number, _handler: None)
    options = ["--state-dir", str(agent.state_dir), "-a", str(big), "--parent", str(big)]
    assert run_main(["exec", *options, "true", *[""] * 500_000]) == 64
    assert "the limit is 2097152" in capfd.readouterr().err


def test_an_agent_that_never_decides(agent: FakeAgent) -> None:
    def ask_on(sock: socket.socket, _frame: Frame) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                agent.ask(sock)

    agent.answer = ask_on
    done = run(agent, "exec", "true")
    assert done.returncode == 69
    assert b"never came to a decision" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["exec", "nonexistent"], 127, b"attestd: nonexistent: command not found\n"),
        (["exec", "/nonexistent/x"], 127, b"command not found"),
        (["exec", "/etc/hostname/x"], 127, b"command not found"),
        (["exec", "/etc/passwd"], 126, b"is not executable"),
        (["exec", "/tmp"], 126, b"is not a regular file"),
        (["exec", "/dev/null"], 126, b"is not a regular file"),
        (
            ["exec", "--receipt", "/nonexistent/x", "-a", "/nonexistent/a", "true"],
            64,
            b"/nonexistent/a: No such file",
        ),
        (["exec", "--parent", "/tmp", "true"], 64, b"/tmp: Is a directory"),
    ],
)
def test_what_cannot_be_opened(tmp_path: Path, arguments: list[str], status: int, words: bytes) -> None:
    done = run_client(*arguments, state_dir=tmp_path)
    assert done.returncode == status
    assert words in done.stderr


def test_a_receipt_that_cannot_be_written_stops_the_command(agent: FakeAgent, tmp_path: Path) -> None:
    done = run(agent, "exec", "--receipt", tmp_path / "missing" / "r", "touch", tmp_path / "flag")
    assert done.returncode == 64
    assert b"the receipt cannot be written" in done.stderr
    assert not (tmp_path / "flag").exists()


def test_closed_stdio_is_not_taken_by_the_connection(agent: FakeAgent) -> None:
    """Started with 0, 1 and 2 closed, the client's socket must not become the command's stdin."""
    close = "import os,sys\nfor n in (0,1,2): os.close(n)\nos.execv(sys.argv[1], sys.argv[1:])"
    command = [
        "/usr/bin/python3",
        "-c",
        close,
        *client_command("exec", "sh", "-c", "test -c /dev/fd/0 && exit 5"),
    ]
    environment = {"PATH": PATH, "ATTESTD_STATE_DIR": str(agent.state_dir)}
    assert subprocess.run(command, env=environment, timeout=WAIT_S, check=False).returncode == 5


def test_signals_reach_the_command(agent: FakeAgent) -> None:
    script = 'for n in INT TERM HUP QUIT USR1 USR2 CONT TSTP WINCH; do trap "echo $n" $n; done; echo ready; while :; do sleep 0.02; done'
    environment = {"PATH": PATH, "ATTESTD_STATE_DIR": str(agent.state_dir)}
    with subprocess.Popen(
        client_command("exec", "sh", "-c", script),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as client:
        assert client.stdout is not None
        try:
            assert client.stdout.readline() == b"ready\n"
            for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "CONT", "TSTP", "WINCH"):
                client.send_signal(getattr(signal, f"SIG{name}"))
                assert client.stdout.readline() == name.encode() + b"\n"
        finally:
            client.kill()


def test_a_signals_status(agent: FakeAgent) -> None:
    assert run(agent, "exec", "sh", "-c", "kill -TERM $$").returncode == 143


def test_an_ignored_hangup_stays_ignored(agent: FakeAgent) -> None:
    """nohup attestd exec …"""
    environment = {"PATH": PATH, "ATTESTD_STATE_DIR": str(agent.state_dir)}
    with subprocess.Popen(
        [
            "/bin/sh",
            "-c",
            'trap "" HUP; exec "$@"',
            "sh",
            *client_command("exec", "sh", "-c", "echo ready; read x; exit 4"),
        ],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(signal.SIGHUP)
        client.communicate(b"\n", timeout=WAIT_S)
        assert client.returncode == 4


def test_an_interrupt_before_the_command_runs_ends_the_client_quietly(agent: FakeAgent) -> None:
    def stall(sock: socket.socket, _frame: Frame) -> None:
        sock.recv(1)

    agent.answer = stall
    environment = {"PATH": PATH, "ATTESTD_STATE_DIR": str(agent.state_dir)}
    with subprocess.Popen(client_command("exec", "true"), env=environment, stderr=subprocess.PIPE) as client:
        deadline = time.monotonic() + WAIT_S
        while not agent.requests:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        client.send_signal(signal.SIGINT)
        assert client.wait(WAIT_S) == -signal.SIGINT
        assert client.stderr is not None
        assert client.stderr.read() == b""


def test_a_runner_that_dies_while_the_command_runs(agent: FakeAgent) -> None:
    def answer(sock: socket.socket, _frame: Frame) -> None:
        agent.decide(sock, b"allow", b"0", b"", b"", b"", b"id", b"7", b"", b"")
        send_frame(sock, Kind.READY, encode_fields([b"id"]))
        send_frame(sock, Kind.STARTED, encode_fields([b"1"]))
        sock.shutdown(socket.SHUT_WR)

    agent.answer = answer
    done = run(agent, "exec", "true")
    assert done.returncode == 69
    assert b"attestd audit tail" in done.stderr


def test_other_commands_take_the_long_way() -> None:
    """`attestd.__main__` hands everything but exec and check to the command line."""
    done = run_client("exec", "--help")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Example:" in done.stdout
    assert b"--receipt FILE" in done.stdout
    assert os.linesep.encode() in done.stdout


def test_help_for_a_reader_that_went_away() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            client_command("exec", "--help"), stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_bug_is_one_line(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise KeyError("surprise")

    monkeypatch.setattr("attestd.client.run._run", fail)
    monkeypatch.setattr("attestd.client.run._signal.signal", lambda _number, _handler: None)
    assert run_main(["exec", "true"]) == 70
    assert capfd.readouterr().err.splitlines() == [
        "attestd: internal error: KeyError: 'surprise'",
        "attestd: hint: report this",
    ]
