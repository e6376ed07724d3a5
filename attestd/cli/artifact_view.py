"""An authorization artifact for people, and as JSON."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from rich.text import Text

from attestd.authorization.artifact import Link, UntrustedArtifact
from attestd.authorization.pattern import describe
from attestd.authorization.statement import Predicate, Validity
from attestd.cli.output import BAD, GOOD, WARN, Output, text
from attestd.cli.params import user_name
from attestd.plain import counted
from attestd.strict import parse_time

__all__ = ["artifact_json", "chain_facts", "duration", "show_artifact", "validity_text"]


def artifact_json(artifact: UntrustedArtifact) -> dict[str, Any]:
    """The whole artifact: id, signers as the file claims them, the statement as signed; of a chain each link."""
    if len(artifact.links) == 1:
        return _link_json(artifact.last)
    links = [_link_json(link) for link in artifact.links]
    return {**links[-1], "chain": links, "chain_fault": artifact.fault}


def _link_json(link: Link) -> dict[str, Any]:
    return {
        "id": link.id,
        "signatures": [{"claims_key": entry.key_id} for entry in link.envelope.signatures],
        "statement": json.loads(link.envelope.payload),
    }


def show_artifact(output: Output, artifact: UntrustedArtifact, *, now: datetime) -> None:
    """Everything that an artifact says: it is what signers look at."""
    statement = artifact.statement
    predicate = statement.predicate
    output.title("Authorization")
    output.facts(
        [
            ("id", artifact.id),
            ("valid", validity_text(predicate.validity, now)),
            ("uses", "unlimited" if predicate.validity.max_uses is None else predicate.validity.max_uses),
            ("signatures claimed", _claimed(artifact.last) or "none"),
        ]
    )
    if len(artifact.links) > 1:
        output.title("Where it comes from, as the file says")
        output.facts(chain_facts(artifact, [_claimed(link) for link in artifact.links]))
        if artifact.fault is not None:
            output.line(text(f"  the chain does not hold: {artifact.fault}", BAD))
    output.title("What may run")
    output.facts([(item.name, f"sha256 {item.digest.sha256}") for item in statement.subject])
    output.facts(
        [(f"argument {n}", describe(pattern, whole=True)) for n, pattern in enumerate(predicate.scope.argv)]
    )
    output.facts(_scope(predicate))
    output.title("Where, for whom, under what")
    output.facts(_conditions(predicate))


def chain_facts(artifact: UntrustedArtifact, signers: Sequence[Sequence[str]]) -> list[tuple[str, object]]:
    """Who delegated to whom, in words, root first.

    Args:
        artifact: A chain.
        signers: By link, who signed it.
    """
    rows: list[tuple[str, object]] = []
    for number, (link, signed) in enumerate(zip(artifact.links, signers, strict=True), 1):
        by = ", ".join(signed) or "nobody"
        issued = "issued by authorities" if number == 1 else f"issued by delegates of link {number - 1}"
        lines = [link.id, f"{issued}: key {by}", _delegation(link)]
        if number > 1:
            lines += [f"narrower: {line}" for line in _narrowed(artifact.links[number - 2], link)]
        rows.append((f"link {number}", lines))
    return rows


def _delegation(link: Link) -> str:
    lineage = link.statement.predicate.lineage
    if not lineage.delegate_to:
        return "may not be delegated further"
    return f"delegates to key {', or '.join(lineage.delegate_to)}; {counted(lineage.max_depth, 'link')} may follow"


def _narrowed(above: Link, link: Link) -> Iterator[str]:
    """What one link says otherwise than the one above, but for what says who it is."""
    before, after = (dict(_members("", json.loads(item.envelope.payload))) for item in (above, link))
    for member in sorted(before.keys() | after.keys()):
        if before.get(member) != after.get(member) and not member.startswith(("attribution.", "lineage.")):
            yield f"{member}: {before.get(member, 'none')} -> {after.get(member, 'none')}"


def _members(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value and path.rpartition(".")[2] != "argv":
        for name, member in value.items():
            yield from _members(f"{path}.{name}" if path and path != "predicate" else name, member)
    elif path == "scope.argv":
        yield from ((f"argument {n}", json.dumps(pattern)) for n, pattern in enumerate(value))
    else:
        yield path, json.dumps(value)


def _claimed(link: Link) -> list[str]:
    return [entry.key_id or "(no key named)" for entry in link.envelope.signatures]


def _scope(predicate: Predicate) -> list[tuple[str, object]]:
    scope, tool = predicate.scope, predicate.tool
    return [
        ("directory", scope.cwd),
        ("runs as", _user(scope.uid)),
        ("variables set", [f"{name}={value}" for name, value in scope.env.set.items()] or "none"),
        ("variables passed", ", ".join(scope.env.pass_) or "none"),
        *((f"input {item.name}", f"sha256 {item.digest.sha256}") for item in scope.inputs),
        ("secrets", ", ".join(predicate.secrets) or None),
        ("tool", None if tool is None else tool.name),
        *(
            (f"tool argument {name}", describe(pattern, whole=True))
            for name, pattern in ({} if tool is None else tool.arguments).items()
        ),
    ]


def _conditions(predicate: Predicate) -> list[tuple[str, object]]:
    bindings, environment = predicate.bindings, predicate.environment
    governance, attribution = predicate.governance, predicate.attribution
    lineage, enforcement = predicate.lineage, predicate.enforcement
    return [
        ("hosts", list(bindings.hosts) or None),
        ("host labels", [f"{name}={value}" for name, value in bindings.host_labels.items()] or None),
        ("requesters", ", ".join(_user(item.uid) for item in bindings.requesters)),
        ("platform", f"{environment.platform}, evidence at most {environment.max_evidence_age_s} s old"),
        (
            "quorums",
            f"{counted(environment.verifiers.quorum, 'verifier')}, {counted(environment.witnesses.quorum, 'witness')}",
        ),
        ("policy", f"{governance.policy}, governance version {governance.min_version} or later"),
        ("policy digest", governance.policy_digest),
        *((f"metadata {name}", value) for name, value in governance.metadata.items()),
        ("requested by", attribution.requested_by),
        ("on behalf of", attribution.on_behalf_of),
        ("approved by", list(attribution.approved_by) or None),
        ("reason", attribution.reason or None),
        (
            "when trust is lost",
            f"{enforcement.on_trust_loss}, looked at every {enforcement.recheck_interval_s} s",
        ),
        ("mesh may be away", f"{enforcement.mesh_grace_s} s"),
        ("issued under", lineage.parent),
        ("may be delegated by", [f"key {key_id}" for key_id in lineage.delegate_to] or "nobody"),
        ("links that may follow", lineage.max_depth or None),
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
