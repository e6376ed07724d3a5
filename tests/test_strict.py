import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from attestd.errors import MalformedError, UsageError
from attestd.strict import (
    Base64Bytes,
    HostId,
    Sha256Hex,
    Strict,
    Utc,
    canonical,
    convert,
    decode_base64,
    decode_base64url,
    encode_base64url,
    encode_own_form,
    format_time,
    format_time_us,
    parse_canonical,
    parse_json,
    parse_own_form,
    parse_time,
)

MAX_INTEGER = 2**53 - 1


def parse(data: bytes) -> Any:
    return parse_json(data, max_bytes=10_000, what="thing")


class Inner(Strict, frozen=True):
    a: int


class Outer(Strict, frozen=True):
    inner: Inner
    note: str | None


# --- parse_json


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":[1,null,true,"x"]}', {"a": [1, None, True, "x"]}),
        (b" 1\n", 1),
        (b"9007199254740991", MAX_INTEGER),
        (b"-9007199254740991", -MAX_INTEGER),
        (b'"\\u00e9\\ud83d\\ude00"', "é\U0001f600"),
        (b"[" * 32 + b"]" * 32, json.loads("[" * 32 + "]" * 32)),
    ],
)
def test_acceptable_json(data, value):
    assert parse(data) == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting"),
        (b"{}{}", "Extra data"),
        (b"{}\0", "Extra data"),
        (b'{"a":1,"a":1}', "duplicate member 'a'"),
        (b'{"a":1,"\\u0061":2}', "duplicate member 'a'"),
        (b'[{"b":{"a":1,"a":2}}]', "duplicate member 'a'"),
        (b"1.0", "only integers"),
        (b"1e2", "only integers"),
        (b"[NaN]", "only integers"),
        (b"[-Infinity]", "only integers"),
        (b"9007199254740992", "beyond 2\\^53"),
        (b"-9007199254740992", "beyond 2\\^53"),
        (b"9" * 9000, "beyond 2\\^53"),
        (b"01", "Extra data"),
        (b'"\xff"', "utf-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'"\xed\xa0\x80"', "utf-8"),
        (b'"\\ud800"', "surrogates"),
        (b'{"\\udc00":1}', "surrogates"),
        (b'"\n"', "control character"),
        (b"[" * 33 + b"]" * 33, "nested deeper than 32"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "nested deeper than 32"),
        (b"[" * 10_000, "nested"),
        (b" " * 10_001, "10001 bytes, the limit is 10000"),
    ],
)
def test_unacceptable_json_says_what_and_why(data, message):
    with pytest.raises(MalformedError, match=rf"^thing: .*{message}"):
        parse(data)


def test_many_members_and_one_duplicate_cost_linear_time():
    """Counting each name in the list of all took 8 s for a quarter of a megabyte."""
    members = ",".join(f'"{n}":0' for n in range(200_000))
    data = ("{" + members + ',"199999":0}').encode()
    with pytest.raises(MalformedError, match="duplicate member '199999'"):
        parse_json(data, max_bytes=len(data), what="thing")


def test_messages_do_not_repeat_what_came_from_outside_at_length():
    long = "x" * 5000
    with pytest.raises(MalformedError) as twice:
        parse(f'{{"{long}":1,"{long}":1}}'.encode())
    with pytest.raises(MalformedError) as unknown:
        convert({"a": 1, long: 1}, Inner, what="thing")
    with pytest.raises(MalformedError) as number:
        parse(b"1." + b"0" * 5000)
    assert max(len(str(raised.value)) for raised in (twice, unknown, number)) < 500


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(deadline=None)
def test_parse_json_raises_nothing_else(data):
    try:
        value = parse(data)
    except MalformedError:
        return
    assert json.loads(data) == value


# --- convert, parse_canonical, canonical


def test_convert_gives_the_type():
    assert convert({"inner": {"a": 1}, "note": None}, Outer, what="o") == Outer(inner=Inner(a=1), note=None)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"inner": {"a": 1}}, "missing required field `note`"),
        ({"inner": {}, "note": ""}, r"missing required field `a` - at `\$.inner`"),
        ({"inner": {"a": 1, "b": 2}, "note": ""}, r"unknown field `b` - at `\$.inner`"),
        ({"inner": {"a": "1"}, "note": ""}, r"Expected `int`, got `str` - at `\$.inner.a`"),
        ({"inner": {"a": True}, "note": ""}, "Expected `int`, got `bool`"),
        ({"inner": [], "note": ""}, "Expected `object`"),
        (None, "Expected `object`"),
    ],
)
def test_convert_says_where(value, message):
    with pytest.raises(MalformedError, match=rf"^o: .*{message}"):
        convert(value, Outer, what="o")


