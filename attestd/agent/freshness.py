"""Verification of the host's own log, and whether it is the newest.

The TPM's counter counts its batches, and cannot be taken back with the disk.
"""

import time
from collections.abc import Callable
from typing import Final

from attestd.account import acting_as, agent_account
from attestd.agent.ask import AgentSocket
from attestd.agent.records import open_own_log
from attestd.audit.offline import VerifiedLog, verify_stored
from attestd.audit.shards import Predecessor, verify_shards
from attestd.errors import AgentError, RollbackError
from attestd.governance.trust import Trust
from attestd.paths import Layout

__all__ = ["require_newest", "verify_own_log", "verify_own_shards"]

_ATTEMPTS: Final = 10
_WAIT_S: Final = 0.2


def verify_own_log(
    layout: Layout, *, trust: Trust, processes: int, progress: Callable[[int, int], None]
) -> VerifiedLog:
    """Verifies the log of this installation, as `verify_stored` does; as the agent's user.

    Raises:
        RollbackError, VerificationError, MalformedError, StoreError: As `verify_stored`.
    """
    with acting_as(agent_account(layout)):
        return verify_stored(layout.log, trust=trust, processes=processes, progress=progress)


def verify_own_shards(
    layout: Layout, *, trust: Trust, processes: int, progress: Callable[[int, int], None]
) -> list[tuple[Predecessor, VerifiedLog | None]]:
    """Verifies the logs that were closed before the present one, as `verify_shards` does; as the agent's user.

    Raises:
        RollbackError, VerificationError, MalformedError, StoreError: As `verify_shards`.
    """
    with acting_as(agent_account(layout)):
        return verify_shards(layout.log, trust=trust, processes=processes, progress=progress)


def require_newest(layout: Layout, agent: AgentSocket) -> int:
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
        with open_own_log(layout) as store:
            if status["origin"] != store.origin:
                raise RollbackError(
                    f"the agent keeps the log {status['origin']}, {layout.log} is {store.origin}"
                )
            last = store.last_checkpoint()
        if status["tpm_counter"] is None:
            raise AgentError("the TPM does not tell its log counter: see attestd doctor")
        counted, stored = int(status["tpm_counter"], 16), last.counter if last else 0
        if counted == stored:
            return stored
        time.sleep(_WAIT_S)  # A batch is committed before it is counted, and others follow.
    raise RollbackError(
        f"the last checkpoint in {layout.log} says log counter {stored}, the TPM says {counted}: the log was rolled back, or"
        " another copy of it is in use"
    )
