"""What the runner believes: a receipt, an artifact, and what it sees itself. Nothing that the agent says."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from attestd.appraisal.result import AttestationResult
from attestd.authorization.artifact import UntrustedArtifact, VerifiedArtifact, parse_artifact
from attestd.authorization.pattern import quote
from attestd.codes import Code, Denied
from attestd.errors import MalformedError, VerificationError
from attestd.gate.authority import verify_authorization
from attestd.gate.body import decided_body, verifiers_body
from attestd.gate.concealment import Concealment
from attestd.gate.execution import Execution, require_binding, require_scope
from attestd.gate.policy import artifact_terms, require_policy
from attestd.gate.requirements import (
    require_chain,
    require_governance,
    require_not_revoked,
    require_strength,
    require_unchangeable,
    require_validity,
    require_witnesses,
    required_quorums,
)
from attestd.gate.vouching import QuotedState, require_verifiers, verify_tokens, vouched_for
from attestd.governance.authorities import AuthorityRule
from attestd.governance.host import VerifiedHost
from attestd.governance.platform import Approval, PlatformPolicy
from attestd.governance.trust import Trust
from attestd.lineage.receipt import VerifiedReceipt, parse_receipt, verify_receipt
from attestd.strict import canonical, format_time, parse_time

__all__ = ["MAX_RECEIPT_AGE", "Here", "VerifiedRelease", "verify_release"]

MAX_RECEIPT_AGE: Final = timedelta(seconds=60)
# The wall clock may lag behind the log's time by this much before a receipt seems to come from the future.
CLOCK_TOLERANCE: Final = timedelta(seconds=5)

# And behind a witness's, which is another machine's, by this much.
WITNESS_TOLERANCE: Final = timedelta(minutes=10)

_REQUEST_ID: Final = re.compile(r"\A[0-9a-f]{32}\Z")
_ABSENT: Final = "(nothing)"


@dataclass(frozen=True)
class Here:
    """What the runner knows of itself, from nobody else.

    Attributes:
        trust: Loaded and verified by the runner.
        host_id: Which host this is, pinned when it was initialised.
        boot: This boot's id.
        now: The wall clock.
        grace: For how long governance metadata may be used after it expired.
        isolation: `user` if the runner can become another user, else `none`.
    """

    trust: Trust
    host_id: str
    boot: str
    now: datetime
    grace: timedelta
    isolation: str


@dataclass(frozen=True)
class VerifiedRelease:
    """An execution that may run, once: the runner records (log_id, seq) before it runs it.

    Attributes:
        leaf: The decision's id, hex.
        max_uses: The runner counts uses itself; None: unlimited.
        above: The artifacts above a delegated one, by id, and how often each may be used: each use is theirs too.
        request_id: Joins start and exit to the decision.
    """

    log_id: str
    seq: int
    leaf: str
    artifact_id: str
    max_uses: int | None
    above: tuple[tuple[str, int | None], ...]
    request_id: str
    on_trust_loss: str


def verify_release(
    *,
    receipt: bytes,
    artifact: bytes,
    execution: Execution,
    here: Here,
    salt: bytes,
    tokens: Sequence[str] = (),
) -> VerifiedRelease:
    """Verifies that exactly this execution was decided, recorded and sealed for release, here and now.

    1. The receipt verifies: signatures, inclusion, batch rule, approved platform state.
    2. It is for a `decision.allow` of this host with its present keys, of this boot, by the version of `mesh.json` that is in
        force, and not older than 60 s.
    3. The artifact is the one that the leaf names, and enough authorities in force signed it, or its first link, and
       delegates each further one.
    4. It is in force: nothing it is about is revoked, governance is what it asks for, it is valid now, each of its
       links follows from the one above, the policy permits it, and none forbids it.
    5. The state that the receipt shows is approved now, by the very platform policy that the artifact names; the
       host is as strong, as many others vouch for it, and as many witnesses cosigned the checkpoint, as that policy, the
       artifact and `mesh.json` ask.
    6. What is about to run lies within the artifact.
    7. What is about to run is, member by member, what the leaf says, and so is the artifact; and each verifier that the
       leaf says was counted was counted here too.

    It does not check that the receipt was not used before, nor `max_uses`: that takes the runner's own durable record.
    It cannot check the leaf's `checks`, `governance` and `parent`: they are the agent's word.

    Args:
        receipt: `.tlog-proof` bytes, from the agent.
        artifact: `.auth.json` bytes, from the agent.
        execution: What the runner observed from descriptors and kernel credentials.
        here: What the runner knows of itself.
        salt: For the digests of what is secret, from the agent: another one gives other digests than the leaf's.
        tokens: Attestation results, from the agent: those that do not verify, or are not about the state that the receipt
            shows, count for nothing.

    Raises:
        Denied: One of the above does not hold.
    """
    verified, sealed_in = _receipt(receipt, here.trust)  # 1, 2
    _require_here_and_now(verified, here)  # 2
    body, host = verified.entry.body, verified.host  # the present record: `_require_here_and_now`
    untrusted = _artifact(artifact, body)  # 3
    authorized, rule = verify_authorization(
        untrusted, trust=here.trust, executable=execution.executable.path, uid=execution.uid
    )
    statement = authorized.statement
    platform, terms = _require_in_force(authorized, rule, execution, host, here)  # 4
    needed = required_quorums(statement, platform, here.trust.mesh)
    _require_approved(sealed_in, platform, body, here)  # 5
    require_strength(platform, host)
    counted = _require_affirmed(needed.verifiers, tokens, verified, platform, here)
    require_witnesses(needed.witnesses, _cosigned(verified, here.now))
    require_binding(statement, execution, host=here.host_id, labels=host.labels)  # 6
    require_unchangeable(execution, platform)
    require_scope(statement, execution, secrets=here.trust.authorities.secrets_of(execution.executable.path))
    expected = decided_body(
        execution,
        artifact=artifact,
        untrusted=untrusted,
        authority=rule.name,
        terms=terms,
        witness_quorum=needed.witnesses,
        code=None,
        isolation=here.isolation,
        concealment=Concealment(rule.secrets, salt),
    )
    _require_same(body, expected)  # 7
    _require_counted(body, counted)
    return VerifiedRelease(
        log_id=verified.at.log_id,
        seq=verified.entry.seq,
        leaf=verified.leaf,
        artifact_id=authorized.id,
        max_uses=statement.predicate.validity.max_uses,
        above=tuple((link.id, link.statement.predicate.validity.max_uses) for link in authorized.links[:-1]),
        request_id=_request_id(body),
        on_trust_loss=statement.predicate.enforcement.on_trust_loss,
    )


def _require_in_force(
    authorized: VerifiedArtifact,
    rule: AuthorityRule,
    execution: Execution,
    host: VerifiedHost,
    here: Here,
) -> tuple[PlatformPolicy, Mapping[str, Any]]:
    statement, trust = authorized.statement, here.trust
    require_not_revoked(authorized, execution, host=host.host, trust=trust)
    platform, _ = require_governance(statement, trust=trust, host=host.host, now=here.now, grace=here.grace)
    require_validity(statement, now=here.now, tolerance=CLOCK_TOLERANCE)
    require_chain(authorized, rule)
    terms = artifact_terms(statement, origin=authorized.links[0].statement, signers=authorized.key_ids)
    require_policy(
        statement,
        execution,
        terms=terms,
        policies=trust.policies,
        host=host,
        findings=(),  # step 5: the state is an approved one, in which nothing is found
        depth=len(authorized.links) - 1,
        now=here.now,
    )
    return platform, terms


def _receipt(data: bytes, trust: Trust) -> tuple[VerifiedReceipt, Approval]:
    try:
        verified = verify_receipt(parse_receipt(data), trust=trust)
    except (MalformedError, VerificationError) as error:
        raise _refused(Code.EVIDENCE_INVALID, str(error)) from error
    if verified.approval is None:
        found = verified.entry.type.value
        raise _refused(Code.EVIDENCE_INVALID, f"a receipt for decision.allow is needed, this is for {found}")
    return verified, verified.approval


def _require_here_and_now(verified: VerifiedReceipt, here: Here) -> None:
    entry, mesh = verified.entry, here.trust.mesh
    if verified.at.host != here.host_id:
        raise _refused(
            Code.IDENTITY_MISMATCH, f"the receipt is of host {verified.at.host}, this host is {here.host_id}"
        )
    if verified.host != here.trust.hosts.get(here.host_id):
        raise _refused(Code.IDENTITY_MISMATCH, "the receipt was sealed with keys that were replaced since")
    if entry.boot != here.boot:
        raise _refused(
            Code.IDENTITY_MISMATCH, f"the receipt is of boot {quote(entry.boot)}, this boot is {here.boot}"
        )
    if verified.mesh.version != mesh.version:
        # Of an earlier one the receipt verifies: with the keys of then, which may be anybody's by now.
        raise _refused(
            Code.GOVERNANCE_MISMATCH,
            f"the receipt is of a decision by version {verified.mesh.version} of mesh.json, version {mesh.version} is in"
            " force: try again",
        )
    age = here.now - parse_time(entry.time)
    if not -CLOCK_TOLERANCE <= age <= MAX_RECEIPT_AGE:
        raise _refused(
            Code.EVIDENCE_STALE,
            f"a receipt may be {MAX_RECEIPT_AGE.total_seconds():.0f} s old, this one is {age.total_seconds():.0f} s old",
        )


def _require_affirmed(
    quorum: int,
    tokens: Sequence[str],
    verified: VerifiedReceipt,
    platform: PlatformPolicy,
    here: Here,
) -> Sequence[AttestationResult]:
    if not quorum:
        return ()
    results, wrong = verify_tokens(tokens, host=verified.host, mesh=here.trust.mesh, now=here.now)
    vouched = vouched_for(
        results,
        host=verified.host.host,
        mesh=here.trust.mesh,
        platform=platform,
        state=QuotedState(verified.at.clock, verified.at.pcr_digest),
        now=here.now,
    )
    require_verifiers(quorum, vouched, wrong=wrong)
    return vouched.affirming


def _cosigned(verified: VerifiedReceipt, now: datetime) -> int:
    """How many witnesses cosigned; one whose clock says that it will, does not count."""
    latest = (now + WITNESS_TOLERANCE).timestamp()
    return sum(time <= latest for time in verified.witnesses.values())


def _artifact(data: bytes, body: Mapping[str, Any]) -> UntrustedArtifact:
    try:
        untrusted = parse_artifact(data)
    except MalformedError as error:
        raise _refused(Code.MALFORMED_AUTHORIZATION, str(error)) from error
    named = body.get("artifact")
    if not isinstance(named, dict) or named.get("id") != untrusted.id:
        raise _refused(Code.IDENTITY_MISMATCH, f"the receipt is for another artifact than {untrusted.id}")
    return untrusted


def _require_approved(
    sealed_in: Approval, platform: PlatformPolicy, body: Mapping[str, Any], here: Here
) -> None:
    # The receipt was verified against the policy that the leaf names, in the version of then: a leaf that names a
    # laxer policy than the artifact does must not pass, nor one in a state that is no longer approved.
    if body["platform"].get("name") != platform.name:
        raise _refused(
            Code.GOVERNANCE_MISMATCH,
            f"the artifact is for platform policy {platform.name!r}, the leaf for another",
        )
    epoch = here.trust.revocations.epoch
    if sealed_in.selection != platform.selection or not platform.approval_for(
        sealed_in.pcr_digest, epoch=epoch, at=here.now
    ):
        raise _refused(
            Code.ENVIRONMENT_UNTRUSTED,
            f"the platform state of the receipt is no longer approved (policy {platform.name!r} version"
            f" {platform.version}, epoch {epoch}){_until(platform, sealed_in)}",
        )


def _until(platform: PlatformPolicy, approval: Approval) -> str:
    window = platform.windows.get(approval.pcr_digest)
    return "" if window is None else f": it was until {format_time(window)}"


def _require_same(body: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for member, value in expected.items():
        # Compared as bytes: to Python 1 and True are the same.
        found, wanted = canonical(body.get(member, _ABSENT)), canonical(value)
        if found != wanted and (b'"salted"' in found or b'"salted"' in wanted):
            # One of the two may hold in plain what the other conceals, and this sentence goes into the log.
            raise _refused(
                Code.IDENTITY_MISMATCH,
                f"the receipt's {member}, with secrets, is not what the runner sees, or was salted with another salt",
            )
        if found != wanted:
            raise _refused(
                Code.IDENTITY_MISMATCH,
                f"the receipt says {member} {quote(found.decode())}, the runner sees {quote(wanted.decode())}",
            )


def _require_counted(body: Mapping[str, Any], counted: Sequence[AttestationResult]) -> None:
    # Not the other way round: what came in meanwhile, or was left out, makes nobody vouch who did not.
    named, known = body.get("verifiers"), [canonical(item) for item in verifiers_body(counted)]
    if not isinstance(named, list) or any(canonical(item) not in known for item in named):
        raise _refused(
            Code.IDENTITY_MISMATCH,
            f"the receipt says verifiers {quote(canonical(named).decode())}, the runner counts"
            f" {b', '.join(known).decode() or 'none'}",
        )


def _request_id(body: Mapping[str, Any]) -> str:
    request_id = body.get("id")
    if not isinstance(request_id, str) or not _REQUEST_ID.match(request_id):
        raise _refused(Code.EVIDENCE_INVALID, "the decision has no request id of 32 hex digits")
    return request_id


def _refused(code: Code, sentence: str) -> Denied:
    return Denied(
        code, f"the runner refuses: {sentence}", "see attestd why with the decision's id, and the agent's log"
    )
