"""`policy/entities.json`: who is in which group, and who publishes which executable, in Cedar's entity format."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Final, Literal

from cedarpy import Entities
from msgspec import Meta

from attestd.errors import MalformedError
from attestd.strict import Strict, convert, parse_json

__all__ = ["EntityId", "Hierarchy", "parse_entities"]

MAX_ENTITIES_BYTES: Final = 16 << 20
MAX_ENTITIES: Final = 65_536
MAX_LEVELS: Final = 16
MAX_ANCESTORS: Final = 256

_WHAT: Final = "policy/entities.json"
_NAME: Final = r"\A[A-Za-z0-9][A-Za-z0-9._@/:+-]{0,127}\Z"
# By type: what an id is, and in what it may be.
_IDS: Final = {
    "User": re.compile(r"\A(0|[1-9][0-9]{0,9})\Z"),
    "Executable": re.compile(r"\A[0-9a-f]{64}\Z"),
    "Group": re.compile(_NAME),
    "Publisher": re.compile(_NAME),
}
_CONTAINERS: Final = {
    "User": "Group",
    "Group": "Group",
    "Executable": "Publisher",
    "Publisher": "Publisher",
}

EntityId = tuple[str, str]


class _Uid(Strict, frozen=True):
    type: Literal["User", "Group", "Executable", "Publisher"]
    id: Annotated[str, Meta(max_length=128)]


class _Entity(Strict, frozen=True):
    uid: _Uid
    attrs: Annotated[dict[str, str], Meta(max_length=0)]
    parents: Annotated[list[_Uid], Meta(max_length=64)]


@dataclass(frozen=True)
class Hierarchy:
    """All entities.

    Attributes:
        ancestors: By entity, all that it is in, directly or not.
        handle: The same, parsed by Cedar.
    """

    ancestors: Mapping[EntityId, frozenset[EntityId]]
    handle: Entities

    def containing(self, entity: EntityId) -> frozenset[EntityId]:
        """The entity and all that it is in; one that nobody declared is in nothing."""
        return self.ancestors.get(entity, frozenset()) | {entity}

    def undeclared(self, named: Iterable[EntityId]) -> list[EntityId]:
        """Those that are not in the file, sorted."""
        return sorted(entity for entity in named if entity not in self.ancestors)


@lru_cache(maxsize=2)
def parse_entities(data: bytes) -> Hierarchy:
    """Parses `policy/entities.json`. The last one is kept: governance changes more often than this file.

    Args:
        data: A JSON array of `{"uid": {"type", "id"}, "attrs": {}, "parents": [{"type", "id"}, ...]}`.

    Raises:
        MalformedError: Over a limit; another type, an id that is none, an entity twice, one that is in what is not
            declared or may not hold it, or in itself.
    """
    value = parse_json(data, max_bytes=MAX_ENTITIES_BYTES, what=_WHAT)
    entities = convert(value, list[_Entity], what=_WHAT)
    if len(entities) > MAX_ENTITIES:
        raise MalformedError(f"{_WHAT}: {len(entities)} entities, the limit is {MAX_ENTITIES}")
    parents: dict[EntityId, tuple[EntityId, ...]] = {}
    for entity in entities:
        uid = _checked(entity.uid)
        if uid in parents:
            raise MalformedError(f"{_WHAT}: {_shown(uid)} is declared twice")
        parents[uid] = tuple(_checked(parent) for parent in entity.parents)
    for uid, containers in parents.items():
        _check_parents(uid, containers, parents)
    ancestors = _ancestors(parents)
    try:
        # Without the schema's actions: they are the gate's to name, not the file's.
        handle = Entities.from_json_str(data.decode())
    except ValueError as error:
        raise MalformedError(f"{_WHAT}: {error}") from error
    return Hierarchy(ancestors, handle)


def _checked(uid: _Uid) -> EntityId:
    if not _IDS[uid.type].match(uid.id) or (uid.type == "User" and int(uid.id) > 2**32 - 2):
        expected = {"User": "a uid in decimal", "Executable": "SHA-256 in lower-case hex"}
        raise MalformedError(
            f"{_WHAT}: {uid.type} {uid.id!a}: expected"
            f" {expected.get(uid.type, 'letters, digits and ._@/:+-, 1 to 128')}"
        )
    return uid.type, uid.id


def _check_parents(
    uid: EntityId, containers: tuple[EntityId, ...], declared: Mapping[EntityId, tuple[EntityId, ...]]
) -> None:
    for container in containers:
        if container[0] != _CONTAINERS[uid[0]]:
            raise MalformedError(
                f"{_WHAT}: {_shown(uid)} can only be in a {_CONTAINERS[uid[0]]}, not in {_shown(container)}"
            )
        if container not in declared:
            raise MalformedError(
                f"{_WHAT}: {_shown(uid)} is in {_shown(container)}, which is not declared: declare it"
            )
    if len(set(containers)) != len(containers):
        raise MalformedError(f"{_WHAT}: {_shown(uid)} is twice in the same")


def _ancestors(parents: Mapping[EntityId, tuple[EntityId, ...]]) -> dict[EntityId, frozenset[EntityId]]:
    """The closure, level by level from the top: what never comes up is in itself."""
    done: dict[EntityId, frozenset[EntityId]] = {}
    pending = dict(parents)
    for _ in range(MAX_LEVELS):
        if not pending:
            break
        ready = [uid for uid, containers in pending.items() if all(item in done for item in containers)]
        found = {uid: frozenset(pending.pop(uid)) for uid in ready}
        for uid, containers in found.items():
            all_of_them = containers.union(*(done[item] for item in containers))
            if len(all_of_them) > MAX_ANCESTORS:
                raise MalformedError(f"{_WHAT}: {_shown(uid)} is in more than {MAX_ANCESTORS} others")
            found[uid] = all_of_them
        done |= found
    if pending:
        uid = next(iter(pending))
        raise MalformedError(
            f"{_WHAT}: {_shown(uid)} is in itself, or more than {MAX_LEVELS} levels below the top"
        )
    return done


def _shown(uid: EntityId) -> str:
    return f'{uid[0]}::"{uid[1]}"'
