"""Response codes (TPM 2.0 Part 2, 6.6) and what they mean to a caller: a refusal, an outage, or an error."""

from enum import IntEnum
from typing import Final

from attestd.errors import TpmError, TpmRefusedError, TpmUnavailableError
from attestd.tpm._tcti import describe

__all__ = ["FORGOTTEN", "RESUBMIT", "Rc", "base", "error_of"]


class Rc(IntEnum):
    """TPM_RC, without the number of the handle, parameter or session."""

    VALUE = 0x084
    HANDLE = 0x08B
    AUTH_FAIL = 0x08E
    SIZE = 0x095
    INSUFFICIENT = 0x09A
    SIGNATURE = 0x09B
    POLICY_FAIL = 0x09D
    INTEGRITY = 0x09F
    TICKET = 0x0A0
    BAD_AUTH = 0x0A2
    EXPIRED = 0x0A3
    POLICY_CC = 0x0A4
    ECC_POINT = 0x0A7
    INITIALIZE = 0x100
    FAILURE = 0x101
    AUTH_TYPE = 0x124
    POLICY = 0x126
    PCR_CHANGED = 0x128
    AUTH_UNAVAILABLE = 0x12F
    NV_AUTHORIZATION = 0x149
    NV_DEFINED = 0x14C
    NEEDS_TEST = 0x153
    CONTEXT_GAP = 0x901
    OBJECT_MEMORY = 0x902
    SESSION_MEMORY = 0x903
    MEMORY = 0x904
    SESSION_HANDLES = 0x905
    OBJECT_HANDLES = 0x906
    YIELDED = 0x908
    CANCELED = 0x909
    TESTING = 0x90A
    REFERENCE_H0 = 0x910
    REFERENCE_H1 = 0x911
    REFERENCE_S0 = 0x918
    NV_RATE = 0x920
    LOCKOUT = 0x921
    RETRY = 0x922
    NV_UNAVAILABLE = 0x923


RESUBMIT: Final = frozenset({Rc.RETRY, Rc.YIELDED, Rc.TESTING, Rc.NV_RATE})
# What we loaded is not there any more: the TPM was reset, though the connection to it was not.
FORGOTTEN: Final = frozenset({Rc.INITIALIZE, Rc.REFERENCE_H0, Rc.REFERENCE_H1, Rc.REFERENCE_S0})

_REFUSALS: Final = frozenset(
    {
        Rc.AUTH_FAIL,
        Rc.SIGNATURE,
        Rc.POLICY_FAIL,
        Rc.TICKET,
        Rc.BAD_AUTH,
        Rc.EXPIRED,
        Rc.POLICY_CC,
        Rc.AUTH_TYPE,
        Rc.POLICY,
        Rc.PCR_CHANGED,
        Rc.AUTH_UNAVAILABLE,
        Rc.NV_AUTHORIZATION,
    }
)
_FULL: Final = frozenset(
    {
        Rc.CONTEXT_GAP,
        Rc.OBJECT_MEMORY,
        Rc.SESSION_MEMORY,
        Rc.MEMORY,
        Rc.SESSION_HANDLES,
        Rc.OBJECT_HANDLES,
    }
)
_OUTAGES: Final = (
    frozenset({Rc.FAILURE, Rc.LOCKOUT, Rc.CANCELED, Rc.NV_UNAVAILABLE}) | FORGOTTEN | RESUBMIT | _FULL
)
_HINTS: Final[dict[int, str]] = {
    Rc.LOCKOUT: "the TPM is in lockout after failed authorizations: wait, or reset it with the lockout auth value",
    Rc.FAILURE: "the TPM is in failure mode: power-cycle the machine",
    Rc.INITIALIZE: "the TPM was reset and not started",
    Rc.PCR_CHANGED: "PCRs were extended during every attempt (docs/operations.md, Hosts that execute many files)",
}
_FULL_HINT: Final = (
    "the TPM's slots are taken by others: flush their handles, or use the resource manager /dev/tpmrm0"
)


def base(code: int) -> int:
    """A response code without its layer (a resource manager answers as the TPM) and without positions."""
    return code & 0x0BF if code & 0x080 else code & 0xFFF


def error_of(code: int, what: str, *, refusals: frozenset[Rc] = frozenset()) -> TpmError:
    """The error that a response code is.

    Args:
        code: As the TPM answered, not 0.
        what: The command, in the reader's words.
        refusals: Codes that are a refusal for this command, besides those that always are.
    """
    number = base(code)
    hint = _FULL_HINT if number in _FULL else _HINTS.get(number)
    message = f"{what}: {describe(code)}" + (f": {hint}" if hint else "")
    if number in _REFUSALS or number in refusals:
        return TpmRefusedError(message)
    return TpmUnavailableError(message) if number in _OUTAGES else TpmError(message)
