"""Targets: Cedar policies and entities. A crash of the parser would be the process, so its bounds are what is tested."""

import json

from attestd.errors import MalformedError
from attestd.governance.policy_entities import parse_entities
from attestd.governance.policy_file import parse_policy_file
from attestd.governance.policy_schema import DEFAULT_POLICY, EMPTY_ENTITIES
from tests.fuzz.target import target
from tests.governance.make_vectors import ENTITIES, POLICY

_MORE = rb"""@id("a") permit (principal is User in Group::"g", action in [Action::"exec"], resource)
when { if context.artifact has max_uses then context.artifact.max_uses < 3 else !(-1 == context.argc) }
unless { [context.cwd, "/\u{fc}"].containsAny(["x"]) || {a: ip("::1")}.a.isLoopback() || context.cwd like "*\**" };
"""


@target(MalformedError, seeds=lambda: [POLICY, DEFAULT_POLICY, _MORE, b""], max_bytes=16384)
def policy(data: bytes) -> None:
    # Not by the memory of the function: each input is new, and would only fill it.
    found = parse_policy_file.__wrapped__(data, name="exec", what="exec.cedar")
    ids = [item.id for item in found]
    assert len(set(ids)) == len(ids)
    assert all(id_.startswith("exec#") and id_.isascii() and id_.isprintable() for id_ in ids)


@target(MalformedError, seeds=lambda: [ENTITIES, EMPTY_ENTITIES], is_json=True)
def policy_entities(data: bytes) -> None:
    hierarchy = parse_entities.__wrapped__(data)
    assert len(hierarchy.handle) == len(hierarchy.ancestors) == len(json.loads(data))
    assert all(entity not in above for entity, above in hierarchy.ancestors.items())
