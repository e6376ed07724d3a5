"""Finds the policies that can have a say in a request, without evaluating the others.

A policy is evaluated as `scope && first condition && ...`, left to right, and stops at the first that is false. So one
whose scope, or whose first conjunct, is false for a request is neither satisfied nor in error, whatever stands behind:
leaving it out changes nothing. Each policy has at most one such **anchor** (a group, a publisher, a path, ...); it is a
candidate for the requests that have the anchor. One without is a candidate for all. A property test holds this
equivalent to evaluating everything.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from attestd.governance.policy_entities import EntityId
from attestd.governance.policy_file import Expression, Policy, looks_at

__all__ = ["Attributes", "Index"]

# The attributes of a request by name, as `Policy.attributes` names them; None: the request has it not.
Attributes = Callable[[str], Any]

Anchor = tuple[str, str, str]

_TEXTS: Final = frozenset({"executable", "directory", "cwd", "host", "platform"})
_CHOICES: Final = frozenset({"tier", "userspace"})
_SETS: Final = frozenset(
    {"argv", "env", "labels", "inputs", "findings", "artifact.metadata", "artifact.signers"}
)


class Index:
    """The anchors of a fixed sequence of policies."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        """Indexes the policies; they are named by their places in the sequence."""
        self._always: list[int] = []
        self._by_anchor: dict[Anchor, list[int]] = {}
        self._prefixes: dict[str, set[int]] = {}
        self._read: dict[str, set[str]] = {"is": set(), "has": set()}
        for place, policy in enumerate(policies):
            anchor = _anchor(policy)
            if anchor is None:
                self._always.append(place)
                continue
            self._by_anchor.setdefault(anchor, []).append(place)
            kind, attribute, value = anchor
            if kind == "prefix":
                self._prefixes.setdefault(attribute, set()).add(len(value))
            elif kind in self._read:
                self._read[kind].add(attribute)

    def candidates(
        self, principal: frozenset[EntityId], resource: frozenset[EntityId], attributes: Attributes
    ) -> tuple[int, ...]:
        """Places of the policies that can have a say, ascending.

        Args:
            principal: The requester and all that it is in.
            resource: The executable and all that it is in.
            attributes: Of the context.
        """
        found = list(self._always)
        for anchor in self._anchors(principal, resource, attributes):
            found += self._by_anchor.get(anchor, ())
        return tuple(sorted(found))

    def _anchors(
        self, principal: frozenset[EntityId], resource: frozenset[EntityId], attributes: Attributes
    ) -> Iterator[Anchor]:
        for kind, key in principal:
            yield "principal", kind, key
        for kind, key in resource:
            yield "resource", kind, key
        for attribute in self._read["is"]:
            value = attributes(attribute)
            yield "is", attribute, value if isinstance(value, str) else value["__entity"]["id"]
        for attribute in self._read["has"]:
            for item in set(attributes(attribute)):
                yield "has", attribute, item
        for attribute, lengths in self._prefixes.items():
            text = attributes(attribute)
            for length in lengths:
                if length <= len(text):
                    yield "prefix", attribute, text[:length]


def _anchor(policy: Policy) -> Anchor | None:
    scope = _scope(policy.form["principal"]), _scope(policy.form["resource"])
    if scope[1] is not None and scope[1][0] == "Executable":
        return "resource", *scope[1]
    if scope[0] is not None:
        return "principal", *scope[0]
    if scope[1] is not None:
        return "resource", *scope[1]
    if not policy.conditions or policy.conditions[0]["kind"] != "when":
        return None
    first = policy.conditions[0]["body"]
    while "&&" in first:
        first = first["&&"]["left"]
    return _of_expression(first)


def _scope(constraint: Mapping[str, Any]) -> EntityId | None:
    entity = constraint.get("entity") or constraint.get("in", {}).get("entity")
    return None if entity is None else (entity["type"], entity["id"])


def _of_expression(node: Expression) -> Anchor | None:
    ((operator, operand),) = node.items()
    if operator not in {"==", "in", "contains", "like"}:
        return None
    left, right = operand["left"], operand.get("right", {})
    if operator == "==" and "Value" in left:
        left, right = right, left
    entity, attribute = _entity(right), looks_at(left.get(".", {}))
    if left in ({"Var": "principal"}, {"Var": "resource"}) and entity:
        return left["Var"], *entity
    if operator == "like":
        prefix = _prefix(operand["pattern"])
        return ("prefix", attribute, prefix) if attribute in _TEXTS and prefix else None
    if operator == "in":
        return None
    kind, attributes = ("is", _TEXTS | _CHOICES) if operator == "==" else ("has", _SETS)
    value = entity[1] if entity else right.get("Value")
    return (kind, attribute, value) if attribute in attributes and isinstance(value, str) else None


def _entity(node: Expression) -> EntityId | None:
    value = node.get("Value")
    if not isinstance(value, dict) or "__entity" not in value:
        return None
    return value["__entity"]["type"], value["__entity"]["id"]


def _prefix(pattern: Sequence[Any]) -> str:
    prefix = ""
    for item in pattern:
        if item == "Wildcard":
            break
        prefix += item["Literal"]
    return prefix
