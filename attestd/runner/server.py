"""The runner's socket: requests of the agent, each answered by one frame."""

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import attestd
from attestd.codes import Code, Denial, Denied
from attestd.errors import StoreError
from attestd.gate.release import Here
from attestd.journal import event
from attestd.runner.claims import Claims
from attestd.runner.clock import Clock
from attestd.runner.execution import Claimed, Running
from attestd.runner.governance import Governance
from attestd.runner.loop import Loop
from attestd.runner.request import Release, peer_of, verify_request
from attestd.runner.spares import Spares
from attestd.runner.terminal import is_terminal, open_terminal
from attestd.strict import canonical, format_time_us, parse_time
from attestd.wire import Frame, FrameReader, Kind, WireError, encode_fields, send_frame

__all__ = ["Server", "Settings"]

MAX_PEERS: Final = 16
# A reply must fit the socket's buffer: the runner waits for nobody to read.
MAX_REPLY_BYTES: Final = 96 * 1024
MAX_SPOOLED: Final = 256
REQUESTERS_SHARE: Final = 4
MAX_LOG_ID_BYTES: Final = 64


@dataclass(frozen=True)
class Settings:
    """What a runner is started with.

    Attributes:
        grace: For how long governance metadata may be used after it expired.
        peers: The users that may connect.
        host_id: Which host this is.
        boot: This boot's id.
        isolation: `user` if the runner is root, else `none`.
        cgroups: Where cgroups can be made, or None.
        max_running: How many executions there are descriptors for.
        descriptor_limit: RLIMIT_NOFILE as the runner was given it, and gives it to commands.
    """

    grace: timedelta
    peers: Collection[int]
    host_id: str
    boot: str
    isolation: str
    cgroups: Path | None
    max_running: int
    descriptor_limit: tuple[int, int]


