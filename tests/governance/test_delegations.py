"""Who may sign which target: whatever a search for a name finds with python-tuf, ours finds, and nothing else."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestd.errors import MalformedError
from attestd.governance import metadata as under_test
from attestd.governance.draft import Delegation, RoleKeys, draft_targets
from tests.governance.tuf import Oracle, edit, refused, relink, verify
from tests.repository import Repository, public
from tests.world import NOW


@dataclass(frozen=True)
class Role:
    """A delegated role: what it signs, and to whom it delegates."""

    name: str
    paths: tuple[str, ...]
    targets: tuple[str, ...] = ()
    children: tuple["Role", ...] = ()
    terminating: bool = False


@dataclass
class Tree:
    """A repository whose `targets` delegates like this; every role signs with a key of its own."""

    top: Role
    repository: Repository = field(default_factory=lambda: Repository("tree", now=NOW))

    def __post_init__(self) -> None:
        self._publish(self.top)
        self.repository.publish_snapshot()

    def _publish(self, role: Role) -> None:
        repository = self.repository
        for child in role.children:
            self._publish(child)
        repository.signers.setdefault(role.name, [role.name])
        draft = draft_targets(
            version=repository.versions.setdefault(role.name, 1),
            expires=repository.now.replace(year=2036),
            targets={name: content(role.name, name) for name in role.targets},
            delegations=[
                Delegation(
                    child.name,
                    RoleKeys((public(repository.key(child.name)),)),
                    child.paths,
                    child.terminating,
                )
                for child in role.children
            ],
        )
        repository.metadata[f"1.{role.name}.json"] = repository.sign(draft, role.name)


def content(role: str, name: str) -> bytes:
    """Which role signed it can be seen."""
    return f"{name} of {role}".encode()


def top(*children: Role, targets: tuple[str, ...] = ()) -> Role:
    return Role("targets", ("*",), targets, children)


def found(role: Role) -> dict[str, str]:
    """Names that are found, and in which role."""
    return {name: target.role for name, target in verify(Tree(role).repository).targets.items()}


# --- what is found --------------------------------------------------------------------------------------------------


def test_preorder() -> None:
    """The delegator's own word first, then its delegations in order, each with all below it."""
    deep = Role("deep", ("a/*",), ("a/1", "a/2", "a/3"))
    first = Role("first", ("a/*",), ("a/2",), (deep,))
    second = Role("second", ("a/*", "b/*"), ("a/1", "a/2", "a/3", "a/4", "b/1"))
    assert found(top(first, second, targets=("a/1",))) == {
        "a/1": "targets",
        "a/2": "first",
        "a/3": "deep",
        "a/4": "second",
        "b/1": "second",
    }


def test_terminating() -> None:
    """Behind it nothing is looked for, whether it has the name or not; also not with the delegator's siblings."""
    last = Role("last", ("a/*",), ("a/x", "a/y", "a/z"))
    inner = Role("inner", ("a/x",), (), (), terminating=True)
    outer = Role("outer", ("a/*",), ("a/y",), (inner,))
    assert found(top(outer, last)) == {"a/y": "outer", "a/z": "last"}


def test_patterns_stay_within_one_part() -> None:
    role = Role("team", ("teams/a/*",), ("teams/a/authorities.json",))
    assert found(top(role)) == {"teams/a/authorities.json": "team"}
    for name in ("teams/a/policy/exec.cedar", "teams/b/authorities.json", "authorities.json", "teams/a"):
        outside = Role("team", ("teams/a/*",), (name,))
        assert f"role 'team' signs {name!r}" in refused(Tree(top(outside)).repository)


def test_outside_of_the_delegation_above() -> None:
    """A delegate cannot give what it does not have."""
    child = Role("child", ("*", "a/*"), ("authorities.json",))
    message = refused(Tree(top(Role("team", ("a/*",), (), (child,)))).repository)
    assert "role 'child' signs 'authorities.json', which is not delegated to it" in message


# --- the shape of the tree -----------------------------------------------------------------------------------------


def test_a_cycle() -> None:
    tree = Tree(top(Role("a", ("*",), (), (Role("b", ("*",)),))))
    again = Delegation("a", RoleKeys((public(tree.repository.key("a")),)), ("*",))
    draft = draft_targets(version=1, expires=NOW.replace(year=2036), targets={}, delegations=[again])
    tree.repository.metadata["1.b.json"] = tree.repository.sign(draft, "b")
    relink(tree.repository)
    assert "role 'a' is delegated twice" in refused(tree.repository)


def test_two_delegators() -> None:
    shared = Role("shared", ("*",))
    role = top(Role("a", ("*",), (), (shared,)), Role("b", ("*",), (), (shared,)))
    assert "role 'shared' is delegated twice" in refused(Tree(role).repository)


@pytest.mark.parametrize(
    "name", ["root", "timestamp", "snapshot", "targets", "", "..", "a/b", ".a", "ü", "x" * 65]
)
def test_names_of_roles(name: str) -> None:
    """A role's name is part of a file's name, and must not be that of another file."""
    tree = Tree(top(Role("a", ("*",))))

    def change(signed: dict[str, Any]) -> None:
        signed["delegations"]["roles"][0]["name"] = name

    edit(tree.repository, "1.targets.json", change)
    relink(tree.repository)
    refused(tree.repository, error=MalformedError)


