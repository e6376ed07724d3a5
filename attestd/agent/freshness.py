"""Whether a verified log is the newest: the TPM's counter counts its batches, and cannot be taken back with the disk."""

import time
from pathlib import Path
from typing import Final

from attestd.agent.ask import AgentSocket
from attestd.audit.store import LogStore
from attestd.errors import AgentError, RollbackError

__all__ = ["require_newest"]

_ATTEMPTS: Final = 10
_WAIT_S: Final = 0.2


def require_newest(log: Path, agent: AgentSocket) -> int:
    """Compares the log counter of the last checkpoint with the TPM's, through the running agent.

    Returns:
        The counter.

    Raises:
        RollbackError: They differ, or the agent keeps another log.
        AgentError: No agent answers, or its TPM does not: nothing was compared.
        StoreError: The log cannot be read.
    """
    counted = stored = 0
    for _ in range(_ATTEMPTS):
        status = agent.ask("status")["log"]
        store = LogStore.open(str(log), readonly=True)
        try:
            if status["origin"] != store.origin:
                raise RollbackError(f"the agent keeps the log {status['origin']}, {log} is {store.origin}")
            last = store.last_checkpoint()
        finally:
            store.close()
        if status["tpm_counter"] is None:
            raise AgentError("the TPM does not tell its log counter: see attestd doctor")
        counted, stored = int(status["tpm_counter"], 16), last.counter if last else 0
        if counted == stored:
            return stored
        time.sleep(_WAIT_S)  # A batch is committed before it is counted, and others follow.
    raise RollbackError(
        f"the last checkpoint in {log} says log counter {stored}, the TPM says {counted}: the log was rolled back, or"
        " another copy of it is in use"
    )
