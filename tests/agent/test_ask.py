"""The command line's side of the agent's operations: whatever answers, it is an error in words."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attestd.agent.ask import AgentSocket
from attestd.errors import AgentError, AttestdError, ForbiddenError, MalformedError, UsageError
from attestd.wire import FrameReader, Kind, encode_fields, encode_frame


@contextmanager
def answering(path: Path, answer: Callable[[bytes], bytes]) -> Iterator[AgentSocket]:
    """Something that listens where an agent should, and answers one request with any bytes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                frame = FrameReader(sock).receive()
                assert frame is not None
                assert frame.kind == Kind.JSON_REQUEST
                sock.sendall(answer(frame.payload))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield AgentSocket(os.fsencode(path))
        finally:
            thread.join()


def asked(short_dir: Path, data: bytes) -> dict[str, object]:
    with answering(short_dir / "s", lambda _: data) as agent:
        return agent.ask("status", member=1)


def response(value: object) -> bytes:
    return encode_frame(Kind.JSON_RESPONSE, json.dumps(value).encode())


def test_the_request_is_the_operation_and_its_members(short_dir: Path) -> None:
    seen: list[bytes] = []

    def answer(payload: bytes) -> bytes:
        seen.append(payload)
        return response({"ok": {"x": 1}})

    with answering(short_dir / "s", answer) as agent:
        assert agent.ask("status", member=[1]) == {"x": 1}
    assert seen == [b'{"member":[1],"op":"status"}']


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("usage", UsageError),
        ("malformed", MalformedError),
        ("forbidden", ForbiddenError),
        ("failed", AgentError),
        ("?", AgentError),
    ],
)
def test_errors_of_the_agent(kind: str, error: type[AttestdError], short_dir: Path) -> None:
    with pytest.raises(error, match="because"):
        asked(short_dir, response({"error": {"kind": kind, "message": "because"}}))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "broke off"),
        (b"j\x00\x00\x00\x09x", "broke off"),
        (encode_frame(b"Z", b"{}"), "is it of another version"),
        (response([]), "neither a result nor an error"),
        (response({"ok": 1}), "neither a result nor an error"),
        (encode_frame(Kind.DECISION, b""), "does not parse"),
        (
            encode_frame(
                Kind.DECISION, encode_fields([b"deny", b"69", b"c", b"too many", b"wait", b"", b"", b"", b""])
            ),
            "too many: wait",
        ),
    ],
)
def test_whatever_answers(data: bytes, words: str, short_dir: Path) -> None:
    with pytest.raises(AgentError, match=words):
        asked(short_dir, data)


def test_json_that_is_none(short_dir: Path) -> None:
    with pytest.raises(MalformedError):
        asked(short_dir, encode_frame(Kind.JSON_RESPONSE, b"{"))


def test_nobody_answers(short_dir: Path) -> None:
    with pytest.raises(AgentError, match="attestd serve"):
        AgentSocket(os.fsencode(short_dir / "none")).ask("status")
    with pytest.raises(UsageError, match="shorter --state-dir"):
        AgentSocket(b"/tmp/" + b"x" * 110).ask("status")
    with pytest.raises(UsageError, match="the limit is"):
        AgentSocket(b"/tmp/x").ask("install", artifact="x" * (3 << 20))


def test_which_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTESTD_SOCKET", "/somewhere/else")
    assert AgentSocket.find("/state").path == "/somewhere/else"
    monkeypatch.delenv("ATTESTD_SOCKET")
    assert AgentSocket.find("/state").path == "/state/run/agent.sock"