@pytest.mark.parametrize(
    "change",
    [
        {"path_hash_prefixes": ["00"]},
        {"paths": None, "path_hash_prefixes": ["00"]},
        {"paths": []},
        {"paths": ["[a]"]},
        {"paths": ["../*"], "terminating": 1},
        {"paths": ["a/"]},
        {"paths": ["a//b"]},
        {"paths": ["a/*b*"]},
        {"paths": ["/a"]},
        {"paths": [1]},
        {"terminating": "yes"},
        {"threshold": 0},
        {"threshold": True},
        {"keyids": ["x", "x"]},
    ],
)
def test_forms_of_a_delegation(change: Mapping[str, Any]) -> None:
    tree = Tree(top(Role("a", ("*",))))

    def apply(signed: dict[str, Any]) -> None:
        role = signed["delegations"]["roles"][0]
        role |= change
        for member in [member for member, value in change.items() if value is None]:
            del role[member]

    edit(tree.repository, "1.targets.json", apply)
    relink(tree.repository)
    refused(tree.repository, error=MalformedError)


def test_succinct_roles() -> None:
    tree = Tree(top(Role("a", ("*",))))

    def change(signed: dict[str, Any]) -> None:
        role = signed["delegations"].pop("roles")[0]
        signed["delegations"]["succinct_roles"] = {
            "keyids": role["keyids"],
            "threshold": 1,
            "bit_length": 1,
            "name_prefix": "bin",
        }

    edit(tree.repository, "1.targets.json", change)
    relink(tree.repository)
    refused(tree.repository, error=MalformedError)


def chain(depth: int) -> Role:
    role = Role(f"r{depth}", ("*",))
    for level in range(depth - 1, 0, -1):
        role = Role(f"r{level}", ("*",), (), (role,))
    return top(role)


def test_depth() -> None:
    assert verify(Tree(chain(4)).repository)
    refused(Tree(chain(5)).repository, error=MalformedError)


def test_number_of_roles() -> None:
    roles = [Role(f"r{number}", ("*",)) for number in range(65)]
    assert verify(Tree(top(*roles[:64])).repository)
    assert "more than 64 delegated roles" in refused(Tree(top(*roles)).repository, error=MalformedError)


def test_number_of_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "MAX_PATTERNS", 3)
    assert verify(Tree(top(Role("a", ("1", "2")), Role("b", ("3",)))).repository)
    message = refused(
        Tree(top(Role("a", ("1", "2")), Role("b", ("3", "4")))).repository, error=MalformedError
    )
    assert "more than 3 delegated patterns" in message


def test_a_pattern_that_would_take_for_ever() -> None:
    """Stars that backtrack: with one in each part of a path, a name that does not match is seen not to at once."""
    name = "/".join(["a" * 127] * 4)
    slow = Role("a", ("/".join(["a" * 60 + "*" + "a" * 60 + "b"] * 4),), (name,))
    assert not fnmatch.fnmatchcase(name, slow.paths[0])
    assert "which is not delegated to it" in refused(Tree(top(slow)).repository)


def test_a_team_that_has_everybody_match_for_minutes() -> None:
    """One role may sign thousands of names, and delegate by hundreds of patterns: not both."""
    sub = Role("sub", tuple(f"teams/a/{number}*x" for number in range(255)), ())
    names = tuple(f"teams/a/{number}" for number in range(1100))
    team = Role("team-a", ("teams/a/*",), names, (sub,))
    message = refused(Tree(top(team)).repository, error=MalformedError)
    assert "1100 delegated targets and 256 delegated patterns: their product is over 262144" in message
    assert len(found(top(Role("team-a", ("teams/a/*",), names[:1024], (sub,))))) == 1024


# --- the same as python-tuf -----------------------------------------------------------------------------------------

NAMES = [f"{directory}/{base}" for directory in "ab" for base in ("1", "2", "11")] + ["1", "2"]
PATTERNS = ["a/*", "b/*", "a/1", "*/1", "*", "?/1?", "a/?", "*/*"]


@st.composite
def trees(draw: st.DrawFn) -> Role:
    """Trees in which every role signs only what reaches it, as one that we accept must be."""
    counter = iter(range(100))

    def role(name: str, paths: tuple[str, ...], reachable: list[str], depth: int) -> Role:
        targets = draw(st.lists(st.sampled_from(reachable), unique=True, max_size=3)) if reachable else []
        children = []
        for _ in range(draw(st.integers(0, 3 - depth)) if depth < 3 else 0):
            patterns = tuple(draw(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2, unique=True)))
            below = [name for name in reachable if any(_matches(name, pattern) for pattern in patterns)]
            child = role(f"r{next(counter)}", patterns, below, depth + 1)
            children.append(child)
        return Role(name, paths, tuple(targets), tuple(children), draw(st.booleans()))

    return role("targets", ("*",), NAMES, 0)


def _matches(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and all(
        fnmatch.fnmatchcase(part, wanted)
        for part, wanted in zip(name.split("/"), pattern.split("/"), strict=True)
    )


@settings(max_examples=120, deadline=None)
@given(trees())
def test_the_search_is_that_of_python_tuf(role: Role) -> None:
    tree = Tree(role)
    ours = {name: target.sha256 for name, target in verify(tree.repository).targets.items()}
    with TemporaryDirectory() as directory:
        assert Oracle(tree.repository, Path(directory)).update(*NAMES) == ours
    for name, target in verify(tree.repository).targets.items():
        assert target.sha256 == sha256(content(target.role, name)).hexdigest()
