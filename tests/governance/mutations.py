"""Changes to JSON files, one member at a time."""

import copy
from collections.abc import Iterator
from typing import Any

Place = tuple[str | int, ...]

OTHERS: tuple[Any, ...] = (None, True, 0, -1, 2**53 - 1, "", "x", [], {}, [None], {"x": None})


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Every member and element, by path."""
    if at:
        yield at
    if isinstance(value, dict | list):
        for name in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[name], (*at, name))


def get(value: Any, place: Place) -> Any:
    """What stands there."""
    for name in place:
        value = value[name]
    return value


def put(value: Any, place: Place, new: Any) -> Any:
    """A copy with another value there."""
    changed = copy.deepcopy(value)
    get(changed, place[:-1])[place[-1]] = new
    return changed


def without(value: Any, place: Place) -> Any:
    """A copy without that member."""
    changed = copy.deepcopy(value)
    del get(changed, place[:-1])[place[-1]]
    return changed


def replaced(value: Any) -> Iterator[tuple[Place, Any, Any]]:
    """Every place with every other kind of value: (place, new value, changed copy)."""
    for place in places(value):
        for other in OTHERS:
            if get(value, place) != other or isinstance(other, bool):
                yield place, other, put(value, place, other)


def added(value: Any) -> Iterator[tuple[Place, Any]]:
    """An unknown member in every object."""
    for place in ((), *places(value)):
        if isinstance(get(value, place), dict):
            yield place, put(value, (*place, "unknown"), "x")


def removed(value: Any) -> Iterator[tuple[Place, Any]]:
    """Every member of an object left out."""
    for place in places(value):
        if isinstance(place[-1], str):
            yield place, without(value, place)
