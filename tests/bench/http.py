"""A load generator's HTTP: as little of it as can be, so that what is measured is the other side."""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

CONNECTIONS = 64
_LENGTH = re.compile(rb"content-length: (\d+)")


class Connection:
    """One, kept alive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def post(self, path: str, body: bytes) -> bytes:
        """The body of the answer, whose status has to be 200."""
        self._writer.write(
            b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (path.encode(), len(body), body)
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        assert length is not None
        answer = await self._reader.readexactly(int(length[1]))
        assert head.startswith(b"HTTP/1.1 200 "), (head, answer)
        return answer

    def close(self) -> None:
        self._writer.close()


@dataclass(frozen=True)
class Done:
    """What came back: the answers, the seconds of each, and of all."""

    answers: list[bytes]
    times: list[float]
    seconds: float


async def over_connections(
    ports: Sequence[int], path: str, bodies: Sequence[bytes], *, connections: int = CONNECTIONS
) -> Done:
    """Posts all in order, over several connections."""
    answers, times = [b""] * len(bodies), [0.0] * len(bodies)
    waiting = iter(enumerate(bodies))
    opened = [await Connection.open(ports[number % len(ports)]) for number in range(connections)]

    async def work(connection: Connection) -> None:
        for number, body in waiting:
            start = time.perf_counter()
            answers[number] = await connection.post(path, body)
            times[number] = time.perf_counter() - start

    began = time.perf_counter()
    await asyncio.gather(*map(work, opened))
    seconds = time.perf_counter() - began
    for connection in opened:
        connection.close()
    return Done(answers, times, seconds)
