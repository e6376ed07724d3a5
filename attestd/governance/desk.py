"""What an operator and an enroller say to each other about hosts: the bodies of `/v1/hosts`, strict and bounded. Pure."""

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from attestd.errors import UsageError
from attestd.governance.host import MAX_HOST_RECORD_BYTES
from attestd.strict import Base64Bytes, HostId, Sha256Hex, Strict, canonical, convert, parse_json

__all__ = [
    "MAX_PAGE",
    "ApproveRequest",
    "Attested",
    "Decision",
    "ExpectRequest",
    "HostAnswer",
    "HostList",
    "HostQuery",
    "HostRow",
    "HostState",
    "RevokeRequest",
    "Verdict",
    "VerdictRequest",
    "Waiting",
    "find_waiting",
    "parse_host_answer",
    "parse_host_list",
    "parse_verdict",
]

# In one page of the list; each with as many labels as a record can have.
MAX_PAGE: Final = 500
MAX_LIST_BYTES: Final = 64 << 20
MAX_HOST_BYTES: Final = 4 << 20
MAX_REQUEST_BYTES: Final = 64 * 1024
_SHORTEST: Final = 8

_Label = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Attested(Strict, frozen=True):
    """What a verifier said of a host last: it held for some minutes then, and decides nothing now.

    Attributes:
        at: When.
        platform: Under which platform policy.
        status: `affirming` or `contraindicated`.
        findings: How many there were.
        reset_count, restart_count: The TPM's.
        agent: The agent's version, as it says itself.
    """

    at: str
    platform: str
    status: str
    findings: Annotated[int, msgspec.Meta(ge=0)]
    reset_count: Annotated[int, msgspec.Meta(ge=0)]
    restart_count: Annotated[int, msgspec.Meta(ge=0)]
    agent: str


class HostState(StrEnum):
    """What a row is about: a record that waits or was signed here, or the host as governance has it.

    `UNUSABLE`: governance names its record, which does not verify, or cannot be read now.
    """

    WAITING = "waiting"
    NOT_PUBLISHED = "not published"
    ENROLLED = "enrolled"
    ENDED = "ended"
    REVOKED = "revoked"
    UNUSABLE = "unusable"


class HostRow(Strict, frozen=True):
    """One line of the table: a record that waits, or the host as governance has it.

    Attributes:
        host: The host-id.
        state: What it is.
        tier: What its evidence is rooted in; empty: nobody knows.
        labels: Of its record.
        until: When its record ends; empty: it has none.
        words: What there is to decide, or to know.
        digest: Of the record that waits, or was signed here; null: governance has it.
        attested: What the verifier here said of it last; null: nothing, or there is none here.
    """

    host: HostId
    state: HostState
    tier: str
    labels: dict[str, str]
    until: str
    words: tuple[str, ...]
    digest: Sha256Hex | None
    attested: Attested | None


class Decision(Strict, frozen=True):
    """What an operator decided, and who that was."""

    host: HostId
    digest: str
    decision: str
    operator: str
    words: str
    at: str


class HostQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which hosts are asked for.

    Attributes:
        limit: How many are looked at.
        after: The host-id after which to begin: `next` of the page before; empty: at the beginning.
        state: Only rows of this state; null: all.
    """

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE
    after: Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")] = ""
    state: HostState | None = None


class HostList(Strict, frozen=True):
    """The answer to `GET /v1/hosts`: a page, in the order of host-ids.

    Attributes:
        hosts: What there is of the hosts that were looked at: of each one to three rows, or none.
        decisions: What was decided about those that are listed, in its order.
        next: After which host-id to go on; null: that was all.
    """

    hosts: tuple[HostRow, ...]
    decisions: tuple[Decision, ...]
    next: HostId | None


class Waiting(Strict, frozen=True):
    """A record that waits, exactly what is signed, and all that is said about it: what somebody sees before they approve it.

    Attributes:
        digest: SHA-256 of the record.
        record: Its bytes, base64.
        reasons: What there is to decide.
        at: Since when it waits.
        before: The Name of the attestation key that governance has for this host; null: none.
        labels_before: The labels that governance has for it.
        warnings: What its signature would do that is easily overlooked (`succession.warn_of_succession`).
    """

    digest: Sha256Hex
    record: Annotated[Base64Bytes, msgspec.Meta(max_length=4 * -(-MAX_HOST_RECORD_BYTES // 3))]
    reasons: tuple[str, ...]
    at: str
    before: str | None
    labels_before: dict[str, str]
    warnings: tuple[str, ...]

    @property
    def shown(self) -> str:
        """SHA-256 of all of it, in hex, over its RFC 8785 form: an approval says by this what was seen."""
        return hashlib.sha256(canonical(self)).hexdigest()


class HostAnswer(Strict, frozen=True):
    """The answer to `GET /v1/hosts/{host}`."""

    host: HostId
    rows: tuple[HostRow, ...]
    waiting: Waiting | None
    decisions: tuple[Decision, ...]


class ApproveRequest(Strict, frozen=True):
    """The body of `approve`: of a record of which this was seen (`Waiting.shown`), and nothing else was to be."""

    shown: Sha256Hex


class VerdictRequest(Strict, frozen=True):
    """The body of `refuse`: about which record, by its SHA-256, and no other."""

    digest: Sha256Hex


class ExpectRequest(Strict, frozen=True):
    """The body of `expect`: the labels that the host comes with."""

    labels: Annotated[dict[_Label, _Label], msgspec.Meta(max_length=64)]


class RevokeRequest(Strict, frozen=True):
    """The body of `revoke`: why, for those who read it later."""

    reason: Annotated[str, msgspec.Meta(max_length=1024)]


class Verdict(Strict, frozen=True):
    """The answer to a decision.

    Attributes:
        host: About whom.
        decision: What is recorded now.
        digest: About which record; empty: about none.
        fresh: Whether it was not so before.
        governance: Whether governance has revoked the host as well; false also where there is none to be read.
    """

    host: HostId
    decision: str
    digest: str
    fresh: bool
    governance: bool


def parse_host_list(data: bytes) -> HostList:
    """Reads the answer to `GET /v1/hosts`.

    Raises:
        MalformedError: It is not of that form.
    """
    return convert(parse_json(data, max_bytes=MAX_LIST_BYTES, what="hosts"), HostList, what="hosts")


def parse_host_answer(data: bytes) -> HostAnswer:
    """Reads the answer to `GET /v1/hosts/{host}`.

    Raises:
        MalformedError: It is not of that form.
    """
    return convert(parse_json(data, max_bytes=MAX_HOST_BYTES, what="host"), HostAnswer, what="host")


def parse_verdict(data: bytes) -> Verdict:
    """Reads the answer to a decision.

    Raises:
        MalformedError: It is not of that form.
    """
    return convert(parse_json(data, max_bytes=MAX_REQUEST_BYTES, what="decision"), Verdict, what="decision")


def find_waiting(rows: Sequence[HostRow], name: str) -> str:
    """The host whose record waits, by the beginning of its host-id or of the record's digest.

    Raises:
        UsageError: There is none, or several.
    """
    waiting = [row for row in rows if row.state is HostState.WAITING]
    found = [
        row.host
        for row in waiting
        if len(name) >= _SHORTEST and (row.host.startswith(name) or (row.digest or "").startswith(name))
    ]
    if len(found) != 1:
        raise UsageError(
            f"{name[:64]!r}: expected the first {_SHORTEST} characters or more of the host-id, or of the digest, of one"
            f" record that waits; found {len(found)} of {len(waiting)}: attestd controller hosts"
        )
    return found[0]
