"""An agent that was broken into: it speaks to the runner and to clients as it likes, with everything that it was handed.

What it must not achieve: run what no authority signed, run it for somebody who did not ask, or use what somebody gave it
for something else. The field-by-field lies about a leaf are in tests/gate/test_release.py; here they come over the socket.
"""

import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from attestd.agent.ask import AgentSocket
from attestd.agent.doctor import examine
from attestd.agent.hidden import find_hidden_runs
from attestd.gate.decide import decide
from attestd.lineage.entry import EntryType
from attestd.tlog.checkpoint import BatchMode
from attestd.tlog.cosignature import Cosigner, cosigner
from attestd.wire import FrameReader, Kind, close_all, encode_fields, encode_frame, send_frame
from tests.attacks.conftest import running
from tests.host import Host
from tests.results import result, token, verifiers
from tests.runner.harness import ROOT, WAIT_S, Bench, Submitted
from tests.world import Granted, World, ed25519_key, mesh_file, with_cosignatures, witness

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
VICTIM = 1001


@pytest.fixture
def mark(short_dir: Path) -> Path:
    """What a command that must not run would leave."""
    short_dir.chmod(0o777)
    return short_dir / "ran"


def refusal(submitted: Submitted) -> tuple[str, str]:
    """Code and sentence with which the runner refuses a go."""
    frame = submitted.receive()
    assert frame.kind == Kind.REFUSED, frame.kind
    _, code, sentence, _ = frame.fields(4)
    return code.decode(), sentence.decode()


def go_for(submitted: Submitted, *argv: str, executable: str, stdin: int | None = None) -> None:
    """The victim's client asked for this, whatever the agent made of it; now it is asked for its go."""
    ready = submitted.receive()
    assert ready.kind == Kind.READY
    submitted.argv = argv
    os.close(submitted.descriptors[4])
    submitted.descriptors[4] = os.open(executable, os.O_RDONLY)
    if stdin is not None:
        os.dup2(stdin, submitted.descriptors[0])
    submitted.go()


# -- what somebody gave it, used for something else ---------------------------------------------------------------------


def use_for_another_command(bench: Bench, mark: Path) -> Submitted:
    """The victim asks for `echo`; the agent has a receipt for `touch`, which the victim may run too, and uses that."""
    submitted = bench.submit(bench.grant(bench.execution("/usr/bin/touch", str(mark))))
    go_for(submitted, "/bin/echo", "hello", executable="/bin/echo")
    return submitted


def test_a_go_used_for_another_command(bench: Bench, mark: Path) -> None:
    with running("consent") as weakened:
        submitted = use_for_another_command(weakened, mark)
        assert submitted.receive().kind == Kind.STARTED
        assert submitted.end() == (0, "")
        assert mark.exists()
    mark.unlink()
    code, sentence = refusal(use_for_another_command(bench, mark))
    assert (code, sentence) == (
        "identity_mismatch",
        "the requester asked for another command than this one",
    )
    assert not mark.exists()


def swap_stdin(bench: Bench, mark: Path) -> Submitted:
    """The victim runs a shell on a script of its own; the agent hands over another stdin than it was given."""
    evil, good = os.pipe(), os.pipe()
    os.write(evil[1], b"touch %s\n" % os.fsencode(mark))
    os.write(good[1], b"exit 3\n")
    null = os.open("/dev/null", os.O_RDWR)
    try:
        submitted = bench.submit(bench.grant(bench.execution("/bin/sh")), stdio=(evil[0], null, null))
        close_all([evil[1], good[1]])
        go_for(submitted, "/bin/sh", executable="/bin/sh", stdin=good[0])
    finally:
        close_all([evil[0], good[0], null])
    return submitted


def test_another_stdin_than_the_requesters(bench: Bench, mark: Path) -> None:
    with running("consent") as weakened:
        submitted = swap_stdin(weakened, mark)
        assert submitted.receive().kind == Kind.STARTED
        assert submitted.end() == (0, "")
        assert mark.exists()
    mark.unlink()
    code, sentence = refusal(swap_stdin(bench, mark))
    assert (code, sentence) == (
        "identity_mismatch",
        "stdin is not the one that the requester asked with",
    )
    assert not mark.exists()


