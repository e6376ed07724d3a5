"""A whole host for tests: provisioned state, software TPM, agent and runner processes, and the real client.

Provisioning takes two seconds: it is done once a process and copied. Everything lives below one short directory, and
every process that is left when a host is closed is found by that directory and ended by its id.
"""

import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

from attestd.agent.provision import provision_standalone
from attestd.agent.standalone import LocalAuthorities
from attestd.audit.store import LogStore
from attestd.audit.verify import LogReport, verify_log
from attestd.authorization.issue import StatementDraft, draft_statement, issue, resource
from attestd.distribution.local import load_own_trust
from attestd.distribution.signer import load_authority
from attestd.governance.amend import amend_platform_policy
from attestd.governance.edits import with_epoch
from attestd.governance.issue import approve_state
from attestd.governance.trust import Trust
from attestd.lineage.checkpoint import LogKeys
from attestd.lineage.entry import Entry, EntryType, parse_entry
from attestd.lineage.receipt import VerifiedReceipt, parse_receipt, verify_receipt
from attestd.paths import Configuration, Layout, find_layout
from attestd.strict import canonical
from attestd.tlog.tree import leaf_hash
from attestd.tpm.embedded import EmbeddedTpm
from attestd.wire import FrameReader, Kind, send_frame
from tests.forking import AGENT, ROOT, Child, spawn

T = TypeVar("T")

WAIT_S = 60.0
ENTRY = "tests.agent.serve_entry"


@dataclass(frozen=True)
class Result:
    """What became of a client process."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The decision: the one line of JSON on stderr."""
        found = next(line for line in self.stderr.splitlines() if line.startswith("{"))
        return dict(json.loads(found))


@dataclass(frozen=True)
class Logged:
    """One entry of the log, with its place and id."""

    seq: int
    id: str
    entry: Entry

    @property
    def type(self) -> EntryType:
        return self.entry.type

    @property
    def body(self) -> dict[str, Any]:
        return dict(self.entry.body)


