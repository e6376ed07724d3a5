"""What host and remote verifier say to each other: the challenge, and the evidence over it; strict and bounded."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec

from attestd.appraisal.challenge import CHALLENGE_PATTERN
from attestd.errors import MalformedError
from attestd.strict import (
    MAX_SAFE_INTEGER,
    Base64UrlBytes,
    HostId,
    PcrName,
    Sha256Hex,
    Strict,
    Utc,
    canonical,
    convert,
    encode_base64url,
    parse_json,
    parse_own_form,
)
from attestd.tcg.eventlog.parse import MAX_EVENTLOG_BYTES
from attestd.tcg.ima.replay import MAX_IMA_BYTES

__all__ = [
    "MAX_EVIDENCE_BYTES",
    "BootLogs",
    "EvidenceChallenge",
    "EvidenceIma",
    "EvidenceLog",
    "ImaOffset",
    "PlatformName",
    "UntrustedEvidence",
    "draft_evidence",
    "log_digest",
    "make_boot_logs",
    "parse_evidence",
    "parse_evidence_challenge",
    "require_own_logs",
]

MAX_CHALLENGE_BYTES: Final = 4096
_MAX_LINE: Final = 64 * 1024
_MAX_SMALL: Final = 4096
# Both logs in base64url, and room for all else.
MAX_EVIDENCE_BYTES: Final = 4 * -(-(MAX_EVENTLOG_BYTES + MAX_IMA_BYTES) // 3) + 1024 * 1024


def _base64url_of(size: int) -> int:
    return -(-4 * size // 3)


PlatformName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,63}\Z")]
_Challenge = Annotated[str, msgspec.Meta(pattern=CHALLENGE_PATTERN)]
_Small = Annotated[Base64UrlBytes, msgspec.Meta(max_length=_MAX_SMALL)]
_Log = Annotated[Base64UrlBytes, msgspec.Meta(max_length=_base64url_of(MAX_EVENTLOG_BYTES))]
_Offset = Annotated[int, msgspec.Meta(ge=0, le=MAX_SAFE_INTEGER)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class ImaOffset(Strict, frozen=True):
    """From where on a verifier wants the IMA list, if the TPM's counts are still these; else from its start."""

    reset_count: _Count
    restart_count: _Count
    offset: _Offset


class EvidenceChallenge(Strict, frozen=True):
    """A verifier's question.

    Attributes:
        challenge: What the quote is to be over (its bytes, decoded), with the host and the purpose `evidence`.
        expires: Until when.
        host: The host-id.
        platform: The platform policy whose PCRs are to be quoted.
        eventlog: The digest of the boot's logs that the verifier holds; null: it holds none.
        ima: Null: the IMA list from its start.
    """

    v: Literal[1]
    challenge: _Challenge
    expires: Utc
    host: HostId
    platform: PlatformName
    eventlog: Sha256Hex | None
    ima: ImaOffset | None


class BootLogs(Strict, frozen=True):
    """A boot's logs.

    Attributes:
        firmware: The event log; `userspace` is systemd's, empty where there is none.
        command_line: What the kernel says; events are recognised by it, and it is believed in nothing else.
    """

    firmware: _Log
    userspace: _Log
    command_line: Annotated[str, msgspec.Meta(max_length=_MAX_LINE)]


class EvidenceLog(Strict, frozen=True):
    """A boot's logs, whole, or by a digest that the verifier named."""

    sha256: Sha256Hex
    log: BootLogs | None


class EvidenceIma(Strict, frozen=True):
    """The IMA list from an offset on."""

    offset: _Offset
    entries: Annotated[Base64UrlBytes, msgspec.Meta(max_length=_base64url_of(MAX_IMA_BYTES))]


class EvidencePcrs(Strict, frozen=True):
    """Quoted values, by PCR, of the one bank that there is."""

    sha256: Annotated[dict[PcrName, Sha256Hex], msgspec.Meta(min_length=1)]


class UntrustedEvidence(Strict, frozen=True):
    """The document's exact shape. Nothing in it is verified.

    Attributes:
        host: The host-id.
        platform: The platform policy whose PCRs are quoted.
        challenge: The verifier's, as it was.
        quote, signature: TPMS_ATTEST, TPMT_SIGNATURE.
        pcrs: The values that were quoted.
        eventlog: Null where the policy has no boot rules.
        ima: Null where the policy has no IMA policy.
        agent: The agent's version: for people.
    """

    v: Literal[1]
    host: HostId
    platform: PlatformName
    challenge: _Challenge
    quote: _Small
    signature: _Small
    pcrs: EvidencePcrs
    eventlog: EvidenceLog | None
    ima: EvidenceIma | None
    agent: Annotated[str, msgspec.Meta(pattern=r"\A[\x20-\x7e]{1,64}\Z")]


