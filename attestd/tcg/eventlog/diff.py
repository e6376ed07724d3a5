"""Two boots compared event by event, in words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import takewhile, zip_longest
from typing import Final

from attestd.tcg.eventlog.meaning import Meaning

__all__ = ["Change", "diff_events"]

# Aligning is cubic at worst: where more events than these differ in a PCR, they are compared place by place.
_MAX_ALIGNED: Final = 128


@dataclass(frozen=True)
class Change:
    """One difference.

    Attributes:
        pcr: The PCR.
        before: What was measured in the first log; None: nothing.
        after: What was measured in the second; None: nothing.
    """

    pcr: int
    before: Meaning | None
    after: Meaning | None

    def __str__(self) -> str:
        if self.before is None:
            return f"PCR {self.pcr}: added: {_words(self.after)}"
        if self.after is None:
            return f"PCR {self.pcr}: missing: {_words(self.before)}"
        return (
            f"PCR {self.pcr}: {self.after.name} changed: `{_value(self.before)}` -> `{_value(self.after)}`"
            f" (event {self.after.event.number})"
        )


def diff_events(before: Sequence[Meaning], after: Sequence[Meaning]) -> tuple[Change, ...]:
    """Compares what two logs measured, PCR by PCR: order and digests decide, words only say it.

    Args:
        before: Of the first log (`read_events`).
        after: Of the second, in the same bank.

    Returns:
        The changes, by PCR and in order; none exactly if every PCR has the same digests in the same order.
    """
    first, second = _by_pcr(before), _by_pcr(after)
    return tuple(
        change
        for pcr in sorted({*first, *second})
        for change in _changes(pcr, first.get(pcr, []), second.get(pcr, []))
    )


def _by_pcr(events: Sequence[Meaning]) -> Mapping[int, list[Meaning]]:
    found: dict[int, list[Meaning]] = {}
    for event in events:
        found.setdefault(event.event.pcr, []).append(event)
    return found


def _changes(pcr: int, before: list[Meaning], after: list[Meaning]) -> Iterator[Change]:
    start = _common(before, after)
    end = _common(before[start:][::-1], after[start:][::-1])
    before, after = before[start : len(before) - end], after[start : len(after) - end]
    if max(len(before), len(after)) > _MAX_ALIGNED:
        for old, new in zip_longest(before, after):
            if old is None or new is None or old.digest != new.digest:
                yield Change(pcr, old, new)
        return
    first, second = ([item.digest for item in items] for items in (before, after))
    for tag, start, end, begin, stop in SequenceMatcher(a=first, b=second, autojunk=False).get_opcodes():
        if tag != "equal":
            yield from _paired(pcr, before[start:end], after[begin:stop])


def _common(before: Sequence[Meaning], after: Sequence[Meaning]) -> int:
    """How many events both begin with."""
    pairs = zip(before, after, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].digest == pair[1].digest, pairs))


def _paired(pcr: int, before: list[Meaning], after: list[Meaning]) -> Iterator[Change]:
    """Of a block that differs: what has the same name in both changed, in order; the rest is missing or added."""
    waiting = list(before)
    for new in after:
        place = next((n for n, old in enumerate(waiting) if old.name == new.name), None)
        if place is None:
            yield Change(pcr, None, new)
            continue
        for old in waiting[:place]:
            yield Change(pcr, old, None)
        yield Change(pcr, waiting[place], new)
        del waiting[: place + 1]
    for old in waiting:
        yield Change(pcr, old, None)


def _value(item: Meaning) -> str:
    return item.value if item.proved else f"digest {item.value}"


def _words(item: Meaning | None) -> str:
    return "" if item is None else f"{item.name}: `{_value(item)}` (event {item.event.number})"