def test_a_strict_struct_is_frozen():
    with pytest.raises(AttributeError):
        Inner(a=1).a = 2


def test_parse_canonical_reads_what_canonical_writes():
    value = Outer(inner=Inner(a=-1), note='\u20ac\x00\n"')
    data = canonical(value)
    assert data == b'{"inner":{"a":-1},"note":"\xe2\x82\xac\\u0000\\n\\""}'
    assert parse_canonical(data, Outer, max_bytes=100, what="o") == value


@pytest.mark.parametrize(
    "data",
    [
        b'{"note":null,"inner":{"a":1}}',
        b'{"inner":{"a":1},"note":null} ',
        b'{"inner": {"a":1},"note":null}',
        b'{"inner":{"a":-0},"note":null}',
        b'{"inner":{"a":1},"note":"\\u0061"}',
        b'{"inner":{"a":1},"note":"\\/"}',
    ],
)
def test_another_spelling_of_the_same_value_is_not_canonical(data):
    with pytest.raises(MalformedError, match="RFC 8785"):
        parse_canonical(data, Outer, max_bytes=100, what="o")


def test_members_are_sorted_by_utf16_code_units():
    """RFC 8785 §3.2.3, the example where code point order differs."""
    assert canonical({"\ufb33": 1, "\U0001f600": 2, "\u20ac": 3, "1": 4}) == (
        '{"1":4,"\u20ac":3,"\U0001f600":2,"\ufb33":1}'.encode()
    )


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        {"a": [0.5]},
        {"a": (0.5,)},
        float("nan"),
        2**53,
        "\ud800",
        {1: 2},
        b"bytes",
        {"a": datetime(2026, 1, 1, tzinfo=UTC)},
        object(),
    ],
)
def test_what_has_no_canonical_form_here_is_an_error(value):
    with pytest.raises(MalformedError, match="no canonical JSON form"):
        canonical(value)


def test_a_value_nested_without_end_is_an_error():
    value: list[Any] = []
    value.append(value)
    with pytest.raises(MalformedError, match="no canonical JSON form"):
        canonical(value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(_JSON)
@settings(deadline=None)
def test_canonical_is_rfc8785_and_is_read_back(value):
    data = canonical(value)
    assert data == rfc8785.dumps(value)
    assert parse_canonical(data, Any, max_bytes=100_000, what="v") == value


# --- the small types


@pytest.mark.parametrize(
    ("type_", "good", "bad"),
    [
        (Sha256Hex, ["a" * 64], ["A" * 64, "a" * 63, "a" * 65, "g" * 64, "a" * 64 + "\n"]),
        (HostId, ["0" * 64], ["0" * 63, "٣" * 64]),
        (
            Utc,
            ["2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000001Z"],
            [
                "2026-01-31T12:00:00",
                "2026-01-31 12:00:00Z",
                "2026-01-31T12:00:00.1Z",
                "2026-01-31T12:00:00+00:00",
                "2026-01-31T12:00:00Z\n",
                "٢026-01-31T12:00:00Z",
            ],
        ),
        (Base64Bytes, ["", "AA==", "AAA=", "+/+/"], ["A\n", "-_", "AA===", "=AA"]),
    ],
)
def test_string_forms(type_, good, bad):
    assert [convert(text, type_, what="s") for text in good] == good
    for text in bad:
        with pytest.raises(MalformedError):
            convert(text, type_, what="s")


@given(st.binary(max_size=40))
@settings(deadline=None)
def test_base64_is_read_back(data):
    assert decode_base64(base64.b64encode(data).decode(), what="b") == data


@pytest.mark.parametrize(
    "text", ["A", "AA", "AA=", "AB==", "AAB=", "A A=", "-_==", "AA==\n", "é", "=", "AA==AA=="]
)
def test_base64_has_one_spelling(text):
    with pytest.raises(MalformedError, match=r"^b: not"):
        decode_base64(text, what="b")


# --- times

MOMENT = datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)


