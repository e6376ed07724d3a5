"""What an earlier runner left unfinished: every claim gets an end in the log, and none runs again."""

import logging
import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from attestd.errors import StoreError
from attestd.journal import event
from attestd.lineage.entry import EntryType
from attestd.runner.cgroup import Cgroup
from attestd.runner.claims import Claims, Unfinished
from attestd.runner.execution import RECORD_AGAIN_S
from attestd.runner.launch import start_time
from attestd.runner.loop import Loop
from attestd.strict import format_time_us

__all__ = ["recover"]


def recover(claims: Claims, loop: Loop, *, boot: str, log: logging.Logger) -> int:
    """Settles the claims of an earlier runner.

    A claim that was not started is void: the child runs only after its start is committed. One whose process still
    lives is watched. Of any other nobody knows the exit status, and the log says so.

    Args:
        claims: The durable record.
        loop: Watches the processes that still live.
        boot: This boot's id: a process of another boot is gone, whatever has its number now.
        log: For the journal.

    Returns:
        How many processes are watched.

    Raises:
        StoreError: The record cannot be read or written.
    """
    watched = 0
    for claim in claims.unfinished():
        if claim.process is None:
            body = {
                **claim.reference,
                "at": _now(),
                "code": None,
                "reason": "the runner stopped before the command started",
            }
            claims.record_end(claim.log_id, claim.seq, type_=EntryType.DECISION_VOID, body=body)
            continue
        pidfd = _open(claim.process, boot)
        if pidfd is None:
            _record_unknown(claims, claim, "the command ended while no runner watched it")
        else:
            loop.watch(pidfd, partial(_on_end, claims, loop, claim, pidfd, log))
            watched += 1
    return watched


def _open(process: dict[str, Any], boot: str) -> int | None:
    if process["boot"] != boot:
        return None
    try:
        pidfd = os.pidfd_open(process["pid"])
    except OSError:
        return None
    # Compared after the descriptor holds the process: before, its number could go to another one in between.
    if start_time(process["pid"]) != process["start_time"]:
        os.close(pidfd)
        return None
    return pidfd


def _on_end(claims: Claims, loop: Loop, claim: Unfinished, pidfd: int, log: logging.Logger) -> None:
    loop.forget(pidfd)
    os.close(pidfd)
    _record_watched(claims, loop, claim, log)


def _record_watched(
    claims: Claims, loop: Loop, claim: Unfinished, log: logging.Logger, *, again: bool = False
) -> None:
    try:
        _record_unknown(claims, claim, "the runner that started the command was replaced while it ran")
    except StoreError as error:
        if not again:
            log.warning(event("execution.end_unrecorded", leaf=claim.reference["leaf"], error=error))
        loop.after(RECORD_AGAIN_S, partial(_record_watched, claims, loop, claim, log, again=True))


def _record_unknown(claims: Claims, claim: Unfinished, error: str) -> None:
    if claim.process is not None and claim.process["cgroup"] is not None:
        Cgroup(Path(claim.process["cgroup"])).remove()
    body = {
        **claim.reference,
        "at": _now(),
        "duration_ms": None,
        "error": error,
        "signal": None,
        "status": None,
    }
    claims.record_end(claim.log_id, claim.seq, type_=EntryType.EXECUTION_EXIT, body=body)


def _now() -> str:
    return format_time_us(datetime.now(UTC))
