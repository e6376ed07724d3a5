"""The agent's socket: accepts clients, one request a connection, within limits a user and in all."""

import asyncio
import resource
import secrets
import socket
from typing import Final

from attestd.agent.connection import Connection
from attestd.agent.core import Core
from attestd.agent.executions import serve_request
from attestd.agent.operations import serve_operation
from attestd.agent.room import Room
from attestd.codes import Code, Denial
from attestd.journal import event
from attestd.strict import canonical
from attestd.wire import Kind, WireError, encode_fields

__all__ = ["Server"]

REQUEST_TIMEOUT_S: Final = 10.0


class Server:
    """Serves a listening socket until it is closed."""

    def __init__(self, listener: socket.socket, core: Core) -> None:
        """Takes over a listening Unix stream socket."""
        listener.setblocking(False)
        # Sockets inherit it when they connect: without it the first message could come without its sender.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._listener, self._core = listener, core
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = Room(resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    async def serve(self) -> None:
        """Accepts until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except OSError as error:  # Out of descriptors: those who are served give some back.
                self._core.log.warning(event("accept.failed", error=error))
                await asyncio.sleep(0.1)
                continue
            self._start(sock)

    async def close(self) -> None:
        """Stops accepting and lets running requests finish."""
        # Before its number can go to a request's socket, for which the loop would then never look.
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=REQUEST_TIMEOUT_S)

    def _start(self, sock: socket.socket) -> None:
        try:
            connection = Connection(sock)
        except OSError:
            sock.close()
            return
        uid = connection.peer.uid
        task = asyncio.create_task(self._serve(connection, full=self._room.refusal(uid)))
        self._room.enter(uid)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(done, uid))

    def _done(self, task: asyncio.Task[None], uid: int) -> None:
        self._tasks.discard(task)
        self._room.leave(uid)

    async def _serve(self, connection: Connection, *, full: str | None) -> None:
        try:
            if full is not None:
                await self._refuse(connection, Code.AGENT_UNAVAILABLE, full, "try again in a moment")
                return
            async with self._room.bounded(connection):
                await self._serve_one(connection)
        except (WireError, EOFError, TimeoutError, OSError) as error:
            words = f"{type(error).__name__}: {error}"
            self._core.log.info(event("connection.broken", uid=connection.peer.uid, error=words))
        except Exception:  # the edge of a request: a bug denies this one, is logged, and ends no other
            incident = secrets.token_hex(8)
            self._core.log.exception(event("request.failed", incident=incident, uid=connection.peer.uid))
            self._core.denials.aggregate(connection.peer.uid, Code.INTERNAL_ERROR.value)
            await self._refuse(
                connection,
                Code.INTERNAL_ERROR,
                f"the agent failed (incident {incident})",
                f"give this number to whoever runs the agent: its log has the rest under {incident}",
            )
        finally:
            connection.close()

    async def _serve_one(self, connection: Connection) -> None:
        frame = await connection.receive(timeout_s=REQUEST_TIMEOUT_S)
        try:
            if frame.kind == Kind.REQUEST:
                await serve_request(connection, frame, self._core)
            elif frame.kind == Kind.JSON_REQUEST:
                response = await serve_operation(frame.payload, connection.peer.uid, self._core)
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    await connection.send(Kind.JSON_RESPONSE, canonical(response))
            else:
                raise WireError(f"unexpected frame {frame.kind!r}")
        finally:
            frame.close()

    async def _refuse(self, connection: Connection, code: Code, sentence: str, hint: str) -> None:
        denial = Denial(code, sentence, hint)
        fields = ["deny", str(denial.exit_status), code.value, sentence, hint, "", "", "", ""]
        try:
            async with asyncio.timeout(1.0):
                await connection.send(Kind.DECISION, encode_fields([field.encode() for field in fields]))
        except (OSError, TimeoutError, WireError):
            return
