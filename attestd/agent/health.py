"""Conditions that do not show in a request: the TPM's lockout and self test, and room for the log."""

import asyncio
import math
import os
import time
from pathlib import Path
from typing import Final

from attestd.agent.tpm_port import TpmPort
from attestd.codes import Code, Denial
from attestd.errors import TpmError
from attestd.tpm.capabilities import TpmProperties
from attestd.tpm.device import Tpm

__all__ = ["LOOK_S", "POLL_S", "Health"]

POLL_S: Final = 10.0
LOOK_S: Final = 0.02
_MIB: Final = 1 << 20


class Health:
    """What denies everything while it lasts. Used from the agent's loop only.

    The TPM is asked every `POLL_S`, not at each request: it is slow. That it hangs shows at once, without asking.
    The disk is looked at every `LOOK_S` at most: in that time nobody fills the reserve.

    Attributes:
        directory: Where the log is.
        reserve: Bytes that must stay free there. Decisions end before they are used up, so that denials, voids and
            exits can still be sealed.
    """

    def __init__(self, port: TpmPort, *, directory: Path, reserve: int) -> None:
        """Asks nothing yet: until `poll` did, only a TPM that hangs is noticed."""
        self._port = port
        self.directory, self.reserve = directory, reserve
        self._properties: TpmProperties | None = None
        self._failure: str | None = None
        self._disk: Denial | None = None
        self._disk_at = -math.inf

    async def poll(self) -> None:
        """Asks the TPM how it is.

        Raises:
            TpmError: It did not tell. What it said before still counts: under load it may be too busy for this.
        """
        self._properties, self._failure = await asyncio.wrap_future(self._port.other(_look))

    @property
    def self_test_failure(self) -> str | None:
        """Why the TPM is in failure mode, as of the last poll; None: it is not."""
        return self._failure

    def free(self) -> int:
        """Bytes that the agent's user can still write on the file system of the log."""
        found = os.statvfs(self.directory)
        return found.f_bavail * found.f_frsize

    def tpm(self) -> Denial | None:
        """The condition `tpm`: it answers, its self test did not fail, and it is not in lockout."""
        wedged = self._port.owner.wedged_s
        if wedged:
            return _tpm_denial(f"the TPM has not answered for {wedged:.0f} s")
        if self._failure is not None:
            return _tpm_denial(f"expected the TPM to pass its self test, found that {self._failure}")
        found = self._properties
        if found is not None and found.in_lockout:
            return _tpm_denial(
                f"expected no lockout of the TPM, found {found.lockout_counter} failed authorizations,"
                f" {found.max_auth_fail} are allowed"
            )
        return None

    def disk(self) -> Denial | None:
        """The half of condition `log` that is about room."""
        now = time.monotonic()
        if now - self._disk_at >= LOOK_S:
            self._disk, self._disk_at = self._look_at_disk(), now
        return self._disk

    def _look_at_disk(self) -> Denial | None:
        try:
            free = self.free()
        except OSError as error:
            return _log_denial(f"the file system of {self.directory} cannot be looked at: {error.strerror}")
        if free >= self.reserve:
            return None
        return _log_denial(
            f"expected at least {self.reserve / _MIB:.0f} MiB free for the audit log in {self.directory}, found"
            f" {free / _MIB:.1f}"
        )


def _look(tpm: Tpm) -> tuple[TpmProperties | None, str | None]:
    try:
        tpm.require_tested()
    except TpmError as error:
        return None, str(error)  # In failure mode it answers nothing else.
    return tpm.properties(), None


def _tpm_denial(sentence: str) -> Denial:
    return Denial(Code.TPM_UNAVAILABLE, sentence, "see attestd doctor")


def _log_denial(sentence: str) -> Denial:
    return Denial(Code.AUDIT_UNAVAILABLE, sentence, "make room on that file system; see attestd doctor")
