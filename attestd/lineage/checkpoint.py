"""The two keys that seal one log, and what it means that a checkpoint's signatures hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from attestd.errors import VerificationError
from attestd.tcg.attest import ClockInfo
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.pcr import PcrSelection
from attestd.tcg.quote import UntrustedQuote, parse_quote, split_quote
from attestd.tlog.checkpoint import BatchMode, Checkpoint, parse_checkpoint, parse_origin
from attestd.tlog.note import UntrustedNote
from attestd.tlog.vkey import VerifierKey, ecdsa_vkey, tpm_quote_vkey

__all__ = ["LogKeys", "UntrustedCheckpoint", "VerifiedCheckpoint", "verify_checkpoints"]


class VerifiedCheckpoint(msgspec.Struct, frozen=True, gc=False):
    """A checkpoint whose signatures hold. Only `UntrustedCheckpoint.verify` and `verify_checkpoints` make one.

    Attributes:
        checkpoint: What was signed.
        clock: The TPM's clock when it quoted.
        selections: The PCRs that it quoted.
        pcr_digest: Their composite as they were; in mode `record` of any state.
    """

    checkpoint: Checkpoint
    clock: ClockInfo
    selections: tuple[PcrSelection, ...]
    pcr_digest: bytes

    @property
    def host(self) -> str:
        """The host-id of its origin."""
        return parse_origin(self.checkpoint.origin).host_id

    @property
    def log_id(self) -> str:
        """The log's incarnation."""
        return parse_origin(self.checkpoint.origin).log_id

    @property
    def released(self) -> bool:
        """The release key signed it: the TPM found the platform in an approved state."""
        return self.checkpoint.batch.mode is BatchMode.RELEASE


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

    def verify(self, note: UntrustedNote) -> VerifiedCheckpoint:
        """Verifies the signatures of one checkpoint.

        1. It is a checkpoint of this log.
        2. In mode `release`: the release key's line verifies.
        3. The quote's line verifies: made by a TPM, a quote, over this very text and for this host.

        Does not check the quoted PCRs against an approval: the log records whatever state there was. Who relies on
        a release checks its receipt (`attestd.lineage.receipt`). Witness lines are not looked at.

        Raises:
            MalformedError: Not a signed checkpoint.
            VerificationError: Another log's, or a signature is missing, repeated or does not verify.
        """
        return self.parse(note).verify()

    def parse(self, note: UntrustedNote) -> "UntrustedCheckpoint":
        """All of `verify` but the signatures.

        Raises:
            MalformedError: Not a signed checkpoint.
            VerificationError: Another log's, or a signature is missing or repeated, or over something else.
        """
        checkpoint = parse_checkpoint(note.text)
        if checkpoint.origin != self.origin:  # 1
            raise VerificationError(f"a checkpoint of {checkpoint.origin}, expected {self.origin}")
        releases = checkpoint.batch.mode is BatchMode.RELEASE
        release = note.signature(self.origin, self.release.key_id) if releases else None
        attest, signature = split_quote(note.signature(self.origin, self.attestation.key_id))
        quote = parse_quote(
            attest=attest,
            signature=signature,
            extra_data=extra_data(Purpose.CHECKPOINT, host_id=self.host_id, data=note.text),
        )
        return UntrustedCheckpoint(self, note.text, checkpoint, release, quote)


def verify_checkpoints(checkpoints: Sequence["UntrustedCheckpoint"]) -> list[VerifiedCheckpoint]:
    """Verifies the signatures of several, each as `UntrustedCheckpoint.verify` does, in less time.

    What a signature's computation needs fills the processor's caches: so all else is done before, and after.

    Raises:
        VerificationError: One of them does not verify; `UntrustedCheckpoint.verify` says which.
    """
    computations = [computation for checkpoint in checkpoints for computation in checkpoint.prepare()]
    try:
        for compute in computations:
            compute()
    except InvalidSignature as error:
        raise VerificationError("a checkpoint's signature does not verify") from error
    return [
        VerifiedCheckpoint(
            checkpoint.checkpoint,
            checkpoint.quote.attest.clock,
            checkpoint.quote.body.selections,
            checkpoint.quote.body.pcr_digest,
        )
        for checkpoint in checkpoints
    ]


class UntrustedCheckpoint(msgspec.Struct, frozen=True, gc=False):
    """A checkpoint of this log, by what it says, whose signatures nobody has verified. Only `LogKeys.parse` makes one.

    Who verifies many parses them first, and verifies after: see `attestd.tcg.quote.parse_quote`.
    """

    keys: LogKeys
    text: bytes
    checkpoint: Checkpoint
    release: bytes | None
    quote: UntrustedQuote

    def verify(self) -> VerifiedCheckpoint:
        """Verifies the signatures: checks 2 and 3 of `LogKeys.verify`.

        Raises:
            VerificationError: One does not verify.
        """
        if self.release is not None:  # 2
            self.keys.release.verify(self.release, self.text)
        quote = self.quote.verify(self._attestation_key)  # 3
        return VerifiedCheckpoint(self.checkpoint, quote.clock, quote.selections, quote.pcr_digest)

    def prepare(self) -> list[Callable[[], None]]:
        """What `verify` computes: see `attestd.tcg.signature.EcdsaSignature.prepare`.

        Raises:
            VerificationError: It does not verify, or could not.
        """
        computations = [self.quote.signature.prepare(self._attestation_key, self.quote.attest.raw)]
        if self.release is not None:
            computations.append(partial(self.keys.release.verify, self.release, self.text))
        return computations

    @property
    def _attestation_key(self) -> EllipticCurvePublicKey:
        return cast(EllipticCurvePublicKey, self.keys.attestation.public_key)  # of a TPM_QUOTE vkey
