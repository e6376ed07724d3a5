"""`attestd status`."""

from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.text import Text

from attestd.agent.ask import AgentSocket
from attestd.cli.base import Command, json_option, state_dir_option
from attestd.cli.entry_view import user
from attestd.cli.output import BAD, DIM, GOOD, WARN, Output, mark, text
from attestd.plain import counted

__all__ = ["status_command"]


@click.command("status", cls=Command, example="attestd status\nattestd status --json")
@state_dir_option
@json_option
def status_command(*, state_dir: str | None, as_json: bool) -> None:
    """Show agent, platform state, TPM and log.

    Exit status 69: no agent answers.
    """
    status = AgentSocket.find(state_dir).ask("status")
    output = Output(as_json=as_json)
    if as_json:
        output.json(status)
        return
    _show_agent(output, status)
    _show_platform(output, status)
    _show_witnesses(output, status["witnesses"])
    _show_verifiers(output, status["verifiers"])
    _show_tpm(output, status["tpm"], status["governance"].get("epoch"))
    _show_log(output, status["log"], status["disk"])


def _show_agent(output: Output, status: Mapping[str, Any]) -> None:
    agent, runner, clock = status["agent"], status["runner"], status["clock"]
    output.title("Agent")
    output.facts(
        [
            ("host", agent["host"]),
            ("agent", f"version {agent['version']}, pid {agent['pid']}, user {user(agent['uid'])}"),
            (
                "runner",
                f"version {runner['version']}, pid {runner['pid']}, user {user(runner['uid'])}, isolation"
                f" {runner['isolation']}, {runner['running']} running"
                if runner
                else text("does not answer", BAD),
            ),
            ("released", f"{agent['releases']} since the agent started"),
            ("trusted time", clock["trusted"] if not clock["problem"] else text(clock["problem"], BAD)),
            *((name, _condition(found)) for name, found in status["conditions"].items() if found),
        ]
    )


def _condition(found: Mapping[str, Any]) -> Text:
    return text(f"{found['code']}: {found['sentence']} ({found['hint']})", BAD)


def _show_platform(output: Output, status: Mapping[str, Any]) -> None:
    governance = status["governance"]
    output.title("Governance and platform")
    if "error" in governance:
        output.facts([("trust", text(governance["error"], BAD))])
        return
    output.facts(
        [
            ("governance", f"version {governance['version']}, epoch {governance['epoch']}"),
            ("revoked", _revoked(governance["revoked"])),
            ("digest", governance["digest"]),
            ("fresh until", _fresh(governance)),
            *((name, text(f"left out: {reason}", BAD)) for name, reason in governance["unusable"].items()),
            *([("and", text(f"{more} more left out", BAD))] if (more := governance["unusable_more"]) else []),
            *_updates(status["governance_update"]),
            ("tier", f"{governance['tier']}, user space {governance['userspace']}"),
            ("enrolled until", _enrolled(governance)),
            ("AK certificates", governance["ak_certificates"]),
        ]
    )
    if status["measured"]["problem"]:
        output.facts([("logs", text(status["measured"]["problem"], BAD))])
    for name, version in governance["platforms"].items():
        output.facts([(f"platform {name}", _platform(version, status["platforms"].get(name)))])


def _enrolled(governance: Mapping[str, Any]) -> str | Text:
    fault = governance["host_record_fault"]
    if fault is not None:
        return text(
            f"its record {'does not verify' if fault['refused'] else 'cannot be read'}: {fault['reason']}",
            BAD,
        )
    return governance["host_record_until"] or text("governance has no record of it", BAD)


def _revoked(counts: Mapping[str, int]) -> str:
    found = [counted(count, member.removesuffix("s")) for member, count in counts.items() if count]
    return ", ".join(found) or "nothing"


def _fresh(governance: Mapping[str, Any]) -> str:
    issued = f", issued {governance['issued']}" if governance["issued"] else ""
    return f"{governance['expires']} (role {governance['expires_role']}){issued}"


def _updates(update: Mapping[str, Any]) -> list[tuple[str, Any]]:
    if not update["url"]:
        return []
    if update["problem"]:
        return [("updates", text(f"from {update['url']}: {update['problem']}", BAD))]
    return [("updates", f"from {update['url']}, looked for at {update['looked_at'] or 'no time yet'}")]


