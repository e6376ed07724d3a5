"""The artifact: authorization statements in their envelopes, before and after their signatures are verified.

An artifact is a chain of links. Most have one, signed by authorities. A delegated one has the root's first, then one
link for each time that it was delegated; what it authorizes is what its last link says.
"""

from collections.abc import Collection, Mapping
from dataclasses import InitVar, dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Final

from attestd.authorization.chain import MAX_ARTIFACT_BYTES, parse_file
from attestd.authorization.containment import widenings
from attestd.authorization.dsse import (
    PublicKey,
    SignatureInvalidError,
    UntrustedEnvelope,
    verify_threshold,
)
from attestd.authorization.statement import Statement, artifact_id, parse_statement
from attestd.errors import MalformedError, UsageError, VerificationError

__all__ = [
    "MAX_ARTIFACT_BYTES",
    "ChainBrokenError",
    "Link",
    "UntrustedArtifact",
    "VerifiedArtifact",
    "parse_artifact",
    "verify_artifact",
    "verify_chain",
]

_VERIFIED: Final = object()
_CACHED: Final = 64  # of at most 256 KiB each


class ChainBrokenError(VerificationError):
    """A link does not follow from the one above it, or the chain does not begin with an artifact of its own right."""


@dataclass(frozen=True)
class Link:
    """One envelope and what it says. Statement and id are derived from the payload here: they cannot be another's.

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
class UntrustedArtifact:
    """A well-formed artifact of which no signature has been verified.

    Attributes:
        links: Root first; at least one.
        keys: Public keys that the file carries for its delegates, by key id.
    """

    links: tuple[Link, ...]
    keys: Mapping[str, PublicKey] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = {
            key_id for link in self.links[:-1] for key_id in link.statement.predicate.lineage.delegate_to
        }
        if unknown := self.keys.keys() - named:
            raise MalformedError(f"chain: no link names the key {min(unknown)} as a delegate")

    @property
    def last(self) -> Link:
        """The link that says what may run."""
        return self.links[-1]

    @property
    def envelope(self) -> UntrustedEnvelope:
        """The last link's."""
        return self.links[-1].envelope

    @property
    def statement(self) -> Statement:
        """What the last link says."""
        return self.links[-1].statement

    @property
    def id(self) -> str:
        """SHA-256 of the last link's payload."""
        return self.links[-1].id

    @cached_property
    def fault(self) -> str | None:
        """Where the chain breaks, in words; None: each link follows from the one above. Computed once a file."""
        root = self.links[0].statement.predicate.lineage.parent
        if root is not None:
            return f"it was issued under {root}, and the chain to that is missing"
        for number, (above, link) in enumerate(pairwise(self.links), 2):
            parent = link.statement.predicate.lineage.parent
            if parent != above.id:
                return (
                    f"link {number} was issued under {parent or 'nothing'}, the link above it is {above.id}"
                )
            if wider := widenings(above.statement, link.statement):
                return f"link {number} is wider than the one above it: {wider[0]}"
        return None


@dataclass(frozen=True)
class VerifiedArtifact:
    """An artifact that enough of the keys named to `verify_artifact` signed; made by that function only.

    Attributes:
        links: Root first, as in the file.
        signers: By link: whose signatures hold, as key ids, sorted.
        untrusted: What was verified.
    """

    untrusted: UntrustedArtifact
    signers: tuple[tuple[str, ...], ...]
    made_by: InitVar[object]

    def __post_init__(self, made_by: object) -> None:
        if made_by is not _VERIFIED:
            raise UsageError("a VerifiedArtifact comes from verify_artifact")

    @property
    def links(self) -> tuple[Link, ...]:
        """Root first."""
        return self.untrusted.links

    @property
    def statement(self) -> Statement:
        """What may run."""
        return self.untrusted.statement

    @property
    def id(self) -> str:
        """SHA-256 of the last link's payload."""
        return self.untrusted.id

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Everyone who signed a link, sorted."""
        return tuple(sorted({key_id for signed in self.signers for key_id in signed}))


@lru_cache(maxsize=_CACHED)
def parse_artifact(data: bytes) -> UntrustedArtifact:
    """Parses an `.auth.json` file; verifies nothing.

    An artifact is parsed at each use, often the same one a thousand times: the last few are kept.

    Raises:
        MalformedError: Envelope, chain or statement is not as formats.md says.
    """
    envelopes, keys = parse_file(data)
    return UntrustedArtifact(tuple(map(Link, envelopes)), keys)


def verify_artifact(
    artifact: UntrustedArtifact,
    *,
    keys: Collection[PublicKey],
    threshold: int,
    revoked: Collection[str] = (),
) -> VerifiedArtifact:
    """Verifies who signed an artifact: authorities its first link, a delegate of the link above each other.

    Does not check validity, bindings, scope or revocation: that is the gate's. Nor that the links follow from each other:
    `verify_chain` does. That `keys` are the authorities for this artifact's scope is the caller's to know.

    Args:
        artifact: Parsed.
        keys: The authorities' keys.
        threshold: How many distinct ones must have signed the first link, at least 1.
        revoked: Key ids of delegates that count for nothing.

    Raises:
        SignatureInvalidError: A signature that names a known key fails, or none is from a known key.
        InsufficientApprovalsError: Fewer distinct keys than the threshold.
        UsageError: No keys, or a threshold below 1.
    """
    signers = [verify_threshold(artifact.links[0].envelope, keys=keys, threshold=threshold)]
    for number, (above, link) in enumerate(pairwise(artifact.links), 2):
        named = above.statement.predicate.lineage.delegate_to
        delegates = [
            artifact.keys[key_id] for key_id in named if key_id in artifact.keys and key_id not in revoked
        ]
        if not delegates:
            raise SignatureInvalidError(
                f"link {number}: the chain has no key of a delegate of the link above"
            )
        try:
            signers.append(verify_threshold(link.envelope, keys=delegates, threshold=1))
        except SignatureInvalidError as error:
            raise SignatureInvalidError(f"link {number}: {error}") from error
    return VerifiedArtifact(artifact, tuple(signers), _VERIFIED)


def verify_chain(artifact: UntrustedArtifact) -> None:
    """Verifies that an artifact's first link was issued under nothing, and each other under the one above, and narrower.

    Raises:
        ChainBrokenError: Names the first link that does not follow.
    """
    if artifact.fault is not None:
        raise ChainBrokenError(artifact.fault)
