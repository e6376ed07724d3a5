"""An unprivileged local user: paths, descriptors, namespaces, terminals, signals; also one who may run some command."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attestd.errors import MalformedError
from attestd.wire import Kind, close_all
from tests.attacks.conftest import running
from tests.runner.harness import WAIT_S, Bench, read_until
from tests.world import World

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
PYTHON = os.path.realpath("/usr/bin/python3")
ATTACKER = 1001


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of root's, in directories of root's but /var/tmp, which is sticky."""
    with tempfile.TemporaryDirectory(prefix="p-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


# -- paths in another mount namespace -----------------------------------------------------------------------------------

OPEN_THERE = """
import os, sys
from socket import send_fds, socket
sock = socket(fileno=int(sys.argv[1]))
send_fds(sock, [b"x"], [os.open(path, os.O_RDONLY) for path in sys.argv[2:]])
sock.recv(1)
"""


@contextlib.contextmanager
def opened_elsewhere(covered: Path, files: dict[str, bytes], path: Path) -> Iterator[str]:
    """As an ordinary user: mounts a directory of one's own over a path, and opens a path below it; as a name for it."""
    source = Path(tempfile.mkdtemp(prefix="a-", dir="/tmp"))
    for name, content in files.items():
        (source / name).write_bytes(content)
        (source / name).chmod(0o755)
    for item in (source, *source.iterdir()):
        os.chown(item, ATTACKER, ATTACKER)
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    mount = f'mount --bind {source} {covered} && exec {sys.executable} -c "$0" "$@"'
    command = ["setpriv", f"--reuid={ATTACKER}", f"--regid={ATTACKER}", "--clear-groups", "unshare", "--user",
               "--map-root-user", "--mount", "sh", "-c", mount, OPEN_THERE, str(theirs.fileno()), str(path)]  # fmt: skip
    # It lives on, for its namespace ends with it.
    with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as attacker:
        theirs.close()
        (descriptor,) = socket.recv_fds(ours, 1, 8)[1]
        assert os.readlink(f"/proc/self/fd/{descriptor}") == str(path)
        try:
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
            ours.close()
            assert attacker.wait(WAIT_S) == 0
            shutil.rmtree(source)


@AS_ROOT
def test_a_working_directory_of_the_same_name(bench: Bench, place: Path) -> None:
    """The artifact is for a directory in which root keeps a Makefile; the attacker's namespace has another one there."""
    (place / "conf").write_text("root's")
    execution = bench.execution("/bin/cat", "conf", cwd=str(place))
    assert bench.run(execution)[2] == b"root's"
    with opened_elsewhere(place, {"conf": b"the attacker's"}, place) as theirs:
        with running("place") as weakened:
            assert weakened.run(execution, cwd=theirs) == (0, "", b"the attacker's")
        assert bench.submit(bench.grant(execution), cwd=theirs).refusal() == "identity_mismatch"


@AS_ROOT
def test_an_executable_of_the_same_name(bench: Bench, place: Path) -> None:
    """Rules of governance name directories: /opt/tools/ means what root installs there, not what calls itself so."""
    path = place / "tool"
    path.write_bytes(Path("/bin/true").read_bytes())
    path.chmod(0o755)
    os.chown(path, ATTACKER, ATTACKER)
    execution = bench.execution(path)
    path.unlink()  # root never installed it
    with opened_elsewhere(place, {"tool": Path("/bin/true").read_bytes()}, path) as theirs:
        with running("place") as weakened:
            assert weakened.run(execution, files=[theirs])[0] == 0
        assert bench.submit(bench.grant(execution), files=[theirs]).refusal() == "identity_mismatch"


@AS_ROOT
def test_a_name_left_behind_by_a_hard_link(bench: Bench, place: Path) -> None:
    """With another link left, the link count does not tell that the name is gone: "/…/tool (deleted)" is a name as well."""
    path, link = place / "tool", place / "link"
    path.write_bytes(Path("/bin/true").read_bytes())
    path.chmod(0o755)
    os.link(path, link)
    descriptor = os.open(path, os.O_RDONLY)
    path.unlink()
    lie = f"{path} (deleted)"
    assert os.readlink(f"/proc/self/fd/{descriptor}") == lie
    execution = bench.execution(link)
    execution = replace(execution, executable=replace(execution.executable, path=lie))
    assert (
        bench.submit(bench.grant(execution), files=[f"/proc/self/fd/{descriptor}"]).refusal()
        == "identity_mismatch"
    )
    os.close(descriptor)


# -- a file that was the attacker's once --------------------------------------------------------------------------------


def rewrite_after_the_check(bench: Bench, script: Path) -> bytes:
    """The attacker opened it for writing while it was theirs; then root took it over, reviewed it, had it authorized."""
    script.write_text("#!/bin/sh\necho good\n")
    script.chmod(0o755)
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    with script.open("r+b", buffering=0) as theirs:
        submitted = bench.submit(bench.grant(bench.execution(script)), stdio=(null, writer, writer))
        assert submitted.receive().kind == Kind.READY
        theirs.write(b"#!/bin/sh\necho evil\n")
        submitted.go()
        assert submitted.receive().kind == Kind.STARTED
        submitted.end()
    close_all([writer, null])
    with os.fdopen(reader, "rb") as output:
        return output.read()


@AS_ROOT
def test_a_descriptor_for_writing_from_before(bench: Bench, place: Path) -> None:
    with running("writers") as weakened:
        assert rewrite_after_the_check(weakened, place / "script") == b"evil\n"
    assert rewrite_after_the_check(bench, place / "script") == b"good\n"


# -- what one execution leaves for another ------------------------------------------------------------------------------

KEYRING = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
ADD, SEARCH, SESSION = 248, 10, -3
if sys.argv[1] == "leave":
    print(libc.syscall(ADD, b"user", b"attestd-test", b"evil", 4, SESSION) > 0)
else:
    print(libc.syscall(250, SEARCH, SESSION, b"user", b"attestd-test", 0) > 0)
"""
JOIN = "import ctypes,os,sys; ctypes.CDLL(None).syscall(250, 1, None); os.execv(sys.argv[1], sys.argv[1:])"


def found_in_the_keyring(bench: Bench) -> list[bytes]:
    users = {"leave": 65534, "find": 0}
    return [
        bench.run(bench.execution(PYTHON, "-c", KEYRING, what, uid=uid))[2].strip()
        for what, uid in users.items()
    ]


@AS_ROOT
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls")
def test_keys_left_in_the_session_keyring(fresh: Bench) -> None:
    """The runner's session keyring would be everybody's: a unit has one of its own (systemd, KeyringMode=private)."""
    in_a_session = ("-c", JOIN, sys.executable, "-m")
    fresh.start(*in_a_session, "tests.attacks.weakened", "keyring")
    assert found_in_the_keyring(fresh) == [b"True", b"True"]
    assert fresh.stop() == 0
    fresh.start(*in_a_session, "attestd.runner")
    assert found_in_the_keyring(fresh) == [b"True", b"False"]


@pytest.fixture
def fresh(short_dir: Path) -> Iterator[Bench]:
    """A runner that the test starts."""
    bench = Bench(short_dir)
    yield bench
    bench.close_clients()
    if bench.process is not None:
        bench.process.kill()
        bench.process.wait()
        bench.log.close()


# -- signals by way of root ---------------------------------------------------------------------------------------------

# Puts a group of its own into the terminal's foreground, and lets that group die.
STALE_GROUP = """
import os, signal, sys, time
for number in (signal.SIGTTOU, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    os._exit(0)
os.waitpid(pid, 0)
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"signalled"))
print("group", pid, flush=True)
while True:
    time.sleep(60)
