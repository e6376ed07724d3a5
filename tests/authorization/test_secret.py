"""What is secret: places, and what is said where it is not known which rule decides."""

import pytest

from attestd.authorization.pattern import ArgForm
from attestd.authorization.scope import ScopeMismatch, match_argv, match_env
from attestd.authorization.secret import ALL_SECRET, NOTHING_SECRET, Secrets, union
from attestd.authorization.statement import Env

SOME = Secrets(frozenset({2}), frozenset({"TOKEN"}))
ENV = Env(pass_=("TOKEN",), set={"KEY": "hidden", "TZ": "UTC"})


def test_places() -> None:
    assert [SOME.has_argument(index) for index in range(4)] == [False, False, True, False]
    assert (SOME.has_variable("TOKEN"), SOME.has_variable("token")) == (True, False)
    assert not ALL_SECRET.has_argument(0), "the command's name"
    assert ALL_SECRET.has_argument(9)
    assert ALL_SECRET.has_variable("PATH")
    assert not NOTHING_SECRET.has_argument(1)


def test_on_another_command_line_all_arguments_may_be_it() -> None:
    assert SOME.wherever_they_stand() == Secrets(None, frozenset({"TOKEN"}))
    only_env = Secrets(frozenset(), frozenset({"TOKEN"}))
    assert only_env.wherever_they_stand() is only_env


def test_what_any_of_several_calls_secret() -> None:
    assert union([]) == NOTHING_SECRET
    assert union([SOME, Secrets(frozenset({1}), frozenset())]) == Secrets(
        frozenset({1, 2}), frozenset({"TOKEN"})
    )
    assert union([SOME, ALL_SECRET, SOME]) == ALL_SECRET


@pytest.mark.parametrize(
    "argv",
    [["x", "--key", "BAD!"], ["x", "hidden", "hidden2"], ["x", "--key", "ok", "hidden"], ["x", "--key"]],
)
def test_no_argument_is_quoted(argv: list[str]) -> None:
    patterns = ("x", "--key", ArgForm(prefix="", charset="lower", most=9))
    with pytest.raises(ScopeMismatch) as raised:
        match_argv(patterns, argv, secrets=SOME)
    assert not any(value in str(raised.value) for value in ("BAD", "hidden", "lower"))
    with pytest.raises(ScopeMismatch, match="expected"):
        match_argv(patterns, argv)
    with pytest.raises(ScopeMismatch, match="found 'y'"):
        match_argv(patterns, ["y", "--key", "ok"], secrets=SOME)


@pytest.mark.parametrize("found", [{"TZ": "UTC"}, {"TZ": "UTC", "KEY": "other"}])
def test_no_variable_is_quoted(found: dict[str, str]) -> None:
    with pytest.raises(ScopeMismatch, match="KEY is not what") as raised:
        match_env(ENV, found, secrets=Secrets(frozenset(), frozenset({"KEY"})))
    assert not any(value in str(raised.value) for value in ("hidden", "other"))
    with pytest.raises(ScopeMismatch, match="hidden"):
        match_env(ENV, found, secrets=SOME)
    match_env(ENV, {"TZ": "UTC", "KEY": "hidden"}, secrets=ALL_SECRET)
