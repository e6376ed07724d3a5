import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from attestd.errors import MalformedError, UsageError
from attestd.tlog.checkpoint import (
    Batch,
    BatchMode,
    Checkpoint,
    Origin,
    origin,
    parse_checkpoint,
    parse_origin,
    parse_tree_head,
)

HOST = "5a" * 32
LOG = "0123456789abcdef0123456789abcdef"
CHECKPOINT = Checkpoint(origin(HOST, LOG), 12, bytes(range(32)), Batch(9, BatchMode.RELEASE, 0x2A))
TEXT = f"""\
attestd/{HOST}/{LOG}
12
AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
attestd.batch 9 release 000000000000002a
"""


def test_the_text():
    assert CHECKPOINT.text() == TEXT.encode()
    assert parse_checkpoint(TEXT.encode()) == CHECKPOINT


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("attestd/", "Attestd/"),
        ("attestd/", "example.com/attestd/"),
        (HOST, HOST[1:]),
        (HOST, HOST.upper()),
        (LOG, ""),
        (LOG, "-log"),
        (LOG, "Log"),
        (LOG, "a/b"),
        (LOG, "a" * 65),
        ("12\n", "012\n"),
        ("12\n", "+12\n"),
        ("12\n", "12 \n"),
        ("12\n", "-12\n"),
        ("12\n", "1_2\n"),
        ("12\n", "0x12\n"),
        ("12\n", "\n"),
        ("12\n", "\u0661\u0662\n"),
        ("12\n", "9223372036854775808\n"),
        ("12\n", "9" * 5000 + "\n"),
        ("12\n", "9\n"),
        ("12\n", "0\n"),
        ("AAEC", "BAAEC"),
        ("Hh8=", "Hh8"),
        ("Hh8=", "Hh9="),
        ("AAECAwQF", "_AECAwQF"),
        ("AAECAwQF", ""),
        ("attestd.batch", "attestd.batch "),
        ("attestd.batch", "attestd-batch"),
        (" 9 ", " 09 "),
        (" 9 ", " 12 "),
        (" 9 ", "  "),
        ("release", "record "),
        ("release", "other"),
        ("2a\n", "2A\n"),
        ("2a\n", "a\n"),
        ("2a\n", "02a\n"),
        ("2a\n", "2a"),
        ("2a\n", "2a\n\n"),
        ("2a\n", "2a\nanother extension\n"),
        ("2a\n", "2a\nattestd.batch 9 release 000000000000002a\n"),
        ("attestd.batch 9 release 000000000000002a\n", ""),
        ("attestd.batch 9", "first\nattestd.batch 9"),
        ("12\n", "12\r\n"),
    ],
)
def test_malformed(old: str, new: str):
    changed = TEXT.replace(old, new, 1)
    assert changed != TEXT
    with pytest.raises(MalformedError):
        parse_checkpoint(changed.encode())


def test_a_sentence_says_what_is_wrong():
    for old, new, words in (
        ("12\n", "012\n", "each in its one spelling"),
        (" 9 ", " 12 ", r"no leaf in the batch \[12, 12\)"),
        ("AAECAwQF", "AAEC", "a root of 29 bytes, 32 expected"),
    ):
        with pytest.raises(MalformedError, match=words):
            parse_checkpoint(TEXT.replace(old, new, 1).encode())


def test_limits_of_numbers():
    largest = replace(CHECKPOINT, size=2**63 - 1, batch=Batch(2**63 - 2, BatchMode.RECORD, 2**64 - 1))
    assert parse_checkpoint(largest.text()) == largest
    assert b"attestd.batch 9223372036854775806 record ffffffffffffffff\n" in largest.text()


@pytest.mark.parametrize(
    "change",
    [
        {"origin": "example.com/log"},
        {"origin": CHECKPOINT.origin + "\n"},
        {"root": b"short"},
        {"size": 9},
        {"size": 2**63},
        {"batch": Batch(-1, BatchMode.RECORD, 1)},
        {"batch": Batch(12, BatchMode.RECORD, 1)},
        {"batch": Batch(9, BatchMode.RECORD, -1)},
        {"batch": Batch(9, BatchMode.RECORD, 2**64)},
    ],
)
def test_no_checkpoint_without_a_text(change: dict[str, object]):
    with pytest.raises(UsageError):
        replace(CHECKPOINT, **change)


def test_origin():
    assert origin(HOST, LOG) == f"attestd/{HOST}/{LOG}"
    assert parse_origin(f"attestd/{HOST}/{LOG}") == Origin(HOST, LOG)
    for host, log in ((HOST[1:], LOG), (HOST, ""), (HOST, f"{LOG}\n"), (f"x/{HOST}", LOG)):
        with pytest.raises(UsageError, match="no origin"):
            origin(host, log)
        with pytest.raises(MalformedError, match="expected attestd"):
            parse_origin(f"attestd/{host}/{log}")


@given(
    st.integers(1, 2**63 - 1).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))),
    st.binary(min_size=32, max_size=32),
    st.sampled_from(BatchMode),
    st.integers(0, 2**64 - 1),
)
def test_round_trip(size_first: tuple[int, int], root: bytes, mode: BatchMode, counter: int):
    size, first = size_first
    checkpoint = Checkpoint(CHECKPOINT.origin, size, root, Batch(first, mode, counter))
    assert parse_checkpoint(checkpoint.text()) == checkpoint


@given(st.integers(0, len(TEXT) - 1), st.integers(0, 255))
def test_whatever_parses_is_the_one_spelling_of_its_checkpoint(position: int, byte: int):
    data = TEXT.encode()
    data = data[:position] + bytes([byte]) + data[position + 1 :]
    try:
        parsed = parse_checkpoint(data)
    except MalformedError:
        return
    assert parsed.text() == data


def test_a_tree_head_of_any_log():
    text = b"example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    head = parse_tree_head(text)
    assert (head.origin, head.size, head.extensions) == ("example.com/behind-the-sofa", 20852163, ())
    assert head.root.hex().startswith("0ac5186a9186")
    assert parse_tree_head(text + "é x\ny\n".encode()).extensions == ("é x", "y")
    ours = parse_tree_head(TEXT.encode())
    assert (ours.origin, ours.size, ours.root) == (CHECKPOINT.origin, CHECKPOINT.size, CHECKPOINT.root)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"o\n0\n",
        b"\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
        b"o\n00\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
        b"o\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        b"o\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n",
        b"o\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\nx\n",
        b"o\n0\n47DEQpj8\n",
        b"\xff\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
    ],
)
def test_what_is_no_tree_head(text: bytes):
    with pytest.raises(MalformedError):
        parse_tree_head(text)
