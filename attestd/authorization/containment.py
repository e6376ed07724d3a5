"""Whether one statement is narrower than another: the rule for artifacts issued under an artifact (delegation).

`widenings` is the whole rule, one comparison a member. It must never miss a widening; where "narrower" is a matter of
taste (metadata that a policy may look at, keys that may delegate further) it asks for equality or a subset.
"""

from collections.abc import Iterator, Mapping

from attestd.authorization.pattern import contains, describe, quote
from attestd.authorization.statement import (
    Bindings,
    Env,
    Environment,
    Governance,
    Lineage,
    Predicate,
    Resource,
    Scope,
    Statement,
    Tool,
    Validity,
)
from attestd.plain import counted
from attestd.strict import parse_time

__all__ = ["widenings"]


def widenings(parent: Statement, child: Statement) -> list[str]:
    """Says where a child artifact allows more than its parent.

    Does not check that the child names the parent, nor who signed it.

    Returns:
        One sentence a widening, in the order of the statement's members; empty if the child is narrower or equal in
        every member and at least one link deeper.
    """
    return [
        *_subject(parent.subject, child.subject),
        *_scope(parent.predicate.scope, child.predicate.scope),
        *_bindings(parent.predicate.bindings, child.predicate.bindings),
        *_environment(parent.predicate.environment, child.predicate.environment),
        *_governance(parent.predicate.governance, child.predicate.governance),
        *_attribution(parent.predicate, child.predicate),
        *_validity(parent.predicate.validity, child.predicate.validity),
        *_lineage(parent.predicate.lineage, child.predicate.lineage),
        *_enforcement(parent.predicate, child.predicate),
        *_missing("secrets", set(child.predicate.secrets), set(parent.predicate.secrets)),
        *_tool(parent.predicate.tool, child.predicate.tool),
    ]


def _subject(parent: tuple[Resource, ...], child: tuple[Resource, ...]) -> Iterator[str]:
    # Equal, in order: the first is run by the second. Without the script, its interpreter would be the program.
    if len(parent) != len(child):
        yield f"subject: the parent has {counted(len(parent), 'file')}, the child {len(child)}"
    for index, (outer, inner) in enumerate(zip(parent, child, strict=False)):
        if outer != inner:
            yield f"subject[{index}]: expected the parent's {_file(outer)}, found {_file(inner)}"


def _scope(parent: Scope, child: Scope) -> Iterator[str]:
    if len(parent.argv) != len(child.argv):
        yield f"scope.argv: the parent has {counted(len(parent.argv), 'argument')}, the child {len(child.argv)}"
    for index, (outer, inner) in enumerate(zip(parent.argv, child.argv, strict=False)):
        if not contains(outer, inner):
            yield f"scope.argv[{index}]: the parent allows {describe(outer)}, the child {describe(inner)}"
    yield from _different("scope.cwd", parent.cwd, child.cwd)
    yield from _different("scope.uid", parent.uid, child.uid)
    yield from _env(parent.env, child.env)
    # More pins are narrower: the child must keep each of the parent's.
    yield from _missing(
        "scope.inputs", _files(parent.inputs), _files(child.inputs), absent="is not in the child"
    )


def _env(parent: Env, child: Env) -> Iterator[str]:
    yield from _missing("scope.env.pass", set(child.pass_), set(parent.pass_))
    yield from _kept("scope.env.set", parent.set, child.set)
    # A variable that the requester may choose, the child may choose instead.
    yield from _missing("scope.env.set", child.set.keys() - parent.set.keys(), set(parent.pass_))


def _bindings(parent: Bindings, child: Bindings) -> Iterator[str]:
    if parent.hosts and not child.hosts:
        yield "bindings.hosts: the parent names hosts, the child none"
    if parent.hosts:
        yield from _missing("bindings.hosts", set(child.hosts), set(parent.hosts))
    yield from _kept("bindings.host_labels", parent.host_labels, child.host_labels)
    uids = {f"uid {requester.uid}" for requester in parent.requesters}
    yield from _missing(
        "bindings.requesters", {f"uid {requester.uid}" for requester in child.requesters}, uids
    )


def _environment(parent: Environment, child: Environment) -> Iterator[str]:
    yield from _different("environment.platform", parent.platform, child.platform)
    yield from _above("environment.max_evidence_age_s", parent.max_evidence_age_s, child.max_evidence_age_s)
    yield from _below("environment.verifiers.quorum", parent.verifiers.quorum, child.verifiers.quorum)
    yield from _below("environment.witnesses.quorum", parent.witnesses.quorum, child.witnesses.quorum)