def wait_for(what: str, find: Callable[[], T | None], *, timeout_s: float = WAIT_S) -> T:
    """Waits until `find` finds something."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = find()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {timeout_s} s")


def sha256(path: Path | str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Host:
    """One host. Use it as a context manager: what it started ends with it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.state = top / "s"
        self.work = top / "w"
        self.layout: Layout = find_layout(str(self.state))
        self.configuration = Configuration(tpm_deadline_s=10)
        self.agent: subprocess.Popen[bytes] | Child | None = None
        self._clients: list[subprocess.Popen[bytes]] = []

    @classmethod
    def create(cls, *, state: Path | None = None) -> "Host":
        """A provisioned host in a directory of its own; or a copy of one that is stopped, from its state."""
        host = cls(Path(tempfile.mkdtemp(prefix="h-", dir="/tmp")))
        host.work.mkdir()
        sockets = shutil.ignore_patterns("*.sock*")
        shutil.copytree(state or _template(), host.state, symlinks=True, ignore=sockets)
        return host

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process of this host, and removes its files."""
        for process in (*self._clients, self.agent):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        # The runner first, as long as it lives it can start more.
        for _ in range(100):
            left = self.processes()
            if not left:
                break
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        for process in (*self._clients, self.agent):
            for stream in (process.stdin, process.stdout, process.stderr) if process else ():
                if stream is not None:
                    stream.close()
        shutil.rmtree(self.top)
        assert not left, left

    def processes(self) -> list[int]:
        """The processes that belong to this host: by command line, working directory or program."""
        top = os.fsencode(self.top)
        pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
        return [pid for pid in pids if pid != os.getpid() and _names(pid, top)]

    # -- agent, runner, TPM ----------------------------------------------------------------------------------------

    def start(
        self,
        *options: str,
        wait: bool = True,
        env: Mapping[str, str] | None = None,
        entry: str | None = None,
        forked: bool = True,
    ) -> "Host":
        """Starts `serve`; options are those of `tests.agent.serve_entry`, or of another entry.

        `forked` spares it the imports; where what a process inherits matters, it is executed as the command line is.
        """
        self._agent_log = (self.top / "agent.log").open("ab")
        environment = {"PATH": os.environ["PATH"], **(env or {})}
        words = (entry or ENTRY, str(self.state), *options)
        if not forked:
            self.agent = subprocess.Popen(
                [sys.executable, "-m", *words], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=self._agent_log,
                stderr=self._agent_log, env=environment,
            )  # fmt: skip
        else:
            self.agent = spawn(*words, imported=AGENT, env=environment, output=self._agent_log.fileno())
        self._agent_log.close()
        if wait:
            wait_for("the agent serves", self._serves)
        return self

    def _serves(self) -> bool:
        assert self.agent is not None
        assert self.agent.poll() is None, f"serve ended with {self.agent.returncode}: {self.agent_log}"
        try:
            return "ok" in self.ask("status")
        except OSError:
            return False

    @property
    def agent_log(self) -> str:
        """What serve said."""
        return (self.top / "agent.log").read_text()

    @property
    def runner_log(self) -> str:
        return (self.layout.runner / "runner.log").read_text()

    def stop(self) -> int:
        """Ends serve in order; returns its exit status."""
        assert self.agent is not None
        self.agent.terminate()
        return self.agent.wait(WAIT_S)

    def wait_ended(self) -> int:
        """Waits until serve ended by itself; returns its exit status."""
        assert self.agent is not None
        return self.agent.wait(WAIT_S)

    def kill_agent(self) -> None:
        """kill -9."""
        assert self.agent is not None
        self.agent.kill()
        self.agent.wait(WAIT_S)

    @property
    def runner_pid(self) -> int:
        """The runner's process, as the kernel names who listens."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.layout.runner_socket))
            data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(data[:4], sys.byteorder)

    def kill_runner(self, number: int = signal.SIGKILL) -> None:
        """Ends the runner, which is nobody's child, and waits until it is gone."""
        kill_and_wait(self.runner_pid, number)

    def kill_tpm(self) -> None:
        """A power cut for the TPM alone."""
        EmbeddedTpm(self.layout.tpm).kill()

    # -- questions -------------------------------------------------------------------------------------------------

    def ask(self, op: str, **members: Any) -> dict[str, Any]:
        """One JSON operation: the whole response."""
        return ask(self.layout.agent_socket, {"op": op, **members})

    def status(self) -> dict[str, Any]:
        """The agent's status."""
        return dict(self.ask("status")["ok"])

    def runner_info(self) -> dict[str, Any]:
        """What the runner says of itself."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(WAIT_S)
            sock.connect(str(self.layout.runner_socket))
            send_frame(sock, Kind.INFO)
            frame = FrameReader(sock).receive()
        assert frame is not None
        return dict(json.loads(frame.fields(1)[0]))

    def extend(self, pcr: int, data: bytes = b"something else") -> None:
        """Measures something into a PCR, through the agent."""
        response = self.ask("extend", pcr=pcr, data=_base64(hashlib.sha256(data).digest()))
        assert "ok" in response, response

    @property
    def trust(self) -> Trust:
        return load_own_trust(self.layout)

    @cached_property
    def id(self) -> str:
        return next(iter(self.trust.hosts))

    # -- the log ---------------------------------------------------------------------------------------------------

    def entries(self, *types: EntryType) -> list[Logged]:
        """The log's entries, of some types or all."""
        with contextlib.closing(LogStore.open(str(self.layout.log), readonly=True)) as store:
            logged = [
                Logged(seq, leaf_hash(data).hex(), parse_entry(data))
                for seq, data in store.entries(0, store.size)
            ]
        return [item for item in logged if not types or item.type in types]

    def wait_entry(self, type_: EntryType, matches: Callable[[Logged], bool] = lambda _: True) -> Logged:
        """Waits for an entry."""
        return wait_for(
            f"an entry {type_}",
            lambda: next((item for item in self.entries(type_) if matches(item)), None),
        )

    def outcome(self, decision: str, *types: EntryType) -> Logged:
        """Waits for the entry that says what became of an allow."""
        wanted = types or (EntryType.EXECUTION_EXIT, EntryType.DECISION_VOID)
        return wait_for(
            f"the outcome of {decision}",
            lambda: next((item for item in self.entries(*wanted) if item.body.get("leaf") == decision), None),
        )

    def checkpoints(self) -> int:
        """How many checkpoints the log has."""
        with contextlib.closing(LogStore.open(str(self.layout.log), readonly=True)) as store:
            return sum(1 for _ in store.checkpoints())

    def verify_log(self) -> LogReport:
        """Verifies the whole log, as anyone could."""
        with contextlib.closing(LogStore.open(str(self.layout.log), readonly=True)) as store:
            origin = store.origin
        record = self.trust.hosts[self.id]
        return verify_log(str(self.layout.log), LogKeys(origin, record.release_spki, record.ak_spki))

    def verify_receipt(self, data: bytes) -> VerifiedReceipt:
        """Verifies a receipt, as anyone could."""
        return verify_receipt(parse_receipt(data), trust=self.trust)

    def receipt(self, seq: int) -> bytes:
        """The receipt of an entry."""
        with contextlib.closing(LogStore.open(str(self.layout.log), readonly=True)) as store:
            return store.receipt(seq)

    def wait_settled(self) -> None:
        """Waits until every allow has its outcome in the log."""

        def settled() -> bool:
            ends = {
                item.body["leaf"] for item in self.entries(EntryType.EXECUTION_EXIT, EntryType.DECISION_VOID)
            }
            return {item.id for item in self.entries(EntryType.DECISION_ALLOW)} <= ends

        wait_for("every allow has its outcome", settled)

    def require_sound(self) -> None:
        """The log verifies, every start has its decision, and every allow has exactly one outcome."""
        self.verify_log()
        allowed = {item.id for item in self.entries(EntryType.DECISION_ALLOW)}
        started = [item.body["leaf"] for item in self.entries(EntryType.EXECUTION_START)]
        ended = [item.body["leaf"] for item in self.entries(EntryType.EXECUTION_EXIT)]
        void = [item.body["leaf"] for item in self.entries(EntryType.DECISION_VOID)]
        assert set(started) <= allowed, "something ran that was not decided"
        assert sorted(ended) == sorted(started), "starts and exits do not match"
        assert len(started) == len(set(started)), "something ran twice"
        assert len(void) == len(set(void)), "something was made void twice"
        assert not set(void) & set(started), "a void decision ran"
        assert allowed == {*started, *void}, "an allow without outcome"

    # -- authorizations --------------------------------------------------------------------------------------------

    def issue(
        self,
        *argv: Any,
        files: Sequence[Path | str] = (),
        inputs: Sequence[Path | str] = (),
        signer: str = "local",
        **members: Any,
    ) -> bytes:
        """An artifact for a command: `files` are the executable and a script's interpreters, argv[0] if none."""
        subjects = files or (os.path.realpath(argv[0]),)
        values: dict[str, Any] = {
            "cwd": os.path.realpath(self.work),
            "uid": os.geteuid(),
            "requester_uid": os.geteuid(),
            "host_id": self.id,
            "platform": "local",
            "policy": "exec",
            "policy_version": 1,
            "now": datetime.now(UTC) - timedelta(seconds=2),
            "ttl_s": 600,
            "requested_by": "tests",
            "max_uses": None,
        }
        statement = draft_statement(
            StatementDraft(
                subjects=[resource(os.path.realpath(path), sha256(path)) for path in subjects],
                argv=argv,
                inputs=[resource(os.path.realpath(path), sha256(path)) for path in inputs],
                **{**values, **members},
            )
        )
        return issue(statement, signers=[load_authority(str(self.layout.authority / f"{signer}.pem")).sign])

    def write(self, artifact: bytes) -> Path:
        """An artifact as a file."""
        path = self.top / f"{hashlib.sha256(artifact).hexdigest()[:16]}.auth.json"
        if not path.exists():
            path.write_bytes(artifact)
            path.chmod(0o644)
        return path

    def files(self) -> dict[str, bytes]:
        """The files of the host's own repository, by target name."""
        return dict(LocalAuthorities(self.layout).files())

    def publish(self, files: Mapping[str, bytes | None]) -> None:
        """What the host's own authorities do: the next version of governance. None removes a file."""
        LocalAuthorities(self.layout).publish(files)

    def revoke(self, **members: Any) -> None:
        """Publishes revocations: members of `revocations.json`."""
        present = json.loads(self.files()["revocations.json"])
        self.publish(
            {"revocations.json": canonical({**present, **members, "version": present["version"] + 1})}
        )

    def bump_epoch(self) -> None:
        """Publishes the next epoch; what was approved for this one is over."""
        files = self.files()
        data = with_epoch(
            files["revocations.json"],
            authorities=files["authorities.json"],
            epoch=self.trust.revocations.epoch + 1,
            sign=load_authority(str(self.layout.authority / "epoch.pem")).sign,
        )
        self.publish({"revocations.json": data})

    def approve_present_state(self, *, not_after: datetime | None = None) -> None:
        """What an authority does on `platform approve`: a new policy version that allows the TPM's present state."""
        trust = self.trust
        old = trust.platforms["local"]
        quoted = self.ask("quote", challenge=_base64(b"approve"))["ok"]["pcrs"][old.selection.bank]
        values = {int(index): bytes.fromhex(value) for index, value in quoted.items()}
        file = self.files()["platform/local.json"]
        approval = approve_state(
            trust.authorities, selection=old.selection, values=values, epoch=trust.revocations.epoch,
            sign_platform=load_authority(str(self.layout.authority / "platform.pem")).sign,
        )  # fmt: skip
        policy = amend_platform_policy(
            file,
            approval=approval,
            values=values,
            epoch=trust.revocations.epoch,
            revoked_keys=trust.revocations.keys,
            not_after=not_after,
        )
        self.publish({f"platform/history/local-{old.version}.json": file, "platform/local.json": policy})

    # -- clients ---------------------------------------------------------------------------------------------------

    def client(
        self,
        *command: str,
        authorization: bytes | None = None,
        options: Sequence[str] = (),
        mode: str = "exec",
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        **popen: Any,
    ) -> "subprocess.Popen[bytes]":
        """Starts `attestd exec`."""
        words = [*prefix, sys.executable, "-I", "-m", "attestd", mode]
        if authorization is not None:
            words += ["-a", str(self.write(authorization))]
        words += [*options, "--", *command]
        environment = {
            "PATH": "/usr/bin:/bin",
            "ATTESTD_SOCKET": str(self.layout.agent_socket),
            **(env or {}),
        }
        settings: dict[str, Any] = {
            "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": self.work
        }  # fmt: skip
        process = subprocess.Popen(words, env=environment, **{**settings, **popen})
        self._clients.append(process)
        return process

    def finish(self, process: "subprocess.Popen[bytes]", stdin: bytes | None = None) -> Result:
        """Waits for a client."""
        stdout, stderr = process.communicate(stdin, timeout=WAIT_S)
        self._clients.remove(process)
        return Result(process.returncode, stdout, (stderr or b"").decode())

    def exec(self, *command: str, stdin: bytes | None = None, **settings: Any) -> Result:
        """Runs `attestd exec` to its end."""
        if stdin is not None:
            settings["stdin"] = subprocess.PIPE
        return self.finish(self.client(*command, **settings), stdin)

    def run(self, *command: str, **settings: Any) -> Result:
        """Authorizes exactly this command, and runs it."""
        return self.exec(*command, authorization=self.issue(*command), **settings)


def ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """One JSON request to an agent's socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(WAIT_S)
        sock.connect(str(path))
        send_frame(sock, Kind.JSON_REQUEST, canonical(request))
        try:
            frame = FrameReader(sock).receive()
        except EOFError as error:
            raise ConnectionError("the agent closed the connection") from error
    assert frame is not None
    return dict(json.loads(frame.payload))


def kill_and_wait(pid: int, number: int = signal.SIGKILL) -> None:
    """Ends a process by its id, and waits until it is gone."""
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, number)
        assert select.select([process], [], [], WAIT_S)[0], f"{pid} did not end"
    finally:
        os.close(process)


def _base64(data: bytes) -> str:
    from base64 import b64encode

    return b64encode(data).decode()


def _names(pid: int, top: bytes) -> bool:
    for read in (
        lambda: Path(f"/proc/{pid}/cmdline").read_bytes(),
        lambda: os.readlink(os.fsencode(f"/proc/{pid}/cwd")),
        lambda: os.readlink(os.fsencode(f"/proc/{pid}/exe")),
    ):
        with contextlib.suppress(OSError):
            if top + b"/" in read():
                return True
    return False


_made: list[Path] = []


def _template() -> Path:
    """A provisioned state directory, made once a process; its software TPM was stopped in order."""
    import atexit

    if not _made:
        top = Path(tempfile.mkdtemp(prefix="ht-", dir="/tmp"))
        atexit.register(shutil.rmtree, top, ignore_errors=True)
        layout = find_layout(str(top / "s"))
        provision_standalone(layout, Configuration(), pcrs=None, labels={})
        _made.append(top / "s")
    return _made[0]
