"""`policy/entities.json`: types, ids, who may be in what, cycles, limits."""

import json
from typing import Any

import pytest

from attestd.errors import MalformedError
from attestd.governance import policy_entities
from attestd.governance.policy_entities import parse_entities
from attestd.governance.policy_schema import EMPTY_ENTITIES

SHA = "ab" * 32


def entity(kind: str, key: str, *parents: tuple[str, str]) -> dict[str, Any]:
    return {
        "uid": {"type": kind, "id": key},
        "attrs": {},
        "parents": [{"type": parent, "id": name} for parent, name in parents],
    }


def refused(*entities: Any) -> str:
    with pytest.raises(MalformedError) as raised:
        parse_entities(json.dumps(entities).encode())
    return str(raised.value)


def test_who_is_in_what() -> None:
    hierarchy = parse_entities(
        json.dumps(
            [
                entity("User", "1001", ("Group", "team-a")),
                entity("Group", "team-a", ("Group", "everybody@example.org")),
                entity("Group", "everybody@example.org"),
                entity("Executable", SHA, ("Publisher", "debian/stable")),
                entity("Publisher", "debian/stable"),
            ]
        ).encode()
    )
    everybody = ("Group", "everybody@example.org")
    assert hierarchy.containing(("User", "1001")) == {("User", "1001"), ("Group", "team-a"), everybody}
    assert hierarchy.containing(("User", "7")) == {("User", "7")}
    assert hierarchy.containing(("Executable", SHA)) == {("Executable", SHA), ("Publisher", "debian/stable")}
    assert hierarchy.undeclared([everybody, ("Group", "z"), ("Group", "b")]) == [
        ("Group", "b"),
        ("Group", "z"),
    ]


def test_empty() -> None:
    assert parse_entities(EMPTY_ENTITIES).ancestors == {}


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (entity("Usr", "1"), "Invalid enum value"),
        (entity("Action", "exec"), "Invalid enum value"),
        (entity("Tier", "hardware"), "Invalid enum value"),
        (entity("User", "root"), "expected a uid in decimal"),
        (entity("User", "01"), "expected a uid in decimal"),
        (entity("User", "-1"), "expected a uid in decimal"),
        (entity("User", "\u0661"), "expected a uid in decimal"),
        (entity("User", "4294967295"), "expected a uid in decimal"),
        (entity("Executable", SHA.upper()), "expected SHA-256"),
        (entity("Group", "\u0430dmin"), "expected letters"),
        (entity("Group", "a b"), "expected letters"),
        (entity("Group", ""), "expected letters"),
        (entity("Group", "a\n"), "expected letters"),
        (entity("Group", "x" * 129), "length <= 128"),
        (entity("User", "1", ("Publisher", "p")), "can only be in a Group"),
        (entity("Executable", SHA, ("Group", "g")), "can only be in a Publisher"),
        (entity("User", "1", ("Group", "g")), "which is not declared"),
        (entity("Group", "g", ("Group", "g")), "is in itself"),
        ({**entity("User", "1"), "attrs": {"a": "b"}}, "length <= 0"),
        ({**entity("User", "1"), "tags": {}}, "unknown field"),
        ({"uid": 'User::"1"', "attrs": {}, "parents": []}, "Expected `object`"),
        (entity("User", "1", *[("Group", str(number)) for number in range(65)]), "length <= 64"),
    ],
)
def test_refused(found: dict[str, Any], says: str) -> None:
    assert says in refused(found)


def test_twice() -> None:
    assert "declared twice" in refused(entity("User", "1"), entity("User", "1"))
    group = entity("Group", "g")
    assert "twice in the same" in refused(group, entity("User", "1", ("Group", "g"), ("Group", "g")))


def test_a_cycle() -> None:
    message = refused(
        entity("Group", "top"),
        entity("Group", "a", ("Group", "b"), ("Group", "top")),
        entity("Group", "b", ("Group", "a")),
    )
    assert 'Group::"a" is in itself' in message


def chain(length: int) -> list[dict[str, Any]]:
    return [
        entity("Group", "g0"),
        *(entity("Group", f"g{n}", ("Group", f"g{n - 1}")) for n in range(1, length)),
    ]


def test_levels() -> None:
    assert parse_entities(json.dumps(chain(16)).encode())
    assert "more than 16 levels" in refused(*chain(17))


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_entities, "MAX_ENTITIES", 3)
    assert "4 entities, the limit is 3" in refused(*chain(4))
    monkeypatch.setattr(policy_entities, "MAX_ANCESTORS", 1)
    assert "is in more than 1 others" in refused(*chain(3))


def test_other_json() -> None:
    for data in (b"", b"{}", b"[1]", b"[] []", b'[{"uid":1,"uid":1}]'):
        with pytest.raises(MalformedError):
            parse_entities(data)


def test_what_only_cedar_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        @staticmethod
        def from_json_str(_: str) -> None:
            raise ValueError("no")

    monkeypatch.setattr(policy_entities, "Entities", Refusing)
    assert refused(entity("User", "123")) == "policy/entities.json: no"
