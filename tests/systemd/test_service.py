"""The service's layout, for real: root sets up and starts, agent and runner each get their own and nothing more."""

import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestd.account import acting_as, agent_account, become
from attestd.agent.provision import provision_standalone
from attestd.errors import StoreError, UsageError
from attestd.lineage.entry import EntryType
from attestd.paths import Configuration
from attestd.service_manager import inherited_listener, notify, watchdog_interval_s
from tests.host import kill_and_wait, wait_for
from tests.systemd.conftest import NOBODY, needs_root
from tests.systemd.entry import below
from tests.systemd.service_host import USER, Manager, ServiceHost

pytestmark = needs_root


def owner_and_mode(path: Path) -> tuple[str, int]:
    status = path.lstat()
    return pwd.getpwuid(status.st_uid).pw_name, stat.S_IMODE(status.st_mode)


def tree(path: Path) -> list[Path]:
    return [path, *path.rglob("*")]


def status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


# -- init ------------------------------------------------------------------------------------------------------------


def test_init_gives_each_its_own(service: ServiceHost) -> None:
    """formats.md, "Where things live": whatever root's umask was."""
    layout = service.layout
    assert owner_and_mode(layout.trust) == ("root", 0o755)
    assert owner_and_mode(layout.authority) == ("root", 0o700)
    assert owner_and_mode(layout.runner) == ("root", 0o700)
    assert owner_and_mode(layout.agent) == (USER, 0o700)
    assert owner_and_mode(layout.agent_socket.parent) == ("root", 0o755)
    assert owner_and_mode(layout.runner_socket.parent) == ("root", 0o755)
    for path in tree(layout.trust):
        assert owner_and_mode(path) == ("root", 0o755 if path.is_dir() else 0o644), path
    for path in tree(layout.agent):
        assert owner_and_mode(path) == (USER, 0o700 if path.is_dir() else 0o600), path
    for path in tree(layout.runner):
        assert owner_and_mode(path)[0] == "root", path
    for name in ("root", "platform", "epoch", "local"):
        assert owner_and_mode(layout.authority / f"{name}.pem") == ("root", 0o600)
    assert owner_and_mode(layout.configuration) == ("root", 0o644)
    again = service.command("init")
    assert again.returncode == 0
    assert "nothing was changed" in again.stdout


def test_init_works_in_no_directory_of_somebody_elses(tmp_path: Path) -> None:
    """An agent that was broken into left a trap: root follows no link of it, and writes nothing through it."""
    tmp_path.chmod(0o755)
    layout = below(tmp_path, USER)
    victim = tmp_path / "victim"
    victim.mkdir()
    layout.agent.mkdir(parents=True)
    with pytest.raises(UsageError, match="chown -R nobody:"):
        provision_standalone(layout, Configuration(), pcrs=None, labels={})
    os.chown(layout.agent, NOBODY.pw_uid, NOBODY.pw_gid)
    layout.tpm.symlink_to(victim)
    with pytest.raises(StoreError):
        provision_standalone(layout, Configuration(), pcrs=None, labels={})
    assert list(victim.iterdir()) == []


# -- serve, as root --------------------------------------------------------------------------------------------------


def test_serve_as_root(service: ServiceHost) -> None:
    """The runner is started as root, the agent becomes its user, and a command runs; nothing of the agent's is root's."""
    service.start()
    assert service.agent is not None
    agent, runner = status_of(service.agent.pid), status_of(service.runner_pid)
    uid, gid = str(NOBODY.pw_uid), str(NOBODY.pw_gid)
    assert (agent["Uid"], agent["Gid"], agent["Groups"]) == ([uid] * 4, [gid] * 4, [gid])
    assert set(agent["CapPrm"] + agent["CapEff"]) == {"0" * 16}
    assert runner["Uid"] == ["0"] * 4
    assert owner_and_mode(service.layout.agent_socket) == ("root", 0o666)
    assert owner_and_mode(service.layout.runner_socket) == ("root", 0o660)
    assert service.layout.runner_socket.stat().st_gid == NOBODY.pw_gid
    assert service.run("/usr/bin/id", "-u").stdout == b"0\n"
    assert service.status()["runner"]["isolation"] == "user"
    service.wait_settled()
    service.require_sound()
    assert {owner_and_mode(path)[0] for path in tree(service.layout.agent)} == {USER}
    runner_pid = service.runner_pid
    assert service.stop() == 0
    assert service.runner_pid == runner_pid
    assert service.agent_log.splitlines()[-1].endswith("agent.stopped")


