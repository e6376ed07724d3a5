"""What operator and controller say of how much is kept: of one form."""

import pytest
from msgspec.structs import replace

from attestd.errors import MalformedError
from attestd.lineage.usage import HostUsage, UsageList, parse_host_usage, parse_usage_list
from attestd.strict import canonical

USED = HostUsage(
    host="ab" * 32, receipts=1, bytes=2, denials=5, denial_bytes=6, max_receipts=3, max_bytes=40, own=False
)
LIST = UsageList(hosts=(USED,), next=None)


def test_what_is_said_is_read() -> None:
    assert parse_host_usage(canonical(USED)) == USED
    assert parse_usage_list(canonical(LIST)) == LIST
    for wrong in (b"", b"{}", canonical(USED)[:-1] + b',"more":1}', canonical(LIST)[:-1] + b',"more":1}'):
        with pytest.raises(MalformedError):
            parse_host_usage(wrong)
        with pytest.raises(MalformedError):
            parse_usage_list(wrong)


def test_of_denials_a_tenth_as_much_and_one_at_least() -> None:
    assert (USED.max_denials, USED.max_denial_bytes) == (1, 4)
    assert replace(USED, max_receipts=0).max_denials == 0