def test_times_are_written_and_read_back():
    assert format_time(MOMENT) == "2026-01-31T12:00:00Z"
    assert format_time_us(MOMENT) == "2026-01-31T12:00:00.000005Z"
    assert parse_time("2026-01-31T12:00:00.000005Z") == MOMENT
    assert parse_time("2026-01-31T12:00:00Z") == MOMENT.replace(microsecond=0)


def test_other_zones_are_written_in_utc():
    assert format_time(MOMENT.astimezone(timezone(timedelta(hours=-5)))) == "2026-01-31T12:00:00Z"


@given(st.datetimes(timezones=st.just(UTC)))
@settings(deadline=None)
def test_every_time_is_read_back(moment):
    assert parse_time(format_time_us(moment)) == moment
    assert parse_time(format_time(moment)) == moment.replace(microsecond=0)


@pytest.mark.parametrize("write", [format_time, format_time_us])
def test_a_naive_time_is_a_callers_mistake(write):
    with pytest.raises(UsageError, match="aware"):
        write(MOMENT.replace(tzinfo=None))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-31T12:00:00",
        "2026-01-31T12:00:00z",
        "2026-01-31t12:00:00Z",
        "2026-01-31T12:00:00.123Z",
        "2026-01-31T12:00:00+00:00",
        "2026-02-30T12:00:00Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T12:60:00Z",
        "2026-12-31T23:59:60Z",
        "0000-01-01T00:00:00Z",
        "20260131T120000Z",
        "2026-W05-6T12:00:00Z",
        "٢026-01-31T12:00:00Z",
        "2026-01-31T12:00:00Z\n",
    ],
)
def test_other_forms_of_time_are_malformed(text):
    with pytest.raises(MalformedError, match=r"^time "):
        parse_time(text)


# --- base64url


@given(st.binary(max_size=100))
def test_base64url_has_one_spelling(data: bytes) -> None:
    text = encode_base64url(data)
    assert text == base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    assert decode_base64url(text, what="thing") == data


@pytest.mark.parametrize(
    "text", ["A", "AAAAA", "AB", "AA==", "A+==", "++++", "a/a/", "A A", "\u00e9", "AAA\n"]
)
def test_no_base64url(text: str) -> None:
    with pytest.raises(MalformedError, match="base64url"):
        decode_base64url(text, what="thing")


class Closed(Strict, frozen=True):
    """A type whose own form is its RFC 8785 form."""

    text: str
    number: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    names: dict[str, tuple[str, ...]]
    inner: "Closed | None" = None


OWN_FORM = canonical(Closed(text="a", number=1, names={"b": ("c",)}))
OTHER_FORMS = [
    OWN_FORM + b" ",
    OWN_FORM.replace(b":1,", b":1.0,"),
    OWN_FORM.replace(b":1,", b":4294967296,"),
    OWN_FORM.replace(b"}", b',"b":[]}', 1),
    OWN_FORM.replace(b'"a"', b'"\\u0061"'),
    OWN_FORM.replace(b'"a"', b'"\\ud800"'),
    OWN_FORM.replace(b'"a"', b'"\xff"'),
    OWN_FORM.replace(b'"text"', b'"next"'),
    OWN_FORM.replace(b"null", b"1"),
    OWN_FORM.replace(b"null", b'{"inner":' * 5000 + b"null" + b"}" * 5000),
    OWN_FORM[::-1],
]


@given(
    st.builds(
        Closed,
        text=st.text(),
        number=st.integers(0, (1 << 32) - 1),
        names=st.dictionaries(st.text(), st.lists(st.text()).map(tuple)),
    )
)
def test_the_own_form_is_the_canonical_one(value: Closed) -> None:
    data = encode_own_form(value)
    assert data == canonical(value)
    found = parse_own_form(data, Closed, max_bytes=1 << 20)
    assert found == (value if data.isascii() else None)


@given(st.binary() | st.sampled_from(OTHER_FORMS))
def test_what_is_not_in_its_own_form(data: bytes) -> None:
    """Whatever it takes, `parse_canonical` takes too, for the same value."""
    found = parse_own_form(data, Closed, max_bytes=1 << 20)
    if found is not None:
        assert parse_canonical(data, Closed, max_bytes=1 << 20, what="x") == found
    assert data not in OTHER_FORMS or found is None


def test_the_own_form_has_a_limit() -> None:
    assert parse_own_form(OWN_FORM, Closed, max_bytes=len(OWN_FORM)) is not None
    assert parse_own_form(OWN_FORM, Closed, max_bytes=len(OWN_FORM) - 1) is None
