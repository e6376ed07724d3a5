"""One Cedar policy file, parsed and checked against the schema: a typo is an error here, never a policy without effect.

Cedar's own validator decides about types. It lets pass what can never be true (an attribute that does not exist after
`has`, a group where a user is expected): it only warns, and the warning does not reach us. So each such expression is
put before the validator once more, in a form that is an error unless it can never be true.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final, TypeAlias

from cedarpy import PolicySet, Schema, policies_from_json_str, policies_to_json_str, validate_policies

from attestd.errors import MalformedError
from attestd.governance.policy_schema import SCHEMA
from attestd.governance.policy_text import Chunk, split_policies
from attestd.plain import counted

__all__ = ["Expression", "Policy", "expressions", "looks_at", "parse_policy_file", "policy_set", "schema"]

Expression: TypeAlias = Mapping[str, Any]

# What may be always false by its types alone. `!=` is looked at as `==`.
_SUSPECT: Final = frozenset({"has", "is", "in", "==", "!=", "hasTag"})
_POLICY_ID: Final = re.compile(r"\A[A-Za-z][A-Za-z0-9._-]{0,63}\Z")
_REASON: Final = re.compile(r"\A[ -~]{1,200}\Z")
_UID: Final = re.compile(r"\A(0|[1-9][0-9]{0,9})\Z")
_SHA256: Final = re.compile(r"\A[0-9a-f]{64}\Z")
_PARTS: Final = ("left", "right", "arg", "if", "then", "else", "in")
# Of the JSON form, in which an operator takes two or three. Cedar reads 128, and where its validator runs out of stack
# it finds no fault.
MAX_LEVELS: Final = 100
_TOO_DEEP: Final = "nested too deeply: use several when clauses or policies, or a set"
# Each is validated once more: this bounds what loading a file costs.
MAX_PROBES: Final = 4096
# A file is the same file in each version of governance in which it did not change.
_REMEMBERED: Final = 1024


@dataclass(frozen=True)
class Policy:
    """One policy.

    Attributes:
        id: `<file>#<@id annotation, or place in the file from 0>`.
        line: Where it begins in its file.
        forbid: Whether it is a `forbid`.
        reason: Its `@reason` annotation.
        form: Its JSON form, as Cedar gives it.
        attributes: The attributes of the context that it looks at: `tier`, `artifact.ttl_s`.
        named: The groups and publishers that it names, as (type, id).
        pattern_cost: How often, at worst, its `like` patterns look at each character of a text.
    """

    id: str
    line: int
    forbid: bool
    reason: str | None
    form: Mapping[str, Any]
    attributes: frozenset[str]
    named: frozenset[tuple[str, str]]
    pattern_cost: int

    @property
    def conditions(self) -> Sequence[Mapping[str, Any]]:
        """`when` and `unless`, in order."""
        conditions: Sequence[Mapping[str, Any]] = self.form["conditions"]
        return conditions


@cache
def schema() -> Schema:
    """The schema, parsed once a process."""
    return Schema.from_str(SCHEMA.decode())


@lru_cache(maxsize=_REMEMBERED)
def parse_policy_file(data: bytes, *, name: str, what: str) -> tuple[Policy, ...]:
    """Parses and validates one `.cedar` file.

    Args:
        data: The file.
        name: The file as policy ids name it: `exec`, `team/name`.
        what: The file as errors name it.

    Returns:
        Its policies, in order.

    Raises:
        MalformedError: It does not parse, is no valid policy under the schema, names an id that is none, holds a
            template, an annotation other than `@id` and `@reason`, an id twice, or an expression that can never be
            true. The message has the line.
    """
    chunks = split_policies(data, what=what)
    text = "\n".join(chunk.text for chunk in chunks)
    try:
        forms = json.loads(policies_to_json_str(text))
    except ValueError as error:
        line, reason = _first_unparsable(chunks, str(error))
        raise MalformedError(f"{what}: line {line}: {reason}") from error
    except RecursionError as error:
        raise MalformedError(f"{what}: {_TOO_DEEP}") from error
    ordered = [forms["staticPolicies"].get(f"policy{place}") for place in range(len(chunks))]
    if forms["templates"] or None in ordered or len(forms["staticPolicies"]) != len(chunks):
        raise MalformedError(
            f"{what}: expected {counted(len(chunks), 'policy')} without ?principal and ?resource"
        )
    for form, chunk in zip(ordered, chunks, strict=True):
        _require_shallow(form, f"{what}: line {chunk.line}")
    for problem in validate_policies(text, schema()).errors:
        line = chunks[int(problem.policy_id.removeprefix("policy"))].line
        message = re.sub(r"^(for policy `policy\d+`[,:]? )", "", problem.error)
        raise MalformedError(f"{what}: line {line}: {message[:400]}")
    _require_satisfiable(ordered, chunks, what)
    policies = tuple(
        _policy(form, place=place, line=chunk.line, name=name, what=what)
        for place, (form, chunk) in enumerate(zip(ordered, chunks, strict=True))
    )
    counts = Counter(policy.id for policy in policies)
    for policy in policies:
        if counts[policy.id] > 1:
            raise MalformedError(f"{what}: line {policy.line}: the id {policy.id!r} is used twice")
    return policies


def _first_unparsable(chunks: Sequence[Chunk], reason: str) -> tuple[int, str]:
    for chunk in chunks:
        try:
            PolicySet.from_str(chunk.text)
        except ValueError as error:
            return chunk.line, str(error)
    return chunks[0].line, reason


def _require_shallow(form: Mapping[str, Any], where: str) -> None:
    pending: list[tuple[Any, int]] = [(form, 1)]
    while pending:
        value, level = pending.pop()
        if level > MAX_LEVELS:
            raise MalformedError(f"{where}: {_TOO_DEEP}")
        if isinstance(value, dict | list):
            members = value.values() if isinstance(value, dict) else value
            pending += [(member, level + 1) for member in members]


def policy_set(policies: Iterable[tuple[str, Expression]]) -> str:
    """Policies by id in Cedar's JSON form of a set."""
    return json.dumps({"templates": {}, "templateLinks": [], "staticPolicies": dict(policies)})