def _governance(parent: Governance, child: Governance) -> Iterator[str]:
    yield from _different("governance.policy", parent.policy, child.policy)
    if parent.policy_digest is not None:
        yield from _different("governance.policy_digest", parent.policy_digest, child.policy_digest)
    yield from _below("governance.min_version", parent.min_version, child.min_version)
    # A policy may permit by metadata: an entry of the child's own could open what is closed to the parent.
    yield from _kept("governance.metadata", parent.metadata, child.metadata)
    yield from _missing("governance.metadata", set(child.metadata), set(parent.metadata))


def _attribution(parent: Predicate, child: Predicate) -> Iterator[str]:
    # Who requests, who approves and why is the child's own story; for whom it is done is not.
    if parent.attribution.on_behalf_of is not None:
        yield from _different(
            "attribution.on_behalf_of", parent.attribution.on_behalf_of, child.attribution.on_behalf_of
        )


def _validity(parent: Validity, child: Validity) -> Iterator[str]:
    if parse_time(child.not_before) < parse_time(parent.not_before):
        yield f"validity.not_before: the parent's is {parent.not_before}, the child's {child.not_before}"
    if parse_time(child.not_after) > parse_time(parent.not_after):
        yield f"validity.not_after: the parent's is {parent.not_after}, the child's {child.not_after}"
    if parent.max_uses is not None and child.max_uses is None:
        yield f"validity.max_uses: the parent allows {parent.max_uses}, the child any number"
    if parent.max_uses is not None and child.max_uses is not None:
        yield from _above("validity.max_uses", parent.max_uses, child.max_uses)


def _lineage(parent: Lineage, child: Lineage) -> Iterator[str]:
    if child.max_depth >= parent.max_depth:
        yield (
            f"lineage.max_depth: {counted(parent.max_depth, 'link')} may follow the parent, so fewer than that the child, "
            f"found {child.max_depth}"
        )
    yield from _missing("lineage.delegate_to", set(child.delegate_to), set(parent.delegate_to))


def _enforcement(parent: Predicate, child: Predicate) -> Iterator[str]:
    outer, inner = parent.enforcement, child.enforcement
    if outer.on_trust_loss == "kill" and inner.on_trust_loss != "kill":
        yield "enforcement.on_trust_loss: the parent says kill, the child report"
    yield from _above("enforcement.recheck_interval_s", outer.recheck_interval_s, inner.recheck_interval_s)
    yield from _above("enforcement.mesh_grace_s", outer.mesh_grace_s, inner.mesh_grace_s)


def _tool(parent: Tool | None, child: Tool | None) -> Iterator[str]:
    if parent is None or child is None:
        if parent is not child:
            yield "tool: one of parent and child is for a tool call, the other is not"
        return
    yield from _different("tool.name", parent.name, child.name)
    if parent.arguments.keys() != child.arguments.keys():
        yield "tool.arguments: parent and child name different arguments"
    for name in sorted(parent.arguments.keys() & child.arguments.keys()):
        outer, inner = parent.arguments[name], child.arguments[name]
        if not contains(outer, inner):
            yield f"tool.arguments {quote(name)}: the parent allows {describe(outer)}, the child {describe(inner)}"


def _files(resources: tuple[Resource, ...]) -> set[str]:
    return {_file(resource) for resource in resources}


def _file(resource: Resource) -> str:
    return f"{quote(resource.name)} with sha256 {resource.digest.sha256}"


def _different(member: str, parent: str | int, child: str | int | None) -> Iterator[str]:
    if parent != child:
        yield f"{member}: expected the parent's {_show(parent)}, found {_show(child)}"


def _show(value: str | int | None) -> str:
    return quote(value) if isinstance(value, str) else str(value)


def _above(member: str, parent: int, child: int) -> Iterator[str]:
    if child > parent:
        yield f"{member}: expected at most the parent's {parent}, found {child}"


def _below(member: str, parent: int, child: int) -> Iterator[str]:
    if child < parent:
        yield f"{member}: expected at least the parent's {parent}, found {child}"


def _missing(
    member: str, wanted: set[str], there: set[str], absent: str = "is not in the parent"
) -> Iterator[str]:
    for entry in sorted(wanted - there):
        yield f"{member}: {entry} {absent}"


def _kept(member: str, parent: Mapping[str, str], child: Mapping[str, str]) -> Iterator[str]:
    for name, value in sorted(parent.items()):
        if child.get(name) != value:
            found = quote(child[name]) if name in child else "none"
            yield f"{member}: expected the parent's {name}={quote(value)}, found {found}"
