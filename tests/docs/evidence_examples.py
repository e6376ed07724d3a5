"""The blocks of docs/formats/evidence.md, and of trust.md about the mesh; `make_examples` writes them."""

import json
from collections.abc import Mapping
from typing import Any

from attestd.strict import canonical
from tests.governance.test_mesh import mesh as mesh_file
from tests.world import World


def mesh() -> str:
    return _json(mesh_file(World("docs")))


def blocks() -> Mapping[str, str]:
    """Every block by name."""
    return {"mesh": mesh()}


def _json(value: Any) -> str:
    plain = json.loads(canonical(value))
    return "```json\n" + json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n```\n"
