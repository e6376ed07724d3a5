"""What the command line asks a running agent: one JSON request, one JSON response."""

import asyncio
import contextlib
import hashlib
import itertools
import os
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

import attestd
from attestd.agent.boot_logs import describe_boots, describe_logs, read_boot_log
from attestd.agent.core import Core
from attestd.agent.findings import COMPLIES_NOT, record_fault
from attestd.agent.sealing import Receipt
from attestd.appraisal.quote import Appraisal
from attestd.audit.look_up import find_denied, find_void, requester_of
from attestd.audit.seal import Pending
from attestd.audit.store import LogStore
from attestd.codes import Denial
from attestd.errors import AttestdError, ForbiddenError, MalformedError, TpmError, UsageError
from attestd.governance.host_records import record_name
from attestd.governance.trust import REVOCABLE, Trust
from attestd.lineage.entry import EntryType, parse_entry, parse_entry_name
from attestd.plain import counted
from attestd.strict import decode_base64, format_time, parse_json
from attestd.tcg.algorithms import HASH_SIZES
from attestd.tcg.binding import Purpose, extra_data
from attestd.tpm.device import Tpm

__all__ = ["serve_operation"]

MAX_REQUEST_BYTES: Final = 1 << 20
MAX_CHALLENGE_BYTES: Final = 1024
EXTENDABLE: Final = range(24)
_TOLD: Final = 64  # files that are not usable
_LAST: Final = datetime.max.replace(tzinfo=UTC)

_Operation = Callable[[Core, int, dict[str, Any]], Awaitable[dict[str, Any]]]


async def serve_operation(payload: bytes, uid: int, core: Core) -> dict[str, Any]:
    """Runs one operation.

    Args:
        payload: The JSON request: `{"op": NAME, ...}`.
        uid: Who asks, from the kernel.
        core: The agent.

    Returns:
        `{"ok": {...}}`, or `{"error": {"kind", "message"}}`: kind is `usage`, `malformed`, `forbidden`, `failed`.
    """
    try:
        request = parse_json(payload, max_bytes=MAX_REQUEST_BYTES, what="request")
        operation = _OPERATIONS.get(str(request.get("op"))) if isinstance(request, dict) else None
        if operation is None:
            return _error("usage", f"unknown operation; known: {', '.join(sorted(_OPERATIONS))}")
        return {"ok": await operation(core, uid, request)}
    except ForbiddenError as error:
        return _error("forbidden", str(error))
    except UsageError as error:
        return _error("usage", str(error))
    except MalformedError as error:
        return _error("malformed", str(error))
    except AttestdError as error:
        return _error("failed", str(error))


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message}}


def _require_admin(uid: int, what: str) -> None:
    if uid not in (0, os.geteuid()):
        raise ForbiddenError(f"{what}: only root and the agent's own user may (uid {uid} asked)")