"""


def victim_with_pid(pid: int) -> "subprocess.Popen[bytes]":
    """Somebody else's process, which got the number that has become free; an attacker makes processes until one does."""
    for _ in range(200):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        process = subprocess.Popen(
            ["/bin/cat"], start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        if process.pid == pid:
            return process
        process.communicate()
    pytest.skip("the number went to others")


def interrupt_by_number(bench: Bench) -> bool:
    """Whether a quit key at an attacker's terminal ends a process of somebody else."""
    master, slave = os.openpty()
    granted = bench.grant(bench.execution(PYTHON, "-c", STALE_GROUP))
    submitted = bench.submit(granted, stdio=(slave, slave, slave))
    started = submitted.start()
    output = started.descriptors[0]
    victim = victim_with_pid(int(read_until(output, b"\n").split()[1]))
    assert victim.stdin is not None
    assert victim.stdout is not None
    try:
        submitted.signal(signal.SIGQUIT)
        submitted.signal(
            signal.SIGUSR1
        )  # goes to the command itself: once it has come, the other has gone out
        read_until(output, b"signalled")
        with contextlib.suppress(BrokenPipeError):
            victim.stdin.write(b"x")
        return victim.stdout.read(1) == b""
    finally:
        victim.communicate()
        started.close()
        close_all([master, slave])


@AS_ROOT
@pytest.mark.skipif(
    not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK), reason="needs CONFIG_CHECKPOINT_RESTORE"
)
def test_a_foreground_group_whose_number_another_process_has(bench: Bench) -> None:
    with running("foreground") as weakened:
        assert interrupt_by_number(weakened), "root ended somebody else's process"
    assert not interrupt_by_number(bench)


