"""What the runner runs is what was verified: bytes, arguments, environment, directory, user, descriptors."""

import json
import os
import pwd
import resource
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestd.wire import Kind
from tests.runner.harness import PATH, Bench, read_until

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
PROBE = """
import json, os, resource, signal, sys
ignored = [n for n in range(1, 65) if n not in (9, 19, 32, 33) and signal.getsignal(n) == signal.SIG_IGN]
print(json.dumps({
    "argv": sys.argv, "cwd": os.getcwd(), "env": dict(os.environ), "ids": [*os.getresuid(), *os.getresgid()],
    "groups": os.getgroups(), "fds": sorted(int(n) for n in os.listdir("/proc/self/fd")),
    "sid": os.getsid(0) == os.getpid(), "umask": os.umask(0), "ignored": ignored,
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "exe": os.readlink("/proc/self/exe"),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
}))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may enter; root's, when root runs the tests."""
    with tempfile.TemporaryDirectory(prefix="p-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def probe(bench: Bench, **changes: object) -> dict[str, object]:
    status, message, output = bench.run(
        bench.execution("/usr/bin/python3", "-Ic", PROBE, "argument", **changes)
    )
    assert (status, message) == (0, ""), output
    return dict(json.loads(output))


def script(path: Path, text: str, *, mode: int = 0o755) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_command_gets_exactly_what_was_verified(bench: Bench, place: Path) -> None:
    env = {"PATH": PATH, "LANG": "C.UTF-8", "GREETING": "gr\u00fc\u00df dich=du"}
    seen = probe(bench, cwd=str(place), env=env)
    assert seen["argv"] == ["-c", "argument"]
    assert seen["cwd"] == str(place)
    assert seen["env"] == env
    # 0, 1, 2, and the listing's own.
    assert seen["fds"] == [0, 1, 2, 3]
    assert seen["sid"] is True
    assert seen["umask"] == 0o022
    # Python itself ignores these two; the runner's other dispositions and its mask are not inherited.
    assert seen["ignored"] == [signal.SIGPIPE, signal.SIGXFSZ]
    assert seen["blocked"] == []
    assert os.path.samefile(str(seen["exe"]), "/usr/bin/python3")


def test_the_runners_higher_descriptor_limit_stays_its_own(bench: Bench) -> None:
    shown = subprocess.run(
        ["/bin/sh", "-c", "ulimit -Sn; ulimit -Hn"], capture_output=True, check=True
    ).stdout
    assert probe(bench)["files"] == [int(number) for number in shown.split()]


def test_commands_get_the_descriptor_limit_that_the_runner_is_told(fresh_bench: Bench) -> None:
    """The agent has raised its own, which the runner inherits."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    bench = fresh_bench.start("-I", "-m", "attestd.runner", "--descriptor-limit", "700")
    assert bench.process is not None
    assert resource.prlimit(bench.process.pid, resource.RLIMIT_NOFILE) == (min(8192, hard), hard)
    assert probe(bench)["files"] == [700, hard]


def test_output_and_status_come_through(bench: Bench) -> None:
    assert bench.run(bench.execution("/bin/sh", "-c", "echo out; echo err >&2; exit 7")) == (
        7,
        "",
        b"out\nerr\n",
    )


def test_a_signal_becomes_128_and_its_number(bench: Bench) -> None:
    execution = bench.execution("/bin/sh", "-c", "kill -KILL $$")
    assert bench.run(execution)[0] == 128 + signal.SIGKILL


def test_start_and_exit_are_spooled_for_the_log(bench: Bench) -> None:
    granted = bench.grant(bench.execution("/bin/sh", "-c", "kill -TERM $$"))
    submitted = bench.submit(granted)
    with submitted.client:
        started = submitted.start()
        assert submitted.end() == (143, "")
    leaf = bench.wait_spooled("execution.exit", granted_leaf(bench))["leaf"]
    start = bench.wait_spooled("execution.start", str(leaf))
    end = bench.wait_spooled("execution.exit", str(leaf))
    assert [started.kind, *started.fields(1)] == [Kind.STARTED, str(start["pid"]).encode()]
    assert {name: start[name] for name in ("request", "seq", "log_id", "uid", "isolation")} == {
        "request": granted.body["id"],
        "seq": len(bench.world.log.entries) - 1,
        "log_id": bench.world.log.log_id,
        "uid": bench.world.uid,
        "isolation": bench.world.isolation,
    }
    assert (end["status"], end["signal"], end["error"]) == (143, 15, None)
    assert end["duration_ms"] >= 0
    assert start["artifact"] == end["artifact"]


def granted_leaf(bench: Bench) -> str:
    from attestd.tlog.tree import leaf_hash

    return leaf_hash(bench.world.log.entries[-1]).hex()


def test_a_binary_that_others_can_write_runs_from_a_sealed_copy(bench: Bench, place: Path) -> None:
    """Its file can be changed once it is verified: what runs does not change."""
    binary = place / "echo"
    binary.write_bytes(Path("/bin/echo").read_bytes())
    binary.chmod(0o777)
    granted = bench.grant(bench.execution(binary, "original"))
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    submitted = bench.submit(granted, stdio=(null, writer, writer))
    os.close(null)
    os.close(writer)
    binary.write_bytes(b"#!/bin/sh\necho evil\n")
    with submitted.client, os.fdopen(reader, "rb") as output:
        submitted.start()
        assert submitted.end() == (0, "")
        assert output.read() == b"original\n"


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_script_runs_by_its_verified_descriptor(bench: Bench, place: Path, mode: int) -> None:
    path = script(place / "script", '#!/bin/sh -e\necho "$0" "$1"\n', mode=mode)
    status, _, output = bench.run(bench.execution(path, "argument"))
    assert (status, output) == (0, b"/proc/self/fd/64 argument\n")


def test_a_script_changed_after_it_was_handed_over_runs_as_it_was(bench: Bench, place: Path) -> None:
    path = script(place / "script", "#!/bin/sh\necho original\n", mode=0o777)
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    submitted = bench.submit(bench.grant(bench.execution(path)), stdio=(null, writer, writer))
    os.close(null)
    os.close(writer)
    path.write_text("#!/bin/sh\necho changed!\n")
    with submitted.client, os.fdopen(reader, "rb") as output:
        submitted.start()
        assert submitted.end() == (0, "")
        assert output.read() == b"original\n"


def test_env_is_skipped_but_pinned(bench: Bench, place: Path) -> None:
    path = script(place / "script", "#!/usr/bin/env python3\nimport sys\nprint(sys.argv[1:])\n")
    execution = bench.execution(path, "argument")
    assert Path(execution.interpreters[0].path).name == "env"
    assert len(execution.interpreters) == 2
    assert bench.run(execution)[2] == b"['argument']\n"


@AS_ROOT
def test_an_input_of_roots_stays_a_path(bench: Bench) -> None:
    inputs = [Path("/etc/hostname").resolve()]
    status, _, output = bench.run(bench.execution("/bin/echo", str(inputs[0]), inputs=inputs))
    assert (status, output) == (0, f"{inputs[0]}\n".encode())


@pytest.mark.parametrize("relative", [False, True])
def test_an_input_that_others_can_write_is_given_as_a_sealed_copy(
    bench: Bench, place: Path, relative: bool
) -> None:
    plan = place / "plan.json"
    plan.write_text("approved")
    plan.chmod(0o666)
    name = plan.name if relative else str(plan)
    execution = bench.execution(
        "/bin/sh", "-c", 'echo "$1"; cat "$1"', "sh", name, inputs=[plan], cwd=str(place)
    )
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    submitted = bench.submit(bench.grant(execution), stdio=(null, writer, writer))
    os.close(null)
    os.close(writer)
    plan.write_text("changed!")
    with submitted.client, os.fdopen(reader, "rb") as output:
        submitted.start()
        submitted.end()
        assert output.read() == b"/proc/self/fd/64\napproved"


def test_an_input_under_a_directory_that_others_can_write_is_given_as_a_descriptor(
    bench: Bench, place: Path
) -> None:
    """The file is root's, its name is not: somebody else could put another file there."""
    place.chmod(0o777)
    plan = place / "plan.json"
    plan.write_text("approved")
    plan.chmod(0o644)
    execution = bench.execution("/bin/sh", "-c", 'cat "$1"', "sh", str(plan), inputs=[plan])
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    submitted = bench.submit(bench.grant(execution), stdio=(null, writer, writer))
    os.close(null)
    os.close(writer)
    plan.rename(place / "away")
    plan.write_text("another")
    with submitted.client, os.fdopen(reader, "rb") as output:
        submitted.start()
        submitted.end()
        assert output.read() == b"approved"


@AS_ROOT
def test_it_runs_as_another_user_with_that_users_groups_only(bench: Bench) -> None:
    user = pwd.getpwnam("nobody")
    seen = probe(bench, uid=user.pw_uid)
    assert seen["ids"] == [user.pw_uid] * 3 + [user.pw_gid] * 3
    assert seen["groups"] == sorted(set(os.getgrouplist(user.pw_name, user.pw_gid)))


@AS_ROOT
def test_a_directory_is_entered_as_the_user(bench: Bench, place: Path) -> None:
    """Root could enter it for them: it must not."""
    place.chmod(0o700)
    execution = bench.execution("/bin/true", cwd=str(place), uid=pwd.getpwnam("nobody").pw_uid)
    status, message, _ = bench.run(execution)
    assert status == 126
    assert (
        message == "attestd: the command could not be started: enter the working directory: Permission denied"
    )


def test_what_the_kernel_does_not_execute_is_126(bench: Bench, place: Path) -> None:
    path = place / "nonsense"
    path.write_bytes(b"\x00\x01\x02 no program")
    path.chmod(0o755)
    granted = bench.grant(bench.execution(path))
    submitted = bench.submit(granted)
    with submitted.client:
        frame = submitted.start()
    assert frame.kind == Kind.EXITED
    status, message = frame.fields(2)
    assert status == b"126"
    assert message == b"attestd: the command could not be started: execute: Exec format error"
    assert (
        bench.wait_spooled("execution.exit", granted_leaf(bench))["error"]
        == message.decode()[len("attestd: ") :]
    )


def test_without_a_loader_it_is_127(bench: Bench, place: Path) -> None:
    path = place / "orphan"
    path.write_bytes(
        Path("/bin/true").read_bytes().replace(b"/lib64/ld-linux-x86-64.so.2", b"/lib64/xx-linux-x86-64.so.2")
    )
    path.chmod(0o755)
    submitted = bench.submit(bench.grant(bench.execution(path)))
    with submitted.client:
        assert submitted.start().fields(2)[0] == b"127"


def test_a_terminal_is_never_the_requesters_own(bench: Bench) -> None:
    """Stdin is a terminal, stdout a pipe: the command gets a pty of its own as stdin, with the modes and size."""
    import fcntl
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    reader, writer = os.pipe()
    execution = bench.execution(
        "/bin/sh", "-c", "tty; stty size; ps -o tpgid= -p $$; echo to the terminal >/dev/tty"
    )
    submitted = bench.submit(bench.grant(execution), stdio=(theirs, writer, writer))
    os.close(writer)
    with submitted.client, os.fdopen(reader, "rb") as output:
        started = submitted.start()
        (master,) = started.descriptors
        assert submitted.end() == (0, "")
        tty, size, group = output.read().splitlines()
        assert tty != os.ttyname(theirs).encode()
        assert tty.startswith(b"/dev/pts/")
        assert size == b"33 99"
        assert group.strip() == started.fields(1)[0]
        assert b"to the terminal" in read_until(master, b"terminal")
        started.close()
    os.close(ours)
    os.close(theirs)
