import hashlib
import struct

import pytest

from attestd.errors import UsageError
from attestd.tcg.nv import (
    COUNTER_INDEX,
    EPOCH_INDEX,
    counter_public,
    epoch_branches,
    epoch_name,
    epoch_public,
    nv_name,
    nv_public,
)
from attestd.tcg.policy import policy_or
from attestd.tcg.public import authority_name
from tests.tcg import build

AUTHORITY = authority_name(build.key(1).public_key())
WRITTEN = 1 << 29


def test_handles_and_attributes_are_frozen():
    assert (EPOCH_INDEX, COUNTER_INDEX) == (0x01800AA0, 0x01800AA1)
    policy = policy_or(epoch_branches(AUTHORITY))
    epoch = struct.pack(">IHI", 0x01800AA0, 0x000B, 0x02060008) + build.tpm2b(policy) + b"\x00\x08"
    assert epoch_public(AUTHORITY, written=False) == epoch
    assert counter_public(written=False).hex() == "01800aa1000b06060014" + "0000" + "0008"


@pytest.mark.parametrize(
    "make", [lambda w: epoch_public(AUTHORITY, written=w), lambda w: counter_public(written=w)]
)
def test_the_first_write_sets_written_and_nothing_else(make):
    before, after = make(False), make(True)
    (attributes,) = struct.unpack_from(">I", after, 6)
    assert after[:6] + struct.pack(">I", attributes ^ WRITTEN) + after[10:] == before
    assert attributes & WRITTEN
    assert nv_name(before) != nv_name(after)


def test_name_is_the_hash_of_the_public_area():
    assert epoch_name(AUTHORITY) == b"\0\x0b" + hashlib.sha256(epoch_public(AUTHORITY, written=True)).digest()


def test_another_authority_is_another_epoch():
    assert epoch_name(AUTHORITY) != epoch_name(authority_name(build.key(2).public_key()))


@pytest.mark.parametrize(
    ("index", "policy"), [(0x81000000, b""), (0x00800AA0, b""), (EPOCH_INDEX, b"p" * 31)]
)
def test_refuses_other_handles_and_policies(index, policy):
    with pytest.raises(UsageError):
        nv_public(index, attributes=0, auth_policy=policy, size=8)
