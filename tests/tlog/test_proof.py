from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import MalformedError, UsageError
from attestd.tlog.proof import MAX_PROOF_BYTES, TlogProof, format_proof, parse_proof

# c2sp.org/tlog-proof, its first example; the signatures, which it abridges, are left out, and its extra data, which
# is not base64 as it stands there, is cut to a multiple of four.
C2SP_EXAMPLE = b"""\
c2sp.org/tlog-proof@v1
extra YWdlLXYxLjIuMS1kYXJ3aW4tYXJtNjQudGFyLmd6
index 73894
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=
EKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=
RoopEkOdqkYqMB4MJXrbt/hMjOxsVn0IrWjpz1ZMMes=
AHCioX9nLjsrse6YhjRRmk1WUEirVOLLRoOQ6vfO5vk=

example.com/fancylog
109482
sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=
"""
HASH = b"\x00" * 32
LINE = b"A" * 43 + b"=\n"
PROOF = TlogProof(extra=b"extra", index=10, proof=(HASH, HASH), checkpoint=b"text\n\nsignatures\n")
DATA = b"c2sp.org/tlog-proof@v1\nextra ZXh0cmE=\nindex 10\n" + LINE * 2 + b"\ntext\n\nsignatures\n"


def test_c2sp_example():
    proof = parse_proof(C2SP_EXAMPLE)
    assert proof.extra == b"age-v1.2.1-darwin-arm64.tar.gz"
    assert (proof.index, len(proof.proof)) == (73894, 5)
    assert proof.proof[0].hex().startswith("8122b25e86195206")
    assert proof.checkpoint.startswith(b"example.com/fancylog\n109482\n")
    assert format_proof(proof) == C2SP_EXAMPLE


def test_the_format():
    assert format_proof(PROOF) == DATA
    assert parse_proof(DATA) == PROOF


def test_no_extra_data_no_hashes():
    data = b"c2sp.org/tlog-proof@v1\nindex 0\n\ntest checkpoint\n"
    assert parse_proof(data) == TlogProof(extra=None, index=0, proof=(), checkpoint=b"test checkpoint\n")
    assert format_proof(parse_proof(data)) == data


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"@v1", b"@v2", "expected c2sp.org"),
        (b"c2sp", b"\nc2sp", "expected c2sp.org"),
        (b"c2sp", b"\xef\xbb\xbfc2sp", "expected c2sp.org"),
        (b"\ntext\n\nsignatures\n", b"", "expected c2sp.org"),
        (b"text\n\nsignatures\n", b"", "expected c2sp.org"),
        (DATA, b"", "expected c2sp.org"),
        (b"ZXh0cmE=", b"", "without data"),
        (b"ZXh0cmE=", b"ZXh0cmE", "base64"),
        (b"ZXh0cmE=", b"ZXh0cmF=", "canonical"),
        (b"ZXh0cmE=", b"ZXh0 cmE=", "base64"),
        (b"extra", b"Extra", "no index"),
        (b"extra ZXh0cmE=\n", b"extra ZXh0cmE=\nextra ZXh0cmE=\n", "no index"),
        (b"index 10\n", b"", "no index"),
        (b"index 10\n", b"index  10\n", "decimal"),
        (b"index 10\n", b"index 010\n", "decimal"),
        (b"index 10\n", b"index -1\n", "decimal"),
        (b"index 10\n", b"index notanumber\n", "decimal"),
        (b"index 10\n", b"index 9223372036854775808\n", "decimal"),
        (b"extra ZXh0cmE=\nindex 10\n", b"index 10\nextra ZXh0cmE=\n", "base64"),
        (b"index 10\n", b"index 10\nindex 10\n", "base64"),
        (LINE, b"A" * 42 + b"==\n", "not 32 bytes|base64"),
        (LINE, b"A" * 44 + b"\n", "not 32 bytes"),
        (LINE, b"A" * 42 + b"B=\n", "canonical"),
        (LINE, LINE[:-1] + b"\r\n", "base64"),
        (b"extra ZXh0cmE=\nindex 10\n" + LINE * 2, b"", "expected c2sp.org|no index"),
    ],
)
def test_malformed(old: bytes, new: bytes, words: str):
    changed = DATA.replace(old, new, 1)
    assert changed != DATA
    with pytest.raises(MalformedError, match=words):
        parse_proof(changed)


def test_header_alone():
    with pytest.raises(MalformedError, match="no index"):
        parse_proof(b"c2sp.org/tlog-proof@v1\n\ncheckpoint\n")


def test_limits():
    assert len(parse_proof(DATA.replace(LINE, LINE * 62, 1)).proof) == 63
    with pytest.raises(MalformedError, match="64 hashes"):
        parse_proof(DATA.replace(LINE, LINE * 63, 1))
    room = MAX_PROOF_BYTES - len(DATA)
    assert len(parse_proof(DATA + b"c" * room).checkpoint) == len(PROOF.checkpoint) + room
    with pytest.raises(MalformedError, match="262145 bytes"):
        parse_proof(DATA + b"c" * (room + 1))


@pytest.mark.parametrize(
    "change",
    [
        {"extra": b""},
        {"index": -1},
        {"index": 2**63},
        {"proof": (HASH[1:],)},
        {"proof": (HASH,) * 64},
        {"checkpoint": b""},
        {"checkpoint": b"c" * MAX_PROOF_BYTES},
    ],
)
def test_what_could_not_be_read_is_not_written(change: dict[str, object]):
    with pytest.raises(UsageError, match="not a proof"):
        format_proof(replace(PROOF, **change))


@given(
    st.builds(
        TlogProof,
        extra=st.none() | st.binary(min_size=1, max_size=100),
        index=st.integers(0, 2**63 - 1),
        proof=st.lists(st.binary(min_size=32, max_size=32), max_size=5).map(tuple),
        checkpoint=st.binary(min_size=1, max_size=60),
    )
)
def test_round_trip(proof: TlogProof):
    assert parse_proof(format_proof(proof)) == proof


@given(st.integers(0, len(DATA) - 1), st.binary(max_size=2))
def test_whatever_parses_is_the_one_spelling_of_its_proof(position: int, inserted: bytes):
    data = DATA[:position] + inserted + DATA[position + 1 :]
    try:
        proof = parse_proof(data)
    except MalformedError:
        return
    assert format_proof(proof) == data
