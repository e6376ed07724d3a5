"""An authorization artifact for people, and as JSON."""

import json
from datetime import datetime, timedelta
from typing import Any

from rich.text import Text

from attestd.authorization.artifact import UntrustedArtifact
from attestd.authorization.pattern import describe
from attestd.authorization.statement import Predicate, Validity
from attestd.cli.output import BAD, GOOD, WARN, Output, text
from attestd.cli.params import user_name
from attestd.strict import parse_time

__all__ = ["artifact_json", "duration", "show_artifact", "validity_text"]


def artifact_json(artifact: UntrustedArtifact) -> dict[str, Any]:
    """The whole artifact: id, signers as the file claims them, the statement as signed."""
    return {
        "id": artifact.id,
        "signatures": [{"claims_key": entry.key_id} for entry in artifact.envelope.signatures],
        "statement": json.loads(artifact.envelope.payload),
    }


def show_artifact(output: Output, artifact: UntrustedArtifact, *, now: datetime) -> None:
    """Everything that an artifact says."""
    statement = artifact.statement
    predicate = statement.predicate
    output.title("Authorization")
    output.facts(
        [
            ("id", artifact.id),
            ("valid", validity_text(predicate.validity, now)),
            ("uses", "unlimited" if predicate.validity.max_uses is None else predicate.validity.max_uses),
            (
                "signatures claimed",
                [entry.key_id or "(no key named)" for entry in artifact.envelope.signatures],
            ),
        ]
    )
    output.title("What may run")
    output.facts([(item.name, f"sha256 {item.digest.sha256}") for item in statement.subject])
    output.facts([(f"argument {n}", describe(pattern)) for n, pattern in enumerate(predicate.scope.argv)])
    output.facts(_scope(predicate))
    output.title("Where, for whom, under what")
    output.facts(_conditions(predicate))


def _scope(predicate: Predicate) -> list[tuple[str, object]]:
    scope = predicate.scope
    return [
        ("directory", scope.cwd),
        ("runs as", _user(scope.uid)),
        ("variables set", [f"{name}={value}" for name, value in scope.env.set.items()] or "none"),
        ("variables passed", ", ".join(scope.env.pass_) or "none"),
        *((f"input {item.name}", f"sha256 {item.digest.sha256}") for item in scope.inputs),
        ("secrets", ", ".join(predicate.secrets) or None),
        ("tool", None if predicate.tool is None else predicate.tool.name),
    ]


def _conditions(predicate: Predicate) -> list[tuple[str, object]]:
    bindings, environment = predicate.bindings, predicate.environment
    governance, attribution = predicate.governance, predicate.attribution
    lineage, enforcement = predicate.lineage, predicate.enforcement
    return [
        ("hosts", list(bindings.hosts) or None),
        ("host labels", ", ".join(f"{name}={value}" for name, value in bindings.host_labels.items()) or None),
        ("requesters", ", ".join(_user(item.uid) for item in bindings.requesters)),
        ("platform", f"{environment.platform}, evidence at most {environment.max_evidence_age_s} s old"),
        ("quorums", f"{environment.verifiers.quorum} verifiers, {environment.witnesses.quorum} witnesses"),
        ("policy", f"{governance.policy}, governance version {governance.min_version} or later"),
        ("policy digest", governance.policy_digest),
        *((f"metadata {name}", value) for name, value in governance.metadata.items()),
        ("requested by", attribution.requested_by),
        ("on behalf of", attribution.on_behalf_of),
        ("approved by", ", ".join(attribution.approved_by) or None),
        ("reason", attribution.reason or None),
        (
            "when trust is lost",
            f"{enforcement.on_trust_loss}, looked at every {enforcement.recheck_interval_s} s",
        ),
        ("mesh may be away", f"{enforcement.mesh_grace_s} s"),
        ("parent", lineage.parent),
        ("may be delegated by", list(lineage.delegate_to) or "nobody"),
    ]


def validity_text(validity: Validity, now: datetime) -> Text:
    """From when to when, and what that means now."""
    start, end = parse_time(validity.not_before), parse_time(validity.not_after)
    if now >= end:
        state = text(f"expired {duration(now - end)} ago", BAD)
    elif now < start:
        state = text(f"not yet: from {duration(start - now)} on", WARN)
    else:
        state = text(f"{duration(end - now)} left", GOOD)
    return Text.assemble(text(f"{validity.not_before} to {validity.not_after}, "), state)


def duration(span: timedelta) -> str:
    """A span of time in its largest unit."""
    seconds = int(span.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _user(uid: int) -> str:
    name = user_name(uid)
    return f"{name} (uid {uid})" if name != str(uid) else f"uid {uid}"
