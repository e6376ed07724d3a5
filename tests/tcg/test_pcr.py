import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import MalformedError, UsageError
from attestd.tcg.pcr import (
    PcrSelection,
    composite,
    composite_of_banks,
    marshal_selections,
    selection_from_text,
)
from tests.tcg import build
from tests.tcg.parsing import parse_selections

selections = st.builds(
    PcrSelection,
    st.sampled_from(["sha1", "sha256", "sha384"]),
    st.sets(st.integers(0, 23), min_size=1).map(lambda pcrs: tuple(sorted(pcrs))),
)


@given(st.lists(selections, min_size=1, max_size=3, unique_by=lambda selection: selection.bank))
def test_selections_survive_marshalling(parts):
    data = marshal_selections(parts)
    assert data == build.selection(*((part.bank, part.pcrs) for part in parts))
    assert parse_selections(data) == tuple(parts)


def test_marshals_as_the_prototypes_measured():
    assert PcrSelection("sha256", (0, 2, 4, 7, 11)).marshal().hex() == "00000001000b03950800"


@pytest.mark.parametrize(
    ("bank", "pcrs"),
    [
        ("sha256", ()),
        ("sha256", (2, 0)),
        ("sha256", (0, 0)),
        ("sha256", (24,)),
        ("sha256", (-1, 3)),
        ("sha512", (0,)),
        ("SHA256", (0,)),
        ("", (0,)),
    ],
)
def test_a_selection_cannot_be_made_wrong(bank, pcrs):
    with pytest.raises(UsageError):
        PcrSelection(bank, pcrs)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("", "truncated"),
        ("00000000", "0 banks"),
        ("00000004" + "000b03010000" * 4, "4 banks"),
        ("ffffffff", "banks"),
        ("00000001000b0301", "truncated"),
        ("00000001000b0301000000", "1 trailing"),
        ("00000001000b03000000", "at least one PCR"),
        ("00000001000b0401000000", "3 octets"),
        ("00000001000d03010000", "known hash"),
        ("00000002000b03010000000b03020000", "same bank twice"),
    ],
)
def test_parse_refuses(data, words):
    with pytest.raises(MalformedError, match=words):
        parse_selections(bytes.fromhex(data))


@given(st.binary(max_size=40))
def test_parse_raises_nothing_but_malformed(data):
    try:
        parsed = parse_selections(data)
    except MalformedError:
        return
    assert marshal_selections(parsed) == data  # what parses has one encoding


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,2,4,7", PcrSelection("sha256", (0, 2, 4, 7))),
        ("7,0", PcrSelection("sha256", (0, 7))),
        ("sha384:23", PcrSelection("sha384", (23,))),
        ("sha1:10", PcrSelection("sha1", (10,))),
    ],
)
def test_reads_what_people_write(text, expected):
    assert selection_from_text(text) == expected
    assert selection_from_text(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        ":0",
        "0,",
        ",0",
        "0 2",
        "0-7",
        "24",
        "0,0",
        "\u0663",
        "md5:0",
        "sha256:0:1",
        "0\n",
        "0," * 30 + "0",
    ],
)
def test_refuses_other_texts(text):
    with pytest.raises(UsageError):
        selection_from_text(text)


def test_composite_hashes_the_values_ascending():
    values = {7: b"7" * 32, 0: b"0" * 32, 10: b"a" * 32}
    expected = hashlib.sha256(b"0" * 32 + b"7" * 32 + b"a" * 32).digest()
    assert composite(PcrSelection("sha256", (0, 7, 10)), values) == expected


def test_composite_hash_is_not_the_banks():
    selection, values = PcrSelection("sha1", (10,)), {10: b"v" * 20}
    assert composite(selection, values) == hashlib.sha256(b"v" * 20).digest()
    assert composite(selection, values, hash_alg="sha384") == hashlib.sha384(b"v" * 20).digest()


def test_composite_of_banks_keeps_their_order():
    one = (PcrSelection("sha1", (10,)), {10: b"v" * 20})
    two = (PcrSelection("sha256", (0,)), {0: b"w" * 32})
    assert composite_of_banks([one, two]) == hashlib.sha256(b"v" * 20 + b"w" * 32).digest()
    assert composite_of_banks([one, two]) != composite_of_banks([two, one])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "PCR 0 "),
        ({0: bytes(32)}, "PCR 7 "),
        ({0: bytes(32), 7: bytes(32), 8: bytes(32)}, "only those"),
        ({0: bytes(31), 7: bytes(33)}, "not sha256 digests"),
        ({0: bytes(20), 7: bytes(20)}, "not sha256 digests"),
    ],
)
def test_composite_refuses_values_that_are_not_exactly_those_selected(values, words):
    with pytest.raises(MalformedError, match=words):
        composite(PcrSelection("sha256", (0, 7)), values)


def test_composite_refuses_weak_hashes_and_nothing():
    with pytest.raises(UsageError, match="sha1"):
        composite(PcrSelection("sha256", (0,)), {0: bytes(32)}, hash_alg="sha1")
    with pytest.raises(UsageError, match="nothing"):
        composite_of_banks([])
