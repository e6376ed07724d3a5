"""Attestation results for people."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from attestd.appraisal.claims import ResultClaims
from attestd.appraisal.result import read_claims
from attestd.cli.output import BAD, GOOD, text
from attestd.errors import MalformedError
from attestd.plain import counted
from attestd.strict import format_time

__all__ = ["result_facts", "result_json", "result_line", "token_facts"]


def result_facts(claims: ResultClaims) -> list[tuple[str, object]]:
    """What a result says, as rows."""
    said, status = claims.attestd, claims.submods.platform.status
    state, platform = said.state, said.platform
    pcrs = ", ".join(map(str, state.pcrs))
    rows: list[tuple[str, object]] = [
        ("verifier", f"{claims.iss}, {claims.verifier.build}"),
        ("says", text(status.value, GOOD if status == "affirming" else BAD)),
        ("host", claims.host),
        ("platform", f"{platform.name} version {platform.version}, governance version {said.governance}"),
        ("tier", f"{said.tier}, user space {said.userspace}"),
        ("state", f"PCRs {pcrs} ({state.bank}) hash to {state.pcr_digest}"),
        ("boot", f"reset count {state.reset_count}, restart count {state.restart_count}"),
        ("issued", _time(claims.iat)),
        ("holds until", _time(claims.exp)),
    ]
    if said.findings.count:
        more = said.findings.count - len(said.findings.first)
        words = [text(finding, BAD) for finding in said.findings.first]
        rows.append(("findings", [*words, text(f"and {more} more", BAD)] if more else words))
    return rows


def result_json(claims: ResultClaims) -> dict[str, Any]:
    """The same, as JSON members."""
    said, state = claims.attestd, claims.attestd.state
    return {
        "verifier": claims.iss,
        "status": claims.submods.platform.status.value,
        "host": claims.host,
        "platform": {
            "name": said.platform.name,
            "version": said.platform.version,
            "digest": said.platform.digest,
        },
        "governance": said.governance,
        "tier": said.tier,
        "userspace": said.userspace,
        "pcr_digest": state.pcr_digest,
        "reset_count": state.reset_count,
        "restart_count": state.restart_count,
        "findings": {"count": said.findings.count, "first": list(said.findings.first)},
        "issued": _time(claims.iat),
        "expires": _time(claims.exp),
    }


def result_line(body: Mapping[str, Any]) -> str:
    """What an `attestation` of a verifier says, in one line."""
    found = body.get("findings")
    findings = f", {counted(found, 'finding')}" if isinstance(found, int) and found else ""
    return f"verifier {body.get('verifier')} says {body.get('status')} of platform {body.get('platform')}{findings}"


def token_facts(token: object) -> list[tuple[str, object]]:
    """What a token in a log entry says, as rows; nothing of it is verified."""
    try:
        return result_facts(read_claims(str(token)))
    except MalformedError as error:
        return [("token", text(str(error), BAD))]


def _time(seconds: int) -> str:
    return format_time(datetime.fromtimestamp(seconds, UTC))
