"""What sealing asks of a TPM."""

from dataclasses import dataclass
from typing import Protocol

__all__ = ["QuoteEvidence", "SealingTpm"]


@dataclass(frozen=True, slots=True)
class QuoteEvidence:
    """A quote by the attestation key.

    Attributes:
        attest: TPMS_ATTEST.
        signature: TPMT_SIGNATURE.
        approved: Whether the composite is that of the approval under which the release key signs now.
    """

    attest: bytes
    signature: bytes
    approved: bool


class SealingTpm(Protocol):
    """One host's TPM, with the approval in force. Each method may also raise `TpmUnavailableError` and `TpmError`."""

    def sign_release(self, text: bytes) -> bytes:
        """The release key's ECDSA-SHA256 signature over a note text, in DER.

        Raises:
            TpmRefusedError: The release policy does not hold.
        """

    def quote(self, extra_data: bytes) -> QuoteEvidence:
        """A quote over these 32 bytes, in whatever state the platform is."""

    def read_counter(self) -> int:
        """The log counter's value."""

    def was_shut_down(self) -> bool:
        """Whether the TPM was shut down in order before it started last; if not, the log counter may have jumped."""

    def step_counter(self) -> int:
        """Adds one to the log counter and returns its new value."""
