"""What the runner refuses, whatever the agent says: each attack is carried out."""

import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attestd.authorization.pattern import ArgForm
from attestd.observe import MAX_FILE_BYTES
from attestd.wire import Kind, encode_fields, send_frame
from tests.runner.harness import PATH, Bench, connected_pair
from tests.world import SALT, World

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="p-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_receipt_runs_once(bench: Bench) -> None:
    granted = bench.grant(bench.execution("/bin/true"), max_uses=5)
    with bench.submit(granted).client:
        pass
    assert bench.submit(granted).refusal() == "identity_mismatch"


def test_the_runner_counts_uses_itself(bench: Bench) -> None:
    """Two receipts for an artifact of one use: the agent did not count, or lost its count."""
    granted = bench.grant(bench.execution("/bin/true"), max_uses=1)
    again = bench.world.receipt(granted.body)
    with bench.submit(granted).client:
        pass
    assert bench.submit(granted, receipt=again).refusal() == "uses_exhausted"


def test_a_forfeited_receipt_never_runs(bench: Bench) -> None:
    granted = bench.grant(bench.execution("/bin/true"))
    seq = str(len(bench.world.log.entries) - 1).encode()
    fields = [bench.world.log.log_id.encode(), seq]
    assert bench.ask(Kind.FORFEIT, fields).fields(1) == [b"burned"]
    assert bench.submit(granted).refusal() == "identity_mismatch"
    assert bench.ask(Kind.FORFEIT, fields).fields(1) == [b"burned"]


def test_too_late_to_forfeit(bench: Bench) -> None:
    submitted = bench.submit(bench.grant(bench.execution("/bin/true")))
    seq = str(len(bench.world.log.entries) - 1).encode()
    assert bench.ask(Kind.FORFEIT, [bench.world.log.log_id.encode(), seq]).fields(1) == [b"ran"]
    submitted.client.close()


def test_a_receipt_of_another_world(bench: Bench) -> None:
    """Everything fits, but the keys are none that this host's trust knows."""
    stranger = World(
        "stranger",
        now=bench.world.now,
        boot=bench.world.boot,
        uid=bench.world.uid,
        isolation=bench.world.isolation,
    )
    assert bench.submit(stranger.grant(bench.execution("/bin/true"))).refusal() == "evidence_invalid"


@pytest.mark.parametrize("receipt", [b"", b"c2sp.org/tlog-proof@v1\n", b"\xff" * 100])
def test_a_receipt_that_is_none(bench: Bench, receipt: bytes) -> None:
    granted = bench.grant(bench.execution("/bin/true"))
    assert bench.submit(granted, receipt=receipt).refusal() == "evidence_invalid"


def test_another_artifact_than_the_receipts(bench: Bench) -> None:
    granted = bench.grant(bench.execution("/bin/true"))
    other = bench.grant(bench.execution("/bin/true"))
    assert bench.submit(granted, artifact=other.artifact).refusal() == "identity_mismatch"


def test_other_bytes_than_were_decided(bench: Bench) -> None:
    granted = bench.grant(bench.execution("/bin/true"))
    assert bench.submit(granted, files=["/bin/false"]).refusal() == "identity_mismatch"


def test_a_file_that_changed_since_the_decision(bench: Bench, place: Path) -> None:
    path = place / "true"
    path.write_bytes(Path("/bin/true").read_bytes())
    path.chmod(0o755)
    granted = bench.grant(bench.execution(path))
    path.write_bytes(Path("/bin/false").read_bytes())
    assert bench.submit(granted).refusal() == "identity_mismatch"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"argv": ["/bin/echo", "other"]}, "scope_violation"),
        ({"argv": ["/bin/echo", "word", "more"]}, "scope_violation"),
        ({"env": {"PATH": PATH, "LD_PRELOAD": "/tmp/evil.so"}}, "scope_violation"),
        ({"env": {}}, "scope_violation"),
        ({"cwd": "/usr"}, "scope_violation"),
    ],
)
def test_another_execution_than_was_decided(bench: Bench, changes: dict[str, object], code: str) -> None:
    granted = bench.grant(bench.execution("/bin/echo", "word"))
    assert bench.submit(granted, **changes).refusal() == code  # type: ignore[arg-type]