def _policy(form: Mapping[str, Any], *, place: int, line: int, name: str, what: str) -> Policy:
    annotations = form.get("annotations", {})
    for unknown in annotations.keys() - {"id", "reason"}:
        raise MalformedError(f"{what}: line {line}: expected @id or @reason, found @{unknown}")
    own, reason = annotations.get("id", str(place)), annotations.get("reason")
    if "id" in annotations and not (own and _POLICY_ID.match(own)):
        raise MalformedError(
            f"{what}: line {line}: @id must begin with a letter and hold letters, digits, '.', '_' and '-', at most 64"
        )
    if "reason" in annotations and not (reason and _REASON.match(reason)):
        raise MalformedError(f"{what}: line {line}: @reason must be 1 to 200 characters of ASCII")
    found = [node for condition in form["conditions"] for node in expressions(condition["body"])]
    attributes = {looks_at(node.get(".") or node.get("has") or {}) for node in found}
    if "artifact" in attributes or {"Var": "context"} in found:
        raise MalformedError(
            f"{what}: line {line}: context or context.artifact as a whole: name the attribute that is meant"
        )
    named = {*_scope_entities(form), *(item for node in found for item in _values(node))}
    for kind, key in named:
        _require_id(kind, key, f"{what}: line {line}")
    return Policy(
        id=f"{name}#{own}",
        line=line,
        forbid=form["effect"] == "forbid",
        reason=reason,
        form=form,
        attributes=frozenset(attribute for attribute in attributes if attribute),
        named=frozenset((kind, key) for kind, key in named if kind in {"Group", "Publisher"}),
        pattern_cost=sum(_pattern_cost(node["like"]["pattern"]) for node in found if "like" in node),
    )


def _pattern_cost(pattern: Sequence[Any]) -> int:
    """The longest run of characters after a wildcard: the match is tried again from each character of the text."""
    longest = run = 0
    behind = False
    for item in pattern:
        behind = behind or item == "Wildcard"
        run = run + 1 if behind and item != "Wildcard" else 0
        longest = max(longest, run)
    return 1 + longest


def looks_at(access: Expression) -> str | None:
    """The attribute of the context that `context.x` or `context has x` looks at; None: another expression.

    Those of `context.artifact` are named one by one: `artifact.ttl_s`.
    """
    if access.get("left") == {"Var": "context"}:
        return str(access["attr"])
    is_artifact = access.get("left") == {".": {"left": {"Var": "context"}, "attr": "artifact"}}
    return f"artifact.{access['attr']}" if is_artifact else None


