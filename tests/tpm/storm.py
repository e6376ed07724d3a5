"""A TPM that the kernel shares: its resource manager in front, IMA's extends in between. The TPM is real, the time is not.

As drivers/char/tpm/tpm2-space.c: before each command of a client all that the client holds is loaded (TPM2_ContextLoad),
after it all is saved (TPM2_ContextSave) and objects are flushed; nobody else gets at the TPM meanwhile. Each of these
takes its time by a clock that only counts.
"""

import random
from dataclasses import dataclass
from hashlib import sha256

from attestd.tpm._commands import HEADER_SIZE, Cc, build, password, u16, u32
from attestd.tpm._tcti import Tcti

_FIRST_HANDLE = 0x80FFFFFF
_EXTEND = build(
    Cc.PCR_EXTEND, handles=u32(10), auth=password(), params=u32(1) + u16(0x000B) + sha256(b"a file").digest()
)


@dataclass
class Shared:
    """A transport.

    Attributes:
        command_s: What one command takes.
        between_s: What the client takes between two of its commands.
        writers: How many processes execute new files.
        pause_s: How long each of them takes from an extend to the next, on the average.
        managed: Whether the client goes through the resource manager, or has the TPM itself open.
        now: The time.
        extends: How many there were.
    """

    real: Tcti
    command_s: float = 0.0
    between_s: float = 0.0
    writers: int = 0
    pause_s: float = 0.0
    managed: bool = True
    seed: int = 1
    now: float = 0.0
    extends: int = 0

    def __post_init__(self) -> None:
        self._objects: dict[int, bytes] = {}
        self._sessions: dict[int, bytes] = {}
        self._random = random.Random(self.seed)  # noqa: S311 (no secret)
        self._due: list[float] = []

    @property
    def is_lost(self) -> bool:
        return self.real.is_lost

    def close(self) -> None:
        self.real.close()

    def storm(self, *, writers: int, pause_s: float, command_s: float, between_s: float) -> None:
        """Begins now."""
        self.writers, self.pause_s, self.command_s, self.between_s = writers, pause_s, command_s, between_s
        self._due = [self.now + self._pause() for _ in range(writers)]

    def exchange(self, command: bytes) -> bytes:
        self.now += self.between_s
        self._extend()
        if not self.managed:
            return self._run(command)
        handles = {virtual: self._load(context) for virtual, context in self._objects.items()}
        for context in self._sessions.values():
            self._load(context)
        for offset in (HEADER_SIZE, HEADER_SIZE + 4):
            named = int.from_bytes(command[offset : offset + 4], "big")
            if named in handles:
                command = command[:offset] + u32(handles[named]) + command[offset + 4 :]
        response = self._run(command)
        code = int.from_bytes(command[6:10], "big")
        if not int.from_bytes(response[6:10], "big"):
            response = self._created(code, response, handles)
        self._objects = {v: saved for v, real in handles.items() if (saved := self._save(real))}
        for real in handles.values():
            self._run(build(Cc.FLUSH_CONTEXT, params=u32(real)))
        self._sessions = {s: saved for s in self._sessions if (saved := self._save(s))}
        return response

    def _created(self, code: int, response: bytes, handles: dict[int, int]) -> bytes:
        if code not in (Cc.LOAD, Cc.LOAD_EXTERNAL, Cc.CREATE_PRIMARY, Cc.CONTEXT_LOAD, Cc.START_AUTH_SESSION):
            return response
        real = int.from_bytes(response[10:14], "big")
        if code == Cc.START_AUTH_SESSION:
            self._sessions[real] = b""
            return response
        virtual = next(h for h in range(_FIRST_HANDLE, 0, -1) if h not in handles)
        handles[virtual] = real
        return response[:10] + u32(virtual) + response[14:]

    def _extend(self) -> None:
        """Who wants to extend by now does; the TPM goes from one to the next."""
        for writer, due in enumerate(self._due):
            if due <= self.now:
                self._run(_EXTEND)
                self.extends += 1
                self._due[writer] = self.now + self._pause()

    def _pause(self) -> float:
        # Writing a file and starting a process takes about as long each time.
        return self._random.uniform(0.5, 1.5) * self.pause_s

    def _load(self, context: bytes) -> int:
        return int.from_bytes(self._run(build(Cc.CONTEXT_LOAD, params=context))[10:14], "big")

    def _save(self, handle: int) -> bytes:
        return self._run(build(Cc.CONTEXT_SAVE, params=u32(handle)))[HEADER_SIZE:]

    def _run(self, command: bytes) -> bytes:
        self.now += self.command_s
        return self.real.exchange(command)
