"""Lists against quoted values: prefixes, increments, banks, and everything malformed."""

import time

import pytest

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.tcg.ima.aggregate import boot_aggregates
from attestd.tcg.ima.ascii import binary_from_ascii, is_ascii_list
from attestd.tcg.ima.replay import (
    VerifiedImaList,
    find_value,
    replay_list,
    replay_rest,
    start_of_list,
    verify_list,
)
from tests.tcg.eventlog.build import BOOTS, RECORDED
from tests.tcg.ima.build import data, entry, ima_list, old_entry, pcr10

BANKS = ("sha1", "sha256", "sha384", "sha512")
NAMES = ("shim-grub-ms-sb", "uki-sb", "uki-sb-cmdline2")
A, B, C = data(b"/a"), data(b"/b"), data(b"/c")
LIST = ima_list(A, B, C)


def verify(list_: bytes, value: bytes, bank: str = "sha256", **options) -> VerifiedImaList:
    return verify_list(list_, position=start_of_list(bank), value=value, **options)


@pytest.mark.parametrize("boot", NAMES)
@pytest.mark.parametrize("form", ["binary", "ascii"])
@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_recorded_lists_replay_to_what_the_tpm_held(boot, form, bank):
    """The SHA-384 bank shows it: IMA started before the kernel had that hash."""
    found = (BOOTS / boot / f"{form}_runtime_measurements").read_bytes()
    assert is_ascii_list(found) is (form == "ascii")
    list_ = binary_from_ascii(found) if form == "ascii" else found
    pcrs = RECORDED[boot][1]
    verified = verify(list_, pcrs[bank][10], bank)
    assert verified.end.padded is (bank == "sha384")
    assert (verified.later, verified.end.offset) == (False, len(list_))
    [(template, indices)] = verified.runs()
    entries = [verified.entry(index, template) for index in indices]
    assert (entries[0].path, entries[-1].path) == (b"boot_aggregate", b"/usr/bin/seq")
    assert len({item.path for item in entries}) > 300
    assert entries[0].digest in boot_aggregates("sha256", pcrs["sha256"])


@pytest.mark.parametrize("bank", BANKS)
def test_replay(bank):
    assert replay_list(LIST, bank=bank).end.value == pcr10(bank, A, B, C)
    padded = replay_list(LIST, bank=bank, padded=True).end.value
    assert padded == pcr10(bank, A, B, C, padded=True)
    assert verify(LIST, padded, bank).end.padded is (bank != "sha1")


def test_the_prefix_that_was_quoted():
    early = verify(LIST, pcr10("sha256", A))
    assert (len(early), early.later, early.end.entries) == (1, True, 1)
    assert list(early.data) == [A]
    assert not verify(LIST, pcr10("sha256", A, B, C)).later
    nothing = verify(LIST, bytes(32))
    assert (len(nothing), nothing.later) == (0, True)
    assert list(nothing.runs()) == []


def test_what_lies_behind_the_quote_is_not_read():
    """The kernel may be writing it, or an attacker: it is the next quote's matter."""
    assert len(verify(LIST + b"\xff" * 9, pcr10("sha256", A, B, C))) == 3
    padded = verify(LIST + b"\xff" * 9, pcr10("sha256", A, B, C, padded=True))
    assert (len(padded), padded.end.padded) == (3, True)


def test_incremental():
    first = verify(LIST, pcr10("sha256", A, B))
    rest = LIST[first.end.offset :]
    second = verify_list(rest, position=first.end, value=pcr10("sha256", A, B, C))
    assert (second.end.entries, second.end.offset) == (3, len(LIST))
    [(template, indices)] = second.runs()
    assert [second.entry(index, template).number for index in indices] == [2]
    unchanged = verify_list(b"", position=second.end, value=second.end.value)
    assert (len(unchanged), unchanged.end) == (0, second.end)
    # How the bank is extended does not change within a boot.
    with pytest.raises(VerificationError, match="of the 1 entries from entry 2 on"):
        verify_list(rest, position=first.end, value=pcr10("sha256", C, padded=True, value=first.end.value))


@pytest.mark.parametrize(
    "forged",
    [
        ima_list(A, C),
        ima_list(B, A, C),
        ima_list(A, B, B),
        ima_list(A, B, data(b"/c", b"other")),
        entry(A) + entry(B) + entry(C, violation=True),
        entry(A) + entry(B),
        b"",
    ],
)
def test_another_list_is_not_verified(forged):
    with pytest.raises(VerificationError, match="not the list of this quote"):
        verify(forged, pcr10("sha256", A, B, C))


@pytest.mark.parametrize("padded", [False, True])
def test_violations_extend_ones(padded):
    list_ = entry(A) + entry(B, violation=True) + entry(C)
    verified = verify(list_, pcr10("sha384", A, None, C, padded=padded), "sha384")
    assert [verified.is_violation(index) for index in range(3)] == [False, True, False]
    assert verified.entry(1, b"ima-ng").violation


def test_template_digests_of_the_list_are_not_believed():
    lying = entry(A)[:4] + b"\x11" * 20 + entry(A)[24:]
    assert verify(lying, pcr10("sha256", A)).data == [A]


