"""What a running agent's status tells a doctor: each thing that is wrong, with its remedy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from attestd.governance.host_records import record_name
from attestd.governance.trust import Trust
from attestd.plain import counted
from attestd.strict import parse_time

__all__ = ["COMPLIES_NOT", "Examined", "of_record", "of_status", "record_fault", "room"]

EXPIRES_SOON: Final = timedelta(days=30)
_MIB: Final = 1 << 20
_TOLD: Final = 8
# What status calls an approved state that rules find something in.
COMPLIES_NOT: Final = "approved, but does not comply"
_TRUST: Final = (
    "publish it again (attestd governance publish), or have it downloaded again (attestd governance update); if it is"
    " older than what was seen, find out who restored it"
)
_LOG: Final = "attestd audit verify says more; keep the directory as evidence before you change anything"


@dataclass(frozen=True)
class Examined:
    """One thing that was looked at.

    Attributes:
        area: Which.
        found: What was found, one sentence.
        remedy: What to do about it; None: it is healthy.
    """

    area: str
    found: str
    remedy: str | None = None


def of_status(status: Mapping[str, Any], *, now: datetime) -> Iterator[Examined]:
    """Everything that a status tells.

    Args:
        status: As the agent answered.
        now: What validity is compared with.
    """
    agent, clock = status["agent"], status["clock"]
    yield Examined("agent", f"version {agent['version']} answers, pid {agent['pid']}")
    yield _runner(status["runner"], agent)
    tpm = list(_tpm(status["tpm"]))
    yield from tpm
    yield from _governance(status["governance"], now)
    yield from _measured(status["platforms"], status["measured"], now)
    yield from map(_witness, status["witnesses"])
    yield from _updates(status["governance"], status["governance_update"], status["runner"])
    yield from _verifiers(status["verifiers"])
    yield from _epoch(status["tpm"], status["governance"], status["epoch"]["problem"])
    yield _log(status["log"])
    yield room(status["disk"]["free"], status["disk"]["reserve"])
    if clock["problem"]:
        yield Examined(
            "clock", clock["problem"], "set the clock; if the jump is real: attestd doctor --accept-clock"
        )
    else:
        yield Examined("clock", f"trusted, {clock['trusted']}")
    # What denies everything, unless its cause has been told above.
    told = {"clock", "runner", "log"} | {"tpm" for item in tpm if item.remedy}
    for name, problem in status["conditions"].items():
        if problem and name not in told:
            yield Examined(name, f"{problem['code']}: {problem['sentence']}", problem["hint"])


def record_fault(trust: Trust, host: str) -> dict[str, Any] | None:
    """Why the record that governance names of this host is not usable; None: it is, or governance names none.

    Returns:
        `reason`, and `refused`: whether it does not verify; otherwise it cannot be read now.
    """
    if trust.hosts.get(host) is not None or host not in trust.hosts:
        return None
    name = record_name(host)
    return {"reason": trust.unusable.get(name, "it was read just now"), "refused": trust.is_refused(name)}


def of_record(until: str | None, fault: Mapping[str, Any] | None, *, version: int, now: datetime) -> Examined:
    """What governance's record of this host comes to.

    Args:
        until: When it ends; None: there is none that is usable.
        fault: As `record_fault`.
        version: Of governance.
        now: What validity is compared with.
    """
    if fault is not None and fault["refused"]:
        return Examined(
            "governance",
            f"the record of this host is published, but does not verify: {fault['reason']}",
            "have those who enrol hosts now sign another one: docs/operations.md, Keys lost, stolen, replaced; an enroller's key"
            " that was revoked signed for other hosts as well",
        )
    if fault is not None:
        return Examined(
            "governance",
            f"the record of this host is published, but cannot be read here: {fault['reason']}",
            "have it downloaded again: attestd governance update; standalone: attestd governance publish",
        )
    if until is None:
        return Examined("governance", "has no record of this host", "enrol it again: attestd init")
    if parse_time(until) - now < EXPIRES_SOON:
        return Examined(
            "governance",
            f"this host is enrolled until {until} only",
            "enrol it again: docs/operations.md, New keys",
        )
    return Examined("governance", f"version {version}, enrolled until {until}")


def room(free: int, reserve: int) -> Examined:
    """Whether the log can grow.

    Args:
        free: Bytes that are free on its file system.
        reserve: Bytes below which decisions are denied.
    """
    found = f"{free / _MIB:.0f} MiB are free for the log, the reserve is {reserve / _MIB:.0f} MiB"
    if free >= reserve:
        return Examined("disk", found)
    return Examined(
        "disk",
        f"{found}: every decision is denied",
        "make room on that file system; attestd audit rotate closes the log, so that it can be moved elsewhere",
    )


def _runner(runner: Mapping[str, Any], agent: Mapping[str, Any]) -> Examined:
    if not runner:
        return Examined(
            "runner", "does not answer", "systemctl start attestd-runner, or start attestd serve again"
        )
    if runner["version"] != agent["version"]:
        return Examined(
            "runner",
            f"is of version {runner['version']}, the agent of {agent['version']}",
            "restart the runner when nothing runs under it",
        )
    return Examined("runner", f"answers, pid {runner['pid']}, isolation {runner['isolation']}")


def _tpm(tpm: Mapping[str, Any]) -> Iterator[Examined]:
    if "error" in tpm:
        yield Examined(
            "TPM", tpm["error"], "look at what else uses it (fuser /dev/tpmrm0), then restart the agent"
        )
        return
    if tpm["self_test"] is not None:
        yield Examined(
            "TPM self test",
            tpm["self_test"],
            "power-cycle the machine (a restart may not reset the TPM); if it fails again, replace the machine",
        )
    failures = f"{tpm['lockout_counter']} of {tpm['max_auth_fail']} failed authorizations"
    if tpm["in_lockout"]:
        yield Examined(
            "TPM lockout",
            f"in lockout: {failures}; every decision is denied",
            f"find out who guesses; then tpm2_dictionarylockout --clear-lockout, or wait: one failure is forgiven"
            f" every {tpm['lockout_interval_s']} s",
        )
    else:
        yield Examined("TPM", f"{tpm['manufacturer']} {tpm['vendor']}, {failures}")
    if not tpm["transient_free"]:
        yield Examined(
            "TPM objects",
            "no slot for an object is free",
            "flush what nobody uses: tpm2_flushcontext --transient-object; better, use /dev/tpmrm0",
        )
    if not tpm["sessions_free"]:
        yield Examined(
            "TPM sessions",
            "no slot for a session is free",
            "flush what nobody uses: tpm2_flushcontext --loaded-session; better, use /dev/tpmrm0",
        )
    if not tpm["nv_counters_free"]:
        yield Examined(
            "TPM NV",
            f"{tpm['nv_indices']} indices are defined, there is no room for another counter",
            "undefine what nobody uses: tpm2_getcap handles-nv-index, tpm2_nvundefine",
        )


def _epoch(tpm: Mapping[str, Any], governance: Mapping[str, Any], problem: str | None) -> Iterator[Examined]:
    """Approvals hold while their epoch is not below the TPM's, in hardware, and not below governance's, in software."""
    if "error" in tpm or "error" in governance:
        return
    held, said = tpm["epoch"], governance["epoch"]
    if held is None:
        yield Examined("epoch", "the TPM has no epoch: it releases nothing", "make new keys: attestd rekey")
    elif problem is not None or held != max(said, 1):
        yield Examined(
            "epoch",
            f"the TPM is at epoch {held}, governance at {said}" + (f": {problem}" if problem else ""),
            "docs/operations.md, The TPM does not follow the epoch, says what to do in each case",
        )
    else:
        yield Examined("epoch", f"{held}, in the TPM and in governance")


def _governance(governance: Mapping[str, Any], now: datetime) -> Iterator[Examined]:
    if "error" in governance:
        yield Examined("governance", governance["error"], _TRUST)
        return
    until = governance["host_record_until"]
    yield of_record(until, governance["host_record_fault"], version=governance["version"], now=now)
    for name, reason in governance["unusable"].items():
        yield Examined(
            "governance", f"{name} is published, but left out: {reason}", "publish a good version of it"
        )
    if governance["unusable_more"]:
        yield Examined(
            "governance",
            f"{counted(governance['unusable_more'], 'more file')} published, but left out",
            "publish good versions of the others first",
        )
    yield _freshness(governance, now)
    for name, until in governance["platforms_until"].items():
        if parse_time(until) - now < EXPIRES_SOON:
            yield Examined(
                "governance",
                f"platform policy {name} is valid until {until} only",
                "approve the state anew: attestd platform approve",
            )


def _measured(platforms: Mapping[str, Any], measured: Mapping[str, Any], now: datetime) -> Iterator[Examined]:
    """Whether an approved state also complies with rules, how long it is approved, and whether logs can be read."""
    for name, found in platforms.items():
        if found["state"] == COMPLIES_NOT:
            yield Examined(
                f"platform {name}, rules",
                "; ".join(found["findings"][:_TOLD]),
                "find out what it is; where it is good, an authority changes the boot rules or the IMA policy",
            )
        until = found.get("until")
        if until is not None and now < parse_time(until) < now + EXPIRES_SOON:
            yield Examined(
                f"platform {name}",
                f"this state is approved until {until} only",
                "when it is to stay: attestd platform approve",
            )
    if measured["problem"] is not None:
        yield Examined(
            "logs",
            measured["problem"],
            "docs/operations.md, Measured boot, says who may read them; without them rules deny, and no change is explained",
        )
    elif measured["eventlog"] is not None:
        ima = f"; IMA list {measured['ima_list']}" if measured["ima_list"] else ""
        yield Examined(
            "logs", f"the event log is readable, of {counted(measured['boots'], 'boot')} it is kept{ima}"
        )


def _witness(witness: Mapping[str, Any]) -> Examined:
    area, found = (
        f"witness {witness['node']}",
        f"has cosigned this log up to {counted(witness['cosigned'], 'entry')}",
    )
    if witness["forked"]:
        return Examined(
            area,
            f"refuses this log: {witness['problem']}",
            "keep the directory as evidence: docs/operations.md, A witness refuses this log",
        )
    if witness["rolled_back"]:
        return Examined(
            area,
            witness["problem"],
            "whoever runs it restores its newer database, or retires it; its cosignatures of then still count",
        )
    if witness["problem"]:
        return Examined(
            area,
            f"{found}, and does not go on: {witness['problem']}",
            "look at that controller; at its url and key in mesh.json, and controller_ca in the configuration",
        )
    return Examined(area, f"{found}, the last time {witness['at'] or 'before the agent started'}")


def _verifiers(verifiers: Sequence[Mapping[str, Any]]) -> Iterator[Examined]:
    for found in verifiers:
        area = f"verifier {found['name']}"
        against = {name: item for name, item in found["results"].items() if item["status"] != "affirming"}
        for name, item in against.items():
            yield Examined(
                area,
                f"says {item['status']} of platform {name}: {'; '.join(item['findings'][:_TOLD])}",
                "boot an approved state that complies with the rules, or have this one approved (attestd platform approve)",
            )
        if found["problem"]:
            yield Examined(
                area,
                f"{found['problem']}; the last answer was {found['answered'] or 'none yet'}",
                "look at that controller and the way to it; if it has moved: attestd governance mesh --url; a certificate that"
                " does not verify: controller_ca in the configuration",
            )
        elif found["results"] and not against:
            until = min(item["expires"] for item in found["results"].values())
            yield Examined(area, f"affirms this host until {until}")


def _freshness(governance: Mapping[str, Any], now: datetime) -> Examined:
    role, until = governance["expires_role"], governance["expires"]
    if now > parse_time(governance["usable_until"]):
        return Examined(
            "freshness",
            f"governance expired: role {role} at {until}: every decision is denied",
            "attestd governance update; if what is published is as old: attestd governance refresh, where it is signed",
        )
    if now > parse_time(until):
        return Examined(
            "freshness",
            f"governance expired: role {role} at {until}; it is used until {governance['usable_until']}",
            "attestd governance update; if what is published is as old: attestd governance refresh, where it is signed",
        )
    return Examined("freshness", f"governance is fresh until {until} (role {role})")


def _updates(
    governance: Mapping[str, Any], update: Mapping[str, Any], runner: Mapping[str, Any]
) -> Iterator[Examined]:
    if update["problem"]:
        yield Examined(
            "updates",
            f"governance cannot be updated from {update['url']}: {update['problem']}",
            "look at that server, and at governance_url and governance_ca in the configuration",
        )
    elif update["url"]:
        yield Examined("updates", f"governance from {update['url']}, looked for at {update['looked_at']}")
    seen = runner.get("governance")
    if not seen or "error" in governance:
        return
    if seen["problem"]:
        yield Examined("runner's governance", seen["problem"], _TRUST)
    elif seen["version"] > governance["version"]:
        yield Examined(
            "runner's governance",
            f"the runner has seen version {seen['version']}, the agent goes by {governance['version']}",
            "attestd governance update",
        )


def _log(log: Mapping[str, Any]) -> Examined:
    verified = log["verified"]
    problem = log["fatal"] or verified.get("problem")
    if problem:
        return Examined("audit log", problem, _LOG)
    last = f"{counted(log['size'], 'entry')}, the last sealed {log['last_time']}"
    if not verified:
        return Examined("audit log", f"{last}, being verified")
    return Examined("audit log", f"{last}, verified up to entry {verified['size'] - 1} at {verified['time']}")
