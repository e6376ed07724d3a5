"""What logs show, in a form that decisions take: how much was looked at, and what was found, in words."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from attestd.plain import plain

__all__ = ["MAX_TOLD", "LogAppraisal", "in_words"]

MAX_TOLD: Final = 100
MAX_WORDS: Final = 1024


@dataclass(frozen=True)
class LogAppraisal:
    """A log that a quote proves, measured against rules.

    Attributes:
        looked_at: How many events or entries.
        findings: What is wrong, in words: up to 100 of `count`. It complies exactly if `count` is 0.
    """

    looked_at: int
    findings: tuple[str, ...]
    count: int

    @classmethod
    def of(cls, looked_at: int, findings: Iterable[object]) -> Self:
        """From findings, all of them."""
        told = tuple(map(in_words, findings))
        return cls(looked_at, told[:MAX_TOLD], len(told))


def in_words(finding: object) -> str:
    """A finding as it is recorded and shown: paths and values in it are others' choice, of any length."""
    text = plain(str(finding))
    half = (MAX_WORDS - 3) // 2
    return text if len(text) <= MAX_WORDS else f"{text[:half]}...{text[-half:]}"
