"""The host's TPM as the agent uses it: through its owner thread, with a deadline on each command."""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, TypeVar

from attestd.audit.sealing_tpm import QuoteEvidence
from attestd.errors import TpmError, TpmRefusedError
from attestd.governance.platform import Approval, PlatformPolicy
from attestd.tcg.attest import ClockInfo, QuoteInfo, parse_attest
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.pcr import PcrSelection, composite
from attestd.tpm.device import Tpm
from attestd.tpm.owner import Priority, TpmOwner
from attestd.tpm.release import ReleaseApproval

__all__ = ["RawEvidence", "TpmPort", "release_approval"]

_T = TypeVar("_T")
_ATTEMPTS: Final = 8
# Of the deadline, for a release in a storm of extends: behind the deadline the TPM would count as one that hangs.
_PATIENCE: Final = 0.8


@dataclass(frozen=True, slots=True)
class RawEvidence:
    """A quote with the PCR values read beside it; nothing is verified yet.

    Attributes:
        challenge: The bytes under purpose `evidence`.
        attest, signature: The quote.
        values: PCR values, which may be of a moment before or after the quote.
    """

    challenge: bytes
    attest: bytes
    signature: bytes
    values: Mapping[int, bytes]


class TpmPort:
    """What sealing and evidence ask of the TPM; `SealingTpm` for the sealer.

    Attributes:
        owner: The TPM's thread.
        host: The host-id that each signature of the AK is bound to.
    """

    def __init__(self, owner: TpmOwner, *, host: str, selection: PcrSelection, deadline_s: float) -> None:
        """Names the TPM.

        Args:
            owner: The TPM's thread, keys loaded.
            host: The host-id.
            selection: The PCRs that are quoted where no platform policy is named.
            deadline_s: For each command.
        """
        self.owner, self.host = owner, host
        self._default, self._deadline_s = selection, deadline_s
        self._selection = selection
        self._approval: Approval | None = None

    def expect(self, platform: PlatformPolicy | None, approval: Approval | None) -> None:
        """Says for which platform policy and approved state the next batch is sealed; for the sealing thread."""
        self._selection = self._default if platform is None else platform.selection
        self._approval = approval

    # SealingTpm

    def sign_release(self, text: bytes) -> bytes:
        """The release key's signature over a note text, DER. See `attestd.audit.sealing_tpm`."""
        approval = self._approval
        if approval is None:
            raise TpmRefusedError("no approved state was named for this batch")
        release = release_approval(approval)
        digest = hashlib.sha256(text).digest()
        patience_s = self._deadline_s * _PATIENCE
        return self._seal(lambda tpm: tpm.sign_release(digest, release, patience_s=patience_s))

    def quote(self, extra_data: bytes) -> QuoteEvidence:
        """A quote of the batch's PCRs."""
        selection = self._selection
        attest, signature = self._seal(lambda tpm: tpm.quote(selection, extra_data))
        body = parse_attest(attest).body
        approved = (
            self._approval is not None
            and isinstance(body, QuoteInfo)
            and body.pcr_digest == self._approval.pcr_digest
        )
        return QuoteEvidence(attest, signature, approved)

    def read_counter(self) -> int:
        """The log counter."""
        return self._seal(lambda tpm: tpm.read_counter())

    def was_shut_down(self) -> bool:
        """Whether it was shut down in order before it started last."""
        return self._seal(lambda tpm: tpm.was_shut_down())

    def step_counter(self) -> int:
        """Steps the log counter; returns its new value."""
        return self._seal(lambda tpm: tpm.step_counter())

    # Evidence and operations

    def evidence(self, selection: PcrSelection) -> "Future[RawEvidence]":
        """Quotes PCRs over a fresh challenge and reads their values."""
        challenge = secrets.token_bytes(32)
        bound = extra_data(Purpose.EVIDENCE, host_id=self.host, data=challenge)

        def take(tpm: Tpm) -> RawEvidence:
            attest, signature = tpm.quote(selection, bound)
            return RawEvidence(challenge, attest, signature, tpm.read_pcrs(selection))

        return self.owner.submit(Priority.EVIDENCE, take, self._deadline_s)

    def quote_values(
        self, selection: PcrSelection, extra_data: bytes
    ) -> "Future[tuple[bytes, bytes, Mapping[int, bytes]]]":
        """A quote and the PCR values behind it, taken again when a PCR changed between the two.

        The future's errors: TpmError, also when PCRs never stood still.
        """

        def take(tpm: Tpm) -> tuple[bytes, bytes, Mapping[int, bytes]]:
            for _ in range(_ATTEMPTS):
                attest, signature = tpm.quote(selection, extra_data)
                values = tpm.read_pcrs(selection)
                body = parse_attest(attest).body
                if isinstance(body, QuoteInfo) and body.pcr_digest == composite(selection, values):
                    return attest, signature, values
            raise TpmError(f"{selection} changed during each of {_ATTEMPTS} quotes: try again")

        return self.owner.submit(Priority.OTHER, take, self._deadline_s)

    def other(self, call: Callable[[Tpm], _T]) -> "Future[_T]":
        """Anything else, behind sealing and evidence."""
        return self.owner.submit(Priority.OTHER, call, self._deadline_s)

    def clock(self) -> ClockInfo:
        """The TPM's clock and reset counts, from a quote."""
        bound = extra_data(Purpose.EVIDENCE, host_id=self.host, data=secrets.token_bytes(32))
        attest, _ = self._seal(lambda tpm: tpm.quote(self._default, bound))
        return parse_attest(attest).clock

    def _seal(self, call: Callable[[Tpm], _T]) -> _T:
        return self.owner.submit(Priority.SEAL, call, self._deadline_s).result()


def release_approval(approval: Approval) -> ReleaseApproval:
    """An approval as the TPM takes it."""
    return ReleaseApproval(
        epoch=approval.epoch,
        selection=approval.selection,
        pcr_digest=approval.pcr_digest,
        platform_public=approval.platform.public.raw,
        platform_sig=approval.platform_sig,
        max_epoch=approval.max_epoch,
        root_public=approval.root.public.raw,
        root_sig=approval.root_sig,
    )
