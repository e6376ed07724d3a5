"""`attestd-runner`: executes what receipts prove. One process, one thread; a unit of its own, as root."""

import argparse
import fcntl
import logging
import os
import pwd
import resource
import signal
import socket
import sys
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from typing import Final, NoReturn

from attestd.codes import EXIT_STATUS, EXIT_USAGE, Code
from attestd.durable import make_directory
from attestd.errors import AttestdError, StoreError, UsageError
from attestd.journal import event, logging_to_stderr
from attestd.paths import Configuration, TrustSource, load_configuration, read_pinned_host
from attestd.runner.cgroup import find_parent, remove_empty
from attestd.runner.claims import Claims
from attestd.runner.governance import Governance
from attestd.runner.loop import Loop
from attestd.runner.recover import recover
from attestd.runner.server import Server, Settings
from attestd.service_manager import inherited_listener, notify
from attestd.system import boot_id
from attestd.where import MAX_SOCKET_PATH_BYTES

__all__ = ["main"]

_MAX_DESCRIPTORS: Final = 8192
_DESCRIPTORS_A_COMMAND: Final = 5
_OTHER_DESCRIPTORS: Final = 512


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def main() -> int:
    """Runs until SIGTERM.

    Returns:
        0; 64 for misuse; 1 if it cannot start; 70 for a bug.
    """
    options = _parse_options()
    with logging_to_stderr() as log:
        try:
            _serve(options, log)
        except UsageError as error:
            log.critical(event("runner.cannot_start", error=error))
            return EXIT_USAGE
        except (AttestdError, OSError) as error:
            log.critical(event("runner.cannot_start", error=error))
            return 1
        except Exception:  # the edge of the process: it ends, and says why in one line
            log.exception(event("runner.failed"))
            return EXIT_STATUS[Code.INTERNAL_ERROR]
    return 0


def _parse_options() -> argparse.Namespace:
    parser = _Parser(
        prog="attestd-runner",
        description="Executes what attestd's receipts prove, and nothing else.",
        epilog="Example: attestd-runner --state-dir /var/lib/attestd-runner --trust /etc/attestd/trust"
        " --socket /run/attestd-runner/runner.sock --agent-user attestd",
    )
    parser.add_argument("--state-dir", type=Path, required=True, help="the runner's own records (0700)")
    parser.add_argument(
        "--trust", type=Path, required=True, help="the root of trust (root.json); as root it must be root's"
    )
    parser.add_argument(
        "--configuration", type=Path, help="attestd.toml, for what it says of governance; owned as --trust is"
    )
    parser.add_argument(
        "--mirror",
        type=Path,
        help="where the agent downloads governance to, if the configuration has a governance_url",
    )
    parser.add_argument("--socket", type=Path, help="where to listen, unless systemd hands over a socket")
    parser.add_argument(
        "--agent-user", type=_account, metavar="NAME", help="the agent's user, who may connect besides root"
    )
    parser.add_argument(
        "--descriptor-limit",
        type=int,
        metavar="N",
        help="the soft limit of descriptors that commands get, if it is not the one that the runner is started with",
    )
    return parser.parse_args()


