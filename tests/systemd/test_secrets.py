"""What is secret is in no log: keys, auth values, and what requests brought along (`attestd.journal`)."""

import contextlib
import os
import re
import socket
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestd.agent.keystore import load_keys
from attestd.wire import Kind, encode_fields, encode_frame, send_frame
from tests.host import Host, wait_for

# Recognisable, and long enough to be nothing else.
ENV, SET, ARGV, STDIN, WIRE = (f"s3cret-{name}-5f1c0e9b" for name in ("env", "set", "argv", "stdin", "wire"))


def serve(host: Host) -> None:
    """The command itself, as talkative as it can be."""
    command = [sys.executable, "-I", "-m", "attestd", "serve", "--verbose", "--state-dir", str(host.state)]
    with (host.top / "agent.log").open("ab") as log:
        host.agent = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={"PATH": os.environ["PATH"], "TOKEN": ENV, "ATTESTD_TPM_DEADLINE_S": "10"},
        )  # fmt: skip
    wait_for("the agent serves", host._serves)


def disturb(path: Path) -> None:
    """All that a peer can send that does not parse."""
    secret = WIRE.encode()
    for frame in (
        encode_frame(b"Z", secret),
        encode_frame(Kind.REQUEST, secret),
        encode_frame(Kind.REQUEST, encode_fields([secret] * 5)),
        encode_frame(Kind.JSON_REQUEST, b'{"op":"' + secret + b'"}'),
        encode_frame(Kind.JSON_REQUEST, b'{"op":"status","x":"' + secret),
        encode_frame(Kind.EXECUTE, encode_fields([secret] * 8)),
        encode_frame(Kind.FORFEIT, encode_fields([secret, secret])),
        encode_frame(Kind.SPOOL, encode_fields([secret])),
        secret * 1000,
    ):
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(ConnectionError):
            sock.settimeout(10)
            sock.connect(str(path))
            sock.sendall(frame)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass


@pytest.fixture(scope="module")
def used() -> Iterator[Host]:
    """A host after a day's work in which much went wrong."""
    with Host.create() as host:
        serve(host)
        passed = host.issue("/usr/bin/env", env_pass=("TOKEN",), env_set={"PATH": "/usr/bin", "GIVEN": SET})
        done = host.exec("/usr/bin/env", authorization=passed, env={"TOKEN": ENV})
        assert f"TOKEN={ENV}".encode() in done.stdout
        assert host.run("/bin/cat", stdin=STDIN.encode()).stdout == STDIN.encode()
        other = host.issue("/bin/echo", "harmless")
        denied = host.exec("/bin/echo", ARGV, authorization=other)
        assert denied.status == 77
        assert ARGV in denied.stderr, "the requester is told"
        assert host.exec("/bin/true", authorization=b'{"payload":"' + WIRE.encode()).status == 65
        disturb(host.layout.agent_socket)
        disturb(host.layout.runner_socket)
        host.wait_settled()
        host.kill_runner()
        assert host.stop() == 0
        serve(host)
        send_and_leave = socket.socket(socket.AF_UNIX)
        send_and_leave.connect(str(host.layout.agent_socket))
        send_frame(send_and_leave, Kind.REQUEST, WIRE.encode())
        send_and_leave.close()
        assert host.stop() == 0
        yield host


def written(host: Host) -> dict[str, bytes]:
    return {
        str(path.relative_to(host.top)): path.read_bytes() for path in host.top.rglob("*") if path.is_file()
    }


def test_what_requests_brought_is_in_no_log(used: Host) -> None:
    files = written(used)
    logs = [name for name in files if name.endswith(".log")]
    assert sorted(logs) == ["agent.log", "s/runner/runner.log", "s/tpm/swtpm.log"]
    # It was there to be written: the audit log, which is the agent's alone, has what ran.
    assert ENV.encode() in files["s/agent/log.db"]
    assert ARGV.encode() in files["s/agent/log.db"]
    said = files["agent.log"].decode()
    for expected in (
        "denied code=scope_violation",
        "denied code=malformed_authorization",
        "connection.broken",
    ):
        assert expected in said
    assert "connection.dropped" in files["s/runner/runner.log"].decode()
    for name in logs:
        for secret in (ENV, SET, ARGV, STDIN, WIRE):
            assert secret.encode() not in files[name], (name, secret)


def test_no_key_and_no_auth_value_is_anywhere_else(used: Host) -> None:
    layout = used.layout
    blobs, auth = load_keys(layout.keys)
    secrets = {"ak": auth.ak, "release": auth.release, "counter": auth.counter}
    secrets |= {"ak blob": blobs.ak_private, "release blob": blobs.release_private}
    assert all(len(value) >= 16 for value in secrets.values())
    forms = {
        (name, form)
        for name, value in secrets.items()
        for form in (value, value.hex().encode(), value.hex().upper().encode(), b64encode(value).rstrip(b"="))
    }
    for path in layout.authority.glob("*.pem"):
        body = "".join(re.findall(r"^[A-Za-z0-9+/=]{20,}$", path.read_text(), re.MULTILINE))
        forms.add((path.name, body[20:60].encode()))
    own = {f"s/authority/{path.name}" for path in layout.authority.glob("*.pem")} | {"s/agent/keys.json"}
    files = written(used)
    assert own < set(files)
    assert sum(form in files["s/agent/keys.json"] for _, form in forms) == len(secrets), "it would be found"
    for name in set(files) - own:
        # The software TPM's own memory is where a TPM keeps them.
        if not name.startswith("s/tpm/state/"):
            assert [what for what, form in forms if form in files[name]] == [], name


def test_every_line_is_a_record(used: Host) -> None:
    for log in ("agent.log", "s/runner/runner.log"):
        lines = (used.top / log).read_text().splitlines()
        assert len(lines) > 4
        for line in lines:
            assert re.fullmatch(r'\d\d:\d\d:\d\d \w+ [a-z_.]+( [a-z_]+=("(\\.|[^"\\])*"|[^" ]+))*', line), (
                line
            )