def parse_evidence(data: bytes) -> UntrustedEvidence:
    """Parses evidence.

    Raises:
        MalformedError: Over the limits, not that document, or its logs are not those of the digest that stands beside them.
    """
    what = "evidence"
    evidence = parse_own_form(data, UntrustedEvidence, max_bytes=MAX_EVIDENCE_BYTES)
    if evidence is None:
        value = parse_json(data, max_bytes=MAX_EVIDENCE_BYTES, what=what)
        evidence = convert(value, UntrustedEvidence, what=what)
    require_own_logs(evidence)
    return evidence


def require_own_logs(evidence: UntrustedEvidence) -> None:
    """Checks what the shape of evidence does not say of its boot logs.

    Raises:
        MalformedError: They are over the limits, or not those of the digest that stands beside them.
    """
    log = evidence.eventlog
    if log is None or log.log is None:
        return
    _require_size(log.log)
    found = log_digest(log.log)
    if found != log.sha256:
        raise MalformedError(f"evidence: the logs' digest is {found}, and {log.sha256} stands beside them")


def parse_evidence_challenge(data: bytes) -> EvidenceChallenge:
    """Parses a verifier's question.

    Raises:
        MalformedError: It is not of that form.
    """
    what = "challenge"
    return convert(parse_json(data, max_bytes=MAX_CHALLENGE_BYTES, what=what), EvidenceChallenge, what=what)


def make_boot_logs(*, firmware: bytes, userspace: bytes, command_line: str) -> BootLogs:
    """A boot's logs as evidence has them.

    Raises:
        MalformedError: Over the limits.
    """
    logs = BootLogs(
        firmware=encode_base64url(firmware), userspace=encode_base64url(userspace), command_line=command_line
    )
    _require_size(logs)
    return logs


def log_digest(logs: BootLogs) -> str:
    """What names a boot's logs: SHA-256 of their canonical form, hex."""
    return hashlib.sha256(canonical(logs)).hexdigest()


def draft_evidence(
    challenge: EvidenceChallenge,
    *,
    attest: bytes,
    signature: bytes,
    values: Mapping[int, bytes],
    logs: BootLogs | None,
    ima: tuple[int, bytes] | None,
    agent: str,
) -> bytes:
    """Writes evidence; logs that the verifier holds go by their digest.

    Args:
        challenge: The verifier's question.
        attest: TPMS_ATTEST over the challenge's bytes.
        signature: TPMT_SIGNATURE.
        values: The values that were quoted, of the SHA-256 bank.
        logs: The boot's logs; None: not asked for.
        ima: An offset, and the IMA list from there on; None: not asked for.
        agent: The agent's version.

    Returns:
        The document, canonical.

    Raises:
        MalformedError: What it is made of is over the limits.
    """
    eventlog = None
    if logs is not None:
        digest = log_digest(logs)
        eventlog = EvidenceLog(sha256=digest, log=None if digest == challenge.eventlog else logs)
    data = canonical(
        UntrustedEvidence(
            v=1,
            host=challenge.host,
            platform=challenge.platform,
            challenge=challenge.challenge,
            quote=encode_base64url(attest),
            signature=encode_base64url(signature),
            pcrs=EvidencePcrs(sha256={str(pcr): value.hex() for pcr, value in values.items()}),
            eventlog=eventlog,
            ima=None if ima is None else EvidenceIma(offset=ima[0], entries=encode_base64url(ima[1])),
            agent=agent,
        )
    )
    parse_evidence(
        data
    )  # A struct does not check itself, and no verifier would take what is over the limits.
    return data


def _require_size(logs: BootLogs) -> None:
    if len(logs.firmware) + len(logs.userspace) > _base64url_of(MAX_EVENTLOG_BYTES):
        raise MalformedError(f"evidence: event logs of over {MAX_EVENTLOG_BYTES} bytes")
    if len(logs.command_line) > _MAX_LINE:
        raise MalformedError(f"evidence: a command line of over {_MAX_LINE} characters")
