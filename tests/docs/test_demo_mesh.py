"""`make demo-mesh`: all of it happens as it tells, the manual's commands are its, and it fails where a step does not behave."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.demos import PATIENCE_S, run_demo

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations-controller.md").read_text("utf-8")


def commands(text: str) -> list[str]:
    """What is typed, with one name for every port and every host-id."""
    found = re.findall(r"^ *\$ (.*)$", re.sub(r" *\\\n *", " ", text), re.MULTILINE)
    return [
        re.sub(r"\b[0-9a-f]{64}\b", "HOST-ID", re.sub(r"(127\.0\.0\.1):\d+", r"\1", line)) for line in found
    ]


@pytest.mark.timeout(PATIENCE_S)
def test_the_demo_and_the_manual() -> None:
    """All of it happened as told; each command of the page is one of the demo's, in its order."""
    page = commands(PAGE.partition("## A mesh, from nothing\n")[2].partition("\n## ")[0])
    typed: Iterator[str] = iter(commands(run_demo("demo_mesh")))
    assert len(page) > 20
    for command in page:
        if not command.startswith("export "):
            assert command in typed, command


YES = """echo '{"verifiers": []}'"""
NO = "echo 'attestd: denied: internal_error: a bug' >&2; exit 1"


def believed(home: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> set[str]:
    """The claims that the demo takes for true where `attestd` is another program, and the world stands still."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    demo, telling = importlib.import_module("demo_mesh"), importlib.import_module("telling")
    monkeypatch.setattr(demo, "until", lambda ready: bool(ready()))
    monkeypatch.setattr(demo, "LOOK_S", 0)
    for folder in ("web/metadata", *demo.HOSTS):
        (home / folder).mkdir(parents=True)
    (home / "web/metadata/1.root.json").touch()
    (home / "attestd").write_text(f"#!/bin/sh\n{program}\n")
    (home / "attestd").chmod(0o755)
    monkeypatch.setattr(telling, "ATTESTD", home / "attestd")
    mesh = demo.Mesh(home)
    for chapter in demo.CHAPTERS:
        chapter(mesh)
    mesh.clean_up()
    assert not mesh.summary("A story")
    assert len(mesh.outcomes) > 20
    return {claim for claim, _, ok in mesh.outcomes if ok}


def test_no_claim_holds_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that says yes to everything, or no, is found out: each claim needs the one or the other."""
    yes = believed(tmp_path / "yes", monkeypatch, YES)
    no = believed(tmp_path / "no", monkeypatch, NO)
    assert yes & no == set()