def test_templates_change_within_a_list():
    signed = A + b"\0\0\0\0"
    list_ = entry(A) + entry(signed, b"ima-sig") + entry(B, b"ima-sig") + entry(C) + old_entry(b"/old")
    verified = replay_list(list_, bank="sha1")
    assert [(name, list(indices)) for name, indices in verified.runs()] == [
        (b"ima-ng", [0]),
        (b"ima-sig", [1, 2]),
        (b"ima-ng", [3]),
        (b"ima", [4]),
    ]


def test_the_oldest_template():
    list_ = old_entry(b"/init") + old_entry(b"/gone", violation=True)
    verified = replay_list(list_, bank="sha1")
    assert len(verified.data[0]) == 276
    assert verified.end.value == pcr10("sha1", verified.data[0], None)


@pytest.mark.parametrize(
    ("list_", "words"),
    [
        (LIST[:-1], "truncated in entry 2"),
        (LIST + b"\x0a", "truncated in entry 3"),
        (LIST + entry(A)[:28], "truncated in entry 3"),
        (LIST + entry(A)[:35], "truncated in entry 3"),
        (entry(A, size=0xFFFFFFFF), "truncated in entry 0"),
        (entry(A, name_size=0), "template name of 0 bytes"),
        (entry(A)[:33], "template name of 6 bytes"),
        (entry(A, name_size=256) + bytes(300), "template name of 256 bytes"),
        (entry(A, name_size=0xFFFFFFFF), "template name of 4294967295 bytes"),
        (entry(A, pcr=11), "entry 0 is of PCR 11, expected 10"),
        (old_entry(b"/x")[:40], "truncated in entry 0"),
        (old_entry(b"/x")[:-1], "truncated in entry 0"),
    ],
)
def test_malformed(list_, words):
    with pytest.raises(MalformedError, match=words):
        replay_list(list_, bank="sha256")
    with pytest.raises(MalformedError, match=words):
        verify(list_, b"\x11" * 32)


def test_limits():
    with pytest.raises(MalformedError, match="the limit is 10"):
        verify(LIST, bytes(32), max_bytes=10)
    with pytest.raises(MalformedError, match="the limit is 10"):
        replay_list(LIST, bank="sha1", max_bytes=10)


def test_misuse():
    with pytest.raises(UsageError, match="no bank 'md5'"):
        start_of_list("md5")
    with pytest.raises(VerificationError, match="a PCR value of 20 bytes, expected 32"):
        verify(LIST, bytes(20))


def test_a_template_in_every_entry_costs_no_more_than_time():
    """Entries of nothing, each with another template than the one before."""
    pair = entry(b"", b"a") + entry(b"", b"b")
    start = time.thread_time()
    assert len(replay_list(pair * 50_000, bank="sha256")) == 100_000
    assert time.thread_time() - start < 30


def test_boot_aggregate():
    values = {index: bytes([index]) * 32 for index in range(10)}
    both = boot_aggregates("sha256", values)
    assert len(both) == 2
    seven = {index: values[index] for index in range(8)}
    assert boot_aggregates("sha256", seven) < both
    assert boot_aggregates("sha256", {0: bytes(32)}) == frozenset()
    assert len(boot_aggregates("sha1", {index: bytes(20) for index in range(10)})) == 1


def test_what_no_quote_has_proved_yet():
    """It can be looked at, and goes on where it ended; it proves nothing."""
    start = start_of_list("sha256")
    first = replay_rest(ima_list(A, B), position=start)
    assert (first.start, first.end.entries, first.end.offset) == (start, 2, len(ima_list(A, B)))
    rest = replay_rest(ima_list(C), position=first.end)
    assert (rest.data, rest.end.entries, rest.end.offset) == ([C], 3, len(LIST))
    assert rest.entry(0, b"ima-ng").number == 2
    with pytest.raises(MalformedError, match="truncated in entry 2"):
        replay_rest(ima_list(C)[:-1], position=first.end)
    with pytest.raises(MalformedError, match="the limit is 1"):
        replay_rest(LIST, position=start, max_bytes=1)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("bank", BANKS)
def test_the_value_of_a_moment_that_nobody_could_read(bank, padded):
    padded = padded and bank != "sha1"
    list_ = ima_list(A) + entry(B, violation=True) + ima_list(C)
    values = [
        pcr10(bank, padded=padded),
        pcr10(bank, A, padded=padded),
        pcr10(bank, A, None, padded=padded),
        pcr10(bank, A, None, C, padded=padded),
    ]
    start = start_of_list(bank)
    for value in values:
        assert find_value(list_, position=start, matches=value.__eq__) == value
    assert find_value(list_, position=start, matches=lambda _: False) is None
    proved = verify_list(list_, position=start, value=values[1])
    rest = list_[proved.end.offset :]
    assert find_value(rest, position=proved.end, matches=values[3].__eq__) == values[3]
    assert find_value(rest, position=proved.end, matches=values[0].__eq__) is None, "it never goes back"
    with pytest.raises(MalformedError):
        find_value(list_[:-1], position=start, matches=lambda _: False)
