import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestd.authorization.pattern import (
    CHARSETS,
    MAX_CHOICES,
    ArgForm,
    ArgPattern,
    contains,
    describe,
    matches,
    quote,
)
from attestd.errors import MalformedError
from attestd.strict import canonical, convert


def pattern(value) -> ArgPattern:
    """As a statement would hold it."""
    return convert(value, str | ArgForm, what="pattern")


def one_of(*values):
    return pattern({"one_of": list(values)})


def prefixed(prefix, charset, most):
    return pattern({"prefix": prefix, "charset": charset, "max": most})


def between(low, high):
    return pattern({"int": [low, high]})


MANY = [str(n) for n in range(MAX_CHOICES)]


# --- what a pattern is


def test_the_character_classes_are_frozen():
    """A signed artifact means what its class meant when it was signed."""
    assert {name: "".join(sorted(members)) for name, members in CHARSETS.items()} == {
        "digits": "0123456789",
        "hex": "0123456789abcdef",
        "lower": "abcdefghijklmnopqrstuvwxyz",
        "alnum": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
        "name": "-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz",
        "path": "-./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz",
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "expected a string, one_of, int, or prefix"),
        ({"one_of": ["a"], "int": [1, 2]}, "expected a string, one_of, int, or prefix"),
        ({"one_of": ["a"], "prefix": "b"}, "expected a string, one_of, int, or prefix"),
        ({"int": [1, 2], "max": 3}, "expected a string, one_of, int, or prefix"),
        ({"prefix": "a", "charset": "hex"}, "expected a string, one_of, int, or prefix"),
        ({"prefix": "a", "max": 1}, "expected a string, one_of, int, or prefix"),
        ({"charset": "hex", "max": 1}, "expected a string, one_of, int, or prefix"),
        (
            {"prefix": "a", "charset": "hex", "max": 1, "int": [1, 2]},
            "expected a string, one_of, int, or prefix",
        ),
        ({"regex": ".*"}, "unknown field `regex`"),
        ({"one_of": []}, "1 to 256 distinct"),
        ({"one_of": ["a", "a"]}, "1 to 256 distinct"),
        ({"one_of": [*MANY, "one more"]}, "1 to 256 distinct"),
        ({"one_of": ["a\0"]}, "NUL"),
        ({"one_of": None}, "Expected `array`"),
        ({"int": [2, 1]}, "2 is above 1"),
        ({"int": [1]}, "length 2"),
        ({"int": [1, 2, 3]}, "length 2"),
        ({"int": ["1", "2"]}, "Expected `int`"),
        ({"int": [False, True]}, "Expected `int`"),
        ({"prefix": "a", "charset": "any", "max": 1}, "charset: expected one of digits, hex"),
        ({"prefix": "a", "charset": "hex", "max": 0}, "max of 1 to 4096"),
        ({"prefix": "a", "charset": "hex", "max": 4097}, "max of 1 to 4096"),
        ({"prefix": "a" * 4097, "charset": "hex", "max": 1}, "no longer than that"),
        ({"prefix": "/srv/..", "charset": "path", "max": 9}, "must not contain"),
        ({"prefix": "a\0", "charset": "hex", "max": 1}, "must not contain"),
        (1, "Expected `str | object`"),
        (["a"], "Expected `str | object`"),
    ],
)
def test_a_malformed_pattern_says_why(value, message):
    with pytest.raises(MalformedError, match=message.replace("|", r"\|")):
        pattern(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        {"one_of": [""]},
        {"one_of": MANY},
        {"int": [1, 1]},
        {"int": [-(2**53) + 1, 2**53 - 1]},
        {"prefix": "", "charset": "path", "max": 4096},
    ],
)
def test_a_pattern_is_written_back_as_it_was(value):
    assert canonical(pattern(value)) == canonical(value)


# --- what a pattern allows

