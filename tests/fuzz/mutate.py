"""Changes JSON by its structure, where bytes alone would rarely stay JSON."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

from tests.governance.mutations import OTHERS, get, places

INTERESTING: tuple[Any, ...] = (
    *OTHERS,
    2**31,
    2**32 - 1,
    -(2**53) + 1,
    "\0",
    "/",
    "..",
    "²",
    "-",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "00" * 32,
    "AAAA",
    "x" * 5000,
    "\U0001f600",
    [[]],
    {"": ""},
    {"one_of": ["a"]},
    {"int": [0, 1]},
    {"prefix": "", "charset": "path", "max": 1},
)


def mutate_json(data: bytes, max_size: int, seed: int, mutate: Callable[[bytes, int], bytes]) -> bytes:
    """A changed input.

    Args:
        data: The input.
        max_size: How long the result may be.
        seed: For the choice.
        mutate: libFuzzer's own mutations, of bytes.
    """
    choice = random.Random(seed)  # noqa: S311 - no secret
    if choice.random() < 0.4:
        return mutate(data, max_size)
    try:
        value = json.loads(data)
        for _ in range(choice.choice((1, 1, 1, 2, 3))):
            value = _changed(value, choice, mutate)
        changed = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    except (ValueError, RecursionError, TypeError):
        return mutate(data, max_size)
    return changed if len(changed) <= max_size else mutate(data, max_size)


def _changed(value: Any, choice: random.Random, mutate: Callable[[bytes, int], bytes]) -> Any:
    found = list(places(value))
    if not found:
        return choice.choice(INTERESTING)
    place = choice.choice(found)
    changed = copy.deepcopy(value)
    holder, name = get(changed, place[:-1]), place[-1]
    kind = choice.randrange(6)
    if kind == 0:
        del holder[name]
    elif kind == 1:
        holder[name] = copy.deepcopy(get(value, choice.choice(found)))
    elif kind == 2 and isinstance(holder[name], str):
        holder[name] = mutate(holder[name].encode(), len(holder[name]) + 16).decode("utf-8", "replace")
    elif kind == 3 and isinstance(holder[name], int):
        holder[name] += choice.choice((-1, 1, 2**16, -(2**16)))
    elif kind == 4 and isinstance(holder, dict):
        holder[choice.choice(("", "unknown", "\U0001f600", *holder))] = choice.choice(INTERESTING)
    elif kind == 4:
        holder.insert(choice.randrange(len(holder) + 1), choice.choice(INTERESTING))
    else:
        holder[name] = copy.deepcopy(choice.choice(INTERESTING))
    return changed