def test_another_requester_than_was_decided(bench: Bench) -> None:
    """The receipt is for uid 4242; the kernel says who connected."""
    execution = bench.execution("/bin/true", requester_uid=4242)
    assert bench.submit(bench.grant(execution)).refusal() == "identity_mismatch"


def test_a_go_from_another_process_than_connected(bench: Bench) -> None:
    """A descriptor that was passed on, or inherited by a set-user-id program, speaks for nobody."""
    submitted = bench.submit(bench.grant(bench.execution("/bin/true")))
    assert submitted.receive().kind == Kind.READY
    child = os.fork()
    if child == 0:
        submitted.go()
        os._exit(0)
    os.waitpid(child, 0)
    refused = submitted.receive()
    assert refused.kind == Kind.REFUSED
    assert refused.fields(4)[:2] == [b"77", b"identity_mismatch"]


@pytest.mark.parametrize("kind", [Kind.SIGNAL, Kind.REQUEST, b"?"])
def test_another_frame_instead_of_the_go_voids(bench: Bench, kind: bytes) -> None:
    submitted = bench.submit(bench.grant(bench.execution("/bin/true")))
    leaf = submitted.receive().fields(1)[0].decode()
    send_frame(submitted.client, kind, encode_fields([b"15"]))
    assert "protocol" in bench.wait_spooled("decision.void", leaf)["reason"]


def test_a_client_that_goes_away_before_its_go_voids(bench: Bench) -> None:
    submitted = bench.submit(bench.grant(bench.execution("/bin/true")))
    leaf = submitted.receive().fields(1)[0].decode()
    submitted.client.close()
    void = bench.wait_spooled("decision.void", leaf)
    assert void["reason"] == "the client went away before the command started"
    assert void["code"] is None


def test_a_client_that_is_no_socket(bench: Bench) -> None:
    reader, writer = os.pipe()
    granted = bench.grant(bench.execution("/bin/true"))
    assert bench.submit(granted, client_end=writer).refusal() == "identity_mismatch"
    os.close(reader)
    os.close(writer)


def test_a_client_that_never_connected(bench: Bench) -> None:
    granted = bench.grant(bench.execution("/bin/true"))
    with socket.socket(socket.AF_INET) as sock:
        assert bench.submit(granted, client_end=sock.fileno()).refusal() == "identity_mismatch"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nested", "#!{place}/interpreter\n"),
        ("options", "#!/usr/bin/env -S sh\n"),
        ("relative", "#!bin/sh\n"),
    ],
)
def test_scripts_that_are_not_run(bench: Bench, place: Path, name: str, text: str) -> None:
    (place / "interpreter").write_text("#!/bin/sh\n")
    (place / "interpreter").chmod(0o755)
    path = place / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    granted = bench.grant(bench.execution(path))
    path.write_text(text.format(place=place))
    assert bench.submit(granted, files=[path, place / "interpreter"]).refusal() == "identity_mismatch"


def test_a_script_without_its_interpreter(bench: Bench, place: Path) -> None:
    """The agent says that there is no interpreter: the kernel would open it by path."""
    path = place / "script"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    execution = replace(bench.execution(path), interpreters=())
    assert bench.submit(bench.grant(execution)).refusal() == "identity_mismatch"


def test_an_input_that_may_change_and_is_not_on_the_command_line(bench: Bench, place: Path) -> None:
    plan = place / "plan"
    plan.write_text("approved")
    plan.chmod(0o666)
    execution = bench.execution("/bin/true", inputs=[plan])
    assert bench.submit(bench.grant(execution)).refusal() == "scope_violation"


def test_a_deleted_file_has_no_path(bench: Bench, place: Path) -> None:
    path = place / "true"
    path.write_bytes(Path("/bin/true").read_bytes())
    path.chmod(0o755)
    granted = bench.grant(bench.execution(path))
    descriptor = os.open(path, os.O_RDONLY)
    path.unlink()
    assert bench.submit(granted, files=[f"/proc/self/fd/{descriptor}"]).refusal() == "identity_mismatch"
    os.close(descriptor)