ALLOWS = [
    ("a", ["a"], ["", "A", "aa", "a ", " a"]),
    ("", [""], [" "]),
    (one_of("prod", "stage"), ["prod", "stage"], ["", "Prod", "prodstage", "dev"]),
    (
        between(0, 10),
        ["0", "1", "10"],
        ["", "-1", "11", "01", "+1", "-0", " 1", "1 ", "1.0", "1e0", "0x1", "٣", "²"],
    ),
    (between(-10, -1), ["-1", "-10"], ["-", "--1", "0", "1", "-11", "-01"]),
    (between(-1, 2**53 - 1), ["9007199254740991"], ["9007199254740992", "9" * 5000, "-" + "9" * 5000]),
    (
        prefixed("/srv/", "name", 4),
        ["/srv/", "/srv/a", "/srv/A_.-", "/srv/.a", "/srv/-x"],
        ["/srv", "", "/srv/abcde", "/srv/a/b", "/srv/..", "/srv/a b", "/srv/é", "x/srv/a", "/srv/a\n"],
    ),
    (
        prefixed("/srv/", "path", 20),
        ["/srv/a/b", "/srv//", "/srv/a.b/c"],
        ["/srv/../etc/shadow", "/srv/a/..", "/srv/a/../b", "/srv/a..b"],
    ),
    (
        prefixed("--file=", "path", 20),
        ["--file=a/b", "--file=/etc"],
        ["--file=../b", "-file=a", "--file=a/../b"],
    ),
    (prefixed("", "name", 9), ["", "a", "a-b", "1"], ["-rf", "--force", "-", "a/b"]),
    (prefixed("-", "lower", 2), ["-", "-x", "-xy"], ["x", "-xyz", "-X", "-1"]),
    (prefixed("v", "digits", 2), ["v", "v1", "v12"], ["v123", "1", "vx", "v\u0661"]),
    (prefixed("0x", "hex", 2), ["0x", "0xff"], ["0xFF", "0xg"]),
    (prefixed("", "alnum", 2), ["aZ", "09"], ["_", "a-"]),
]


@pytest.mark.parametrize(("allowing", "inside", "outside"), ALLOWS, ids=[describe(row[0]) for row in ALLOWS])
def test_matches(allowing, inside, outside):
    assert [value for value in inside if not matches(allowing, value)] == []
    assert [value for value in outside if matches(allowing, value)] == []


@given(st.text())
@settings(deadline=None)
def test_no_text_makes_matching_fail(text):
    for allowing, _, _ in ALLOWS:
        assert matches(allowing, text) in {True, False}


# --- the containment table: (parent, child, whether the child is narrower or equal)

CONTAINMENT = [
    ("a", "a", True),
    ("a", "b", False),
    ("a", one_of("a"), True),
    ("a", one_of("a", "b"), False),
    ("7", between(7, 7), True),
    ("7", between(7, 8), False),
    ("7", between(0, 10**9), False),
    ("a", prefixed("a", "hex", 1), False),
    ("a", prefixed("a", "hex", 9), False),
    (one_of("a", "b"), "a", True),
    (one_of("a", "b"), "c", False),
    (one_of("a", "b"), one_of("b", "a"), True),
    (one_of("a", "b"), one_of("b", "c"), False),
    (one_of("1", "2", "3"), between(1, 3), True),
    (one_of("1", "3"), between(1, 3), False),
    (one_of(*MANY), between(0, 255), True),
    (one_of(*MANY), between(0, 256), False),
    (one_of("v", *[f"v{n}" for n in range(10)]), prefixed("v", "digits", 1), True),
    (one_of("v", *[f"v{n}" for n in range(9)]), prefixed("v", "digits", 1), False),
    (one_of(*MANY), prefixed("", "path", 4096), False),
    (between(1, 10), "10", True),
    (between(1, 10), "010", False),
    (between(1, 10), one_of("1", "5"), True),
    (between(1, 10), one_of("1", "a"), False),
    (between(1, 10), between(2, 9), True),
    (between(1, 10), between(0, 9), False),
    (between(0, 10**6), between(1, 10**6), True),
    (between(0, 10**6), between(1, 10**6 + 1), False),
    (between(0, 10**6), between(-1, 10**5), False),
    (between(1, 19), prefixed("1", "digits", 1), True),
    (between(2, 19), prefixed("1", "digits", 1), False),
    (between(1, 9999), prefixed("1", "digits", 3), True),
    (between(1, 1998), prefixed("1", "digits", 3), False),
    (between(-1999, -1), prefixed("-1", "digits", 3), True),
    (between(-1998, -1), prefixed("-1", "digits", 3), False),
    (between(0, 9999), prefixed("0", "digits", 3), False),
    (between(0, 9999), prefixed("", "digits", 3), False),
    (between(0, 9999), prefixed("1", "hex", 3), False),
    (prefixed("/srv/", "name", 9), "/srv/plan", True),
    (prefixed("/srv/", "name", 9), "/srv/..", False),
    (prefixed("/srv/", "name", 9), one_of("/srv/a", "/srv/b"), True),
    (prefixed("/srv/", "name", 9), one_of("/srv/a", "/etc"), False),
    (prefixed("/srv/", "name", 9), prefixed("/srv/", "name", 9), True),
    (prefixed("/srv/", "name", 9), prefixed("/srv/a", "name", 8), True),
    (prefixed("/srv/", "name", 9), prefixed("/srv/a", "name", 9), False),
    (prefixed("/srv/", "name", 9), prefixed("/srv", "name", 9), False),
    (prefixed("/srv/", "name", 9), prefixed("/srv/a/", "name", 7), False),
    (prefixed("/srv/", "path", 9), prefixed("/srv/a/", "name", 7), True),
    (prefixed("/srv/", "name", 9), prefixed("/srv/", "path", 9), False),
    (prefixed("/srv/", "path", 9), prefixed("/srv/", "digits", 9), True),
    (prefixed("/srv/", "digits", 9), prefixed("/srv/", "hex", 9), False),
    (prefixed("", "lower", 9), prefixed("", "hex", 9), False),
    (prefixed("", "name", 9), prefixed("-", "name", 8), False),
    (prefixed("-", "name", 9), prefixed("-x", "name", 8), True),
    (prefixed("", "digits", 4), between(0, 9999), True),
    (prefixed("", "digits", 4), between(0, 10000), False),
    (prefixed("", "name", 9), between(-9999, 9999), False),
    (prefixed("-", "digits", 4), between(-9999, -1), True),
    (prefixed("-", "digits", 4), between(-9999, 0), False),
    (prefixed("1", "digits", 4), between(10000, 19999), True),
    (prefixed("1", "digits", 4), between(1000, 19999), False),
    (prefixed("1", "digits", 3), between(10000, 19999), False),
    (prefixed("1", "digits", 9), between(10000, 20000), False),
    (prefixed("1", "lower", 9), between(10000, 19999), False),
]


