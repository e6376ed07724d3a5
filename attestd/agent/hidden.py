"""Commands that ran without a place in the log: the runner's record, which no agent can reach, held against the log.

An agent that was broken into has the TPM's auth values: it can seal a decision in a copy of the log, have the runner
release it, and go on in the log as if nothing had been. No check of the log alone can tell; only witnesses could, or
whoever counted on the other side. The runner did.
"""

import contextlib

from attestd.account import acting_as, agent_account
from attestd.audit.shards import predecessors
from attestd.audit.store import LogStore
from attestd.paths import Layout
from attestd.runner.claims import Ran, read_ran
from attestd.tlog.checkpoint import parse_origin

__all__ = ["find_hidden_runs"]


def find_hidden_runs(layout: Layout) -> tuple[int, list[Ran]]:
    """What ran by receipts that are not of this host's log, nor of those that it continues.

    A closed log that was moved away is taken to hold what ran by it. Does not verify the log.

    Args:
        layout: The installation.

    Returns:
        How many commands the runner started in all, and those that no log tells of.

    Raises:
        PermissionError: The runner's record is not for this user to read.
        StoreError: Record or log cannot be read.
        RollbackError: The log was edited.
    """
    path = layout.runner / "runner.db"
    with path.open("rb"):  # SQLite would not say why
        pass
    # First what ran, then the log: its leaf was there before the runner had a receipt.
    ran = read_ran(path)
    with acting_as(agent_account(layout)), contextlib.ExitStack() as stack:
        current = _opened(str(layout.log), stack)
        logs: dict[str, tuple[LogStore, int] | None] = {current.log_id: (current, current.size)}
        for before in predecessors(layout.log):
            log_id = parse_origin(before.origin).log_id
            logs[log_id] = None if before.path is None else (_opened(str(before.path), stack), before.size)
        return len(ran), [item for item in ran if not _is_told(item, logs)]


def _opened(path: str, stack: contextlib.ExitStack) -> LogStore:
    store = LogStore.open(path, readonly=True)
    stack.callback(store.close)
    return store


def _is_told(item: Ran, logs: dict[str, tuple[LogStore, int] | None]) -> bool:
    if item.log_id not in logs:
        return False
    log = logs[item.log_id]
    return log is None or (item.seq < log[1] and log[0].node(0, item.seq).hex() == item.leaf)
