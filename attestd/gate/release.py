"""What the runner believes: a receipt, an artifact, and what it sees itself. Nothing that the agent says."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from attestd.authorization.artifact import VerifiedArtifact, parse_artifact
from attestd.codes import Code, Denied
from attestd.errors import MalformedError, VerificationError
from attestd.gate.authority import verify_authorization
from attestd.gate.execution import Execution, execution_body, require_binding, require_scope
from attestd.governance.trust import Trust
from attestd.lineage.entry import EntryType
from attestd.lineage.receipt import VerifiedReceipt, parse_receipt, verify_receipt
from attestd.strict import parse_time

__all__ = ["MAX_RECEIPT_AGE", "VerifiedRelease", "verify_release"]

MAX_RECEIPT_AGE: Final = timedelta(seconds=60)
# The wall clock may lag behind the log's time by this much before a receipt seems to come from the future.
CLOCK_TOLERANCE: Final = timedelta(seconds=5)


@dataclass(frozen=True)
class VerifiedRelease:
    """An execution that may run, once: the runner records (log_id, seq) before it runs it.

    Attributes:
        leaf: The decision's id, hex.
        max_uses: The runner counts uses itself; None: unlimited.
        request_id: Joins start and exit to the decision.
    """

    log_id: str
    seq: int
    leaf: str
    artifact_id: str
    max_uses: int | None
    request_id: str
    on_trust_loss: str


def verify_release(
    *,
    receipt: bytes,
    artifact: bytes,
    execution: Execution,
    trust: Trust,
    host_id: str,
    boot: str,
    now: datetime,
    isolation: str,
) -> VerifiedRelease:
    """Verifies that exactly this execution was decided, recorded and sealed for release, here and now.

    1. The receipt verifies: signatures, inclusion, batch rule, approved platform state.
    2. It is for a `decision.allow` of this host, this boot, and not older than 60 s.
    3. The platform state it was sealed in is approved now, not only when the policy it names was written.
    4. The artifact is the one that the leaf names, and enough authorities in force signed it.
    5. Neither artifact, host, files nor requester is revoked, and the artifact is valid now.
    6. What is about to run lies within the artifact.
    7. What is about to run is, member by member, what the leaf says.

    It does not check that the receipt was not used before, nor `max_uses`: that takes the runner's own durable record.

    Args:
        receipt: `.tlog-proof` bytes, from the agent.
        artifact: `.auth.json` bytes, from the agent.
        execution: What the runner observed from descriptors and kernel credentials.
        trust: Loaded by the runner itself.
        host_id: Which host this is, pinned when it was initialised.
        boot: This boot's id.
        now: The wall clock.
        isolation: What this runner can do: `user` or `none`.

    Raises:
        Denied: One of the above does not hold.
    """
    verified = _receipt(receipt, trust)  # 1
    body = verified.entry.body
    _require_here_and_now(verified, host_id=host_id, boot=boot, now=now)  # 2
    _require_still_approved(verified, trust)  # 3
    authorized = _artifact(artifact, body, execution, trust)  # 4
    _require_in_force(authorized, execution, trust, host_id=host_id, now=now)  # 5
    require_binding(authorized.statement, execution, host=host_id, labels=trust.hosts[host_id].labels)  # 6
    require_scope(authorized.statement, execution)
    _require_same(body, execution, isolation)  # 7
    return VerifiedRelease(
        log_id=verified.at.log_id,
        seq=verified.entry.seq,
        leaf=verified.leaf,
        artifact_id=authorized.id,
        max_uses=authorized.statement.predicate.validity.max_uses,
        request_id=_text(body.get("id")),
        on_trust_loss=authorized.statement.predicate.enforcement.on_trust_loss,
    )


def _receipt(data: bytes, trust: Trust) -> VerifiedReceipt:
    try:
        return verify_receipt(parse_receipt(data), trust=trust)
    except (MalformedError, VerificationError) as error:
        raise _refused(Code.EVIDENCE_INVALID, str(error)) from error


def _require_here_and_now(verified: VerifiedReceipt, *, host_id: str, boot: str, now: datetime) -> None:
    entry = verified.entry
    if entry.type is not EntryType.DECISION_ALLOW:
        raise _refused(
            Code.EVIDENCE_INVALID, f"a receipt for decision.allow is needed, this is for {entry.type.value}"
        )
    if verified.at.host != host_id:
        raise _refused(
            Code.IDENTITY_MISMATCH, f"the receipt is of host {verified.at.host}, this host is {host_id}"
        )
    if entry.boot != boot:
        raise _refused(Code.IDENTITY_MISMATCH, f"the receipt is of boot {entry.boot}, this boot is {boot}")
    age = now - parse_time(entry.time)
    if not -CLOCK_TOLERANCE <= age <= MAX_RECEIPT_AGE:
        raise _refused(
            Code.EVIDENCE_STALE,
            f"a receipt may be {MAX_RECEIPT_AGE.total_seconds():.0f} s old, this one is {age.total_seconds():.0f} s old",
        )


def _require_still_approved(verified: VerifiedReceipt, trust: Trust) -> None:
    named = verified.entry.body.get("platform")
    current = trust.platforms.get(_text(named.get("name"))) if isinstance(named, dict) else None
    if current is None or verified.approval is None:
        raise _refused(
            Code.GOVERNANCE_MISMATCH, "the platform policy that the receipt names is no longer in force"
        )
    if current.approval_for(verified.approval.pcr_digest, epoch=trust.revocations.epoch) is None:
        raise _refused(
            Code.ENVIRONMENT_UNTRUSTED,
            f"the platform state of the receipt is no longer approved (policy {current.name!r} version"
            f" {current.version}, epoch {trust.revocations.epoch})",
        )


def _artifact(data: bytes, body: dict[str, Any], execution: Execution, trust: Trust) -> VerifiedArtifact:
    try:
        untrusted = parse_artifact(data)
    except MalformedError as error:
        raise _refused(Code.MALFORMED_AUTHORIZATION, str(error)) from error
    named = body.get("artifact")
    if not isinstance(named, dict) or named.get("id") != untrusted.id:
        raise _refused(Code.IDENTITY_MISMATCH, f"the receipt is for another artifact than {untrusted.id}")
    authorized, _ = verify_authorization(
        untrusted, trust=trust, executable=execution.executable.path, uid=execution.uid
    )
    return authorized


def _require_in_force(
    artifact: VerifiedArtifact, execution: Execution, trust: Trust, *, host_id: str, now: datetime
) -> None:
    revoked = trust.revocations
    files = (execution.executable, *execution.interpreters, *execution.inputs)
    if (
        artifact.id in revoked.artifacts
        or host_id in revoked.hosts
        or execution.requester_uid in revoked.requesters
        or any(item.sha256 in revoked.subjects for item in files)
    ):
        raise _refused(Code.REVOKED, "artifact, host, requester or a file is revoked")
    validity = artifact.statement.predicate.validity
    if now < parse_time(validity.not_before) - CLOCK_TOLERANCE:
        raise _refused(Code.NOT_YET_VALID, f"the artifact is valid from {validity.not_before}")
    if now >= parse_time(validity.not_after):
        raise _refused(Code.EXPIRED, f"the artifact was valid until {validity.not_after}")


def _require_same(body: dict[str, Any], execution: Execution, isolation: str) -> None:
    expected = {
        **execution_body(execution),
        "isolation": isolation,
        "requester": {"uid": execution.requester_uid},
    }
    for member, value in expected.items():
        if body.get(member) != value:
            raise _refused(
                Code.IDENTITY_MISMATCH,
                f"the receipt says {member} {body.get(member)!r}, what is about to run has {value!r}",
            )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _refused(code: Code, sentence: str) -> Denied:
    return Denied(
        code, f"the runner refuses: {sentence}", "see attestd why with the decision's id, and the agent's log"
    )
