"""A request as it comes from a client: its frame, what it hands over, what that is."""

import asyncio
import os
from dataclasses import dataclass, field
from typing import Final

from attestd.agent.core import Core
from attestd.authorization.artifact import UntrustedArtifact
from attestd.codes import Code, Denial, Denied
from attestd.errors import MalformedError
from attestd.gate.script import FIRST_BYTES, Shebang, parse_shebang
from attestd.observe import Observed, observe_directory, observe_file, read_start
from attestd.wire import Frame, WireError, close_all

__all__ = [
    "ANSWER_TIMEOUT_S",
    "CWD",
    "EXECUTABLE",
    "STDIO",
    "Asked",
    "Candidate",
    "look",
    "observe",
    "parse_request",
]

ANSWER_TIMEOUT_S: Final = 30.0  # for a client to answer, and to take an answer
_FIXED_FIELDS: Final = 4
STDIO: Final = 3
CWD, EXECUTABLE, REQUEST_FDS = 3, 4, 5
MAX_FIELDS: Final = 65_536
MAX_ARGV_BYTES: Final = 1 << 20  # its strings and a NUL after each
INLINE_BYTES: Final = 1 << 20  # hashed in about a millisecond


@dataclass
class Asked:
    """A request as it came, with everything that was learnt about it. Owns its descriptors."""

    mode: str
    options: bytes
    given: bytes | None
    parent: bytes
    argv: tuple[str, ...]
    descriptors: list[int]
    uid: int
    executable: Observed | None = None
    cwd: str = "/"
    shebang: Shebang | None = None
    failure: Denial | None = None
    env: dict[str, str] = field(default_factory=dict)
    files: dict[str, tuple[int, Observed]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def wants_receipt(self) -> bool:
        """Whether the client wants the receipt."""
        return b"receipt" in self.options.split(b",")

    @property
    def wants_json(self) -> bool:
        """Whether it wants the decision as JSON."""
        return b"json" in self.options.split(b",")

    def close(self) -> None:
        """Closes what it owns."""
        close_all(self.descriptors)
        close_all([descriptor for descriptor, _ in self.files.values()])
        self.descriptors, self.files = [], {}


@dataclass(frozen=True)
class Candidate:
    """An artifact that may allow the request; `artifact` is None where it does not parse."""

    data: bytes | None
    artifact: UntrustedArtifact | None


def parse_request(frame: Frame, uid: int) -> Asked:
    """Parses a request, which takes over the frame's descriptors.

    Raises:
        WireError: It is none, or beyond a limit.
    """
    try:
        fields = frame.fields(MAX_FIELDS)
        mode = fields[0].decode("ascii")
        argv = tuple(field.decode("utf-8") for field in fields[_FIXED_FIELDS:])
    except (IndexError, UnicodeDecodeError) as error:
        raise WireError(f"request: {error}") from error
    if mode not in ("exec", "check") or not argv or any("\0" in argument for argument in argv):
        raise WireError("request: expected exec or check, and a command")
    size = sum(len(field) + 1 for field in fields[_FIXED_FIELDS:])
    if size > MAX_ARGV_BYTES:
        raise WireError(f"request: a command line of {size} bytes, the limit is {MAX_ARGV_BYTES}")
    if len(frame.descriptors) != REQUEST_FDS:
        raise WireError(f"request: {len(frame.descriptors)} descriptors, expected {REQUEST_FDS}")
    descriptors, frame.descriptors = frame.descriptors, []
    return Asked(mode, fields[1], fields[2] or None, fields[3], argv, descriptors, uid)


async def look(descriptor: int, uid: int, core: Core) -> Observed:
    """Observes a file; a large one in a thread, one at a time for each user, so that others need not wait for it."""
    try:
        small = os.fstat(descriptor).st_size <= INLINE_BYTES
    except OSError:
        small = True
    if small:
        return observe_file(descriptor)
    async with core.slow.setdefault(uid, asyncio.Lock()):
        return await asyncio.to_thread(observe_file, descriptor)


async def observe(asked: Asked, core: Core) -> None:
    """Looks at what was handed over. What cannot be observed is denied by the decision, and recorded."""
    try:
        asked.cwd = observe_directory(asked.descriptors[CWD])
        asked.executable = await look(asked.descriptors[EXECUTABLE], asked.uid, core)
        asked.shebang = parse_shebang(read_start(asked.descriptors[EXECUTABLE])[:FIRST_BYTES])
    except Denied as denied:
        asked.failure = denied.denial
    except MalformedError as error:
        asked.failure = Denial(
            Code.IDENTITY_MISMATCH, str(error), "name the interpreter itself, and authorize that"
        )
