import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import UsageError
from attestd.tcg.binding import Purpose, extra_data

HOST = "0123456789abcdef" * 4


def test_is_the_hash_that_the_formats_document_defines():
    expected = hashlib.sha256(b"attestd/evidence/v1\x00" + HOST.encode() + b"\x00challenge").digest()
    assert extra_data(Purpose.EVIDENCE, host_id=HOST, data=b"challenge") == expected


def test_purposes_are_frozen():
    assert [purpose.value for purpose in Purpose] == ["checkpoint", "evidence", "enroll", "quote"]


def test_purpose_host_and_data_each_change_it():
    values = {extra_data(purpose, host_id=HOST, data=b"x") for purpose in Purpose}
    values.add(extra_data(Purpose.QUOTE, host_id="f" * 64, data=b"x"))
    values.add(extra_data(Purpose.QUOTE, host_id=HOST, data=b"y"))
    assert len(values) == len(Purpose) + 2


@given(st.binary(min_size=1, max_size=200))
def test_never_is_or_holds_the_callers_bytes(data):
    bound = extra_data(Purpose.QUOTE, host_id=HOST, data=data)
    assert len(bound) == 32
    assert bound != hashlib.sha256(data).digest()


def test_refuses_an_empty_challenge():
    with pytest.raises(UsageError, match="freshness"):
        extra_data(Purpose.QUOTE, host_id=HOST, data=b"")


@pytest.mark.parametrize("host", ["", "0" * 63, "0" * 65, "A" * 64, "0" * 64 + "\n", "\u0660" * 64])
def test_refuses_what_is_no_host_id(host):
    with pytest.raises(UsageError, match="host id"):
        extra_data(Purpose.QUOTE, host_id=host, data=b"x")
