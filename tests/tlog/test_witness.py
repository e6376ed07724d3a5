"""C2SP tlog-witness, add-checkpoint: the request's form, and the rules once a signature has verified."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.tlog.checkpoint import TreeHead
from attestd.tlog.note import NoteSignature
from attestd.tlog.tree import EMPTY_ROOT, Frontier, consistency_proof, leaf_hash
from attestd.tlog.witness import (
    MAX_ADD_CHECKPOINT_BYTES,
    NOTHING_SEEN,
    AddCheckpoint,
    Conflict,
    Latest,
    Refusal,
    evaluate_conflict,
    evaluate_growth,
    format_add_checkpoint,
    format_cosignatures,
    parse_add_checkpoint,
    parse_cosignatures,
    parse_size,
    verify_cosignatures,
)
from tests.world import witness

# c2sp.org/tlog-witness, "Example request body".
EXAMPLE = """\
old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
""".encode()
HASH = base64.b64encode(bytes(32)).decode()

LEAVES = [leaf_hash(bytes([n])) for n in range(40)]
_, NODES = Frontier().append(LEAVES)
STORED = {(node.level, node.index): node.hash for node in NODES}


def stored(level: int, index: int) -> bytes:
    return STORED[level, index]


def root(size: int) -> bytes:
    return Frontier.load(size, stored).root()


def request(old: int, new: int) -> AddCheckpoint:
    return AddCheckpoint(old, tuple(consistency_proof(old, new, stored)), b"note")


def head(size: int) -> TreeHead:
    return TreeHead("log", size, root(size))


def test_the_specifications_example() -> None:
    parsed = parse_add_checkpoint(EXAMPLE)
    assert (parsed.old_size, len(parsed.proof)) == (20852014, 4)
    assert parsed.checkpoint.startswith(b"example.com/behind-the-sofa\n20852163\n")
    assert format_add_checkpoint(parsed) == EXAMPLE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 1\n",
        b"old 1\n\n",
        b"\n\nnote",
        b"old  1\n\nnote",
        b"old\t1\n\nnote",
        b"Old 1\n\nnote",
        b"old 01\n\nnote",
        b"old 00\n\nnote",
        b"old +1\n\nnote",
        b"old -1\n\nnote",
        b"old 1 \n\nnote",
        b"old 9223372036854775808\n\nnote",
        b"old \xd9\xa1\n\nnote",
        b"old 1\r\n\r\nnote",
        b"old 1\nnote",
        b"old 1\nAAAA\n\nnote",
        f"old 1\n{HASH} \n\nnote".encode(),
        f"old 1\n{HASH[:-1]}\n\nnote".encode(),
        f"old 1\n{HASH[:-2]}B=\n\nnote".encode(),
        f"old 1\n{HASH}\n".encode() * 2,
        b"old 1\n" + f"{HASH}\n".encode() * 64 + b"\nnote",
        b"old 1\n\n" + b"x" * MAX_ADD_CHECKPOINT_BYTES,
    ],
)
def test_what_is_no_request(body: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_add_checkpoint(body)


def test_the_longest_request() -> None:
    longest = AddCheckpoint(2**63 - 1, (bytes(32),) * 63, b"x" * (64 * 1024))
    assert len(format_add_checkpoint(longest)) <= MAX_ADD_CHECKPOINT_BYTES
    assert parse_add_checkpoint(format_add_checkpoint(longest)) == longest


@given(
    st.integers(0, 2**63 - 1),
    st.lists(st.binary(min_size=32, max_size=32), max_size=63),
    st.binary(min_size=1, max_size=200),
)
def test_requests_come_back(old: int, proof: list[bytes], checkpoint: bytes) -> None:
    written = AddCheckpoint(old, tuple(proof), checkpoint)
    assert parse_add_checkpoint(format_add_checkpoint(written)) == written


@pytest.mark.parametrize(
    "wrong",
    [
        AddCheckpoint(-1, (), b"note"),
        AddCheckpoint(1, (b"short",), b"note"),
        AddCheckpoint(1, (bytes(32),) * 64, b"note"),
        AddCheckpoint(1, (), b""),
    ],
)
def test_what_cannot_be_written(wrong: AddCheckpoint) -> None:
    with pytest.raises(UsageError):
        format_add_checkpoint(wrong)


@pytest.mark.parametrize(("old", "new"), [(old, new) for new in range(41) for old in range(new + 1)])
def test_what_grows_is_cosigned(old: int, new: int) -> None:
    assert evaluate_growth(request(old, new), head(new), Latest(old, root(old))) is None


def status(refusal: Refusal | None) -> int:
    assert refusal is not None
    return refusal.status


def test_1_an_old_size_above_the_checkpoints() -> None:
    assert status(evaluate_growth(AddCheckpoint(9, (), b"note"), head(8), Latest(9, root(9)))) == 400
    # Also where the latest would be a conflict: the order is the specification's.
    assert status(evaluate_growth(AddCheckpoint(9, (), b"note"), head(8), NOTHING_SEEN)) == 400


def test_2_an_old_size_that_is_not_the_latest() -> None:
    for old in (0, 7, 9):
        assert status(evaluate_growth(request(old, 20), head(20), Latest(8, root(8)))) == 409
    assert status(evaluate_growth(request(5, 20), head(20), NOTHING_SEEN)) == 409
    # A replay of what was cosigned before something later.
    assert status(evaluate_growth(request(4, 8), head(8), Latest(20, root(20)))) == 409


def test_3_an_empty_tree_with_a_root() -> None:
    empty = AddCheckpoint(0, (), b"note")
    assert status(evaluate_growth(empty, TreeHead("log", 0, bytes(32)), NOTHING_SEEN)) == 422
    assert evaluate_growth(empty, TreeHead("log", 0, EMPTY_ROOT), NOTHING_SEEN) is None


def test_4_a_proof_from_an_empty_tree() -> None:
    assert status(evaluate_growth(AddCheckpoint(0, (bytes(32),), b"note"), head(8), NOTHING_SEEN)) == 422


def test_4_a_proof_that_does_not_verify() -> None:
    for proof in (
        (),
        request(8, 20).proof[:-1],
        (*request(8, 20).proof, bytes(32)),
        (bytes(32), *request(8, 20).proof[1:]),
        request(8, 21).proof,
    ):
        assert status(evaluate_growth(AddCheckpoint(8, proof, b"note"), head(20), Latest(8, root(8)))) == 422


def test_4_a_fork() -> None:
    fork = TreeHead("log", 20, Frontier().append([*LEAVES[:7], *LEAVES[20:33]])[0].root())
    assert status(evaluate_growth(request(8, 20), fork, Latest(8, root(8)))) == 422


def test_4_the_same_size_with_another_root() -> None:
    fork = TreeHead("log", 8, root(9))
    assert status(evaluate_growth(AddCheckpoint(8, (), b"note"), fork, Latest(8, root(8)))) == 422
    assert (
        status(evaluate_growth(AddCheckpoint(8, (bytes(32),), b"note"), head(8), Latest(8, root(8)))) == 422
    )
    assert evaluate_growth(AddCheckpoint(8, (), b"note"), head(8), Latest(8, root(8))) is None


def test_cosignatures_come_back() -> None:
    lines = (NoteSignature("w/1", b"abcd", b"1"), NoteSignature("w/2", b"efgh", b"22"))
    data = format_cosignatures(lines)
    assert data.count(b"\n") == 2
    assert data.startswith("— w/1 ".encode())
    assert parse_cosignatures(data) == lines


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        "— w/1 YWJjZDE=".encode(),
        "— w/1 YWJjZDE=\n\n".encode(),
        b"- w/1 YWJjZDE=\n",
        b"\xff\n",
        "— w/1 YWJjZDE=\n".encode() * 17,
        b"x" * (64 * 1024 + 1),
    ],
)
def test_what_is_no_answer(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_cosignatures(data)


# -- what answers mean

TEXT = f"example.com/log\n7\n{HASH}\n".encode()
ONE, TWO = witness("one"), witness("two")


def verified(*lines: NoteSignature, latest: int = 100) -> tuple[NoteSignature, ...]:
    return verify_cosignatures(format_cosignatures(lines), text=TEXT, keys=[ONE.key], latest=latest)


def test_cosignatures_by_its_own_keys() -> None:
    one, two = ONE.cosign(TEXT, time=100), TWO.cosign(TEXT, time=1)
    assert verified(one) == verified(two, one) == (one,)
    for lines, words in (
        ((two,), "none by a key"),
        ((one, one), "2 signatures"),
        ((ONE.cosign(TEXT, time=101),), "in the future"),
        ((ONE.cosign(TEXT.replace(b"7", b"8"), time=1),), "is wrong"),
        ((NoteSignature(one.name, one.key_id, two.payload),), "is wrong"),
    ):
        with pytest.raises(VerificationError, match=words):
            verified(*lines)


def test_the_body_of_a_conflict() -> None:
    assert parse_size(b"20852014\n") == 20852014
    for wrong in (b"", b"\n", b"1", b"01\n", b"-1\n", b"1\n\n", b"9" * 30 + b"\n", b"x\n"):
        with pytest.raises(MalformedError):
            parse_size(wrong)


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (0, Conflict.WENT_BACK),
        (9, Conflict.WENT_BACK),
        (10, Conflict.GO_ON),
        (12, Conflict.NONSENSE),
        (15, Conflict.GO_ON),
        (20, Conflict.GO_ON),
        (21, Conflict.PASSED),
        (30, Conflict.PASSED),
        (31, Conflict.AHEAD),
    ],
)
def test_what_a_conflict_means(told: int, found: Conflict) -> None:
    assert evaluate_conflict(told, old=12, cosigned=10, size=20, log_size=30) is found