def test_the_agents_user_gets_nothing_else(service: ServiceHost) -> None:
    """What the agent's user can do with what is not the agent's: nothing."""
    service.start()
    layout = service.layout
    script = """
import os, socket, sys
for path in sys.argv[1:]:
    for flags in (os.O_RDONLY, os.O_WRONLY):
        try:
            os.close(os.open(path, flags))
            print("opened", flags, path)
        except OSError:
            pass
    try:
        os.rename(path, path + ".away")
        print("moved", path)
    except OSError:
        pass
"""
    hidden = [layout.authority, *layout.authority.glob("*.pem"), *tree(layout.runner)]
    public = [*tree(layout.trust), layout.configuration, layout.agent_socket, layout.runner_socket]
    words = [sys.executable, "-I", "-c", script, *map(str, hidden + public)]
    done = subprocess.run(
        words, user=USER, group=NOBODY.pw_gid, extra_groups=[], capture_output=True, text=True, check=True
    )
    assert sorted(done.stdout.splitlines()) == sorted(
        f"opened 0 {path}" for path in public if not path.is_socket()
    )


def test_a_command_outlives_agent_and_runner(service: ServiceHost) -> None:
    service.start()
    mark = service.work / "done"
    command = ("/bin/sh", "-c", f"sleep 0.7; echo done > {mark}")
    client = service.client(*command, authorization=service.issue(*command))
    service.wait_entry(EntryType.EXECUTION_START)
    assert service.stop() == 0
    kill_and_wait(service.runner_pid, signal.SIGTERM)
    service.finish(client)
    service.start()
    wait_for("the command ended as it would have", mark.exists)
    service.wait_settled()
    service.require_sound()


def test_without_the_user_the_agent_says_that_it_is_root(service: ServiceHost) -> None:
    layout = below(service.top, "no-such-user")
    assert agent_account(layout) is None
    done = subprocess.run(
        [sys.executable, "-m", "tests.systemd.entry", str(service.top), "no-such-user", "serve", "--system"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": os.environ["PATH"], "ATTESTD_TPM": "device:/dev/null"},
    )  # fmt: skip
    assert "agent.runs_as_root missing_user=no-such-user" in done.stderr
    assert done.returncode == 69


# -- serve, under a manager ------------------------------------------------------------------------------------------


@pytest.fixture
def manager(short_dir: Path) -> Iterator[Manager]:
    short_dir.chmod(0o755)
    made = Manager(short_dir)
    yield made
    made.close()


def start_runner(service: ServiceHost, manager: Manager) -> "subprocess.Popen[bytes]":
    """As its unit starts it."""
    layout = service.layout
    started = manager.starts(manager.listen(layout.runner_socket, mode=0o660, gid=NOBODY.pw_gid))
    command = [sys.executable, "-I", "-m", "attestd.runner", "--state-dir", str(layout.runner)]
    command += ["--trust", str(layout.trust), "--agent-user", USER]
    with (layout.runner / "runner.log").open("ab") as log:
        return subprocess.Popen(
            [*started["prefix"], *command], pass_fds=started["pass_fds"], stderr=log,
            env={"PATH": os.environ["PATH"], **started["env"]},
        )  # fmt: skip


def start_agent(service: ServiceHost, manager: Manager) -> None:
    started = manager.starts(manager.listen(service.layout.agent_socket, mode=0o666))
    become_user = [
        "setpriv",
        f"--reuid={USER}",
        f"--regid={NOBODY.pw_gid}",
        "--clear-groups",
        "--no-new-privs",
    ]
    service.start(wait=False, **{**started, "prefix": [*become_user, *started["prefix"]]})


def test_units(service: ServiceHost, manager: Manager) -> None:
    """Sockets from the manager, READY, WATCHDOG, STOPPING; the agent is not root and starts no runner."""
    runner = start_runner(service, manager)
    manager.wait("READY=1")
    manager.said.clear()
    start_agent(service, manager)
    inode = service.layout.agent_socket.stat().st_ino
    manager.wait("READY=1")
    assert f"STATUS=serves host {service.id}" in manager.said
    assert service.run("/usr/bin/id", "-u").stdout == b"0\n"
    assert service.status()["runner"]["pid"] == runner.pid
    manager.said.clear()
    began = time.monotonic()
    for _ in range(3):
        manager.wait("WATCHDOG=1")
        manager.said.remove("WATCHDOG=1")
    assert time.monotonic() - began < 10, "half of WATCHDOG_USEC is 0.2 s"
    assert not manager.hears("STOPPING=1")
    assert service.stop() == 0
    manager.wait("STOPPING=1")
    assert service.layout.agent_socket.stat().st_ino == inode, "the manager's socket is not touched"
    runner.terminate()
    manager.said.clear()
    manager.wait("STOPPING=1")
    assert runner.wait(10) == 0
    service.require_sound()


def test_an_agent_without_root_starts_no_runner(service: ServiceHost, manager: Manager) -> None:
    start_agent(service, manager)
    assert service.wait_ended() == 69
    assert "systemctl start attestd-runner.socket" in service.agent_log
    assert not manager.hears("READY=1")


def test_a_request_waits_for_the_agent(service: ServiceHost, manager: Manager) -> None:
    """It connected to the manager's socket before there was an agent."""
    runner = start_runner(service, manager)
    started = manager.starts(manager.listen(service.layout.agent_socket, mode=0o666))
    client = service.client("/bin/true", authorization=service.issue("/bin/true"))
    become_user = ["setpriv", f"--reuid={USER}", f"--regid={NOBODY.pw_gid}", "--clear-groups"]
    service.start(wait=False, **{**started, "prefix": [*become_user, *started["prefix"]]})
    assert service.finish(client).status == 0
    runner.terminate()
    runner.wait()


# -- the parts -------------------------------------------------------------------------------------------------------


def test_acting_as_is_for_all_threads_and_children_and_ends(tmp_path: Path) -> None:
    account = agent_account(below(tmp_path, USER))
    assert account is not None
    before = (os.getresuid(), os.getresgid(), os.getgroups())
    seen: list[tuple[int, int, int]] = []
    go = threading.Event()
    thread = threading.Thread(target=lambda: (go.wait(), seen.append(os.getresuid())))
    thread.start()
    with acting_as(account):
        assert os.getresuid() == (account.uid, account.uid, 0)
        assert os.getgroups() == list(account.groups)
        go.set()
        thread.join()
        child = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True)
        with pytest.raises(PermissionError):
            os.listdir("/root")
    assert seen == [(account.uid, account.uid, 0)]
    ids = {line.split(":")[0]: line.split()[1:] for line in child.stdout.splitlines()}
    assert ids["Uid"] == [str(account.uid)] * 4, "no way back to root"
    assert ids["CapPrm"] == ["0" * 16]
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before
    with pytest.raises(RuntimeError, match="inside"), acting_as(account):
        raise RuntimeError("inside")
    assert os.getresuid() == before[0]


