"""Entry bundles are read back, strictly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import MalformedError
from attestd.tlog.tiles import format_bundle, parse_bundle


@given(st.lists(st.binary(max_size=300), max_size=256))
def test_what_is_written_is_read(entries: list[bytes]) -> None:
    assert parse_bundle(format_bundle(entries)) == entries


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5), st.data())
def test_a_bundle_that_is_cut_short(entries: list[bytes], data: st.DataObject) -> None:
    whole = format_bundle(entries)
    ends = [len(format_bundle(entries[:count])) for count in range(len(entries) + 1)]
    cut = data.draw(st.integers(1, len(whole) - 1).filter(lambda at: at not in ends))
    with pytest.raises(MalformedError, match="cut short"):
        parse_bundle(whole[:cut])


def test_no_more_entries_than_a_tile_has() -> None:
    assert len(parse_bundle(format_bundle([b"x"] * 256))) == 256
    with pytest.raises(MalformedError, match="one too many"):
        parse_bundle(format_bundle([b"x"] * 257))