def expressions(body: Expression) -> Iterator[Expression]:
    """An expression and all that are within it, but for `context` of which an attribute is named."""
    pending = [body]
    while pending:  # not recursive: `a && b && c ...` is as deep as it is long
        node = pending.pop()
        yield node
        ((operator, operand),) = node.items()
        if operator in {"Value", "Var"}:
            continue
        if operator == "Set" or isinstance(operand, list):
            pending += operand
        elif operator == "Record":
            pending += operand.values()
        elif operator not in {".", "has"} or looks_at(operand) is None:
            pending += [operand[part] for part in _PARTS if part in operand]


def _values(node: Expression) -> Iterator[tuple[str, str]]:
    if "Value" in node and isinstance(node["Value"], dict) and "__entity" in node["Value"]:
        entity = node["Value"]["__entity"]
        yield entity["type"], entity["id"]


def _scope_entities(form: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for part in ("principal", "resource"):
        constraint = form[part]
        for entity in (constraint.get("entity"), constraint.get("in", {}).get("entity")):
            if entity is not None:
                yield entity["type"], entity["id"]


def _require_id(kind: str, key: str, where: str) -> None:
    if kind == "User" and not _UID.match(key):
        raise MalformedError(f'{where}: User::"{ascii(key)[1:-1]}": expected a uid in decimal')
    if kind == "Executable" and not _SHA256.match(key):
        raise MalformedError(f'{where}: Executable::"{ascii(key)[1:-1]}": expected SHA-256 in lower-case hex')


def _require_satisfiable(forms: Sequence[Mapping[str, Any]], chunks: Sequence[Chunk], what: str) -> None:
    probes: dict[str, tuple[int, Expression]] = {}
    for place, form in enumerate(forms):
        for condition in form["conditions"]:
            for node in expressions(condition["body"]):
                if _suspect(node):
                    probes[f"p{len(probes)}"] = (place, node)
    if not probes:
        return
    if len(probes) > MAX_PROBES:
        raise MalformedError(f"{what}: more than {MAX_PROBES} comparisons of this kind in one file: split it")
    forms_of_probes = [(key, _probe(forms[place], key, node)) for key, (place, node) in probes.items()]
    text = policies_from_json_str(policy_set(forms_of_probes))
    result = validate_policies(text, schema())
    possible = {result.id_annotations_by_policy_id.get(problem.policy_id) for problem in result.errors}
    for key, (place, node) in probes.items():
        if key not in possible:
            raise MalformedError(
                f"{what}: line {chunks[place].line}: this can never be true: {_words(node)}: no such attribute, or"
                " another type than is there"
            )


def _suspect(node: Expression) -> bool:
    (operator,) = node
    if operator in {"==", "!="}:
        # A text or number beside an attribute is of its type, or the validator has already said so.
        sides = (node[operator]["left"], node[operator]["right"])
        return not any(isinstance(side.get("Value"), str | int) for side in sides) or all(
            "Value" in side for side in sides
        )
    return operator in _SUSPECT


def _probe(form: Mapping[str, Any], key: str, node: Expression) -> dict[str, Any]:
    """A policy that is valid only if the expression is always false by its types.

    `if X then 1 else "a"` has two types, an error, unless the validator finds that one branch is never taken; and
    compared with a text the other branch is an error too.
    """
    condition = {"==": node["!="]} if "!=" in node else node
    chosen = {"if-then-else": {"if": condition, "then": {"Value": 1}, "else": {"Value": "a"}}}
    return {
        "effect": "permit",
        "principal": form["principal"],
        "action": form["action"],
        "resource": form["resource"],
        "conditions": [{"kind": "when", "body": {"==": {"left": chosen, "right": {"Value": "b"}}}}],
        "annotations": {"id": key},
    }


def _words(node: Expression) -> str:
    policy = {
        "effect": "permit",
        "principal": {"op": "All"},
        "action": {"op": "All"},
        "resource": {"op": "All"},
        "conditions": [{"kind": "when", "body": node}],
    }
    text = policies_from_json_str(policy_set([("policy0", policy)]))
    return " ".join(text.partition("when {")[2].rpartition("}")[0].split())[:200]