def test_become_is_for_good(tmp_path: Path) -> None:
    account = agent_account(below(tmp_path, USER))
    assert account is not None
    pid = os.fork()
    if pid == 0:
        become(account)
        done = os.getresuid() == (account.uid,) * 3 and os.getresgid() == (account.gid,) * 3
        try:
            os.setuid(0)
        except PermissionError:
            os._exit(0 if done else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_what_the_manager_says(monkeypatch: pytest.MonkeyPatch, short_dir: Path) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    assert watchdog_interval_s() == 1.5
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_interval_s() is None, "it is for another process"
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    monkeypatch.setenv("WATCHDOG_USEC", "soon")
    assert watchdog_interval_s() is None
    monkeypatch.setenv("NOTIFY_SOCKET", str(short_dir / "nobody-listens"))
    notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
        abstract.bind("\0attestd-test-" + short_dir.name)
        abstract.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", "@attestd-test-" + short_dir.name)
        notify("READY=1")
        assert abstract.recv(100) == b"READY=1"


def handed_over(kind: str, short_dir: Path) -> str:
    """What a process makes of descriptor 3."""
    family, type_ = {"listening": (1, 1), "connecting": (1, 1), "datagram": (1, 2), "internet": (2, 1)}[kind]
    with socket.socket(family, type_) as sock:
        if kind == "listening":
            sock.bind(str(short_dir / "s"))
        if kind in ("listening", "internet"):
            sock.listen()
        script = (
            "import os; from attestd.service_manager import *; os.environ['LISTEN_PID'] = str(os.getpid())\n"
            "found = inherited_listener()\n"
            "print(found.family.name, os.get_inheritable(3), inherited_listener())"
        )
        words = ["bash", "-c", f'exec "$@" 3<&{sock.fileno()}', "bash", sys.executable, "-c", script]
        done = subprocess.run(
            words, pass_fds=[sock.fileno()], env={"LISTEN_FDS": "1", "PATH": "/usr/bin"}, capture_output=True,
            text=True, check=False, cwd=Path(__file__).parents[2],
        )  # fmt: skip
    return done.stdout or done.stderr.splitlines()[-1]


def test_descriptors_of_the_manager(monkeypatch: pytest.MonkeyPatch, short_dir: Path) -> None:
    assert handed_over("listening", short_dir) == "AF_UNIX False None\n", "once, and to no child"
    for kind in ("connecting", "datagram", "internet"):
        assert "something else" in handed_over(kind, short_dir), kind
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert inherited_listener() is None, "it is for another process"
