"""`attestd serve`: start-up checks, the running agent, orderly stop."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import attestd
from attestd.account import agent_account, become
from attestd.agent.assemble import assembled
from attestd.agent.core import EVIDENCE_MAX_AGE_S, Core
from attestd.agent.exclusive import exclusive
from attestd.agent.exposition import WRITE_S, parse_address, serving_metrics, write_metrics
from attestd.agent.health import POLL_S
from attestd.agent.room import raise_descriptor_limit
from attestd.agent.runner_link import RunnerError
from attestd.agent.server import Server
from attestd.audit.recover import Recovery, unsettled_allows
from attestd.audit.seal import Pending
from attestd.audit.store import LogStore
from attestd.durable import make_directory
from attestd.errors import AttestdError, RollbackError, StoreError
from attestd.journal import event
from attestd.lineage.entry import EntryType
from attestd.paths import Configuration, Layout
from attestd.service_manager import inherited_listener, notify, watchdog_interval_s
from attestd.strict import format_time_us

__all__ = ["serve"]

SPOOL_S: Final = 0.5
EPOCH_S: Final = 0.5
RUNNER_INFO_S: Final = 5.0
DENIALS_S: Final = 10.0
# No receipt older than this is accepted by the runner: older allows without an outcome are past.
UNSETTLED: Final = timedelta(minutes=10)
RUNNER_START_S: Final = 10.0
RUNNER_AGAIN_S: Final = 0.1
ATTEST_S: Final = 1.0
BACKLOG: Final = 1024
SETTLED_AT_ONCE: Final = 128


def serve(layout: Layout, configuration: Configuration, log: logging.Logger) -> None:
    """Runs the agent, and a runner if none answers, until SIGTERM or SIGINT.

    Raises:
        RollbackError: The log contradicts its TPM; nothing is served, nothing is changed.
        StoreError, TpmError, UsageError, VerificationError, MalformedError: It cannot start; the message says why.
    """
    layout.require_short_sockets()
    if configuration.metrics_address:
        parse_address(configuration.metrics_address)
    account = agent_account(layout)
    if layout.agent_user is not None and os.geteuid() == 0 and account is None:
        log.warning(event("agent.runs_as_root", missing_user=layout.agent_user))
    limit = raise_descriptor_limit()
    with exclusive(layout), inherited_listener() or _bind(layout) as listener:
        runner = _Runner(layout, log, limit)
        runner.start()
        if account is not None:
            become(account)
        asyncio.run(_Service(layout, configuration, log, listener, runner).run())


def _runner_answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
        return True


class _Runner:
    """The runner that answers, or the one that is started because none does; it outlives this process."""

    def __init__(self, layout: Layout, log: logging.Logger, descriptor_limit: int) -> None:
        """`descriptor_limit` is the soft RLIMIT_NOFILE that its commands get: what it inherits from here is higher."""
        self._layout, self._log, self._descriptor_limit = layout, log, descriptor_limit
        self._starting: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts one unless one answers, and does not wait for it: it loads while the agent does."""
        layout = self._layout
        if _runner_answers(layout.runner_socket):
            return
        if layout.system and os.geteuid() != 0:
            raise StoreError(
                f"no runner answers at {layout.runner_socket}: systemctl start attestd-runner.socket"
            )
        make_directory(layout.runner_socket.parent, 0o755 if layout.system else 0o700)
        output = _open_runner_log(layout.runner / "runner.log")
        try:
            self._starting = subprocess.Popen(
                _runner_command(layout, self._descriptor_limit), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                cwd="/", env={"PATH": os.defpath},  # Nothing of ours, least of all what a service manager told us.
            )  # fmt: skip
        finally:
            os.close(output)

    def wait(self) -> None:
        """Waits until the one that was started answers.

        Raises:
            StoreError: It ended, or does not answer in time.
        """
        if self._starting is None:
            return
        process, self._starting = self._starting, None
        if not _await_runner(self._layout.runner_socket, process):
            raise StoreError(f"the runner did not start: see {self._layout.runner / 'runner.log'}")
        self._log.info(event("runner.started", pid=process.pid))

    def ensure(self) -> None:
        """Starts one unless one answers, and waits for it."""
        self.start()
        self.wait()


