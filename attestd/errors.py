"""Every error that attestd raises on purpose: one root, few families.

Caller misuse (`UsageError`) is a different family from hostile or damaged input (`MalformedError`,
`VerificationError`). Foreign errors are translated once, in the adapter, with `raise ... from`.
"""

__all__ = [
    "AgentError",
    "AttestdError",
    "EvidenceIncompleteError",
    "ForbiddenError",
    "GovernanceBehindError",
    "GovernanceRollbackError",
    "MalformedError",
    "RollbackError",
    "StoreError",
    "TpmError",
    "TpmRefusedError",
    "TpmUnavailableError",
    "UsageError",
    "VerificationError",
]


class AttestdError(Exception):
    """Root of all errors. The message says what was expected, what was found, and what to do."""


class UsageError(AttestdError):
    """The caller (a person, a configuration, our own code) asked for something that makes no sense."""


class MalformedError(AttestdError):
    """Input from outside does not parse: truncated, over limits, unknown member, trailing bytes."""


class VerificationError(AttestdError):
    """Input from outside parses but does not verify: a signature, a proof, a binding."""


class EvidenceIncompleteError(VerificationError):
    """Evidence goes on from what its verifier does not hold: it may be sent again, with the logs from their start."""


class GovernanceBehindError(VerificationError):
    """What was verified so far holds, and it names governance that is newer than what is here, if there is such a thing at all.

    Attributes:
        here: The version of governance here.
        named: The version that is named.
    """

    def __init__(self, problem: str, *, here: int, named: int) -> None:
        """Says what is missing here."""
        super().__init__(
            f"{problem}; governance here is version {here}, the receipt names {named}: that is newer, or never was"
        )
        self.here, self.named = here, named


class GovernanceRollbackError(VerificationError):
    """Governance metadata that is properly signed, and older than what was seen before."""


class TpmError(AttestdError):
    """The TPM answered a command with an error that is neither a refusal nor an outage."""


class TpmRefusedError(TpmError):
    """The TPM refused to use a key: its policy does not hold (PCRs, epoch, lease, auth value)."""


class TpmUnavailableError(TpmError):
    """No TPM, no answer within the deadline, or a TPM in lockout or failure mode."""


class StoreError(AttestdError):
    """The audit log or another durable store cannot be read or written."""


class AgentError(AttestdError):
    """No agent answers, or it could not do what it was asked."""


class ForbiddenError(AttestdError):
    """The agent does not do this for the user who asks."""


class RollbackError(StoreError):
    """The stored log contradicts the TPM or itself: truncated, rolled back, edited, or cloned."""