def _account(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise argparse.ArgumentTypeError(f"there is no user {name}") from None


def _serve(options: argparse.Namespace, log: logging.Logger) -> None:
    if options.descriptor_limit is not None:
        _set_descriptor_limit(options.descriptor_limit)
    _fill_stdio()
    _own_directory(options.state_dir)
    lock = _lock(options.state_dir)
    claims = Claims(options.state_dir / "runner.db")
    loop = Loop()
    wakeup = _catch_signals(loop)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    boot = boot_id()
    cgroups = find_parent()
    remove_empty(cgroups)
    watched = recover(claims, loop, boot=boot, log=log)
    listener = _listen(options.socket, options.agent_user)
    uid = os.geteuid()
    configuration = _configuration(options.configuration, {0, uid})
    mirror = options.mirror if configuration.governance_url else options.trust
    if mirror is None:
        raise UsageError("--mirror is needed: the configuration has a governance_url")
    governance = Governance(
        TrustSource(options.trust, mirror, frozenset({0, uid})),
        options.state_dir / "governance.json",
        log=log,
    )
    governance.watch(loop)
    settings = Settings(
        grace=timedelta(seconds=configuration.governance_grace_s),
        peers={0, uid} | ({options.agent_user.pw_uid} if options.agent_user is not None else set()),
        host_id=read_pinned_host(options.state_dir / "host.json"),
        boot=boot,
        isolation="user" if uid == 0 else "none",
        cgroups=cgroups,
        max_running=_raise_descriptor_limit(limit),
        descriptor_limit=limit,
    )
    server = Server(settings, listener, claims=claims, governance=governance, loop=loop, log=log)
    notify("READY=1")
    log.info(event("runner.ready", isolation=settings.isolation, still_running=watched, pid=os.getpid()))
    try:
        loop.run()
        notify("STOPPING=1")
    finally:
        server.close()
        claims.close()
        listener.close()
        for descriptor in (*wakeup, lock):
            os.close(descriptor)


def _configuration(path: Path | None, owners: Collection[int]) -> Configuration:
    """Nothing from the environment: who starts the runner is not who decides where governance comes from."""
    if path is None or not path.exists():
        return Configuration()
    status = path.stat()
    if status.st_uid not in owners or status.st_mode & 0o022:
        raise UsageError(f"{path}: expected a file that only root can write: chown root, chmod go-w")
    return load_configuration(path, {})


def _set_descriptor_limit(soft: int) -> None:
    # As if whoever starts it had not raised its own: first of all, and by this process itself, so there is no moment with another.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    except (OSError, OverflowError, ValueError):
        raise UsageError(
            f"--descriptor-limit {soft}: expected a number up to the hard limit, {hard}"
        ) from None


def _fill_stdio() -> None:
    # Descriptors 0, 1, 2 must be taken: a request's must never land there.
    while (descriptor := os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _own_directory(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077 or not path.is_dir() or path.is_symlink():
        raise UsageError(f"{path}: expected a directory of uid {os.geteuid()} with mode 0700")


def _lock(directory: Path) -> int:
    # The directory itself: a file could be deleted, and be made anew by a second runner.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{directory}: another runner is using it") from None
    return descriptor


def _catch_signals(loop: Loop) -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: loop.stop())
    # A closed terminal must not end what outlives its starter; commands get the default back.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # of a lease that root breaks while we hold it (runner.hold)

    def drain() -> None:
        os.read(reader, 64)

    loop.watch(reader, drain)
    return reader, writer


def _listen(path: Path | None, agent: pwd.struct_passwd | None) -> socket.socket:
    listener = inherited_listener()
    if listener is not None:
        return listener
    if path is None:
        raise UsageError("--socket is needed: systemd handed over no socket")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise UsageError(
            f"socket path {path} is over {MAX_SOCKET_PATH_BYTES} bytes: choose a shorter directory"
        )
    # The lock on the state directory is ours: a socket that is still there belongs to nobody.
    make_directory(path.parent, 0o700 if agent is None else 0o755)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    if agent is not None and os.geteuid() == 0:
        os.chown(path, 0, agent.pw_gid)
        path.chmod(0o660)
    listener.listen(64)
    return listener


def _raise_descriptor_limit(limit: tuple[int, int]) -> int:
    soft, hard = limit
    wanted = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < _OTHER_DESCRIPTORS * 2:
        raise StoreError(f"{wanted} descriptors are allowed, at least {_OTHER_DESCRIPTORS * 2} are needed")
    return (wanted - _OTHER_DESCRIPTORS) // _DESCRIPTORS_A_COMMAND


if __name__ == "__main__":
    sys.exit(main())
