"""One released execution: from the client's go to its exit status."""

import contextlib
import errno
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from attestd.codes import EXIT_STATUS, Code, Denied
from attestd.errors import StoreError
from attestd.journal import event, failure
from attestd.lineage.entry import EntryType
from attestd.runner.child import Child
from attestd.runner.claims import Claims
from attestd.runner.consent import Consent
from attestd.runner.launch import Command, catches, foreground_group, start_time
from attestd.runner.loop import Loop, Timer
from attestd.strict import format_time_us
from attestd.wire import (
    Credentials,
    Frame,
    FrameReader,
    Kind,
    WireError,
    encode_fields,
    send_frame,
)

__all__ = ["RECORD_AGAIN_S", "Claimed", "Running"]

GO_TIMEOUT_S: Final = 10
FRAMES_AT_ONCE: Final = 8
HANGUP_GRACE_S: Final = 10
RECORD_AGAIN_S: Final = 1
EXIT_NOT_EXECUTABLE: Final = 126
EXIT_NOT_FOUND: Final = 127
# What a terminal's keys would send goes to the job in its foreground, everything else to the command itself.
_TO_FOREGROUND: Final = frozenset(
    {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH}
)
_FORWARDED: Final = _TO_FOREGROUND | {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


@dataclass(frozen=True)
class Claimed:
    """A release that the durable record holds.

    Attributes:
        requester: Who connected the client's socket: only that process may give the go.
        consent: What its go must say.
        reference: Members of every log entry about it: request, log_id, seq, leaf, artifact.
        facts: More members of `execution.start`: isolation, uid.
    """

    log_id: str
    seq: int
    leaf: str
    requester: Credentials
    consent: Consent
    reference: dict[str, Any]
    facts: dict[str, Any]


class Running:
    """An execution: waiting for its client's go, then started, then ended. Errors end it; none leaves it."""

    def __init__(
        self,
        claimed: Claimed,
        *,
        loop: Loop,
        claims: Claims,
        client: socket.socket,
        boot: str,
        log: logging.Logger,
        on_end: Callable[["Running"], None],
    ) -> None:
        """Takes over the client's socket. `begin` does the rest.

        Args:
            claimed: What was released.
            loop: Calls back.
            claims: The durable record.
            client: The client's connection; the agent no longer reads from it.
            boot: This boot's id.
            log: For the journal.
            on_end: Called once, when nothing is left to do.
        """
        self._claimed = claimed
        self._loop = loop
        self._claims = claims
        self._client: socket.socket | None = client
        self._reader = FrameReader(client)
        self._boot = boot
        self._log = log
        self._on_end = on_end
        self._child: Child | None = None
        self._master: int | None = None
        self._has_terminal = False
        self._timer: Timer | None = None
        self._state = "waiting"
        self._failure = b""
        self._began = 0.0

    @property
    def requester_uid(self) -> int:
        """Who asked for it."""
        return self._claimed.requester.uid

    def begin(self, child: Child, command: Command, *, master: int | None) -> None:
        """Gives the child its command, and asks the client for its go.

        Args:
            child: Owned from here on.
            command: What to run; its descriptors stay the caller's.
            master: The master of the command's pty; owned from here on.
        """
        self._child, self._master, self._has_terminal = child, master, master is not None
        with self._guarded():
            client = self._connected()
            client.setblocking(False)
            # From here on the kernel names the sender of each message, not only who once connected.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            child.give(command)
            self._loop.watch(client.fileno(), self._on_client)
            self._timer = self._loop.after(GO_TIMEOUT_S, self._on_silence)
            if child.is_ready():
                self._ask()
            else:
                self._loop.watch(child.fileno(), self._on_ready)

    def cancel(self, reason: str) -> None:
        """Ends an execution that could not begin."""
        with self._guarded():
            self._fail(Code.INTERNAL_ERROR, error=reason)

    def abandon(self) -> None:
        """The runner stops: what has not started never will; what runs, runs on, and its end will be found out."""
        if self._state == "waiting":
            self._void(Code.AGENT_UNAVAILABLE, "the runner was stopped before the command started")

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Every callback's edge: whatever goes wrong ends this execution, and only this one."""
        try:
            yield
        except StoreError as error:
            self._fail(Code.AUDIT_UNAVAILABLE, error=str(error))
        except Exception as error:  # noqa: BLE001 - the edge of an execution: it is ended, and said
            self._fail(Code.INTERNAL_ERROR, **failure(error))

    def _fail(self, code: Code, **fields: str) -> None:
        correlation = self._claimed.leaf[:16]
        self._log.error(event("execution.failed", leaf=self._claimed.leaf, code=code, **fields))
        if self._state == "waiting":
            self._void(code, f"the runner could not start the command ({correlation}); see its journal")
        elif self._state == "started":
            self._kill()

    # -- the client ------------------------------------------------------------------------------------------------

    def _connected(self) -> socket.socket:
        if self._client is None:
            raise ConnectionError("the client is gone")
        return self._client

    def _on_ready(self) -> None:
        with self._guarded():
            if self._child is not None and self._child.is_ready():
                self._loop.forget(self._child.fileno())
                self._ask()

    def _ask(self) -> None:
        send_frame(self._connected(), Kind.READY, encode_fields([self._claimed.leaf.encode()]))

    def _on_client(self) -> None:
        with self._guarded():
            try:
                # Not until there is no more: a client that never stops sending would have the runner for itself.
                for _ in range(FRAMES_AT_ONCE):
                    frame = None if self._client is None else self._reader.receive()
                    if frame is None:
                        return
                    try:
                        self._on_frame(frame)
                    finally:
                        frame.close()
            except EOFError:
                self._client_gone("the client went away")
            except (WireError, OSError) as error:
                self._client_gone(f"the client does not speak the protocol: {error}")

    def _on_frame(self, frame: Frame) -> None:
        if self._state == "waiting" and frame.kind == Kind.GO:
            self._go(frame)
        elif self._state == "started" and frame.kind == Kind.SIGNAL:
            fields = frame.fields(1)
            number = int(fields[0]) if fields and fields[0].isdigit() and len(fields[0]) < 3 else 0
            if number not in _FORWARDED:
                raise WireError(f"signal {fields!r}")
            self._signal(signal.Signals(number))
        else:
            raise WireError(f"frame {frame.kind!r}")

    def _on_silence(self) -> None:
        with self._guarded():
            self._void(Code.IDENTITY_MISMATCH, f"the client gave no go within {GO_TIMEOUT_S} s")

    def _client_gone(self, reason: str) -> None:
        if self._state == "waiting":
            self._void(None, f"{reason} before the command started")
            return
        self._close_client()
        if self._state == "started":
            self._signal(signal.SIGHUP)
            self._signal(signal.SIGCONT)  # a stopped command could not even notice
            self._timer = self._loop.after(HANGUP_GRACE_S, self._on_grace_over)

    def _tell(self, kind: bytes, fields: list[str], descriptors: list[int] | None = None) -> None:
        if self._client is not None:
            try:
                send_frame(
                    self._client, kind, encode_fields([field.encode() for field in fields]), descriptors
                )
            except OSError:  # gone, or not reading: its end will be seen
                return

    def _close_client(self) -> None:
        if self._client is not None:
            self._loop.forget(self._client.fileno())
            self._reader.close()
            self._client.close()
            self._client = None

    # -- the command -----------------------------------------------------------------------------------------------

    def _go(self, go: Frame) -> None:
        claimed, child = self._claimed, self._child
        if child is None or go.sender != claimed.requester:
            self._void(Code.IDENTITY_MISMATCH, "the go came from another process than the one that asked")
            return
        try:
            claimed.consent.require(go)
        except Denied as denied:
            self._void(denied.denial.code, denied.denial.sentence)
            return
        cgroup = None if child.cgroup is None else str(child.cgroup.path)
        process = {
            "boot": self._boot,
            "cgroup": cgroup,
            "pid": child.pid,
            "start_time": start_time(child.pid),
        }
        start = {**claimed.reference, **claimed.facts, "at": _now(), "cgroup": cgroup, "pid": child.pid}
        # Committed before the child runs: a claim without it never ran, whatever happens to the runner now.
        self._claims.record_started(claimed.log_id, claimed.seq, process=process, body=start)
        self._loop.cancel(self._timer)
        self._state = "started"
        self._began = time.monotonic()
        self._loop.watch(child.fileno(), self._on_outcome)
        self._loop.watch(child.pidfd, self._on_exit)
        child.go()

    def _on_outcome(self) -> None:
        with self._guarded():
            self._read_outcome()

    def _read_outcome(self) -> None:
        child = self._child
        if child is None or child.fileno() not in self._loop:
            return
        outcome = child.outcome()
        if outcome is None:
            return
        self._loop.forget(child.fileno())
        self._failure = outcome
        if not outcome:
            self._tell(Kind.STARTED, [str(child.pid)], None if self._master is None else [self._master])
        self._close_master()

    def _on_exit(self) -> None:
        with self._guarded():
            if self._child is None:
                return
            self._read_outcome()
            pid, wait_status = os.waitpid(self._child.pid, os.WNOHANG)
            if pid:
                self._exited(wait_status)

    def _exited(self, wait_status: int) -> None:
        number = os.WTERMSIG(wait_status) if os.WIFSIGNALED(wait_status) else None
        status = 128 + number if number is not None else os.WEXITSTATUS(wait_status)
        error = None
        if self._failure:
            status, error = _explain(self._failure)
        duration_ms = int((time.monotonic() - self._began) * 1000)
        # The client first: that it is told does not depend on the disk, and a restart finds an end not recorded.
        self._tell(Kind.EXITED, [str(status), f"attestd: {error}" if error else ""])
        body = {
            **self._claimed.reference,
            "at": _now(),
            "duration_ms": duration_ms,
            "error": error,
            "signal": number,
            "status": status,
        }
        self._end(EntryType.EXECUTION_EXIT, body)

    def _signal(self, number: signal.Signals) -> None:
        if self._child is None:
            return
        group = self._child.pid
        if self._has_terminal and number in _TO_FOREGROUND:
            group = foreground_group(group) or group
        if number == signal.SIGTSTP and not catches(group, number):
            # Nobody else is in the command's session, so the kernel would not let TSTP stop it (an orphaned group).
            number = signal.SIGSTOP
        _send(group, number)

    def _on_grace_over(self) -> None:
        with self._guarded():
            self._kill()

    def _kill(self) -> None:
        if self._child is not None:
            if self._child.cgroup is not None and self._child.cgroup.kill():
                return
            _send(self._child.pid, signal.SIGKILL)

    # -- the end ---------------------------------------------------------------------------------------------------

    def _void(self, code: Code | None, reason: str) -> None:
        """Ends an execution that has not started: it never will."""
        if self._child is not None:
            self._child.kill()
        if code is not None:
            self._tell(Kind.REFUSED, [str(EXIT_STATUS[code]), code.value, reason, "see attestd why"])
        body = {
            **self._claimed.reference,
            "at": _now(),
            "code": None if code is None else code.value,
            "reason": reason,
        }
        self._end(EntryType.DECISION_VOID, body)

    def _end(self, type_: EntryType, body: dict[str, Any]) -> None:
        self._state = "ended"
        self._loop.cancel(self._timer)
        self._close_client()
        self._close_master()
        if self._child is not None:
            self._loop.forget(self._child.pidfd)
            self._loop.forget(self._child.fileno())
            self._child.close()
            self._child = None
        self._on_end(self)
        self._record_end(type_, body)

    def _record_end(self, type_: EntryType, body: dict[str, Any], *, again: bool = False) -> None:
        try:
            self._claims.record_end(self._claimed.log_id, self._claimed.seq, type_=type_, body=body)
        except StoreError as error:
            # The disk will have room again. Should this process end before, the next finds the claim without an end.
            if not again:
                self._log.warning(event("execution.end_unrecorded", leaf=self._claimed.leaf, error=error))
            self._loop.after(RECORD_AGAIN_S, lambda: self._record_end(type_, body, again=True))

    def _close_master(self) -> None:
        if self._master is not None:
            os.close(self._master)
            self._master = None


def _send(group: int, number: signal.Signals) -> None:
    # Without root, a set-user-id command is beyond the runner's reach, as it is beyond its requester's.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _explain(failure: bytes) -> tuple[int, str]:
    """Exit status and words for `<stage>:<errno>`."""
    stage, _, number = failure.decode().partition(":")
    status = EXIT_NOT_FOUND if int(number) == errno.ENOENT else EXIT_NOT_EXECUTABLE
    reason = os.strerror(int(number)) if int(number) else "internal error"
    if int(number) == errno.ENOENT:
        reason += " (the loader that the binary names?)"
    return status, f"the command could not be started: {stage}: {reason}"


def _now() -> str:
    return format_time_us(datetime.now(UTC))
