"""The agent's side of the runner's socket: one connection a request; nothing it says is needed to keep the runner safe."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from attestd.agent.connection import Connection
from attestd.codes import Code, Denial
from attestd.errors import MalformedError, StoreError
from attestd.strict import Strict, convert, parse_json
from attestd.wire import Kind, WireError, encode_fields

__all__ = ["SPOOL_MAX", "Execute", "RunnerError", "RunnerLink", "Spooled"]

TIMEOUT_S: Final = 30.0
SPOOL_MAX: Final = 64
# The runner takes 16 connections, and turns away what comes over that.
MAX_CONNECTIONS: Final = 8
MAX_SPOOLED_BYTES: Final = 128 * 1024


class RunnerError(StoreError):
    """There is no runner, or it does not answer as it should."""


@dataclass(frozen=True)
class Execute:
    """All that the runner gets of one execution: what it does not verify itself, it does not believe.

    Attributes:
        salt: With which the leaf conceals what is secret.
        tokens: Attestation results, where verifiers are needed.
        options: `tty0`, `tty1`, `tty2` where the client's stdio is a terminal.
        descriptors: The client's socket, stdin, stdout, stderr, cwd, executable, interpreters, inputs.
    """

    receipt: bytes
    artifact: bytes
    options: bytes
    salt: bytes = field(repr=False)
    interpreters: int
    inputs: int
    env: Sequence[tuple[str, str]]
    argv: Sequence[str]
    descriptors: Sequence[int]
    tokens: Sequence[str] = ()

    def payload(self) -> bytes:
        """The fields of the frame."""
        env = [f"{name}={value}".encode() for name, value in self.env]
        counts = [str(count).encode() for count in (self.interpreters, self.inputs, len(env))]
        argv = [argument.encode() for argument in self.argv]
        results = "\n".join(self.tokens).encode()
        return encode_fields(
            [self.receipt, self.artifact, self.options, self.salt, *counts, results, *env, *argv]
        )


class Spooled(Strict, frozen=True):
    """Something that the runner wants in the log."""

    id: Annotated[int, msgspec.Meta(ge=1)]
    type: str
    body: dict[str, Any]


class RunnerLink:
    """Asks the runner. Every method raises RunnerError when there is no runner or it does not answer as it should."""

    def __init__(self, path: Path) -> None:
        """Names the runner's socket."""
        self._path = path
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)

    async def execute(self, execute: Execute) -> Denial | None:
        """Hands over an execution; None once the runner has durably claimed it, else why it refuses."""
        kind, fields = await self._ask(Kind.EXECUTE, execute.payload(), list(execute.descriptors))
        if kind == Kind.ACCEPTED:
            return None
        try:
            code, sentence, hint = (field.decode() for field in fields)
            return Denial(Code(code), sentence, hint)
        except ValueError as error:
            raise RunnerError(f"the runner refused in a way that does not parse: {error}") from error

    async def forfeit(self, log_id: str, seq: int) -> bool:
        """Burns a receipt that will not be used; False: too late, it was claimed."""
        _, fields = await self._ask(Kind.FORFEIT, encode_fields([log_id.encode(), str(seq).encode()]))
        if fields not in ([b"burned"], [b"ran"]):
            raise RunnerError("the runner answered a forfeit in a way that does not parse")
        return fields == [b"burned"]

    async def spool(self) -> list[Spooled]:
        """What waits for the log, oldest first."""
        _, fields = await self._ask(Kind.SPOOL, encode_fields([str(SPOOL_MAX).encode()]))
        try:
            items = [parse_json(field, max_bytes=MAX_SPOOLED_BYTES, what="spooled entry") for field in fields]
            return [convert(item, Spooled, what="spooled entry") for item in items]
        except MalformedError as error:
            raise RunnerError(f"the runner's spool does not parse: {error}") from error

    async def acknowledge(self, up_to: int) -> None:
        """Everything up to this id is in the log."""
        await self._ask(Kind.ACKNOWLEDGE, encode_fields([str(up_to).encode()]))

    async def info(self) -> dict[str, Any]:
        """Isolation, user, version, pid, trust digest, what runs."""
        _, fields = await self._ask(Kind.INFO, b"")
        try:
            value = parse_json(fields[0], max_bytes=MAX_SPOOLED_BYTES, what="information")
        except (IndexError, MalformedError) as error:
            raise RunnerError(f"the runner's information does not parse: {error}") from error
        if not isinstance(value, dict):
            raise RunnerError("the runner's information does not parse: expected an object")
        return value

    async def _ask(
        self, kind: bytes, payload: bytes, descriptors: list[int] | None = None
    ) -> tuple[bytes, list[bytes]]:
        try:
            async with asyncio.timeout(TIMEOUT_S), self._free, self._connected() as connection:
                await connection.send(kind, payload, descriptors)
                frame = await connection.receive(timeout_s=None)
                frame.close()  # The runner sends no descriptors to the agent.
                return frame.kind, frame.fields(SPOOL_MAX)
        except (OSError, EOFError, TimeoutError, WireError) as error:
            raise RunnerError(f"the runner at {self._path} broke off: {error!r}") from error

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, str(self._path))
            connection = Connection(sock)
        except OSError as error:
            sock.close()
            raise RunnerError(f"the runner at {self._path} does not answer: {error}") from error
        except BaseException:
            sock.close()
            raise
        try:
            yield connection
        finally:
            connection.close()
