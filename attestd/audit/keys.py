"""The two keys that seal one log, and what it means that a checkpoint's signatures hold."""

from dataclasses import dataclass, field
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from attestd.audit.store import StoredCheckpoint
from attestd.errors import MalformedError, RollbackError, VerificationError
from attestd.tcg.attest import ClockInfo, QuoteInfo, parse_attest
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.quote import split_quote, verify_quote
from attestd.tlog.checkpoint import BatchMode, Checkpoint, parse_checkpoint, parse_origin
from attestd.tlog.note import parse_note, verify_ecdsa
from attestd.tlog.vkey import VerifierKey, ecdsa_vkey, tpm_quote_vkey

__all__ = ["LogKeys", "VerifiedCheckpoint", "clock_order"]


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """A checkpoint whose signatures hold. Only `LogKeys.verify` makes one.

    Attributes:
        checkpoint: What was signed.
        clock: The TPM's clock when it quoted.
        pcr_digest: The composite of the PCRs as they were; in mode `record` of any state.
    """

    checkpoint: Checkpoint
    clock: ClockInfo
    pcr_digest: bytes


@dataclass(frozen=True)
class LogKeys:
    """The release key and the attestation key of one log. Can be pickled, for verification in several processes.

    Attributes:
        origin: The log's origin, which is also the name of both keys.
        release_spki: The release key, DER SubjectPublicKeyInfo.
        attestation_spki: The attestation key, likewise.
    """

    origin: str
    release_spki: bytes = field(repr=False)
    attestation_spki: bytes = field(repr=False)
    host_id: str = field(init=False)
    release: VerifierKey = field(init=False, repr=False, compare=False)
    attestation: VerifierKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Computes what follows from the three.

        Raises:
            MalformedError: Not an origin, or not P-256 keys.
        """
        for attribute, value in (
            ("host_id", parse_origin(self.origin).host_id),
            ("release", ecdsa_vkey(self.origin, self.release_spki)),
            ("attestation", tpm_quote_vkey(self.origin, self.attestation_spki)),
        ):
            object.__setattr__(self, attribute, value)

    def __reduce__(self) -> tuple[type["LogKeys"], tuple[str, bytes, bytes]]:
        """Pickles as what it is made from: loaded keys cannot be."""
        return LogKeys, (self.origin, self.release_spki, self.attestation_spki)

    def verify(self, note: bytes) -> VerifiedCheckpoint:
        """Verifies the signatures of one checkpoint.

        1. It is a checkpoint of this log.
        2. In mode `release`: the release key's line verifies.
        3. The quote's line verifies: made by a TPM, a quote, over this very text and for this host.

        Does not check the quoted PCRs against an approval: the log records whatever state there was. Who relies on
        a release checks its receipt (`attestd.lineage.receipt`).

        Raises:
            MalformedError: Not a signed checkpoint.
            VerificationError: Another log's, or a signature is missing or does not verify.
        """
        untrusted = parse_note(note)
        checkpoint = parse_checkpoint(untrusted.text)
        if checkpoint.origin != self.origin:  # 1
            raise VerificationError(f"a checkpoint of {checkpoint.origin}, expected {self.origin}")
        if checkpoint.batch.mode is BatchMode.RELEASE:  # 2
            verify_ecdsa(untrusted, self.release)
        attest, signature = split_quote(untrusted.signature(self.origin, self.attestation.key_id))  # 3
        parsed = parse_attest(attest)
        if not isinstance(parsed.body, QuoteInfo):
            raise VerificationError("the attestation key's line is not a quote")
        verified = verify_quote(
            ak_public_key=cast(EllipticCurvePublicKey, self.attestation.public_key),  # of a TPM_QUOTE vkey
            attest=attest,
            signature=signature,
            extra_data=extra_data(Purpose.CHECKPOINT, host_id=self.host_id, data=untrusted.text),
            selection=parsed.body.selections,
            pcr_digest=parsed.body.pcr_digest,
        )
        return VerifiedCheckpoint(checkpoint, verified.clock, verified.pcr_digest)

    def verify_stored(self, stored: StoredCheckpoint) -> VerifiedCheckpoint:
        """Verifies a checkpoint as the log holds it: its signatures, and that its row says what was signed.

        Raises:
            RollbackError: It is not so.
        """
        try:
            verified = self.verify(stored.note)
        except (MalformedError, VerificationError) as error:
            raise RollbackError(f"the checkpoint of size {stored.size} does not verify: {error}") from error
        signed = verified.checkpoint
        row = (stored.size, stored.first, stored.mode, stored.counter)
        if row != (signed.size, signed.batch.first, signed.batch.mode, signed.batch.counter):
            raise RollbackError(
                f"the checkpoint of size {stored.size} signs other values than its row has: {row}"
            )
        return verified


def clock_order(clock: ClockInfo) -> tuple[int, int, int]:
    """What orders two moments of one TPM: resets, then restarts, then milliseconds."""
    return clock.reset_count, clock.restart_count, clock.clock