def _text(request: dict[str, Any], name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise UsageError(f"{name!r} is needed, as text")
    return value


def _epoch(tpm: Tpm) -> int | None:
    """The TPM's epoch; None where its index is not defined, which the release key's policy takes for no approval."""
    try:
        return tpm.read_epoch()
    except TpmError:
        return None


async def _status(core: Core, uid: int, _: dict[str, Any]) -> dict[str, Any]:
    trust = core.trust()
    moment = core.clock.read()
    tpm_counter = None
    try:
        properties, tpm_counter, epoch = await asyncio.wrap_future(
            core.port.other(lambda tpm: (tpm.properties(), tpm.read_counter(), _epoch(tpm)))
        )
        tpm: dict[str, Any] = asdict(properties)
        tpm["epoch"] = epoch
        tpm["firmware"] = f"{properties.firmware:016x}"
        tpm["self_test"] = core.health.self_test_failure
    except AttestdError as error:
        tpm = {"error": str(error)}
    # After the TPM's counter: a batch is committed before it is counted, so the log is never behind.
    last = core.store.last_checkpoint()
    return {
        "agent": {
            "version": attestd.__version__,
            "pid": os.getpid(),
            "uid": os.geteuid(),
            "host": core.host,
            "boot": core.boot,
            "releases": core.releases,
            "asked_by": uid,
        },
        "runner": {} if core.runner_lost else core.runner_info,
        "tpm": tpm,
        "log": {
            "origin": core.store.origin,
            "size": core.store.size,
            "last_time": parse_entry(core.store.entry(core.store.size - 1)).time,
            "last_mode": last.mode.value if last else None,
            "counter": f"{last.counter:016x}" if last else None,
            "tpm_counter": None if tpm_counter is None else f"{tpm_counter:016x}",
            "fatal": str(core.seals.fatal) if core.seals.fatal else None,
            "verified": _verified(core),
            "verifying": core.verification.progress,
            "path": str(core.layout.log),
        },
        "governance": {"error": trust.sentence} if isinstance(trust, Denial) else _governance(trust, core),
        "governance_update": core.updater.describe(),
        "epoch": core.epoch.describe(),
        "verifiers": core.verifiers.describe(),
        "platforms": {name: _appraisal(found) for name, found in core.evidence.latest().items()},
        "witnesses": core.cosigning.describe(),
        "measured": describe_logs(core.boots, core.boot_reader),
        "disk": {"free": core.health.free(), "reserve": core.health.reserve},
        "clock": {
            "trusted": format_time(moment.now),
            "problem": moment.denial.sentence if moment.denial else None,
        },
        "conditions": {
            name: None
            if denial is None
            else {"code": denial.code, "sentence": denial.sentence, "hint": denial.hint}
            for name, denial in core.conditions().items()
        },
    }


def _verified(core: Core) -> dict[str, Any]:
    last = core.verification.last
    if last is None:
        return {}
    return {
        "size": last.size,
        "time": format_time(last.time),
        "full": last.full,
        "problem": last.problem,
    }


def _governance(trust: Trust, core: Core) -> dict[str, Any]:
    record, certificates = trust.hosts.get(core.host), core.layout.ak_certificates
    faults = trust.faults(core.host)
    faults.pop(record_name(core.host), None)
    return {
        "version": trust.version,
        "digest": trust.digest,
        "timestamp": trust.versions.timestamp,
        "issued": None if trust.issued is None else format_time(trust.issued),
        "expires": format_time(trust.expires),
        "expires_role": trust.expires_role,
        "usable_until": format_time(trust.expires + min(core.grace, _LAST - trust.expires)),
        "unusable": dict(itertools.islice(faults.items(), _TOLD)),
        "unusable_more": max(0, len(faults) - _TOLD),
        "epoch": trust.revocations.epoch,
        "revoked": {member: len(getattr(trust.revocations, member)) for member in REVOCABLE},
        "platforms": {name: policy.version for name, policy in trust.platforms.items()},
        "platforms_until": {
            name: format_time(policy.valid_until)
            for name, policy in trust.platforms.items()
            if policy.valid_until is not None
        },
        "tier": record.tier if record else None,
        "userspace": record.userspace if record else None,
        "host_record_until": format_time(record.not_after) if record else None,
        "host_record_fault": record_fault(trust, core.host),
        "ak_certificates": str(certificates) if certificates.exists() else None,
    }


def _appraisal(found: Appraisal | Denial) -> dict[str, Any]:
    if isinstance(found, Denial):
        return {"state": "no evidence", "findings": [found.sentence]}
    until = found.policy.windows.get(found.pcr_digest)
    approved = COMPLIES_NOT if found.all_findings else "approved"
    return {
        "state": "not approved" if found.approval is None else approved,
        "findings": list(found.all_findings),
        "pcr_digest": found.pcr_digest.hex(),
        "at": format_time(found.at),
        "until": None if until is None else format_time(until),
        "boot_events": found.boot.looked_at if found.boot else None,
        "ima_entries": found.ima.looked_at if found.ima else None,
    }


async def _decision(core: Core, uid: int, request: dict[str, Any]) -> dict[str, Any]:
    seq = await _wanted(core, uid, request)
    data = core.store.entry(seq)
    if requester_of(parse_entry(data)) != uid:
        _require_admin(uid, "entries of other users")
    void = None
    if parse_entry(data).type is EntryType.DECISION_ALLOW:
        async with core.slow.setdefault(uid, asyncio.Lock()):
            void = await asyncio.to_thread(_find_void, str(core.layout.log), seq)
    return {
        "seq": seq,
        "entry": data.decode("utf-8"),
        "receipt": core.store.receipt(seq).decode("utf-8"),
        "void": void,
    }


async def _wanted(core: Core, uid: int, request: dict[str, Any]) -> int:
    """The entry that is asked for; without an id, the last one that denied the user who asks something."""
    if "id" not in request:
        async with core.slow.setdefault(uid, asyncio.Lock()):
            return await asyncio.to_thread(_find_denied, str(core.layout.log), uid)
    wanted = _text(request, "id")
    name = parse_entry_name(wanted)
    if isinstance(name, int):
        seq: int | None = name
    else:
        async with core.slow.setdefault(uid, asyncio.Lock()):
            seq = await asyncio.to_thread(_find, str(core.layout.log), name)
    if seq is None or seq >= core.store.size:
        raise UsageError(
            f"there is no entry {wanted} in the log, which has {counted(core.store.size, 'entry')}, from 0 on"
        )
    return seq


def _find(log: str, leaf: bytes) -> int | None:
    """Reads all leaf hashes of the log: in a thread, by a connection of its own, so that nobody waits for it."""
    with contextlib.closing(LogStore.open(log, readonly=True)) as store:
        return store.find(leaf)


def _find_denied(log: str, uid: int) -> int:
    with contextlib.closing(LogStore.open(log, readonly=True)) as store:
        return find_denied(store, uid)


def _find_void(log: str, seq: int) -> str | None:
    with contextlib.closing(LogStore.open(log, readonly=True)) as store:
        return find_void(store, seq)


async def _quote(core: Core, _: int, request: dict[str, Any]) -> dict[str, Any]:
    challenge = decode_base64(_text(request, "challenge"), what="challenge")
    if not 1 <= len(challenge) <= MAX_CHALLENGE_BYTES:
        raise UsageError(f"the challenge must have 1 to {MAX_CHALLENGE_BYTES} bytes, it has {len(challenge)}")
    trust = core.trust()
    if isinstance(trust, Denial):
        raise UsageError(trust.sentence)
    name = _text(request, "platform") if "platform" in request else next(iter(trust.platforms))
    if name not in trust.platforms:
        raise UsageError(f"there is no platform policy {name!r}; there are: {', '.join(trust.platforms)}")
    selection = trust.platforms[name].selection
    bound = extra_data(Purpose.QUOTE, host_id=core.host, data=challenge)
    attest, signature, values = await asyncio.wrap_future(core.port.quote_values(selection, bound))
    return {
        "v": 1,
        "host": core.host,
        "challenge": b64encode(challenge).decode(),
        "attest": b64encode(attest).decode(),
        "signature": b64encode(signature).decode(),
        "pcrs": {selection.bank: {str(index): value.hex() for index, value in values.items()}},
    }


async def _extend(core: Core, uid: int, request: dict[str, Any]) -> dict[str, Any]:
    _require_admin(uid, "extending a PCR")
    pcr = request.get("pcr")
    if not isinstance(pcr, int) or isinstance(pcr, bool) or pcr not in EXTENDABLE:
        raise UsageError("a PCR index from 0 to 23 is needed")
    measured = decode_base64(_text(request, "data"), what="data")
    if len(measured) != HASH_SIZES["sha256"]:
        raise UsageError("a SHA-256 digest is needed")
    # Each bank gets the digest of its own length, derived from the measured one, as TPM2_PCR_Event would.
    digests = {
        bank: measured if bank == "sha256" else hashlib.new(bank, measured).digest() for bank in HASH_SIZES
    }
    await asyncio.wrap_future(core.port.other(lambda tpm: tpm.extend(pcr, digests)))
    return {"pcr": pcr, "sha256": measured.hex()}


async def _install(core: Core, uid: int, request: dict[str, Any]) -> dict[str, Any]:
    everyone = request.get("everyone") is True
    if everyone:
        _require_admin(uid, "installing for all users")
    data = _text(request, "artifact").encode("utf-8")
    return {"id": core.installed.install(data, uid=None if everyone else uid), "everyone": everyone}


async def _accept_clock(core: Core, uid: int, _: dict[str, Any]) -> dict[str, Any]:
    _require_admin(uid, "accepting the clock")
    accepted = core.clock.accept()
    receipt: Receipt = await core.seal(
        Pending(
            EntryType.ATTESTATION, {"what": "clock accepted", "by_uid": uid, "time": format_time(accepted)}
        )
    )
    return {"time": format_time(accepted), "seq": receipt.sealed.seq}


async def _update_governance(core: Core, uid: int, _: dict[str, Any]) -> dict[str, Any]:
    _require_admin(uid, "updating governance")
    return {**asdict(await core.update_governance()), "epoch": core.epoch.describe()}


async def _boots(core: Core, uid: int, _: dict[str, Any]) -> dict[str, Any]:
    _require_admin(uid, "what was measured")
    return describe_boots(core.boots, core.boot_reader)


async def _boot_log(core: Core, uid: int, request: dict[str, Any]) -> dict[str, Any]:
    _require_admin(uid, "what was measured")
    offset = request.get("offset", 0)
    if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
        raise UsageError("'offset': expected a number of bytes")
    boot, log = _text(request, "boot"), _text(request, "log")
    return await asyncio.to_thread(
        read_boot_log, boot, log, offset, boots=core.boots, reader=core.boot_reader
    )


_OPERATIONS: Final[dict[str, _Operation]] = {
    "accept_clock": _accept_clock,
    "boot_log": _boot_log,
    "boots": _boots,
    "decision": _decision,
    "extend": _extend,
    "install": _install,
    "quote": _quote,
    "status": _status,
    "update_governance": _update_governance,
}
