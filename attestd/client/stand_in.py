"""Stands in for a command that the runner runs: passes signals and the terminal's bytes, returns the exit status."""

import _signal  # type: ignore[import-not-found] # as in attestd.client.run
import posix
import select
from _socket import socket

from attestd.client import EXIT_INTERNAL, Ended
from attestd.client.run import exactly, exit_status, receive, shown
from attestd.wire import Frame, FrameReader, Kind, WireError, encode_fields, send_frame

__all__ = ["StandIn"]

TYPE_CHECKING = False  # `typing` is too dear to import
if TYPE_CHECKING:
    from attestd.client.terminal import Terminal

FORWARDED = (
    _signal.SIGINT,
    _signal.SIGTERM,
    _signal.SIGHUP,
    _signal.SIGQUIT,
    _signal.SIGUSR1,
    _signal.SIGUSR2,
    _signal.SIGCONT,
    _signal.SIGTSTP,
    _signal.SIGWINCH,
)


class StandIn:
    """One command, from the runner's "ready?" to its exit status."""

    def __init__(
        self,
        sock: socket,
        reader: FrameReader,
        decision_id: bytes,
        seq: str,
        *,
        argv: list[bytes],
        descriptors: list[int],
    ) -> None:
        """Prepares to stand in.

        Args:
            sock: The connection: the agent has decided and hands its end to the runner.
            reader: Its reader.
            decision_id: The allow that the agent reported; the runner gets no go for another one.
            seq: Its number in the log.
            argv: The command that was asked for.
            descriptors: What it was asked with: stdin, stdout, stderr, working directory, executable.
        """
        self._sock = sock
        self._reader = reader
        self._decision_id, self._seq = decision_id, seq
        self._argv = argv
        self._descriptors = descriptors
        self._gone = False
        self._wakeup, self._wakeup_writer = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)
        self._poller.register(self._wakeup, select.POLLIN)
        self._terminal: Terminal | None = None

    def run(self) -> int:
        """Stands in until the command has ended.

        Returns:
            The command's exit status.

        Raises:
            Ended: The runner refused.
            WireError, EOFError, OSError: The runner does not speak the protocol, or is gone.
        """
        try:
            while True:
                frame = receive(self._reader)
                if frame.kind == Kind.EXITED:
                    return self._ended(frame)
                self._handle(frame)
                self._pass_until_frame()
        finally:
            if self._terminal:
                self._terminal.restore()

    def _handle(self, frame: Frame) -> None:
        if frame.kind == Kind.READY:
            if self._gone or exactly(1, frame) != [self._decision_id]:
                raise WireError("the runner is about to run something else than was decided")
            self._gone = True
            self._catch_signals()
            # The runner compares: whoever stands between must not use this go for another command, or another stdin.
            send_frame(self._sock, Kind.GO, encode_fields(self._argv), self._descriptors)
        elif frame.kind == Kind.STARTED:
            if frame.descriptors:
                from attestd.client.terminal import Terminal  # noqa: PLC0415 - only with a terminal

                self._terminal = Terminal(frame.descriptors.pop(0), self._poller)
            frame.close()
        elif frame.kind == Kind.REFUSED:
            status, code, sentence, hint = exactly(4, frame)
            raise Ended(
                exit_status(status) or EXIT_INTERNAL,
                shown(sentence),
                code=shown(code),
                hint=shown(hint),
                seq=self._seq,
            )
        else:
            raise WireError(f"the runner sent {frame.kind!r}")

    def _pass_until_frame(self) -> None:
        while self._sock.fileno() not in (ready := dict(self._poller.poll())):
            if self._wakeup in ready:
                for number in posix.read(self._wakeup, 64):
                    self._forward(number)
            if self._terminal:
                self._terminal.relay(ready)

    def _forward(self, number: int) -> None:
        if self._terminal:
            self._terminal.signalled(number)
        send_frame(self._sock, Kind.SIGNAL, encode_fields([str(number).encode()]))

    def _ended(self, frame: Frame) -> int:
        if self._terminal:
            self._terminal.drain()
        status, message = exactly(2, frame)
        if message:
            from attestd.client.report import write_line  # noqa: PLC0415 - only when something is to be said

            if self._terminal:
                self._terminal.restore()  # a line needs its carriage return
            write_line(2, shown(message))
        return exit_status(status)

    def _catch_signals(self) -> None:
        # The handlers do nothing: the interpreter writes each signal's number to the pipe the moment it arrives, so
        # none is lost between looking and waiting. What was ignored when we started (nohup) stays ignored.
        _signal.set_wakeup_fd(self._wakeup_writer, warn_on_full_buffer=False)
        for number in FORWARDED:
            if _signal.getsignal(number) != _signal.SIG_IGN:
                _signal.signal(number, lambda _number, _frame: None)
