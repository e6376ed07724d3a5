"""The blocks of docs/formats/evidence.md, and of trust.md about the mesh; `make_examples` writes them."""

import json
import textwrap
from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any

from attestd.appraisal.evidence import parse_evidence
from attestd.strict import canonical, format_time
from tests.appraisal.attesting import BAD, Attesting
from tests.appraisal.test_result import Issued
from tests.governance.test_mesh import mesh as mesh_file
from tests.world import NOW, World


def mesh() -> str:
    return _json(mesh_file(World("docs"), version=2, handover=format_time(NOW + timedelta(days=7))))


@lru_cache
def _again() -> Attesting:
    """A host that attests for the second time, and ran a file meanwhile that nobody allows."""
    attesting = Attesting(name="docs")
    attesting.verify()
    attesting.tick()
    attesting.items.append(BAD)
    return attesting


def challenge() -> str:
    return _json(_again().ask())


def evidence() -> str:
    return _json(json.loads(_again().answer()))


def state() -> str:
    attesting = _again()
    found = attesting.verifier.verify(
        parse_evidence(attesting.answer()), trust=attesting.trust, state=attesting.state, now=attesting.now
    )
    return _json(found.state)


def claims() -> str:
    return _json(Issued(bad=True).claims("two"))


def result() -> str:
    return "```\n" + "\n".join(textwrap.wrap(Issued(bad=True).token("two"), 120)) + "\n```\n"


def blocks() -> Mapping[str, str]:
    """Every block by name."""
    return {
        "mesh": mesh(),
        "evidence-challenge": challenge(),
        "evidence": evidence(),
        "host-state": state(),
        "result-claims": claims(),
        "result": result(),
    }


def _json(value: Any) -> str:
    plain = json.loads(canonical(value))
    return "```json\n" + json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n```\n"
