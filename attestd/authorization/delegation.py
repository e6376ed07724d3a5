"""Delegation: whoever an artifact names as a delegate issues a narrower one under it.

What may be narrowed, and what must stay as it is, `containment` says. A draft keeps everything that is not given.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from attestd.authorization.artifact import Link, UntrustedArtifact, verify_chain
from attestd.authorization.chain import format_file
from attestd.authorization.dsse import PAYLOAD_TYPE, UntrustedEnvelope
from attestd.authorization.issue import Sign, delegates, sign_link
from attestd.authorization.pattern import ArgPattern
from attestd.authorization.statement import MAX_STATEMENT_BYTES, Resource, Statement, parse_statement
from attestd.errors import UsageError
from attestd.strict import canonical, format_time, parse_json, parse_time

__all__ = ["delegate", "draft_delegation"]

TTL_S: Final = 3600


def draft_delegation(
    parent: Link,
    *,
    argv: Sequence[ArgPattern],
    now: datetime,
    requested_by: str,
    ttl_s: int | None = None,
    max_uses: int | None = 1,
    hosts: Sequence[str] = (),
    host_labels: Mapping[str, str] | None = None,
    requesters: Sequence[int] = (),
    env_pass: Sequence[str] = (),
    env_set: Mapping[str, str] | None = None,
    inputs: Sequence[Resource] = (),
    max_evidence_age_s: int | None = None,
    on_trust_loss: str | None = None,
    policy: str | None = None,
    policy_digest: str | None = None,
    delegate_to: Sequence[str] = (),
    max_depth: int = 0,
    reason: str = "",
    on_behalf_of: str | None = None,
) -> Statement:
    """Writes a statement under another: what is not given stays as in the parent, or gets the narrowest safe value.

    Files, directory, user, platform, metadata and tool stay the parent's: no other would be narrower.

    Args:
        parent: The link above.
        argv: One pattern an argument.
        now: The first moment of validity, unless the parent's is later.
        requested_by: For whom it is issued, in words.
        ttl_s: How long it is valid, in seconds; None: an hour, or as long as the parent.
        max_uses: How many executions, or None for any number.
        hosts: Some of the parent's; none given: all of them.
        host_labels: Labels besides the parent's.
        requesters: Some of the parent's; none given: all of them.
        env_pass: Of what the parent passes, what this one does.
        env_set: Variables besides those that the parent sets.
        inputs: Pinned files besides the parent's.
        max_evidence_age_s: Less than the parent's; None: the parent's.
        on_trust_loss: "kill" where the parent says "report"; None: the parent's.
        policy: The parent's, for no other is narrower; None: the parent's.
        policy_digest: Pins the policy's text, where the parent does not; None: as the parent.
        delegate_to: Of the parent's delegates, who may delegate further.
        max_depth: How many times in a row.
        reason: Why, in words.
        on_behalf_of: For whom, where the parent does not say.

    Raises:
        MalformedError: The values make no well-formed statement; the message names the member.
        UsageError: The parent has expired, or `now` is not an aware time.
    """
    above = parent.statement.predicate
    validity = _validity(parent, now=now, ttl_s=ttl_s, max_uses=max_uses)
    value: Any = parse_json(parent.envelope.payload, max_bytes=MAX_STATEMENT_BYTES, what="authorization")
    predicate = value["predicate"]
    scope, bindings = predicate["scope"], predicate["bindings"]
    scope["argv"] = list(argv)
    scope["env"] = {"pass": list(env_pass), "set": {**scope["env"]["set"], **(env_set or {})}}
    scope["inputs"] += [item for item in inputs if item not in above.scope.inputs]
    bindings["hosts"] = list(hosts) or bindings["hosts"]
    bindings["host_labels"] |= host_labels or {}
    bindings["requesters"] = [{"uid": uid} for uid in requesters] or bindings["requesters"]
    predicate["environment"]["max_evidence_age_s"] = (
        max_evidence_age_s or above.environment.max_evidence_age_s
    )
    predicate["governance"]["policy"] = policy or above.governance.policy
    predicate["governance"]["policy_digest"] = policy_digest or above.governance.policy_digest
    predicate["attribution"] = {
        "requested_by": requested_by,
        "approved_by": [],
        "on_behalf_of": on_behalf_of or above.attribution.on_behalf_of,
        "reason": reason,
    }
    predicate["validity"] = validity
    predicate["lineage"] = {"parent": parent.id, "delegate_to": list(delegate_to), "max_depth": max_depth}
    predicate["enforcement"]["on_trust_loss"] = on_trust_loss or above.enforcement.on_trust_loss
    predicate["secrets"] = []
    # Through the parser that every reader uses: what it would refuse is not issued.
    return parse_statement(canonical(value))


def _validity(
    parent: Link, *, now: datetime, ttl_s: int | None, max_uses: int | None
) -> dict[str, str | int | None]:
    above = parent.statement.predicate.validity
    start, end = max(now.replace(microsecond=0), parse_time(above.not_before)), parse_time(above.not_after)
    if start >= end:
        raise UsageError(f"artifact {parent.id} was valid until {above.not_after}: ask for a new one")
    wanted = start + timedelta(seconds=TTL_S if ttl_s is None else ttl_s)
    return {
        "not_before": _precise(start, above.not_before),
        "not_after": above.not_after if ttl_s is None and wanted >= end else format_time(wanted),
        "max_uses": max_uses,
    }


def _precise(start: datetime, above: str) -> str:
    return above if start == parse_time(above) else format_time(start)


def delegate(parent: UntrustedArtifact, statement: Statement, *, signers: Sequence[Sign]) -> bytes:
    """Issues a narrower artifact under another.

    Args:
        parent: The artifact, parsed, with its own chain.
        statement: What is delegated; its `lineage.parent` is the parent's id. See `draft_delegation`.
        signers: Delegates that the parent names.

    Returns:
        The `.auth.json` file: the parent's chain, and the new link.

    Raises:
        ChainBrokenError: It is wider than the parent anywhere, or names another; or the parent's own chain is broken.
        UsageError: No signers, or one that the parent does not name.
        SignatureInvalidError: A signer returned a signature that its key does not verify.
        MalformedError: The chain is deeper, or the file larger, than one may be.
    """
    link = Link(UntrustedEnvelope(PAYLOAD_TYPE, canonical(statement), ()))
    signed, keys = sign_link(link, signers)
    carried = {**parent.keys, **delegates(parent.last, keys)}
    verify_chain(UntrustedArtifact((*parent.links, link), carried))
    return format_file([*(item.envelope for item in parent.links), signed], carried)
