"""Words for people."""

import pytest

from attestd.plain import counted


@pytest.mark.parametrize(
    "one",
    ["1 entry", "1 key", "1 day", "1 approval", "1 leaf", "1 hash", "1 witness"],
)
def test_how_many_there_are(one: str) -> None:
    plural = {
        "entry": "entries",
        "key": "keys",
        "day": "days",
        "approval": "approvals",
        "leaf": "leaves",
        "hash": "hashes",
        "witness": "witnesses",
    }
    noun = one.removeprefix("1 ")
    assert [counted(number, noun) for number in (0, 1, 2)] == [f"0 {plural[noun]}", one, f"2 {plural[noun]}"]
