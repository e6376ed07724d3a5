"""A verified log for people, and its verification with progress."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from attestd.audit.offline import VerifiedLog
from attestd.cli.output import GOOD, WARN, Output, mark, text
from attestd.plain import counted

__all__ = ["log_json", "show_log", "with_progress"]

MAX_PROCESSES: Final = 8
_T = TypeVar("_T")


def with_progress(
    verify: Callable[[int, Callable[[int, int], None]], _T],
) -> _T:
    """Verifies a log by as many processes as there is work for, showing progress on a terminal.

    Args:
        verify: Takes the number of processes and what is told about progress.
    """
    with _progress() as progress:
        return verify(min(os.cpu_count() or 1, MAX_PROCESSES), progress)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("verifying", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def log_json(found: VerifiedLog) -> dict[str, Any]:
    """What was verified, as JSON members."""
    return {
        "origin": found.origin,
        "size": found.size,
        "root": found.root.hex(),
        "checkpoints": found.checkpoints,
        "last_time": found.time,
        "results": {"verified": found.results.verified, "others": dict(sorted(found.results.others.items()))},
        "types": {type_.value: count for type_, count in sorted(found.types.items())},
    }


def show_log(output: Output, found: VerifiedLog) -> None:
    """What was verified."""
    output.line(
        mark(True),
        text(
            f" the log verifies: {counted(found.size, 'entry')} under {counted(found.checkpoints, 'checkpoint')}",
            GOOD,
        ),
    )
    output.facts(
        [
            ("origin", found.origin),
            ("root", found.root.hex()),
            ("last entry", found.time),
            *((type_.value, count) for type_, count in sorted(found.types.items())),
            *_results(found),
        ]
    )


def _results(found: VerifiedLog) -> Iterator[tuple[str, object]]:
    results = found.results
    others = [text(f"{count} {why}", WARN) for why, count in sorted(results.others.items())]
    if results.verified or others:
        yield "results in them", [f"{counted(results.verified, 'attestation result')} verified", *others]
