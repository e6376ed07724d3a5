"""The values that the decision takes and gives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import msgspec

from attestd.appraisal.quote import Appraisal
from attestd.appraisal.result import AttestationResult
from attestd.authorization.artifact import VerifiedArtifact
from attestd.codes import Denial
from attestd.gate.execution import Execution
from attestd.governance.platform import PlatformPolicy
from attestd.governance.trust import Trust
from attestd.lineage.entry import EntryType
from attestd.lineage.receipt import VerifiedReceipt

__all__ = ["CHECKS", "ENVIRONMENT", "Check", "Context", "Decision", "Outcome", "Request"]

CHECKS: Final = (
    "authorization_present",
    "authorization_form",
    "signatures",
    "revocation",
    "governance",
    "clock",
    "validity",
    "identity",
    "scope",
    "policy",
    "lineage",
    "evidence",
    "environment",
    "mesh",
    "conditions",
    "uses",
)
# Its number: what is found of the platform belongs to it.
ENVIRONMENT: Final = CHECKS.index("environment") + 1


class Outcome(StrEnum):
    """How a check ended."""

    VERIFIED = "verified"
    REJECTED = "rejected"
    NOT_EVALUATED = "not_evaluated"


class Check(msgspec.Struct, frozen=True, gc=False):  # each decision makes sixteen
    """One numbered check as recorded: its place in `CHECKS` plus one, how it ended, what it compared."""

    number: int
    name: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True)
class Request:
    """What is asked.

    Attributes:
        id: 32 hex digits, random, ours.
        salt: For the digests of what is secret; never in the log.
        artifact: The bytes of the artifact; None: none given or installed.
        execution: What would run, observed from descriptors and kernel credentials.
        observation: Why what would run could not be observed, if so: then `execution` stands for nothing.
        parent: The parent execution's receipt, verified; or the denial that its verification came to; None: no parent.
    """

    id: str
    salt: bytes = field(repr=False)
    artifact: bytes | None
    execution: Execution
    observation: Denial | None
    parent: VerifiedReceipt | Denial | None


@dataclass(frozen=True)
class Context:
    """What the decision is taken against; all of it values.

    Attributes:
        trust: Verified governance; or the denial that loading it came to.
        host: This host's id.
        isolation: `user` when the runner can become another user, else `none`.
        runner_uid: The user the runner runs as.
        now: Trusted time.
        grace: For how long governance metadata may be used after it expired.
        appraisals: By platform policy: the latest appraisal, or the denial that taking evidence came to.
        results: What remote verifiers say of this host; whether that still holds the decision looks itself.
        conditions: Operational trust conditions by name (`clock`, `log`, `tpm`, `runner`): None when it holds.
        uses: Uses already charged, by artifact id.
    """

    trust: Trust | Denial
    host: str
    isolation: str
    runner_uid: int
    now: datetime
    grace: timedelta
    appraisals: Mapping[str, Appraisal | Denial]
    results: Sequence[AttestationResult]
    conditions: Mapping[str, Denial | None]
    uses: Callable[[str], int]


@dataclass(frozen=True)
class Decision:
    """The outcome, every check, and what is sealed about it.

    Attributes:
        denial: None exactly when the execution is allowed.
        artifact: The verified artifact; set when allowed.
        platform: The platform policy it was decided under; set when check 5 held.
        body: The body of the log entry.
    """

    denial: Denial | None
    checks: tuple[Check, ...]
    artifact: VerifiedArtifact | None
    platform: PlatformPolicy | None
    body: Mapping[str, Any]

    @property
    def entry_type(self) -> EntryType:
        """The type of the log entry."""
        return EntryType.DECISION_ALLOW if self.denial is None else EntryType.DECISION_DENY
