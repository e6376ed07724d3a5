"""The log of the next boot, as it comes about: this boot's, with some of its events replaced."""

from collections.abc import Sequence
from dataclasses import replace

from attestd.errors import VerificationError
from attestd.tcg.eventlog.meaning import Meaning, read_events
from attestd.tcg.eventlog.parse import UntrustedEvent, UntrustedEventLog
from attestd.tcg.eventlog.reading import Kind
from attestd.tcg.eventlog.types import HASHES

__all__ = ["Draft", "unpredictable"]


def unpredictable(reason: str) -> VerificationError:
    """What is refused rather than guessed."""
    return VerificationError(f"this cannot be predicted: {reason}")


class Draft:
    """A log being rewritten. Every change looks at the events as they are now, and replaces some of them.

    Attributes:
        bank: Whose digests.
        before: What this boot's events mean.
        unknown: PCRs that cannot be predicted, and why.
        assumptions: What has to hold for the prediction to be right.
        command_lines: To be recognised by their digests, in this log and in the next.
    """

    def __init__(self, log: UntrustedEventLog, *, bank: str, command_lines: Sequence[str]) -> None:
        """Starts from this boot's log."""
        self.bank = bank
        self.before = read_events(log.events, bank=bank, command_lines=command_lines)
        self.unknown: dict[int, str] = {}
        self.assumptions: list[str] = []
        self.command_lines = list(command_lines)
        self._log = log
        self._new: dict[int, tuple[UntrustedEvent, ...]] = {}

    def of(self, pcr: int, *kinds: Kind) -> list[Meaning]:
        """This boot's events in a PCR, of these kinds, or of all."""
        return [item for item in self.before if item.event.pcr == pcr and (not kinds or item.kind in kinds)]

    def hash(self, content: bytes) -> bytes:
        """What is extended for content that is measured as it is."""
        return bytes(HASHES[self.bank](content).digest())

    def replace(self, item: Meaning, digest: bytes, *, data: bytes | None = None) -> None:
        """Has an event measure something else.

        Args:
            item: The event.
            digest: What is extended in its place.
            data: What the log will say of it; None: the same.
        """
        event = item.event
        new = replace(event, digests={self.bank: digest}, data=event.data if data is None else data)
        self._new[event.number] = (new,)

    def replace_block(self, items: Sequence[Meaning], new: Sequence[UntrustedEvent]) -> None:
        """Puts events in the place of some that follow each other in a PCR."""
        for item in items:
            self._new[item.event.number] = ()
        self._new[items[0].event.number] = tuple(new)

    def cannot(self, pcr: int, reason: str) -> None:
        """Gives a PCR up; the first reason stays."""
        self.unknown.setdefault(pcr, reason)

    def assume(self, what: str) -> None:
        """Notes what has to hold."""
        self.assumptions.append(what)

    def log(self) -> UntrustedEventLog:
        """The log of the next boot, in this one bank."""
        events: list[UntrustedEvent] = []
        for event in self._log.events:
            for new in self._new.get(event.number, (event,)):
                events.append(replace(new, number=len(events)))
        return replace(self._log, banks=(self.bank,), events=tuple(events))
