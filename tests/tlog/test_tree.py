from itertools import pairwise

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import UsageError, VerificationError
from attestd.tlog.tree import (
    EMPTY_ROOT,
    Frontier,
    Node,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)
from tests.tlog import reference

SIZE = 33
ENTRIES = [b"entry %d" % i for i in range(SIZE)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
ROOTS = [reference.mth(ENTRIES[:size]) for size in range(SIZE + 1)]
NODES = {(level, index): value for level, index, value in Frontier().append(LEAVES)[1]}

# github.com/google/certificate-transparency, merkletree tests: the inputs and roots that CT logs have been tested
# with from the beginning, repeated in github.com/transparency-dev/merkle.
CT_INPUTS = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def stored(level: int, index: int) -> bytes:
    return NODES[level, index]


def test_roots_are_those_of_certificate_transparency():
    frontier = Frontier()
    for entry, root in zip(CT_INPUTS, CT_ROOTS, strict=True):
        frontier, _ = frontier.append([leaf_hash(bytes.fromhex(entry))])
        assert frontier.root().hex() == root


def test_rfc_6962_example_of_proofs():
    """The 7-leaf tree of RFC 6962 §2.1.3, with the names of its nodes."""
    a, b, c, d, e, f, j = LEAVES[:7]
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k, l = node_hash(g, h), node_hash(i, j)  # noqa: E741  # the RFC's name
    assert Frontier.load(7, stored).root() == node_hash(k, l)
    assert inclusion_proof(0, 7, stored) == [b, h, l]
    assert inclusion_proof(3, 7, stored) == [c, g, l]
    assert inclusion_proof(4, 7, stored) == [f, j, k]
    assert inclusion_proof(6, 7, stored) == [i, k]
    assert consistency_proof(3, 7, stored) == [c, d, g, l]
    assert consistency_proof(4, 7, stored) == [l]
    assert consistency_proof(6, 7, stored) == [i, j, k]


def test_every_proof_is_the_rfcs():
    for size in range(1, SIZE + 1):
        for index in range(size):
            assert inclusion_proof(index, size, stored) == reference.path(index, ENTRIES[:size])
        for old in range(1, size + 1):
            assert consistency_proof(old, size, stored) == reference.proof(old, ENTRIES[:size])


def test_roots_and_inclusion_proofs_are_pymerkles():
    oracle = pymerkle.InmemoryTree(algorithm="sha256")
    for entry in ENTRIES:
        oracle.append_entry(entry)
    for size in range(1, SIZE + 1):
        assert Frontier.load(size, stored).root() == oracle.get_root(size)
        for index in range(size):
            leaf, *path = oracle.prove_inclusion(index + 1, size).path
            assert (leaf, path) == (LEAVES[index], inclusion_proof(index, size, stored))
        for old in range(1, size):
            # pymerkle's proof takes the border node apart once more, so it is not ours, but it joins our roots.
            pymerkle.verify_consistency(
                Frontier.load(old, stored).root(),
                Frontier.load(size, stored).root(),
                oracle.prove_consistency(old, size),
            )


@given(st.lists(st.integers(0, 20), max_size=12))
def test_batches_do_not_change_the_tree(batches: list[int]):
    leaves = [leaf_hash(b"%d" % i) for i in range(sum(batches))]
    whole, all_nodes = Frontier().append(leaves)
    frontier, nodes, roots = Frontier(), [], 0
    for batch in batches:
        size = frontier.size
        frontier, new = frontier.append(iter(leaves[size : size + batch]))
        assert new == sorted(new)
        assert len(new) == 2 * batch + size.bit_count() - frontier.size.bit_count()  # each node once
        nodes += new
        roots += batch
    assert frontier == whole
    assert sorted(nodes) == all_nodes
    rows = {(node.level, node.index): node.hash for node in nodes}
    assert frontier == Frontier.load(len(leaves), lambda level, index: rows[level, index])
    assert frontier.root() == reference.mth([b"%d" % i for i in range(len(leaves))])


def test_append_leaves_its_receiver_alone():
    before = Frontier.load(7, stored)
    after, nodes = before.append(LEAVES[7:8])
    assert (before.size, before.root()) == (7, ROOTS[7])
    assert (after.size, after.root()) == (8, ROOTS[8])
    assert nodes == [Node(level, (7 >> level), stored(level, 7 >> level)) for level in range(4)]


def test_empty_tree():
    assert Frontier().root() == EMPTY_ROOT == ROOTS[0]
    assert Frontier().append([]) == (Frontier(), [])
    assert Frontier.load(0, stored) == Frontier()


@pytest.mark.parametrize(("size", "count"), [(-1, 1), (0, 1), (3, 1), (4, 0)])
def test_frontier_of_the_wrong_shape(size: int, count: int):
    with pytest.raises(UsageError, match="frontier"):
        Frontier(size, (LEAVES[0],) * count)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3)])
def test_no_such_leaf(index: int, size: int):
    with pytest.raises(UsageError, match="no leaf"):
        inclusion_proof(index, size, stored)
    with pytest.raises(VerificationError, match="no leaf"):
        verify_inclusion(leaf=LEAVES[0], index=index, size=size, proof=[], root=LEAVES[0])