@pytest.mark.parametrize(
    ("parent", "child", "narrower"),
    CONTAINMENT,
    ids=[f"{describe(child)[:60]} in {describe(parent)[:60]}" for parent, child, _ in CONTAINMENT],
)
def test_the_containment_table(parent, child, narrower):
    assert contains(parent, child) is narrower


_SMALL = st.text("-019a./", max_size=4)
_NUMBER = st.integers(-1200, 1200) | st.sampled_from([sign * 10**k for k in range(16) for sign in (1, -1)])
_PREFIX = st.sampled_from(
    ["", "-", "1", "-1", "10", "9", "0", "a", ".", "/", "/a", "/a/", "/a/.", "a.", "-a"]
)
PATTERNS = st.one_of(
    _SMALL,
    st.builds(one_of, _SMALL),
    st.lists(_SMALL, min_size=2, max_size=4, unique=True).map(lambda values: one_of(*values)),
    st.tuples(_NUMBER, _NUMBER).map(lambda pair: between(min(pair), max(pair))),
    st.builds(prefixed, _PREFIX, st.sampled_from(sorted(CHARSETS)), st.integers(1, 5)),
)


def candidates(allowing: ArgPattern) -> list[str]:
    """Values of the pattern among which one outside any parent is found, if there is one."""
    if isinstance(allowing, str):
        return [allowing]
    if isinstance(allowing.one_of, tuple):
        return list(allowing.one_of)
    if isinstance(allowing.bounds, tuple):
        low, high = allowing.bounds
        turns = [sign * 10**k + step for k in range(17) for sign in (1, -1) for step in (-1, 0, 1)]
        near = list(range(low, min(low + 300, high + 1))) + list(range(max(high - 300, low), high + 1))
        return [str(number) for number in [*turns, *near] if low <= number <= high]
    prefix, members, most = allowing.prefix, sorted(CHARSETS[allowing.charset]), allowing.most
    short = ["", *members, *map("".join, itertools.islice(itertools.product(members, repeat=2), 700))]
    long = [member * most for member in members] + [members[-1] * count for count in range(most + 1)]
    return [value for rest in [*short, *long] if matches(allowing, value := prefix + rest)]


@given(PATTERNS, PATTERNS)
@settings(deadline=None)
def test_containment_is_exact(parent, child):
    """Sound: what the child allows the parent allows. Complete: if not contained, a value shows it."""
    allowed = candidates(child)
    assert all(matches(child, value) for value in allowed)
    assert contains(parent, child) is all(matches(parent, value) for value in allowed)


@given(PATTERNS)
@settings(deadline=None)
def test_containment_is_reflexive(same):
    assert contains(same, same)


@given(PATTERNS, PATTERNS, PATTERNS)
@settings(deadline=None)
def test_containment_is_transitive(outer, middle, inner):
    if contains(outer, middle) and contains(middle, inner):
        assert contains(outer, inner)


# --- words


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ("a'b\n", '"a\'b\\n"'),
        (one_of("a", "b"), "one of 'a', 'b'"),
        (one_of(*"abcdefghij"), "one of 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h' and 2 more"),
        (between(-1, 10), "an integer from -1 to 10"),
        (prefixed("/srv/", "name", 20), "'/srv/' and then at most 20 characters of class 'name'"),
    ],
)
def test_describe(described, words):
    assert describe(described) == words


def test_quote_escapes_and_cuts():
    assert quote("\x1b[2J") == r"'\x1b[2J'"
    assert quote("a" * 80) == repr("a" * 80)
    assert quote("a" * 81) == repr("a" * 80) + "... (81 characters)"