@pytest.mark.parametrize("missing", [0, 1, 4])
def test_a_go_without_what_it_was_asked_with(bench: Bench, mark: Path, missing: int) -> None:
    """One that says less than all of it is bound to nothing."""
    submitted = bench.submit(bench.grant(bench.execution("/usr/bin/touch", str(mark))))
    assert submitted.receive().kind == Kind.READY
    os.close(submitted.descriptors.pop(missing))
    submitted.go()
    assert refusal(submitted)[0] == "identity_mismatch"
    assert not mark.exists()


W1, W2 = witness("one"), witness("two")


def release_uncosigned(bench: Bench, mark: Path, *cosigned_by: Cosigner) -> Submitted:
    """Two witnesses must cosign; the agent does not wait for them, or makes their lines up."""
    bench.world.extra["mesh.json"] = mesh_file([W1, W2])
    bench.world.write_trust(bench.trust)
    granted = bench.grant(bench.execution("/usr/bin/touch", str(mark)), witnesses=2)
    receipt = with_cosignatures(granted.receipt, *cosigned_by, time=bench.world.now)
    return bench.submit(granted, receipt=receipt)


def test_a_release_without_witnesses(bench: Bench, mark: Path) -> None:
    with running("witnesses") as weakened:
        submitted = release_uncosigned(weakened, mark)
        assert submitted.start().kind == Kind.STARTED
        assert submitted.end() == (0, "")
    mark.unlink()
    forger = cosigner("two", ed25519_key("the agent's own"))
    for lines in ((), (W1,), (W1, forger)):
        assert release_uncosigned(bench, mark, *lines).refusal() == "evidence_invalid"
    assert not mark.exists()
    honest = release_uncosigned(bench, mark, W2, W1)
    assert honest.start().kind == Kind.STARTED
    assert honest.end() == (0, "")


def release_unaffirmed(bench: Bench, mark: Path, *, tokens: Callable[[World], Sequence[str]]) -> Submitted:
    """Two verifiers must affirm the host; the agent does not wait for them, or hands over what else it has."""
    world = bench.world
    world.extra["mesh.json"], world.now = verifiers("one", "two"), datetime.now(UTC)
    world.write_trust(bench.trust)
    run = bench.execution("/usr/bin/touch", str(mark))
    artifact = world.artifact(run, verifiers=2, reason=str(time.monotonic()))
    results = [result(world, name) for name in ("one", "two")]
    decision = decide(world.request(artifact, execution=run), world.context(results=results))
    assert decision.denial is None, decision.denial
    granted = Granted(artifact, run, world.receipt(decision.body), decision.body)
    return bench.submit(granted, tokens=tokens(world))


def test_a_release_without_verifiers(bench: Bench, mark: Path) -> None:
    with running("verifiers") as weakened:
        submitted = release_unaffirmed(weakened, mark, tokens=lambda _: ())
        assert submitted.start().kind == Kind.STARTED
        assert submitted.end() == (0, "")
    mark.unlink()
    lies: tuple[tuple[Callable[[World], Sequence[str]], str], ...] = (
        (lambda _: (), "mesh_unavailable"),
        (lambda world: [token(world, "one")] * 2, "mesh_unavailable"),
        (lambda world: [token(world, "one"), token(world, "two", key="one")], "mesh_unavailable"),
        (lambda world: [token(world, "one"), token(world, "two", pcr_digest=bytes(32))], "mesh_unavailable"),
        (lambda world: [token(world, "one"), token(world, "two", findings=["x"])], "environment_untrusted"),
    )
    for tokens, code in lies:
        assert release_unaffirmed(bench, mark, tokens=tokens).refusal() == code
    assert not mark.exists()
    honest = release_unaffirmed(bench, mark, tokens=lambda world: [token(world, n) for n in ("two", "one")])
    assert honest.start().kind == Kind.STARTED
    assert honest.end() == (0, "")


