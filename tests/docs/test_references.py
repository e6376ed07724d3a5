"""What the documentation names exists: files, functions, links."""

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
# `gate/decide.py`, `tests/world.py`, `gate/decide.py:decide`, `runner/claims.py:Claims.claim`
CODE = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.py)(?::([A-Za-z_][\w.]*))?`")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


@lru_cache
def names(path: Path) -> frozenset[str]:
    """Top-level names of a module, and `Class.method`."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.ClassDef(name=name, body=body):
                found.add(name)
                found |= {
                    f"{name}.{item.name}"
                    for item in body
                    if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
                }
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
    return frozenset(found)


def resolve(name: str) -> Path | None:
    """A path is below `attestd/` or below the repository."""
    return next((path for path in (ROOT / "attestd" / name, ROOT / name) if path.is_file()), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_in_the_documentation_resolve(page):
    wrong = []
    for name, attribute in CODE.findall(page.read_text(encoding="utf-8")):
        path = resolve(name)
        if path is None:
            wrong.append(name)
        elif attribute and attribute not in names(path):
            wrong.append(f"{name}:{attribute}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
