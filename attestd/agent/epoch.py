"""Moves the TPM's epoch up when governance says so: what was approved for earlier epochs then ends in hardware as well.

Until the TPM is there, software alone refuses those approvals: nothing waits for it, and nothing is released meanwhile.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from attestd.agent.tpm_port import TpmPort
from attestd.errors import AttestdError, TpmRefusedError
from attestd.governance.trust import Trust
from attestd.journal import event
from attestd.strict import decode_base64
from attestd.tcg.nv import EPOCH_INDEX
from attestd.tpm.device import Tpm

__all__ = ["EpochKeeper", "Moved"]

# The TPM is asked again now and then: its state may have been restored from a copy.
LOOK_S: Final = 60.0
FIRST_EPOCH: Final = 1
FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 300.0


@dataclass(frozen=True)
class Moved:
    """The TPM's epoch rose.

    Attributes:
        before: Its epoch as it was known before.
        after: Its epoch now.
        governance: The version that was in force.
    """

    before: int
    after: int
    governance: int

    def body(self) -> dict[str, Any]:
        """The body of a `revocation` entry."""
        return {"from": self.before, "governance": self.governance, "to": self.after}


class EpochKeeper:
    """Used from the agent's loop only.

    Attributes:
        epoch: The TPM's, as it was read last; None: not yet.
        problem: Why the TPM is not where governance wants it; None: it is.
    """

    def __init__(
        self, port: TpmPort, *, log: logging.Logger, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Takes the TPM; asks it nothing yet."""
        self.epoch: int | None = None
        self.problem: str | None = None
        self._port, self._log, self._monotonic = port, log, monotonic
        self._lock = asyncio.Lock()
        self._wanted: tuple[bytes, int] | None = None
        self._next = -math.inf
        self._pause_s = FIRST_PAUSE_S

    async def follow(self, trust: Trust, *, at_once: bool = False) -> Moved | None:
        """Moves the TPM to the epoch of governance, if it is below; after a failure again, later and later.

        Args:
            trust: What is trusted now.
            at_once: Do not wait for the next try.

        Returns:
            What moved, so that the log can be told; None: nothing did.
        """
        async with self._lock:
            wanted = trust.authorities.epoch_name, trust.revocations.epoch
            if wanted == self._wanted and self._monotonic() < self._next and not at_once:
                return None
            if wanted != self._wanted:
                self._pause_s = FIRST_PAUSE_S
            self._wanted = wanted
            try:
                before, after = await asyncio.wrap_future(self._port.other(lambda tpm: _move(tpm, trust)))
            except AttestdError as error:
                self._failed(str(error))
                return None
            # Past its deadline, a command may have moved the TPM all the same.
            known, self.epoch = before if self.epoch is None else self.epoch, after
            self._judge(after, trust)
            if after <= known:
                return None
            self._log.info(event("epoch.moved", before=known, after=after, governance=trust.version))
            return Moved(known, after, trust.version)

    def describe(self) -> dict[str, Any]:
        """For status."""
        return {"problem": self.problem, "tpm": self.epoch}

    def _judge(self, found: int, trust: Trust) -> None:
        wanted = max(FIRST_EPOCH, trust.revocations.epoch)  # what a new TPM begins with
        if found == wanted:
            self.problem, self._pause_s = None, FIRST_PAUSE_S
            self._next = self._monotonic() + LOOK_S
        elif found < wanted:
            self._failed(
                "no signature that moves TPMs is published, so software alone refuses what was approved for earlier"
                " epochs"
            )
        else:
            self._failed(
                f"governance is older than what the TPM was told, which takes no approval below epoch {found}"
            )

    def _failed(self, problem: str) -> None:
        if problem != self.problem:
            self._log.warning(event("epoch.not_moved", error=problem))
        self.problem = problem
        self._next = self._monotonic() + self._pause_s
        self._pause_s = min(self._pause_s * 2, MAX_PAUSE_S)


def _move(tpm: Tpm, trust: Trust) -> tuple[int, int]:
    """In the TPM's thread: the epoch before and after."""
    authorities, bump = trust.authorities, trust.revocations.bump
    found = tpm.nv_name(EPOCH_INDEX)
    if found != authorities.epoch_name:
        raise TpmRefusedError(
            f"the TPM's epoch index {EPOCH_INDEX:#010x} is not that of the epoch authority {authorities.epoch.key_id}:"
            f" expected Name {authorities.epoch_name.hex()}, found {found.hex() if found else 'no index'}"
        )
    before = tpm.read_epoch()
    if bump is None or bump.epoch <= before:
        return before, before
    signature = decode_base64(bump.sig, what="revocations.json")
    tpm.bump_epoch(bump.epoch, authority_public=authorities.epoch.public.raw, signature=signature)
    return before, tpm.read_epoch()