def _platform(version: object, found: Mapping[str, Any] | None) -> Text:
    if found is None:
        return text(f"version {version}: no evidence yet", WARN)
    approved = found["state"] == "approved"
    words = text(f" version {version}: {found['state']}", GOOD if approved else BAD)
    details = [text(finding, BAD) for finding in found["findings"]]
    at = text(f", measured {found['at']}" if "at" in found else "", DIM)
    until = text(f", approved until {found['until']}" if found.get("until") else "", WARN)
    looked = [
        f"{count} {what}"
        for what, count in (
            ("boot events", found.get("boot_events")),
            ("IMA entries", found.get("ima_entries")),
        )
        if count is not None
    ]
    rules = text(f", {', '.join(looked)} looked at" if looked else "", DIM)
    return text([Text.assemble(mark(approved), words, until, at, rules), *details])


def _show_witnesses(output: Output, witnesses: Sequence[Mapping[str, Any]]) -> None:
    if not witnesses:
        return
    output.title("Witnesses")
    for witness in witnesses:
        at = f", the last time {witness['at']}" if witness["at"] else ""
        words = [
            text(
                f"{witness['name']} at {witness['url']}: cosigned up to {counted(witness['cosigned'], 'entry')}{at}"
            )
        ]
        words += [text(witness["problem"], BAD)] if witness["problem"] else []
        output.facts([(witness["node"], text(words))])


def _show_verifiers(output: Output, verifiers: Sequence[Mapping[str, Any]]) -> None:
    if not verifiers:
        return
    output.title("Verifiers")
    output.facts([(found["name"], _verifier(found)) for found in verifiers])


def _verifier(found: Mapping[str, Any]) -> Text:
    lines = [
        Text.assemble(
            mark(result["status"] == "affirming"),
            text(f" platform {name}: {result['status']}", GOOD if result["status"] == "affirming" else BAD),
            text(f", until {result['expires']}", DIM),
        )
        for name, result in found["results"].items()
    ]
    if not lines:
        lines = [text("no result holds", BAD if found["problem"] else WARN)]
    where = text(f"{found['url']}, last answer {found['answered'] or 'none yet'}", DIM)
    problem = [text(found["problem"], BAD)] if found["problem"] else []
    findings = [text(words, BAD) for result in found["results"].values() for words in result["findings"]]
    return text([*lines, where, *problem, *findings])


def _show_tpm(output: Output, tpm: Mapping[str, Any], epoch: int | None) -> None:
    output.title("TPM")
    if "error" in tpm:
        output.facts([("TPM", text(tpm["error"], BAD))])
        return
    lockout = f"{tpm['lockout_counter']} of {tpm['max_auth_fail']} failures"
    output.facts(
        [
            ("made by", f"{tpm['manufacturer']} {tpm['vendor']}, firmware {tpm['firmware']}"),
            ("lockout", text(f"LOCKED OUT, {lockout}", BAD) if tpm["in_lockout"] else lockout),
            ("self test", text(tpm["self_test"], BAD) if tpm["self_test"] else "did not fail"),
            ("clock", f"{tpm['clock_ms']} ms, reset {tpm['reset_count']}, restart {tpm['restart_count']}"),
            ("free", f"{tpm['transient_free']} object slots, {tpm['sessions_free']} session slots"),
            ("epoch", _epoch(tpm["epoch"], epoch)),
            ("NV", f"{tpm['nv_indices']} indices, room for {tpm['nv_counters_free']} counters"),
        ]
    )


def _epoch(held: int | None, said: int | None) -> Text:
    if held is None:
        return text("none: it releases nothing", BAD)
    differs = said is not None and held != max(said, 1)
    return text(f"{held}, governance says {said}", BAD) if differs else text(str(held))


def _show_log(output: Output, log: Mapping[str, Any], disk: Mapping[str, int]) -> None:
    verified = log["verified"]
    if log["verifying"]:
        done, total = log["verifying"]
        state = text(f"being verified: {done} of {counted(total, 'entry')}", DIM)
    elif not verified:
        state = text("verification is under way", DIM)
    elif verified["problem"]:
        state = text(verified["problem"], BAD)
    else:
        state = text(f"verified up to entry {verified['size'] - 1}, {verified['time']}", GOOD)
    output.title("Audit log")
    output.facts(
        [
            ("origin", log["origin"]),
            ("file", log["path"]),
            ("entries", f"{log['size']}, the last of {log['last_time']}, mode {log['last_mode']}"),
            ("counter", f"{log['counter']} in the log, {log.get('tpm_counter') or 'unknown'} in the TPM"),
            ("room", _room(disk["free"], disk["reserve"])),
            ("soundness", state if not log["fatal"] else text(log["fatal"], BAD)),
        ]
    )


def _room(free: int, reserve: int) -> Text:
    words = f"{free >> 20} MiB free, reserve {reserve >> 20} MiB"
    return text(words) if free >= reserve else text(f"{words}: every decision is denied", BAD)