def test_one_go_for_two_executions() -> None:
    """The agent asks the same client twice: its second answer would release the same command a second time."""
    path = Path(f"/tmp/a-{os.getpid()}.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(WAIT_S)
        command = [sys.executable, "-I", "-m", "attestd", "exec", "--", "/bin/true"]
        environment = {"PATH": "/usr/bin:/bin", "ATTESTD_SOCKET": str(path)}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as client:
            sock, _ = listener.accept()
            path.unlink()
            sock.settimeout(WAIT_S)
            reader = FrameReader(sock)
            request = reader.receive()
            assert request is not None
            request.close()
            decision, leaf = [b"allow", b"0", b"", b"", b"", b"ab" * 32, b"7", b"", b""], b"ab" * 32
            send_frame(sock, Kind.DECISION, encode_fields(decision))
            send_frame(sock, Kind.READY, encode_fields([leaf]))
            go = reader.receive()
            assert go is not None
            assert (go.kind, go.fields(9), len(go.descriptors)) == (Kind.GO, [b"/bin/true"], 5)
            go.close()
            send_frame(sock, Kind.READY, encode_fields([leaf]))
            with pytest.raises(EOFError):
                reader.receive()
            sock.close()
            assert client.wait(WAIT_S) == 69


# -- a go from somebody who never asked ---------------------------------------------------------------------------------


@pytest.fixture
def echo_service(short_dir: Path) -> Iterator[Path]:
    """A service of the victim's that sends back what it gets, as many do with a part of it."""
    path = short_dir / "echo"
    short_dir.chmod(0o755)
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            path.chmod(0o777)
            os.setresgid(VICTIM, VICTIM, VICTIM)
            os.setresuid(VICTIM, VICTIM, VICTIM)
            listener.listen()
            os.write(done, b"x")
            while True:
                sock, _ = listener.accept()
                sock.sendall(sock.recv(4096))
        finally:
            os._exit(1)
    os.read(ready, 1)
    close_all([ready, done])
    yield path
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def have_it_echo_a_go(bench: Bench, service: Path, mark: Path, go: bytes) -> Submitted:
    """To the runner the service, and so the victim, is who connected, and who says go."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.connect(str(service))
        sock.sendall(go)
        execution = bench.execution("/usr/bin/touch", str(mark), requester_uid=VICTIM)
        return bench.submit(bench.grant(execution), client_end=sock.fileno())


@AS_ROOT
def test_a_service_that_echoes_the_go(bench: Bench, echo_service: Path, mark: Path) -> None:
    """Before it carried descriptors a go was five bytes, which a daemon of root's can be made to send."""
    execution = bench.execution("/usr/bin/touch", str(mark))
    words = encode_fields([argument.encode() for argument in execution.argv])
    with running("consent") as weakened:
        submitted = have_it_echo_a_go(weakened, echo_service, mark, encode_frame(Kind.GO))
        assert submitted.answer.kind == Kind.ACCEPTED
        leaf = weakened.last_leaf()
        assert weakened.wait_spooled("execution.exit", leaf)
    mark.unlink()
    for go in (encode_frame(Kind.GO), encode_frame(Kind.GO, words)):
        submitted = have_it_echo_a_go(bench, echo_service, mark, go)
        assert submitted.answer.kind == Kind.ACCEPTED
        void = bench.wait_spooled("decision.void", bench.last_leaf())
        assert void["code"] == "identity_mismatch"
    assert not mark.exists()


# -- receipts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("quote-only batch", "evidence_invalid"),
        ("another boot", "identity_mismatch"),
        ("too old", "evidence_stale"),
        ("from the future", "evidence_stale"),
        ("spliced", "evidence_invalid"),
        ("an earlier batch", "evidence_invalid"),
        ("another host", "evidence_invalid"),
        ("a denial", "evidence_invalid"),
        ("for another artifact", "identity_mismatch"),
        ("for another user", "scope_violation"),
    ],
)
def test_receipts_that_release_nothing(bench: Bench, mark: Path, name: str, code: str) -> None:
    """Each of these is sealed by a real TPM key, over a leaf that the agent chose."""
    world, execution = bench.world, bench.execution("/usr/bin/touch", str(mark))
    granted = bench.grant(execution)
    body, now = dict(granted.body), datetime.now(UTC)
    if name == "quote-only batch":
        receipt = world.receipt(body, mode=BatchMode.RECORD)
    elif name == "another boot":
        receipt = world.receipt(body, boot="3f1c2d4e-5a6b-4c7d-8e9f-0a1b2c3d4e5f")
    elif name == "too old":
        receipt = world.receipt(body, time=now - timedelta(seconds=90))
    elif name == "from the future":
        receipt = world.receipt(body, time=now + timedelta(seconds=30))
    elif name == "spliced":  # the leaf of one, the proof and checkpoint of another
        other = world.receipt({**body, "id": "ff" * 16})
        _, blank, rest = other.partition(b"\nindex ")
        receipt = granted.receipt.partition(b"\nindex ")[0] + blank + rest
    elif name == "an earlier batch":
        seq = world.log.append(body, type_=EntryType.DECISION_ALLOW, time=now, boot=world.boot)
        world.log.seal(mode=BatchMode.RECORD, pcr_digest=world.pcr_digest)
        world.log.append(body, type_=EntryType.DECISION_ALLOW, time=now, boot=world.boot)
        receipt = world.log.receipt(seq, world.log.seal(mode=BatchMode.RELEASE, pcr_digest=world.pcr_digest))
    elif name == "another host":
        stranger = World("stranger", now=now, boot=world.boot, uid=world.uid, isolation=world.isolation)
        receipt = stranger.receipt(body)
    elif name == "a denial":
        receipt = world.receipt({**body, "code": "expired"}, type_=EntryType.DECISION_DENY)
    elif name == "for another artifact":
        receipt = bench.grant(execution).receipt
    else:
        receipt = world.receipt({**body, "uid": 65534})
    submitted = bench.submit(granted, receipt=receipt)
    assert submitted.refusal() == code
    assert not mark.exists()


