"""`attestd exec` and `attestd check`: ask the agent, then stand in for the command that the runner runs.

Only the requester can open what is to run, so this process opens it (once, never looked up again) and hands over
descriptors; agent and runner believe descriptors, never names. What is seldom needed is imported where it is needed.
"""

import _signal  # type: ignore[import-not-found] # `signal` builds enums: as dear as the whole interpreter
import posix
from _socket import AF_UNIX, SOCK_STREAM, socket

from attestd.client import EXIT_INTERNAL, EXIT_UNAVAILABLE, EXIT_USAGE, Ended
from attestd.client.files import find_command, open_cwd, read_file, write_receipt
from attestd.client.options import HELP, Options, parse
from attestd.where import MAX_SOCKET_PATH_BYTES, agent_socket
from attestd.wire import MAX_PAYLOAD_BYTES, Frame, FrameReader, Kind, WireError, encode_fields, send_frame

__all__ = ["exactly", "exit_status", "main", "receive", "shown"]

# More than the needs of all artifacts that an agent considers at once, at 14 a question.
MAX_QUESTIONS = 64
MAX_NEEDS = 32
DECISION_TIMEOUT_S = 120
EXIT_PIPE = 141  # 128 + SIGPIPE, as other commands end whose reader went away
DEFAULT_PATH = b"/bin:/usr/bin"  # what execvp(3) uses without PATH


def main(arguments: list[str]) -> int:
    """Runs `exec` or `check`.

    Args:
        arguments: As in `sys.argv`, from the word `exec` or `check` on.

    Returns:
        The exit status: the command's, or one of formats.md's.
    """
    # Python would turn an interrupt into a traceback. Until the command runs, the shell's meaning is right.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _open_missing_stdio()
    json = False
    try:
        options = parse(arguments)
        json = options.json
        if options.help:
            return _show_help()
        return _run(options)
    except Ended as end:
        ended = end
    except Exception as error:  # noqa: BLE001 - the edge of the process: a bug is one line, never a traceback
        ended = Ended(EXIT_INTERNAL, f"internal error: {type(error).__name__}: {error}", hint="report this")
    from attestd.client.report import report  # noqa: PLC0415 - only when something is to be said

    report(ended, json=json, to=1 if arguments[0] == "check" else 2)
    return ended.status


def _show_help() -> int:
    try:
        posix.write(1, HELP.encode())
    except OSError:  # closed or full: nobody's fault
        return EXIT_PIPE
    return 0


def _run(options: Options) -> int:
    # An empty file is a malformed one, to be denied and recorded: it must not mean "none given", and take another.
    authorization = read_file(options.authorization) or b"\n" if options.authorization is not None else b""
    parent = read_file(options.parent) if options.parent is not None else b""
    executable = find_command(options.argv[0], posix.environ.get(b"PATH", DEFAULT_PATH))
    descriptors = [0, 1, 2, open_cwd(), executable]
    sock = _connect(agent_socket(options.state_dir, posix.environ, posix.geteuid()))
    reader = FrameReader(sock)
    try:
        request = encode_fields(
            [options.mode.encode(), _request_options(options), authorization, parent, *options.argv]
        )
        if len(request) > MAX_PAYLOAD_BYTES:
            raise Ended(EXIT_USAGE, f"the request has {len(request)} bytes, the limit is {MAX_PAYLOAD_BYTES}")
        sock.settimeout(DECISION_TIMEOUT_S)
        try:  # noqa: SIM105 - contextlib costs more than the whole client
            send_frame(sock, Kind.REQUEST, request, descriptors)
        except BrokenPipeError:
            pass  # An agent that has no room says so before it hears what is asked: its answer is waiting.
        # Loaded while the agent works.
        from attestd.client.stand_in import StandIn  # noqa: PLC0415

        decision_id, seq = _await_decision(options, sock, reader, executable)
        if options.mode == "check":
            return 0
        sock.settimeout(None)
        return StandIn(sock, reader, decision_id, seq, argv=options.argv, descriptors=descriptors).run()
    except (OSError, EOFError, WireError) as error:
        raise Ended(
            EXIT_UNAVAILABLE,
            f"the connection to agent and runner broke: {error}",
            code="agent_unavailable",
            hint="the journal of agent and runner says why; `attestd audit tail` says whether the command ran",
        ) from None
    finally:
        reader.close()
        sock.close()