class _Peer:
    """One connection of the agent."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader = FrameReader(sock)


class Server:
    """Accepts connections and answers requests; holds all executions."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        *,
        claims: Claims,
        governance: Governance,
        loop: Loop,
        log: logging.Logger,
    ) -> None:
        """Prepares to serve.

        Args:
            settings: What the runner was started with.
            listener: A listening Unix stream socket.
            claims: The durable record.
            governance: What is trusted.
            loop: Calls back.
            log: For the journal.
        """
        self._settings = settings
        self._listener = listener
        self._claims = claims
        self._governance = governance
        self._loop = loop
        self._log = log
        self._peers: set[_Peer] = set()
        self._running: set[Running] = set()
        last = claims.last_claim()
        self._clock = Clock(None if last is None else parse_time(last))
        self._answers: dict[bytes, Callable[[Frame], tuple[bytes, list[bytes]]]] = {
            Kind.FORFEIT: self._forfeit,
            Kind.SPOOL: self._spool,
            Kind.ACKNOWLEDGE: self._acknowledge,
            Kind.INFO: self._info,
        }
        self._spares = Spares(loop, settings.cgroups)
        listener.setblocking(False)
        loop.watch(listener.fileno(), self._on_connection)

    def close(self) -> None:
        """Stops serving; what has not started never will."""
        self._loop.forget(self._listener.fileno())
        for running in list(self._running):
            running.abandon()
        for peer in list(self._peers):
            self._drop(peer)
        self._spares.close()

    # -- connections -----------------------------------------------------------------------------------------------

    def _on_connection(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        try:
            uid = peer_of(sock.fileno()).uid
            if uid not in self._settings.peers or len(self._peers) >= MAX_PEERS:
                self._log.warning(event("connection.refused", uid=uid, peers=len(self._peers)))
                sock.close()
                return
        except Denied:
            sock.close()
            return
        sock.setblocking(False)
        peer = _Peer(sock)
        self._peers.add(peer)
        self._loop.watch(sock.fileno(), lambda: self._on_request(peer))

    def _on_request(self, peer: _Peer) -> None:
        try:
            frame = peer.reader.receive()
            if frame is not None:
                try:
                    self._answer(peer, frame)
                finally:
                    frame.close()
        except EOFError:
            self._drop(peer)
        except (WireError, OSError, StoreError) as error:  # the last: its record cannot be read or written
            self._log.warning(event("connection.dropped", error=error))
            self._drop(peer)
        except Exception:  # noqa: BLE001 - the edge of a request: it gets no answer, which is a refusal
            self._log.exception(event("request.failed"))
            self._drop(peer)

    def _drop(self, peer: _Peer) -> None:
        self._loop.forget(peer.sock.fileno())
        peer.reader.close()
        peer.sock.close()
        self._peers.discard(peer)

    def _answer(self, peer: _Peer, frame: Frame) -> None:
        if frame.kind == Kind.EXECUTE:
            self._execute(peer, frame)
            return
        answer = self._answers.get(frame.kind)
        if answer is None:
            raise WireError(f"frame {frame.kind!r}")
        kind, fields = answer(frame)
        send_frame(peer.sock, kind, encode_fields(fields))

    # -- executions ------------------------------------------------------------------------------------------------

    def _execute(self, peer: _Peer, frame: Frame) -> None:
        denial = self._try_execute(peer, frame)
        if denial is not None:
            fields = [denial.code.encode(), denial.sentence.encode(), denial.hint.encode()]
            send_frame(peer.sock, Kind.REJECTED, encode_fields(fields))

    def _try_execute(self, peer: _Peer, frame: Frame) -> Denial | None:
        try:
            with self._released(frame) as (release, claimed):
                with contextlib.suppress(OSError):  # an agent that went away meanwhile stops nothing
                    send_frame(peer.sock, Kind.ACCEPTED)
                self._begin(frame, release, claimed)
        except Denied as denied:
            return denied.denial
        except StoreError as error:
            return Denial(Code.AUDIT_UNAVAILABLE, str(error), "see the runner's journal and its disk")
        except WireError as error:
            self._log.warning(event("request.malformed", error=error))
            sentence = f"the agent's request is of no form that this runner knows: {error}"
            return Denial(
                Code.INTERNAL_ERROR, sentence, "run agent and runner of one version: attestd doctor"
            )
        except Exception:  # noqa: BLE001 - the edge of a request: it is refused, and said
            correlation = secrets.token_hex(4)
            self._log.exception(event("request.failed", incident=correlation))
            return Denial(
                Code.INTERNAL_ERROR, f"the runner failed ({correlation})", "see the runner's journal"
            )
        return None

    @contextlib.contextmanager
    def _released(self, frame: Frame) -> Iterator[tuple[Release, Claimed]]:
        """Verifies a request, then uses up its receipt: in this order, and durably, before anybody is told."""
        most = self._settings.max_running
        if len(self._running) >= most:
            raise Denied(
                Code.AGENT_UNAVAILABLE, f"{most} commands are running, the most there may be", "wait"
            )
        now = self._clock.now()
        settings = self._settings
        here = Here(
            trust=self._governance.current(),
            host_id=settings.host_id,
            boot=settings.boot,
            now=now,
            grace=settings.grace,
            isolation=settings.isolation,
        )
        with verify_request(frame, here, descriptor_limit=settings.descriptor_limit) as release:
            self._require_room_for(release.requester.uid)
            verified = release.verified
            reference = {
                "artifact": verified.artifact_id,
                "leaf": verified.leaf,
                "log_id": verified.log_id,
                "request": verified.request_id,
                "seq": verified.seq,
            }
            self._claims.claim(verified, reference, now=format_time_us(now))
            facts = {"isolation": settings.isolation, "uid": release.command.user.uid}
            yield (
                release,
                Claimed(
                    log_id=verified.log_id,
                    seq=verified.seq,
                    leaf=verified.leaf,
                    requester=release.requester,
                    consent=release.consent,
                    reference=reference,
                    facts=facts,
                ),
            )

    def _require_room_for(self, uid: int) -> None:
        """No requester takes all places: whoever may run something once more, and once more, keeps nobody else out."""
        most = self._settings.max_running // REQUESTERS_SHARE
        if uid in (0, os.geteuid()) or sum(running.requester_uid == uid for running in self._running) < most:
            return
        raise Denied(
            Code.AGENT_UNAVAILABLE,
            f"{most} commands of uid {uid} are running, the most there may be of one requester",
            "wait until some have ended",
        )

    def _begin(self, frame: Frame, release: Release, claimed: Claimed) -> None:
        command, master = release.command, None
        client = socket.socket(fileno=frame.descriptors.pop(0))
        running = Running(
            claimed,
            loop=self._loop,
            claims=self._claims,
            client=client,
            boot=self._settings.boot,
            log=self._log,
            on_end=self._running.discard,
        )
        self._running.add(running)
        slave = None
        try:
            terminals = [descriptor for descriptor in command.stdio if is_terminal(descriptor)]
            if terminals:
                # Looked at here, not believed: the command must never hold the requester's own terminal.
                master, slave = open_terminal(terminals[0], command.user)
                stdin, stdout, stderr = (slave if n in terminals else n for n in command.stdio)
                command = replace(command, stdio=(stdin, stdout, stderr), terminal=slave)
            running.begin(self._spares.take(), command, master=master)
        except OSError as error:
            running.cancel(f"no stdio, terminal or process: {error.strerror}")
        finally:
            if slave is not None:
                os.close(slave)

    # -- the other requests ----------------------------------------------------------------------------------------

    def _forfeit(self, frame: Frame) -> tuple[bytes, list[bytes]]:
        fields = frame.fields(2)
        if len(fields) != 2 or len(fields[0]) > MAX_LOG_ID_BYTES:  # it is kept
            raise WireError("forfeit: expected log id and seq")
        burned = self._claims.forfeit(
            fields[0].decode("utf-8", "replace"), _number(fields[1]), now=format_time_us(datetime.now(UTC))
        )
        return Kind.FORFEITED, [b"burned" if burned else b"ran"]

    def _spool(self, frame: Frame) -> tuple[bytes, list[bytes]]:
        fields = frame.fields(1)
        limit = min(_number(fields[0]) if fields else MAX_SPOOLED, MAX_SPOOLED)
        reply: list[bytes] = []
        size = 0
        for item in self._claims.spooled(limit):
            data = canonical({"id": item.id, "type": item.type.value, "body": item.body})
            size += len(data) + 4
            if reply and size > MAX_REPLY_BYTES:
                break
            reply.append(data)
        return Kind.SPOOLED, reply

    def _acknowledge(self, frame: Frame) -> tuple[bytes, list[bytes]]:
        fields = frame.fields(1)
        if not fields:
            raise WireError("acknowledge: expected an id")
        self._claims.acknowledge(_number(fields[0]))
        return Kind.ACKNOWLEDGED, []

    def _info(self, frame: Frame) -> tuple[bytes, list[bytes]]:
        frame.fields(0)
        info = {
            "governance": self._governance.describe(),
            "isolation": self._settings.isolation,
            "pid": os.getpid(),
            "running": len(self._running),
            "spool": self._claims.spool_id,
            "uid": os.geteuid(),
            "version": attestd.__version__,
        }
        return Kind.INFORMED, [canonical(info)]


def _number(field: bytes) -> int:
    if not field.isdigit() or len(field) > 15:
        raise WireError("expected a number of at most 15 digits")
    return int(field)
