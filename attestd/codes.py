"""Denial codes, their exit statuses, and `Denial`: the one form in which anything is refused.

The table is a contract that users script against (frozen by a golden test).
"""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["EXIT_MALFORMED", "EXIT_STATUS", "EXIT_USAGE", "Code", "Denial", "Denied"]

EXIT_USAGE = 64
EXIT_MALFORMED = 65


class Code(StrEnum):
    """The reason of a denial."""

    MISSING_AUTHORIZATION = "missing_authorization"
    MALFORMED_AUTHORIZATION = "malformed_authorization"
    INVALID_SIGNATURE = "invalid_signature"
    INSUFFICIENT_APPROVALS = "insufficient_approvals"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    USES_EXHAUSTED = "uses_exhausted"
    CLOCK_UNTRUSTED = "clock_untrusted"
    REVOKED = "revoked"
    IDENTITY_MISMATCH = "identity_mismatch"
    SCOPE_VIOLATION = "scope_violation"
    ENVIRONMENT_UNTRUSTED = "environment_untrusted"
    EVIDENCE_INVALID = "evidence_invalid"
    EVIDENCE_STALE = "evidence_stale"
    POLICY_DENIED = "policy_denied"
    POLICY_CONFLICT = "policy_conflict"
    GOVERNANCE_MISMATCH = "governance_mismatch"
    LINEAGE_BROKEN = "lineage_broken"
    MESH_UNAVAILABLE = "mesh_unavailable"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    TPM_UNAVAILABLE = "tpm_unavailable"
    AGENT_UNAVAILABLE = "agent_unavailable"
    INTERNAL_ERROR = "internal_error"


_UNAVAILABLE = {Code.MESH_UNAVAILABLE, Code.AUDIT_UNAVAILABLE, Code.TPM_UNAVAILABLE, Code.AGENT_UNAVAILABLE}

EXIT_STATUS: dict[Code, int] = {
    code: 65
    if code is Code.MALFORMED_AUTHORIZATION
    else 69
    if code in _UNAVAILABLE
    else 70
    if code is Code.INTERNAL_ERROR
    else 77
    for code in Code
}


@dataclass(frozen=True, slots=True)
class Denial:
    """Why something was refused.

    Attributes:
        code: The reason, from the frozen table.
        sentence: What was expected and what was found, one sentence, no final full stop.
        hint: What the reader can do about it.
    """

    code: Code
    sentence: str
    hint: str

    @property
    def exit_status(self) -> int:
        """The exit status of `attestd exec` for this denial."""
        return EXIT_STATUS[self.code]


class Denied(Exception):  # an outcome on its way to the caller, not a fault: hence not an AttestdError
    """Carries a `Denial` out of nested checks; caught by the function that decides, never by accident."""

    def __init__(self, code: Code, sentence: str, hint: str) -> None:
        super().__init__(f"{code}: {sentence}")
        self.denial = Denial(code, sentence, hint)
