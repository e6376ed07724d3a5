"""What was measured, against what, and whether it reaches its bar."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

Call = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One line of the table. `bar` is the least, or with `at_most` the most, that is good enough; None: it only tells."""

    what: str
    value: float
    unit: str
    against: str = ""
    bar: float | None = None
    at_most: bool = False

    @property
    def reached(self) -> bool | None:
        if self.bar is None:
            return None
        return self.value <= self.bar if self.at_most else self.value >= self.bar


@dataclass
class Results:
    """All rows, and how much of a core this process got whenever it was asked."""

    quick: bool
    rows: list[Row] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def add(self, *row: Row) -> None:
        self.rows.extend(row)
        self.shares.append(core_share())

    @property
    def share(self) -> float:
        return 100 * statistics.median(self.shares)


def core_share() -> float:
    """CPU time over wall time of a loop that only computes: below 1, others use the machine."""
    wall, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < 0.05:
        sha256(bytes(4096)).digest()
    return (time.process_time() - cpu) / (time.perf_counter() - wall)


def median_ms(times: Sequence[float]) -> float:
    return statistics.median(times) * 1e3


def p99_ms(times: Sequence[float]) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * 0.99))] * 1e3


def timed(call: Call, clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    call()
    return clock() - start


def alternate(
    *calls: Call, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[list[float], ...]:
    """The times of each, taken in turns: a noisy machine disturbs all alike."""
    turns = [[timed(call, clock) for call in calls] for _ in range(rounds)]
    return tuple(list(times) for times in zip(*turns, strict=True))


def ratios(floor: Sequence[float], ours: Sequence[float]) -> float:
    """The median over the turns of floor / ours, in percent: how much of the floor's speed is left."""
    return 100 * statistics.median(bare / own for bare, own in zip(floor, ours, strict=True))
