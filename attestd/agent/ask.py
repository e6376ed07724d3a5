"""Asks a running agent one operation, and waits for the answer. For the command line; the agent's side is `operations`."""

import os
import socket
from typing import Any, Final

from attestd.errors import AgentError, AttestdError, ForbiddenError, MalformedError, UsageError
from attestd.strict import canonical, parse_json
from attestd.where import MAX_SOCKET_PATH_BYTES, agent_socket
from attestd.wire import MAX_PAYLOAD_BYTES, Frame, FrameReader, Kind, WireError, send_frame

__all__ = ["AgentSocket"]

TIMEOUT_S: Final = 60.0
_ERRORS: Final[dict[str, type[AttestdError]]] = {
    "usage": UsageError,
    "malformed": MalformedError,
    "forbidden": ForbiddenError,
}


class AgentSocket:
    """Where an agent listens.

    Attributes:
        path: Its socket.
    """

    def __init__(self, path: bytes) -> None:
        """Names the socket; nothing is connected yet."""
        self.path = os.fsdecode(path)

    @classmethod
    def find(cls, state_dir: str | None) -> "AgentSocket":
        """The agent that `attestd exec` would ask: `ATTESTD_SOCKET`, the state directory's, or the system's."""
        explicit = os.fsencode(state_dir) if state_dir else None
        return cls(agent_socket(explicit, dict(os.environb), os.geteuid()))

    def ask(self, operation: str, **members: Any) -> dict[str, Any]:
        """Asks one operation.

        Args:
            operation: Its name.
            members: What else the request holds.

        Returns:
            The answer.

        Raises:
            AgentError: No agent answers, or it could not do it.
            UsageError, MalformedError, ForbiddenError: The agent says so of the request.
        """
        request = canonical({"op": operation, **members})
        if len(request) > MAX_PAYLOAD_BYTES:
            raise UsageError(f"the request has {len(request)} bytes, the limit is {MAX_PAYLOAD_BYTES}")
        return _answer(self._exchange(request))

    def _exchange(self, request: bytes) -> Frame:
        if len(os.fsencode(self.path)) > MAX_SOCKET_PATH_BYTES:
            raise UsageError(
                f"socket path {self.path} has {len(os.fsencode(self.path))} bytes, Unix sockets allow"
                f" {MAX_SOCKET_PATH_BYTES}: choose a shorter --state-dir, or set ATTESTD_SOCKET"
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(TIMEOUT_S)
            try:
                sock.connect(self.path)
            except OSError as error:
                raise AgentError(
                    f"no agent answers at {self.path} ({error.strerror or error}): start one with attestd serve, or name its"
                    " directory with --state-dir or ATTESTD_STATE_DIR"
                ) from error
            reader = FrameReader(sock)
            try:
                send_frame(sock, Kind.JSON_REQUEST, request)
                frame = reader.receive()
            except (OSError, EOFError, WireError) as error:
                raise AgentError(
                    f"the agent at {self.path} broke off: {str(error) or 'no answer in time'}"
                ) from error
            finally:
                reader.close()
        if frame is None:
            raise AgentError(f"the agent at {self.path} broke off within its answer")
        frame.close()
        return frame


def _answer(frame: Frame) -> dict[str, Any]:
    if frame.kind == Kind.DECISION:  # It refuses before it looks at the request: too many of them, or a bug.
        try:
            sentence, hint = (field.decode("utf-8") for field in frame.fields(9)[3:5])
        except (WireError, ValueError) as error:
            raise AgentError(f"the agent's answer does not parse: {error}") from error
        raise AgentError(f"{sentence}: {hint}")
    if frame.kind != Kind.JSON_RESPONSE:
        raise AgentError(f"the agent answered with {frame.kind!r}, not with JSON: is it of another version?")
    answer = parse_json(frame.payload, max_bytes=MAX_PAYLOAD_BYTES, what="answer of the agent")
    problem = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(problem, dict):
        raise _ERRORS.get(str(problem.get("kind")), AgentError)(str(problem.get("message")))
    found = answer.get("ok") if isinstance(answer, dict) else None
    if not isinstance(found, dict):
        raise AgentError("the agent's answer is neither a result nor an error: is it of another version?")
    return found
