"""One witness, as a log sees it: what it is asked, and what its answers mean. Nothing that it answers is believed unverified."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from attestd.agent.controllers import Backoff
from attestd.distribution.web import Answer
from attestd.errors import AttestdError, MalformedError, StoreError, VerificationError
from attestd.plain import counted
from attestd.tlog.note import MAX_NOTE_BYTES, NoteSignature, parse_note
from attestd.tlog.vkey import VerifierKey
from attestd.tlog.witness import (
    AddCheckpoint,
    Conflict,
    RefusalStatus,
    evaluate_conflict,
    format_add_checkpoint,
    parse_size,
    verify_cosignatures,
)

__all__ = [
    "ACCEPTED",
    "MAX_ANSWER_BYTES",
    "PATH",
    "ForkedError",
    "PassedError",
    "RolledBackError",
    "Submitted",
    "Witness",
]

PATH: Final = "/add-checkpoint"
ACCEPTED: Final = (200, RefusalStatus.CONFLICT, RefusalStatus.UNPROCESSABLE)
MAX_ANSWER_BYTES: Final = MAX_NOTE_BYTES
# Two processes of one witness, or an answer that was lost, take a second one; an old database a third and fourth.
_MAX_EXCHANGES: Final = 4
# How far a witness's clock may be ahead of this host's.
_TOLERANCE_S: Final = 600


class PassedError(VerificationError):
    """The witness has cosigned a later checkpoint of this log: of this one it will not any more."""


class ForkedError(VerificationError):
    """The witness has seen another history of this log: the log was restored from a copy, or the witness lies."""


class RolledBackError(StoreError):
    """The witness has forgotten what it cosigned: its database was restored from a copy."""


@dataclass(frozen=True)
class Submitted:
    """A signed checkpoint of the log."""

    size: int
    note: bytes


class History(Protocol):
    """What a witness is shown of the log."""

    @property
    def size(self) -> int:
        """Of the newest checkpoint."""

    def proof(self, old: int, new: int) -> Sequence[bytes]:
        """That the log of the one size is a prefix of the log of the other."""

    def cosigned(self, size: int) -> bytes:
        """The checkpoint of that size, with what was cosigned."""


@dataclass
class Witness:
    """One witness of `mesh.json`.

    Attributes:
        name: As its keys are named.
        nodes: What mesh.json calls it.
        url: Its submission prefix.
        keys: By which its lines are known.
        cosigned: The largest size of which the log holds its cosignature.
        latest: What it is taken to have cosigned last; it says so itself where that is wrong.
        answered_at: When it cosigned something last, since the start.
        error: Why it did not when it was asked last.
        backoff: When it is asked again.
        wake: Set when there may be something to ask.
    """

    name: str
    nodes: str
    url: str
    keys: tuple[VerifierKey, ...]
    send: Callable[[bytes], Awaitable[Answer]]
    cosigned: int
    latest: int
    answered_at: datetime | None = None
    error: AttestdError | None = None
    backoff: Backoff = field(default_factory=Backoff)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    next_at: float = float("-inf")

    async def ask(
        self, checkpoint: Submitted, history: History, *, now: Callable[[], datetime]
    ) -> tuple[NoteSignature, ...]:
        """Has a checkpoint cosigned.

        Args:
            checkpoint: Which; not smaller than the last that it is known to have cosigned.
            history: Of the log.
            now: The time.

        Returns:
            Its lines, at least one, verified; the caller keeps them and says so by `keeps`.

        Raises:
            StoreError: It does not answer now.
            RolledBackError: It has forgotten what it cosigned, was shown it, and does not go on.
            PassedError: It is past this one.
            ForkedError: What it cosigned is not of this log.
            VerificationError, MalformedError: It refuses, or answers what is none.
        """
        text = parse_note(checkpoint.note).text
        for _ in range(_MAX_EXCHANGES):
            if self.latest > checkpoint.size:
                raise PassedError(f"it has cosigned the log of size {self.latest} already")
            answer = await self._submit(self.latest, checkpoint.size, checkpoint.note, history)
            if answer.status != RefusalStatus.CONFLICT:
                lines = self._lines(answer, text, now())
                self.latest = checkpoint.size
                return lines
            await self._follow(parse_size(answer.data), checkpoint, history, now)
        raise VerificationError("it says another size each time")

    def keeps(self, size: int) -> None:
        """The log holds its cosignature of the checkpoint of that size."""
        self.cosigned = max(self.cosigned, size)

    async def _submit(self, old: int, size: int, note: bytes, history: History) -> Answer:
        proof = tuple(history.proof(old, size)) if 0 < old < size else ()
        answer = await self.send(format_add_checkpoint(AddCheckpoint(old, proof, note)))
        if answer.status == RefusalStatus.UNPROCESSABLE:
            raise ForkedError(
                f"the log of size {size} does not continue the one of size {old} that it cosigned: this log was restored"
                " from a copy, or another copy of it is in use"
            )
        return answer

    def _lines(self, answer: Answer, text: bytes, now: datetime) -> tuple[NoteSignature, ...]:
        latest = int(now.timestamp()) + _TOLERANCE_S
        return verify_cosignatures(answer.data, text=text, keys=self.keys, latest=latest)

    async def _follow(
        self, told: int, checkpoint: Submitted, history: History, now: Callable[[], datetime]
    ) -> None:
        """Takes over the size that it says, or shows it what it has forgotten."""
        found = evaluate_conflict(
            told, old=self.latest, cosigned=self.cosigned, size=checkpoint.size, log_size=history.size
        )
        if found is Conflict.AHEAD:
            raise ForkedError(
                f"it says that it cosigned this log at size {told}, but the log has {counted(history.size, 'entry')}: this log was"
                " restored from a copy, or another copy of it is in use, or the witness lies"
            )
        if found is Conflict.NONSENSE:
            raise VerificationError(
                f"it refuses size {told} as the last one, and says that the last one is {told}"
            )
        if found is Conflict.WENT_BACK:
            await self._show(told, history, now)
        else:
            self.latest = told

    async def _show(self, told: int, history: History, now: Callable[[], datetime]) -> None:
        """What it cosigned itself is the proof that its database is old (docs/adr/0025-witness-anchors.md)."""
        forgot = f"it cosigned this log at size {self.cosigned}, and says {told} now: its database was restored from a copy"
        note = history.cosigned(self.cosigned)
        try:
            answer = await self._submit(told, self.cosigned, note, history)
            self._lines(answer, parse_note(note).text, now())  # of a conflict none
        except (StoreError, VerificationError, MalformedError) as error:
            raise RolledBackError(
                f"{forgot}; it was shown its own cosignature, and answers: {error}"
            ) from error
        self.latest = self.cosigned
        raise RolledBackError(
            f"{forgot}; it was shown its own cosignature, and goes on as if nothing had been"
        )