# -- LD_PRELOAD and friends ----------------------------------------------------------------------------------------------

# A variable, its value, and a command that nobody would think dangerous; {mark} is what only the variable can leave.
VARIABLES = {
    "LD_AUDIT": ("{place}/evil.so", ["/bin/true"]),
    "LD_PRELOAD": ("{place}/evil.so", ["/bin/true"]),
    "BASH_ENV": ("{place}/evil.sh", ["/bin/bash", "-c", "true"]),
    "GNUMAKEFLAGS": ("--eval=include\\ {place}/evil.mk", ["/usr/bin/make", "-f", "/dev/null", "-n"]),
    "MAKEFILES": ("{place}/evil.mk", ["/usr/bin/make", "-f", "/dev/null", "-n"]),
    "PERL5OPT": ("-Mevil", ["/usr/bin/perl", "-I{place}", "-e", "1"]),
    "PYTHONPATH": ("{place}", [PYTHON, "-c", "import evil"]),
    "TAR_OPTIONS": ("--checkpoint=1 --checkpoint-action=exec='touch {mark}'", ["/bin/tar", "cf", "/dev/null", "/etc/hostname"]),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_that_change_what_code_runs(tmp_path: Path, name: str) -> None:
    """With the requester's value another program runs than was authorized; no artifact can let it through."""
    mark, (value, command) = tmp_path / "mark", VARIABLES[name]
    if not os.path.exists(command[0]):
        pytest.skip(f"no {command[0]}")
    if value.endswith(".so"):
        source = f'__attribute__((constructor)) void f(void) {{ fclose(fopen("{mark}", "w")); }}'
        source += " unsigned la_version(unsigned v) { return v; }"
        if shutil.which("gcc") is None:
            pytest.skip("no compiler")
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-xc", "-include", "stdio.h", "-", "-o", tmp_path / "evil.so"],
            input=source.encode(), check=True,
        )  # fmt: skip
    (tmp_path / "evil.sh").write_text(f"touch {mark}\n")
    (tmp_path / "evil.mk").write_text(f"$(shell touch {mark})\n")
    (tmp_path / "evil.pm").write_text(f"open(my $f, '>', '{mark}'); 1;\n")
    (tmp_path / "evil.py").write_text(f"open('{mark}', 'w')\n")
    places = {"place": tmp_path, "mark": mark}
    environment = {"PATH": "/usr/bin:/bin", name: value.format(**places)}
    subprocess.run(
        [word.format(**places) for word in command], env=environment, check=False, capture_output=True
    )
    assert mark.exists(), "it is no attack"
    for passed in ({"env_pass": [name]}, {"env_set": {name: value}}):
        with pytest.raises(MalformedError, match=f"{name} changes what code runs"):
            World().artifact(**passed)