def _request_options(options: Options) -> bytes:
    words = [f"tty{number}" for number in (0, 1, 2) if posix.isatty(number)]
    if options.json or options.mode == "check":
        words.append("json")
    if options.receipt is not None:
        words.append("receipt")
    return ",".join(words).encode()


def _await_decision(
    options: Options, sock: socket, reader: FrameReader, executable: int
) -> tuple[bytes, str]:
    """Answers what the agent asks for, until it has decided.

    Returns:
        The decision's id and its number in the log, if it allows.

    Raises:
        Ended: It denies.
        WireError: It does not speak the protocol.
    """
    for _ in range(MAX_QUESTIONS):
        frame = receive(reader)
        if frame.kind == Kind.DECISION:
            return _decided(options, frame)
        if frame.kind != Kind.NEED:
            raise WireError(f"the agent sent {frame.kind!r} instead of a decision")
        from attestd.client.answer import answer  # noqa: PLC0415 - only scripts, inputs and passed variables

        answer(sock, frame.fields(MAX_NEEDS), options.argv, executable)
    raise WireError("the agent never came to a decision")


def _decided(options: Options, frame: Frame) -> tuple[bytes, str]:
    outcome, status, code, sentence, hint, decision_id, seq, json, receipt = exactly(9, frame)
    if options.receipt is not None and receipt:
        # Before the command starts: it may want to name its own receipt as a parent.
        write_receipt(options.receipt, receipt)
    if options.mode == "check" and not options.json:
        from attestd.client.explain import explain  # noqa: PLC0415 - only for `check`
        from attestd.client.report import write_line  # noqa: PLC0415 - only for `check`

        for line in explain(json):
            write_line(1, line)
    if outcome != b"allow":
        raise Ended(
            exit_status(status) or EXIT_INTERNAL,
            shown(sentence),
            code=shown(code),
            hint=shown(hint),
            json=json,
            seq=shown(seq),
        )
    if options.json or options.mode == "check":
        from attestd.client.report import report_allowed  # noqa: PLC0415 - only when something is to be said

        report_allowed(json if options.json else b"", to=1 if options.mode == "check" else 2)
    return decision_id, shown(seq)


def receive(reader: FrameReader) -> Frame:
    """The next frame; descriptors that no frame but STARTED may carry are closed."""
    frame = reader.receive()
    if frame is None:
        raise WireError("no whole frame on a blocking socket")
    if frame.kind != Kind.STARTED:
        frame.close()
    return frame


def exactly(count: int, frame: Frame) -> list[bytes]:
    """The fields of a frame that must have `count` of them."""
    fields = frame.fields(count)
    if len(fields) != count:
        raise WireError(f"frame {frame.kind!r}: {len(fields)} fields, expected {count}")
    return fields


def exit_status(field: bytes) -> int:
    """An exit status, 0 to 255."""
    if not field.isdigit() or len(field) > 3 or int(field) > 255:
        raise WireError(f"exit status {field[:20]!r}")
    return int(field)


def shown(field: bytes) -> str:
    """Bytes from outside as text."""
    return field.decode("utf-8", "backslashreplace")


def _open_missing_stdio() -> None:
    # Otherwise a socket would become descriptor 0, and be handed to the command as its input.
    for number in (0, 1, 2):
        try:
            posix.fstat(number)
        except OSError:
            posix.open(b"/dev/null", posix.O_RDWR)


def _connect(path: bytes) -> socket:
    if len(path) > MAX_SOCKET_PATH_BYTES:
        raise Ended(
            EXIT_USAGE,
            f"the agent's socket path has {len(path)} bytes, the limit is {MAX_SOCKET_PATH_BYTES}: {shown(path)}",
            hint="use a shorter --state-dir, or name the socket with ATTESTD_SOCKET",
        )
    sock = socket(AF_UNIX, SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise Ended(
            EXIT_UNAVAILABLE,
            f"no agent answers at {shown(path)}: {error.strerror}",
            code="agent_unavailable",
            hint="start one with `attestd serve`, or name its directory with --state-dir or ATTESTD_STATE_DIR",
        ) from None
    return sock