# -- reading files through a client --------------------------------------------------------------------------------------


@pytest.fixture
def secrets(short_dir: Path) -> dict[str, Path]:
    """Files that their owner believes to be private, each for another reason."""
    short_dir.chmod(0o755)
    (short_dir / "private").mkdir(0o700)
    files = {
        "mode": short_dir / "mode",
        "program": short_dir / "program",
        "directory": short_dir / "private" / "notes",
        "link": short_dir / "link",
    }
    for name, mode in (("mode", 0o600), ("program", 0o700), ("directory", 0o755)):
        files[name].write_text("#!/bin/sh\nPASSWORD=hush\n")
        files[name].chmod(mode)
    files["link"].symlink_to(files["directory"])
    return files


def asked_of_a_client(*needs: str, command: Sequence[str] = ("/bin/true",)) -> list[bytes]:
    """What a client answers to an agent that asks for what it likes."""
    path = Path(f"/tmp/a-{os.getpid()}.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(WAIT_S)
        words = [sys.executable, "-I", "-m", "attestd", "exec", "--", *command]
        environment = {"PATH": "/usr/bin:/bin", "ATTESTD_SOCKET": str(path)}
        with subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as client:
            sock, _ = listener.accept()
            path.unlink()
            with sock:
                sock.settimeout(WAIT_S)
                reader = FrameReader(sock)
                request = reader.receive()
                assert request is not None
                request.close()
                send_frame(sock, Kind.NEED, encode_fields([need.encode() for need in needs]))
                frame = reader.receive()
                assert frame is not None
                answers = frame.fields(len(needs))
                assert len(frame.descriptors) == answers.count(b"+")
                frame.close()
            assert client.wait(WAIT_S) == 69
            return answers


def test_reading_private_files_through_a_client(secrets: dict[str, Path]) -> None:
    """The mode alone does not tell: what is 0644 in a home of 0700 is private, and so is a program of 0700."""
    needs = [f"file:{path}" for path in secrets.values()]
    needs += [f"lookup:{secrets['program']}:", f"lookup:notes:{secrets['directory'].parent}"]
    answers = asked_of_a_client(*needs, "file:/etc/hostname", "lookup:sh:/bin")
    assert [answer[:8] for answer in answers] == [b"-private"] * 6 + [b"+", b"+"]


def test_what_the_requester_named_is_opened(secrets: dict[str, Path]) -> None:
    """So that private inputs, and scripts whose interpreter is in a private home, can be run at all."""
    script = secrets["mode"].parent / "script"
    script.write_text(f"#!{secrets['program']}\n")
    script.chmod(0o755)
    assert asked_of_a_client(f"file:{secrets['program']}", command=[str(script)]) == [b"+"]
    command = ["/bin/cat", str(secrets["mode"]), str(secrets["link"])]
    needs = [f"file:{secrets['mode']}", f"file:{secrets['link']}", f"file:{secrets['directory']}"]
    answers = asked_of_a_client(*needs, command=command)
    assert [answer[:8] for answer in answers] == [b"+", b"+", b"-private"]


def test_single_variables_can_be_asked_for() -> None:
    """Residual (ADR 0003): the client cannot tell which variables an artifact passes, so it answers for any one."""
    assert asked_of_a_client("env:PATH", "env:HOME") == [b"+/usr/bin:/bin", b"-not set"]


# -- hiding a run --------------------------------------------------------------------------------------------------------


@AS_ROOT
def test_a_run_that_the_log_does_not_tell_of(stopped: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sealed and released in a copy of the log; then the log goes on without it, and everything verifies.

    The receipt is real, so nothing unauthorized ran, and only witnesses would have seen two histories. But the runner
    counted: `attestd doctor`, by root, holds its record against the log.
    """
    host, mark = stopped, stopped.work / "ran"
    touch = host.issue("/usr/bin/touch", str(mark))
    host.start()
    assert host.run("/bin/true").status == 0
    host.wait_settled()
    assert host.stop() == 0
    real, copy = host.layout.agent, host.top / "copy"
    shutil.copytree(real, copy)

    # The agent's directory is the copy now, and the agent is not itself.
    real.rename(host.top / "real")
    copy.rename(real)
    monkeypatch.setattr("tests.host.ENTRY", "tests.attacks.broken_agent")
    host.start()
    assert host.exec("/usr/bin/touch", str(mark), authorization=touch).status == 0
    assert mark.exists()
    (allow,) = [item for item in host.entries(EntryType.DECISION_ALLOW) if str(mark) in item.body["argv"]]
    host.outcome(allow.id)
    wait_unspooled(host)
    host.kill_agent()

    # As if nothing had been.
    shutil.rmtree(real)
    (host.top / "real").rename(real)
    monkeypatch.undo()
    host.start()
    while len(host.entries()) <= allow.seq:  # the runner would refuse another receipt for the same leaf
        assert host.exec("/bin/false").status == 77
    assert host.run("/bin/true").status == 0
    assert not [item for item in host.entries() if allow.id in str(item.body)]
    host.wait_settled()
    host.require_sound()

    found = {
        item.area: item for item in examine(host.layout, AgentSocket(os.fsencode(host.layout.agent_socket)))
    }
    assert found["runs"].remedy is not None
    assert "1 command ran that the log does not tell of, the last at" in found["runs"].found
    assert allow.id in found["runs"].found
    assert find_hidden_runs(host.layout)[0] == 3


def wait_unspooled(host: Host) -> None:
    """Until the runner knows that the log has all that it told."""
    with contextlib.closing(
        sqlite3.connect(f"file:{host.layout.runner / 'runner.db'}?mode=ro", uri=True)
    ) as db:
        deadline = time.monotonic() + 60
        while db.execute("SELECT count(*) FROM spool").fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(0.02)