def test_a_file_too_large_to_look_at(bench: Bench, place: Path) -> None:
    path = place / "huge"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    granted = bench.grant(bench.execution("/bin/true"))
    assert bench.submit(granted, files=[path]).refusal() == "identity_mismatch"


def test_a_device_is_no_executable(bench: Bench) -> None:
    granted = bench.grant(bench.execution("/bin/true"))
    assert bench.submit(granted, files=["/dev/null"]).refusal() == "identity_mismatch"


@AS_ROOT
def test_a_user_that_does_not_exist(bench: Bench) -> None:
    assert bench.submit(bench.grant(bench.execution("/bin/true", uid=54321))).refusal() == "scope_violation"


def fields_of(bench: Bench) -> list[bytes]:
    granted = bench.grant(bench.execution("/bin/true"))
    return [
        granted.receipt,
        granted.artifact,
        b"",
        SALT,
        b"0",
        b"0",
        b"1",
        b"",
        f"PATH={PATH}".encode(),
        b"/bin/true",
    ]


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (3, b""),
        (3, SALT[:31]),
        (4, b"1"),
        (4, b"-1"),
        (4, b"x"),
        (5, b"9"),
        (6, b"2"),
        (6, b"999999"),
        (7, b"\xff"),
        (7, b"\n" * 16),
        (8, b"PATH"),
        (8, b"=x"),
        (9, b"\xff"),
        (9, b"a\0b"),
    ],
)
def test_a_request_that_does_not_parse_is_refused(bench: Bench, index: int, value: bytes) -> None:
    fields = fields_of(bench)
    fields[index] = value
    client, server = connected_pair(bench.directory)
    null = os.open("/dev/null", os.O_RDWR)
    true = os.open("/bin/true", os.O_RDONLY)
    root = os.open("/", os.O_RDONLY)
    answer = bench.ask(Kind.EXECUTE, fields, [server.fileno(), null, null, null, root, true])
    for descriptor in (null, true, root):
        os.close(descriptor)
    client.close()
    server.close()
    assert answer.kind == Kind.REJECTED
    assert answer.fields(3)[0] == b"internal_error"


@pytest.mark.parametrize("count", [0, 5])
def test_a_request_without_its_descriptors_is_refused(bench: Bench, count: int) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    answer = bench.ask(Kind.EXECUTE, fields_of(bench), [null] * count)
    os.close(null)
    assert answer.kind == Kind.REJECTED


def test_the_runner_leaks_no_descriptor(bench: Bench) -> None:
    """After refusals, voids and runs it holds as many as before."""
    assert bench.process is not None

    def held() -> int:
        return len(os.listdir(f"/proc/{bench.process.pid if bench.process else 0}/fd"))

    bench.run(bench.execution("/bin/true"))
    bench.info()
    before = held()
    for _ in range(5):
        bench.run(bench.execution("/bin/true"))
        bench.submit(bench.grant(bench.execution("/bin/true")), files=["/bin/false"]).client.close()
        voided = bench.submit(bench.grant(bench.execution("/bin/true")))
        leaf = voided.receive().fields(1)[0].decode()
        voided.client.close()
        bench.wait_spooled("decision.void", leaf)
    assert held() <= before + 2  # spare children come and go


def test_secrets_that_were_salted_otherwise(bench: Bench) -> None:
    """Who hands over another salt, or another secret than was decided, hands over what the leaf does not say."""
    secret, given = "hidd3n", ArgForm(prefix="", charset="alnum", most=9)
    bench.world.authorities["authorizations"][0]["secret"] = {"argv": [1], "env": []}
    bench.world.write_trust(bench.trust)
    run = bench.execution("/bin/true", argv=("/bin/true", secret))
    granted = bench.grant(run, argv=["/bin/true", given])
    assert secret.encode() not in granted.receipt
    for changes in ({"salt": bytes(32)}, {"argv": ("/bin/true", "another")}):
        answer = bench.submit(granted, **changes).answer
        assert answer.kind == Kind.REJECTED
        code, sentence, _ = (field.decode() for field in answer.fields(3))
        assert code == "identity_mismatch"
        assert "salted with another salt" in sentence
        assert secret not in sentence
    submitted = bench.submit(granted)
    assert submitted.answer.kind == Kind.ACCEPTED
    submitted.client.close()
