"""Kept boots and present logs, as the agent gives them to the command line, and as that takes them again.

Operation `boots`: what there is. Operation `boot_log`: one log in parts, for a frame holds 2 MiB.
"""

from base64 import b64encode
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec

from attestd.agent.ask import AgentSocket
from attestd.agent.boots import Boots
from attestd.agent.measured_logs import BootReader, read_part
from attestd.errors import AgentError, MalformedError, StoreError, UsageError
from attestd.strict import (
    Base64Bytes,
    Sha256Hex,
    Strict,
    Utc,
    convert,
    decode_base64,
    format_time,
    parse_time,
)

__all__ = [
    "NOW",
    "KeptBoot",
    "PresentBoot",
    "describe_boots",
    "describe_logs",
    "fetch_boots",
    "fetch_log",
    "read_boot_log",
]

NOW: Final = "now"
LOGS: Final = ("eventlog", "userspace", "ima")
PART_BYTES: Final = 1 << 20
MAX_LOG_BYTES: Final = 128 << 20


class _Kept(Strict, frozen=True):
    digest: Sha256Hex
    command_line: str
    kernel: str
    bank: str
    pcrs: dict[str, str]
    approved: list[str]
    first_seen: Utc
    last_seen: Utc


class PresentBoot(Strict, frozen=True):
    """This boot.

    Attributes:
        digest: SHA-256 of its event log; None: there is none.
        ima: The file with the IMA list; None: there is none.
        problem: Why the event log cannot be read, if so.
    """

    digest: Sha256Hex | None
    command_line: str | None
    kernel: str | None
    ima: str | None
    problem: str | None


class _Told(Strict, frozen=True):
    boots: Annotated[list[_Kept], msgspec.Meta(max_length=64)]
    now: PresentBoot


class _Part(Strict, frozen=True):
    data: Base64Bytes
    more: bool


@dataclass(frozen=True)
class KeptBoot:
    """A boot that the agent keeps; its logs are fetched by its digest (`fetch_log`).

    Attributes:
        digest: SHA-256 of the event log.
        command_line, kernel: The kernel's, as it said.
        bank, pcrs: PCR values that were quoted: those of the approved state, if it was ever in one.
        approved: The platform policies that approved it.
    """

    digest: str
    command_line: str
    kernel: str
    bank: str
    pcrs: dict[int, bytes]
    approved: tuple[str, ...]
    first_seen: datetime
    last_seen: datetime


def describe_logs(boots: Boots, reader: BootReader) -> dict[str, Any]:
    """For `status`: which logs the agent reads, why it cannot, and how many boots it keeps."""
    problem, logs = None, None
    try:
        logs = reader.read()
        if reader.ima_list is not None:
            read_part(reader.ima_list, max_bytes=1)
    except (StoreError, MalformedError) as error:
        problem = str(error)
    return {
        "eventlog": logs.digest if logs else None,
        "ima_list": str(reader.ima_list) if reader.ima_list else None,
        "boots": len(boots.all()),
        "problem": problem,
    }


def describe_boots(boots: Boots, reader: BootReader) -> dict[str, Any]:
    """The answer to `boots`: the kept ones, that seen last first, and the present one."""
    problem, logs = None, None
    try:
        logs = reader.read()
    except (StoreError, MalformedError) as error:
        problem = str(error)
    return {
        "boots": [
            {
                "digest": boot.digest,
                "command_line": boot.command_line,
                "kernel": boot.kernel,
                "bank": boot.bank,
                "pcrs": {str(pcr): value.hex() for pcr, value in boot.pcrs.items()},
                "approved": list(boot.approved),
                "first_seen": format_time(boot.first_seen),
                "last_seen": format_time(boot.last_seen),
            }
            for boot in boots.all()
        ],
        "now": {
            "digest": logs.digest if logs else None,
            "command_line": logs.command_line if logs else None,
            "kernel": logs.kernel if logs else None,
            "ima": str(reader.ima_list) if reader.ima_list else None,
            "problem": problem,
        },
    }


def read_boot_log(name: str, log: str, offset: int, *, boots: Boots, reader: BootReader) -> dict[str, Any]:
    """The answer to `boot_log`: a part of one log.

    Args:
        name: A kept boot's digest, or `now`.
        log: `eventlog`, `userspace`, or of the present boot `ima`.
        offset: Where the part begins.
        boots: The kept boots.
        reader: Of the present logs.

    Raises:
        UsageError: There is no such boot or log.
        StoreError, MalformedError: It cannot be read.
    """
    if log not in LOGS:
        raise UsageError(f"there is no log {log!r}; there are: {', '.join(LOGS)}")
    if log == "ima":
        if name != NOW or reader.ima_list is None:
            raise UsageError(
                "there is an IMA list of the present boot alone, if one is configured (ima_list)"
            )
        return _part(read_part(reader.ima_list, max_bytes=PART_BYTES + 1, offset=offset))
    boot = reader.read() if name == NOW else boots.find(name)
    if boot is None:
        known = ", ".join(boot.digest for boot in boots.all())
        raise UsageError(
            f"there is no boot {name!r}; there are: {known or 'none, for no event log is configured'}"
        )
    data = boot.eventlog if log == "eventlog" else boot.userspace
    return _part(data[offset : offset + PART_BYTES + 1])


def _part(data: bytes) -> dict[str, Any]:
    return {"data": b64encode(data[:PART_BYTES]).decode(), "more": len(data) > PART_BYTES}


def fetch_boots(agent: AgentSocket) -> tuple[tuple[KeptBoot, ...], PresentBoot]:
    """Asks an agent for the boots that it keeps, that seen last first, and for the present one.

    Raises:
        AgentError, ForbiddenError, MalformedError: As `AgentSocket.ask`; the answer does not parse.
    """
    told = convert(agent.ask("boots"), _Told, what="the agent's boots")
    kept = tuple(
        KeptBoot(
            digest=boot.digest,
            command_line=boot.command_line,
            kernel=boot.kernel,
            bank=boot.bank,
            pcrs={int(pcr): bytes.fromhex(value) for pcr, value in boot.pcrs.items()},
            approved=tuple(boot.approved),
            first_seen=parse_time(boot.first_seen),
            last_seen=parse_time(boot.last_seen),
        )
        for boot in told.boots
    )
    return kept, told.now


def fetch_log(agent: AgentSocket, boot: str, log: str) -> bytes:
    """Asks an agent for one log.

    Args:
        agent: The agent.
        boot: A kept boot's digest, or `now`.
        log: `eventlog`, `userspace`, or of the present boot `ima`.

    Raises:
        UsageError: There is no such boot or log.
        AgentError, ForbiddenError, MalformedError: As `AgentSocket.ask`; it is over 128 MiB.
    """
    parts = bytearray()
    while True:
        answer = agent.ask("boot_log", boot=boot, log=log, offset=len(parts))
        part = convert(answer, _Part, what="the agent's log")
        parts += decode_base64(part.data, what="the agent's log")
        if not part.more:
            return bytes(parts)
        if len(parts) > MAX_LOG_BYTES:
            raise AgentError(f"the {log} log of boot {boot} is over {MAX_LOG_BYTES} bytes")
