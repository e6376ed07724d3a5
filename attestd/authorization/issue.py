"""Issuing artifacts: a statement with the narrowest values, and its signatures.

Signing keys stay outside: a `Sign` value is asked for a signature and says which key made it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from attestd.authorization.artifact import Link, UntrustedArtifact
from attestd.authorization.chain import format_file
from attestd.authorization.dsse import (
    MAX_SIGNATURES,
    PAYLOAD_TYPE,
    EnvelopeSignature,
    PublicKey,
    UntrustedEnvelope,
    pae,
)
from attestd.authorization.pattern import ArgPattern
from attestd.authorization.statement import (
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    Digest,
    Resource,
    Statement,
    parse_statement,
)
from attestd.errors import UsageError
from attestd.strict import canonical, format_time

__all__ = [
    "DEFAULT_PATH",
    "Sign",
    "StatementDraft",
    "approve",
    "delegates",
    "draft_statement",
    "issue",
    "link_to_approve",
    "resource",
    "sign_link",
]

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Sign = Callable[[bytes], tuple[PublicKey, bytes]]


def resource(name: str, sha256: str) -> Resource:
    """A file by its real path and the SHA-256 of its bytes, in hex."""
    return Resource(name=name, digest=Digest(sha256=sha256))


@dataclass(frozen=True, kw_only=True)
class StatementDraft:
    """What a statement is to say; what is not given has the narrowest safe value.

    One host, one requester, one use, cwd and user as they are, an environment of a fixed PATH only, no delegation,
    no secrets, killed when trust is lost.

    Attributes:
        subjects: The executable and, for a script, its interpreters.
        argv: One pattern an argument.
        cwd: Real path of the working directory.
        uid: Who the command runs as.
        requester_uid: Who may ask.
        host_id: The host; None: `host_labels` alone say where.
        platform: Name of the platform policy.
        policy: Name of the policy.
        policy_version: The lowest governance version, normally the present one.
        now: The first moment of validity, aware; fractions of a second are dropped.
        ttl_s: How long it is valid, in seconds.
        requested_by: For whom it is issued, in words.
        reason: Why, in words.
        on_behalf_of: For whom the requester acts, if for someone else.
        approved_by: Who approved, in words.
        max_uses: How many executions, or None for any number.
        env_pass: Variables taken from the requester.
        env_set: Variables with their values; PATH is added if it is not there.
        inputs: Pinned files.
        policy_digest: Pins the policy's text.
        metadata: For people and policies.
        max_evidence_age_s: How old evidence may be, in seconds.
        verifiers: How many verifiers must have appraised the host.
        witnesses: How many witnesses must have cosigned the checkpoint.
        on_trust_loss: "kill" or "report".
        recheck_interval_s: How often trust is verified again while it runs, in seconds.
        mesh_grace_s: How long the mesh may be away meanwhile, in seconds.
        further_hosts: Hosts besides.
        host_labels: Labels that a host's record must carry.
        further_requesters: Who may ask besides.
        delegate_to: Key ids that may issue narrower artifacts under this one.
        max_depth: How many times in a row.
    """

    subjects: Sequence[Resource]
    argv: Sequence[ArgPattern]
    cwd: str
    uid: int
    requester_uid: int
    host_id: str | None
    platform: str
    policy: str
    policy_version: int
    now: datetime
    ttl_s: int
    requested_by: str
    reason: str = ""
    on_behalf_of: str | None = None
    approved_by: Sequence[str] = ()
    max_uses: int | None = 1
    env_pass: Sequence[str] = ()
    env_set: Mapping[str, str] = field(default_factory=dict)
    inputs: Sequence[Resource] = ()
    policy_digest: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    max_evidence_age_s: int = 60
    verifiers: int = 0
    witnesses: int = 0
    on_trust_loss: str = "kill"
    recheck_interval_s: int = 30
    mesh_grace_s: int = 0
    further_hosts: Sequence[str] = ()
    host_labels: Mapping[str, str] = field(default_factory=dict)
    further_requesters: Sequence[int] = ()
    delegate_to: Sequence[str] = ()
    max_depth: int = 0


def draft_statement(draft: StatementDraft) -> Statement:
    """Writes a statement out in full.

    Raises:
        MalformedError: The values make no well-formed statement; the message names the member.
        UsageError: `now` is not an aware time.
    """
    predicate = {
        "scope": {
            "argv": list(draft.argv),
            "cwd": draft.cwd,
            "uid": draft.uid,
            "env": {"pass": list(draft.env_pass), "set": {"PATH": DEFAULT_PATH, **draft.env_set}},
            "inputs": list(draft.inputs),
        },
        "bindings": {
            "hosts": [*([] if draft.host_id is None else [draft.host_id]), *draft.further_hosts],
            "host_labels": dict(draft.host_labels),
            "requesters": [{"uid": uid} for uid in (draft.requester_uid, *draft.further_requesters)],
        },
        "environment": {
            "platform": draft.platform,
            "max_evidence_age_s": draft.max_evidence_age_s,
            "verifiers": {"quorum": draft.verifiers},
            "witnesses": {"quorum": draft.witnesses},
        },
        "governance": {
            "policy": draft.policy,
            "policy_digest": draft.policy_digest,
            "min_version": draft.policy_version,
            "metadata": dict(draft.metadata),
        },
        "attribution": {
            "requested_by": draft.requested_by,
            "approved_by": list(draft.approved_by),
            "on_behalf_of": draft.on_behalf_of,
            "reason": draft.reason,
        },
        "validity": {
            "not_before": format_time(draft.now),
            "not_after": format_time(draft.now + timedelta(seconds=draft.ttl_s)),
            "max_uses": draft.max_uses,
        },
        "lineage": {"parent": None, "delegate_to": list(draft.delegate_to), "max_depth": draft.max_depth},
        "enforcement": {
            "on_trust_loss": draft.on_trust_loss,
            "recheck_interval_s": draft.recheck_interval_s,
            "mesh_grace_s": draft.mesh_grace_s,
        },
        "secrets": [],
        "tool": None,
    }
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": list(draft.subjects),
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    # Through the parser that every reader uses: what it would refuse is not issued.
    return parse_statement(canonical(statement))


def issue(statement: Statement, *, signers: Sequence[Sign]) -> bytes:
    """Signs a statement.

    Args:
        statement: What is authorized.
        signers: At least one; distinct keys.

    Returns:
        The `.auth.json` file.

    Raises:
        UsageError: No signers, the same key twice, or more than 16.
        SignatureInvalidError: A signer returned a signature that its key does not verify.
        MalformedError: The statement was changed into one that does not parse.
    """
    link = Link(UntrustedEnvelope(PAYLOAD_TYPE, canonical(statement), ()))
    return format_file([sign_link(link, signers)[0]], {})


def link_to_approve(artifact: UntrustedArtifact, key_id: str) -> int:
    """Which link a key's signature counts for: the last whose parent names it as a delegate, else the first.

    Returns:
        The link's index, root 0.
    """
    for index in range(len(artifact.links) - 1, 0, -1):
        if key_id in artifact.links[index - 1].statement.predicate.lineage.delegate_to:
            return index
    return 0


def approve(artifact: UntrustedArtifact, *, signers: Sequence[Sign], link: int = 0) -> bytes:
    """Adds signatures to a link of an artifact; its id stays. The signatures already there are kept, not verified.

    Args:
        artifact: Parsed.
        signers: Who signs; for a link that was delegated, delegates that the link above names.
        link: Which one; see `link_to_approve`.

    Raises:
        UsageError: No signers, a key that signed already or whose signature would count for nothing, or more than 16
            signatures.
        SignatureInvalidError: A signer returned a signature that its key does not verify.
        MalformedError: The file would be larger than it may be.
    """
    signed, keys = sign_link(artifact.links[link], signers)
    carried = dict(artifact.keys)
    if link:
        carried |= delegates(artifact.links[link - 1], keys)
    envelopes = [item.envelope for item in artifact.links]
    envelopes[link] = signed
    return format_file(envelopes, carried)


def delegates(parent: Link, keys: Sequence[PublicKey]) -> dict[str, PublicKey]:
    """Keys by id, as a chain carries them.

    Raises:
        UsageError: The link that is to be signed under does not name one of them.
    """
    named = parent.statement.predicate.lineage.delegate_to
    for key in keys:
        if key.key_id not in named:
            raise UsageError(
                f"key {key.key_id} is no delegate of artifact {parent.id}: expected one of {', '.join(named) or 'none'}"
            )
    return {key.key_id: key for key in keys}


def sign_link(link: Link, signers: Sequence[Sign]) -> tuple[UntrustedEnvelope, list[PublicKey]]:
    """Adds signatures to one link; returns its envelope with them, and the keys that made them.

    Raises:
        UsageError: No signers, a key that signed already, or more than 16 signatures.
        SignatureInvalidError: A signer returned a signature that its key does not verify.
    """
    envelope = link.envelope
    if not signers or len(envelope.signatures) + len(signers) > MAX_SIGNATURES:
        raise UsageError(f"an artifact takes 1 to {MAX_SIGNATURES} signatures")
    message = pae(envelope.payload_type, envelope.payload)
    signatures, keys = list(envelope.signatures), []
    for sign in signers:
        key, signature = sign(message)
        # A signer that is a faulty device or the wrong key is found now, not on the host that denies.
        key.verify(message, signature)
        if key.key_id in {entry.key_id for entry in signatures}:
            raise UsageError(f"key {key.key_id} signs twice: each key counts once")
        signatures.append(EnvelopeSignature(key.key_id, signature))
        keys.append(key)
    return UntrustedEnvelope(envelope.payload_type, envelope.payload, tuple(signatures)), keys
