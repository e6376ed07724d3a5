"""The artifact file: a DSSE envelope around an authorization statement, before and after its signatures are verified."""

from collections.abc import Collection
from dataclasses import InitVar, dataclass, field
from functools import lru_cache
from typing import Final

from attestd.authorization.dsse import (
    MAX_ENVELOPE_BYTES,
    PAYLOAD_TYPE,
    PublicKey,
    UntrustedEnvelope,
    parse_envelope,
    verify_threshold,
)
from attestd.authorization.statement import Statement, artifact_id, parse_statement
from attestd.errors import UsageError

__all__ = ["MAX_ARTIFACT_BYTES", "UntrustedArtifact", "VerifiedArtifact", "parse_artifact", "verify_artifact"]

MAX_ARTIFACT_BYTES: Final = MAX_ENVELOPE_BYTES
_VERIFIED: Final = object()
_CACHED: Final = 64  # of at most 256 KiB each


@dataclass(frozen=True)
class UntrustedArtifact:
    """A well-formed artifact of which no signature has been verified.

    Statement and id are derived from the envelope's payload here, so they cannot be another artifact's.

    Attributes:
        envelope: Payload and signatures.
        statement: What the payload says.
        id: SHA-256 of the payload.
    """

    envelope: UntrustedEnvelope
    statement: Statement = field(init=False)
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "statement", parse_statement(self.envelope.payload))
        object.__setattr__(self, "id", artifact_id(self.envelope.payload))


@dataclass(frozen=True)
class VerifiedArtifact:
    """An artifact that enough of the keys named to `verify_artifact` signed; made by that function only.

    Attributes:
        statement: What was signed.
        id: SHA-256 of the payload.
        key_ids: Who signed, sorted.
    """

    statement: Statement
    id: str
    key_ids: tuple[str, ...]
    made_by: InitVar[object]

    def __post_init__(self, made_by: object) -> None:
        if made_by is not _VERIFIED:
            raise UsageError("a VerifiedArtifact comes from verify_artifact")


@lru_cache(maxsize=_CACHED)
def parse_artifact(data: bytes) -> UntrustedArtifact:
    """Parses an `.auth.json` file; verifies nothing.

    An artifact is parsed at each use, often the same one a thousand times: the last few are kept.

    Raises:
        MalformedError: Envelope or statement is not as formats.md says.
    """
    return UntrustedArtifact(parse_envelope(data, payload_type=PAYLOAD_TYPE, max_bytes=MAX_ARTIFACT_BYTES))


def verify_artifact(
    artifact: UntrustedArtifact, *, keys: Collection[PublicKey], threshold: int
) -> VerifiedArtifact:
    """Verifies who signed an artifact.

    Does not check validity, bindings, scope, revocation or delegation: that is the gate's. That `keys` are the
    authorities for this artifact's scope is the caller's to know.

    Args:
        artifact: Parsed.
        keys: The authorities' keys.
        threshold: How many distinct keys must have signed, at least 1.

    Raises:
        SignatureInvalidError: A signature that names a known key fails, or none is from a known key.
        InsufficientApprovalsError: Fewer distinct keys than the threshold.
        UsageError: No keys, or a threshold below 1.
    """
    key_ids = verify_threshold(artifact.envelope, keys=keys, threshold=threshold)
    return VerifiedArtifact(artifact.statement, artifact.id, key_ids, _VERIFIED)
