"""The agent's listening socket: what its end means for those who are still served."""

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import cast

from attestd.agent.core import Core
from attestd.agent.server import Server


def test_the_number_of_the_closed_listener_serves_a_request(tmp_path: Path) -> None:
    async def close_and_reuse() -> None:
        loop = asyncio.get_running_loop()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        server = Server(listener, cast("Core", None))  # which is asked only for those who connect
        accepting = asyncio.create_task(server.serve())
        await asyncio.sleep(0)
        number = listener.fileno()
        await server.close()
        pair = socket.socketpair()
        ours, others = pair if pair[0].fileno() == number else pair[::-1]
        with ours, others:
            assert ours.fileno() == number
            heard = asyncio.Event()
            loop.add_reader(ours, heard.set)
            others.send(b"x")
            await asyncio.wait_for(heard.wait(), 60)
            loop.remove_reader(ours)
        accepting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await accepting

    asyncio.run(close_and_reuse())