def _runner_command(layout: Layout, descriptor_limit: int) -> list[str]:
    command = [sys.executable, "-I", "-m", "attestd.runner"]
    command += ["--state-dir", str(layout.runner), "--trust", str(layout.trust)]
    command += ["--configuration", str(layout.configuration), "--mirror", str(layout.mirror)]
    command += ["--socket", str(layout.runner_socket), "--descriptor-limit", str(descriptor_limit)]
    account = agent_account(layout)
    return command if account is None else [*command, "--agent-user", account.name]


def _await_runner(path: Path, process: "subprocess.Popen[bytes]") -> bool:
    """Whether it answers in time. One that somebody kills meanwhile has begun well: who asks it will find out."""
    deadline = time.monotonic() + RUNNER_START_S
    while time.monotonic() < deadline:
        if _runner_answers(path) or (process.poll() or 0) < 0:
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    return False


def _open_runner_log(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}: the runner cannot be started") from error


class _Service:
    """The running agent."""

    def __init__(
        self,
        layout: Layout,
        configuration: Configuration,
        log: logging.Logger,
        listener: socket.socket,
        runner: _Runner,
    ) -> None:
        self.layout, self.configuration, self.log, self.listener = layout, configuration, log, listener
        self.runner = runner
        self.tasks: set[asyncio.Task[None]] = set()
        self.stopping = asyncio.Event()
        self.core: Core | None = None
        self.unsound: RollbackError | None = None
        self.runner_asked = 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        try:
            async with assembled(
                self.layout, self.configuration, self.log, on_unreleased=self._on_unreleased
            ) as agent:
                self.core = agent.core
                await self._serve(agent.core, agent.recovery)
        finally:
            await self._end_tasks()

    async def _end_tasks(self) -> None:
        if self.core is not None:
            self.core.updater.stop()  # Its thread may be waiting for a server.
            self.core.verifiers.stop()  # Likewise.
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _serve(self, core: Core, recovery: Recovery) -> None:
        await asyncio.to_thread(self.runner.wait)
        await self._meet_runner(core)
        await self._settle(core, recovery)
        await core.follow_epoch()
        start = {
            "version": attestd.__version__,
            "notes": list(recovery.notes),
            "host": core.host,
            # What was changed while no agent ran is seen here.
            "governance": core.see_governance(),
            "epoch": core.epoch.epoch,
        }
        await core.seal(Pending(EntryType.AGENT_START, start))
        self.listener.listen(BACKLOG)  # Not before: who comes earlier is told at once that there is no agent.
        server = Server(self.listener, core)
        for job in (
            server.serve(),
            self._every(SPOOL_S, functools.partial(self._poll_runner, core)),
            self._every(DENIALS_S, core.flush_denials),
            self._every(EPOCH_S, core.follow_epoch),
            self._every(float(self.configuration.evidence_interval_s), functools.partial(_refresh, core)),
            self._every(ATTEST_S, core.attest),
            self._watchdog(core),
            self._verify(core),
            self._every(POLL_S, core.health.poll),
            *self._updating(core),
        ):
            self._spawn(job)
        self._expose(core)
        self.log.info(
            event(
                "agent.ready", host=core.host, log=core.store.log_id, entries=core.store.size, pid=os.getpid()
            )
        )
        notify(f"READY=1\nSTATUS=serves host {core.host}")
        await self.stopping.wait()
        notify("STOPPING=1")
        await server.close()
        await self._end_tasks()
        unsound = self.unsound or core.seals.fatal
        if unsound is not None:  # It is evidence: nothing is added to it.
            raise unsound
        with contextlib.suppress(AttestdError):
            await core.drain_spool()
        await core.flush_denials()
        await core.seal(Pending(EntryType.AGENT_STOP, {"releases": core.releases}))

    def _expose(self, core: Core) -> None:
        """Metrics, where the configuration asks for them."""
        if self.configuration.metrics_file:
            path = Path(self.configuration.metrics_file)
            self._spawn(self._every(WRITE_S, functools.partial(write_metrics, path, core)))
        if self.configuration.metrics_address:
            self._spawn(self._metrics(core))

    def _updating(self, core: Core) -> Iterator[Coroutine[Any, Any, None]]:
        """Looking for newer governance, where the configuration says where to look."""

        async def update() -> None:
            with contextlib.suppress(AttestdError):  # The updater says it, once; so do status and doctor.
                await core.update_governance()

        if self.configuration.governance_url:
            yield self._every(float(self.configuration.governance_interval_s), update)

    async def _meet_runner(self, core: Core) -> None:
        """Who it is, and what it spooled while no agent ran. It may die meanwhile, and then there is another."""
        deadline = time.monotonic() + RUNNER_START_S
        while True:
            try:
                await self._ask_runner(core)
                await core.drain_spool()
            except RunnerError as error:
                if time.monotonic() >= deadline:
                    raise
                self.log.warning(event("runner.lost", error=error))
            else:
                return
            await asyncio.sleep(RUNNER_AGAIN_S)
            if not self.layout.system:
                await asyncio.to_thread(self.runner.ensure)

    async def _settle(self, core: Core, recovery: Recovery) -> None:
        """Allows that a crash left between sealing and release are burned at the runner, and recorded as void."""
        since = format_time_us(core.now() - UNSETTLED)
        unsettled = {*recovery.voids, *await asyncio.to_thread(_unsettled, str(self.layout.log), since)}
        waiting = sorted(unsettled)
        # Together: a crash may leave a thousand behind.
        for start in range(0, len(waiting), SETTLED_AT_ONCE):
            some = waiting[start : start + SETTLED_AT_ONCE]
            reason = "the agent stopped between sealing and release"
            await asyncio.gather(*(core.void(seq, reason) for seq in some))

    def _on_unreleased(self, seq: int) -> None:
        if self.core is not None:
            self._spawn(self.core.void(seq, "sealing it failed after its commit"))

    async def _poll_runner(self, core: Core) -> None:
        if core.seals.fatal is not None:
            self.log.critical(event("log.contradicts_tpm", error=core.seals.fatal))
            self.stopping.set()
            return
        try:
            # Its spool is what is in a hurry; what it says of itself changes when it is started anew.
            if core.runner_lost or time.monotonic() - self.runner_asked >= RUNNER_INFO_S:
                await self._ask_runner(core)
            await core.drain_spool()
        except RunnerError as error:
            if not core.runner_lost:
                self.log.warning(event("runner.lost", error=error))
            core.runner_lost = True
            if not self.layout.system:  # As a service it has a unit of its own, which restarts it.
                await asyncio.to_thread(self.runner.ensure)
                await self._ask_runner(core)
            return
        await core.retry_voids()
        await core.note_governance()

    async def _ask_runner(self, core: Core) -> None:
        core.runner_info = await core.runner.info()
        self.runner_asked, core.runner_lost = time.monotonic(), False

    async def _watchdog(self, core: Core) -> None:
        interval = watchdog_interval_s()
        while interval is not None:
            if core.seals.fatal is None:
                notify("WATCHDOG=1")
            await asyncio.sleep(interval)

    async def _verify(self, core: Core) -> None:
        """The log is verified in the background, again and again; if it does not verify, that ends the agent."""
        self.unsound = await core.verification.run()
        self.log.critical(event("log.unsound", error=f"the audit log does not verify: {self.unsound}"))
        self.stopping.set()

    async def _metrics(self, core: Core) -> None:
        """Metrics over HTTP, for as long as the agent serves."""
        try:
            async with serving_metrics(self.configuration.metrics_address, core):
                await asyncio.Event().wait()
        except StoreError as error:
            self.log.warning(event("metrics.not_served", error=error))

    async def _every(self, interval_s: float, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await job()
            except AttestdError as error:
                self.log.warning(event("job.failed", error=error))
            except Exception:  # a background job that fails must not end silently, nor end the agent
                self.log.exception(event("job.failed"))
            await asyncio.sleep(interval_s)

    def _spawn(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(job)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


async def _refresh(core: Core) -> None:
    trust = core.trust_directory.current()
    for policy in trust.platforms.values():
        await core.evidence.ensure(policy, trust=trust, max_age_s=EVIDENCE_MAX_AGE_S)


def _unsettled(path: str, since: str) -> list[int]:
    store = LogStore.open(path, readonly=True)
    try:
        return unsettled_allows(store, since=since)
    finally:
        store.close()


def _bind(layout: Layout) -> socket.socket:
    """Binds the agent's socket; one that is left over is replaced: the lock says that no agent uses it."""
    path = layout.agent_socket
    make_directory(path.parent, 0o755 if layout.system else 0o700)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o666 if layout.system else 0o600)
    except OSError as error:
        listener.close()
        raise StoreError(f"{path}: {error.strerror}") from error
    return listener