@pytest.mark.parametrize(("old", "new"), [(3, 2), (-1, 2)])
def test_no_such_continuation(old: int, new: int):
    with pytest.raises(UsageError, match="does not continue"):
        consistency_proof(old, new, stored)
    with pytest.raises(VerificationError, match="does not continue"):
        verify_consistency(old_size=old, old_root=ROOTS[3], new_size=new, new_root=ROOTS[2], proof=[])


def test_inclusion_verifies_for_the_leaf_at_its_index_only():
    for size in range(1, SIZE + 1):
        for index in range(size):
            proof = inclusion_proof(index, size, stored)
            for claimed in range(size):
                args = {
                    "leaf": LEAVES[index],
                    "index": claimed,
                    "size": size,
                    "proof": proof,
                    "root": ROOTS[size],
                }
                if claimed == index:
                    verify_inclusion(**args)
                else:
                    with pytest.raises(VerificationError, match="inclusion"):
                        verify_inclusion(**args)


def altered(proof: list[bytes]) -> list[list[bytes]]:
    """The proof with each hash changed or left out, one added at each end, and each two neighbours swapped."""
    flipped = [[*proof[:i], bytes([h[0] ^ 1]) + h[1:], *proof[i + 1 :]] for i, h in enumerate(proof)]
    shorter = [[*proof[:i], *proof[i + 1 :]] for i in range(len(proof))]
    swapped = [[*proof[:i], b, a, *proof[i + 2 :]] for i, (a, b) in enumerate(pairwise(proof))]
    return [*flipped, *shorter, *swapped, [*proof, LEAVES[0]], [LEAVES[0], *proof]]


def test_altered_inclusion_proofs_do_not_verify():
    for size in (1, 2, 3, 7, 8, 11):
        for index in range(size):
            for proof in altered(inclusion_proof(index, size, stored)):
                with pytest.raises(VerificationError, match="inclusion"):
                    verify_inclusion(
                        leaf=LEAVES[index], index=index, size=size, proof=proof, root=ROOTS[size]
                    )


def test_inclusion_of_another_leaf_or_in_another_tree_does_not_verify():
    proof = inclusion_proof(5, 11, stored)
    for leaf, root in ((LEAVES[6], ROOTS[11]), (LEAVES[5], ROOTS[12])):
        with pytest.raises(VerificationError, match="gives root"):
            verify_inclusion(leaf=leaf, index=5, size=11, proof=proof, root=root)


def test_an_inner_node_is_not_a_leaf():
    """The prefixes of RFC 6962 keep the two apart: an inner node's preimage hashed as an entry is another hash."""
    assert leaf_hash(LEAVES[0] + LEAVES[1]) != node_hash(LEAVES[0], LEAVES[1])


def test_hashes_of_another_length_do_not_verify():
    """What splits at another byte would give the same inner node: H(01 ‖ a ‖ b) knows no border."""
    left, right = LEAVES[:2]
    with pytest.raises(VerificationError, match="not 32 bytes"):
        verify_inclusion(leaf=left + right[:1], index=0, size=2, proof=[right[1:]], root=ROOTS[2])
    with pytest.raises(VerificationError, match="not 32 bytes"):
        verify_inclusion(leaf=left, index=0, size=1, proof=[], root=left + b"\x00")


def test_consistency_verifies_from_every_size_to_every_later():
    for new in range(SIZE + 1):
        for old in range(new + 1):
            proof = consistency_proof(old, new, stored)
            verify_consistency(
                old_size=old, old_root=ROOTS[old], new_size=new, new_root=ROOTS[new], proof=proof
            )
            for other in altered(proof):
                with pytest.raises(VerificationError, match="consistency"):
                    verify_consistency(
                        old_size=old, old_root=ROOTS[old], new_size=new, new_root=ROOTS[new], proof=other
                    )


def test_consistency_with_another_root_does_not_verify():
    for new in range(1, 18):
        for old in range(1, new + 1):
            proof = consistency_proof(old, new, stored)
            for old_root, new_root in (
                (ROOTS[20], ROOTS[new]),
                (ROOTS[old], ROOTS[20]),
                (ROOTS[old][1:], ROOTS[new]),
            ):
                with pytest.raises(VerificationError, match="consistency"):
                    verify_consistency(
                        old_size=old, old_root=old_root, new_size=new, new_root=new_root, proof=proof
                    )


def test_a_forked_log_has_no_proof_of_consistency():
    """A log that dropped an entry and went on: no proof that it can make joins the two trees."""
    fork = Frontier().append([*LEAVES[:5], *LEAVES[6:12]])
    rows = {(level, index): value for level, index, value in fork[1]}
    for nodes in (NODES, rows):
        proof = consistency_proof(8, 11, lambda level, index, nodes=nodes: nodes[level, index])
        with pytest.raises(VerificationError, match="consistency"):
            verify_consistency(
                old_size=8, old_root=ROOTS[8], new_size=11, new_root=fork[0].root(), proof=proof
            )


def test_everything_continues_the_empty_tree_but_only_the_empty_tree_is_empty():
    verify_consistency(old_size=0, old_root=EMPTY_ROOT, new_size=5, new_root=ROOTS[5], proof=[])
    with pytest.raises(VerificationError, match="two roots"):
        verify_consistency(old_size=0, old_root=ROOTS[5], new_size=5, new_root=ROOTS[5], proof=[])
