import json

import pytest

from attestd.errors import VerificationError
from attestd.tlog.checkpoint import BatchMode, parse_checkpoint, parse_origin
from attestd.tlog.cosignature import verify_cosignature
from attestd.tlog.note import parse_note, verify_ecdsa
from attestd.tlog.proof import parse_proof
from attestd.tlog.tree import leaf_hash, verify_consistency, verify_inclusion
from attestd.tlog.vkey import parse_vkey
from tests.tlog import make_vectors, reference

VECTORS = json.loads(make_vectors.FILE.read_text(encoding="utf-8"))


def test_the_generator_gives_the_vectors():
    assert make_vectors.text() == make_vectors.FILE.read_text(encoding="utf-8")


def test_the_trees_are_the_references():
    entries = [entry.encode() for entry in VECTORS["entries"]]
    assert VECTORS["roots"] == [reference.mth(entries[:n]).hex() for n in range(len(entries) + 1)]
    assert VECTORS["inclusion"] == [
        [h.hex() for h in reference.path(m, entries)] for m in range(len(entries))
    ]
    assert VECTORS["consistency"][1:] == [
        [h.hex() for h in reference.proof(m, entries)] for m in range(1, len(entries) + 1)
    ]


def test_a_receipt_offline():
    """From the file to the entry, as one who has only the keys: what a verifier of receipts does with tlog."""
    proof = parse_proof(VECTORS["proof"].encode())
    note = parse_note(proof.checkpoint)
    keys = {role: parse_vkey(text) for role, text in VECTORS["vkeys"].items()}
    verify_ecdsa(note, keys["release"])
    assert note.signature(keys["quote"].name, keys["quote"].key_id) == b"TPM2B_ATTEST || TPMT_SIGNATURE"
    assert verify_cosignature(note, keys["witness"]) == make_vectors.TIME
    checkpoint = parse_checkpoint(note.text)
    assert checkpoint.origin == keys["release"].name == keys["quote"].name
    assert parse_origin(checkpoint.origin).host_id == "00" * 31 + "01"
    assert checkpoint.batch.mode is BatchMode.RELEASE
    assert checkpoint.batch.first <= proof.index < checkpoint.size
    assert proof.extra is not None
    leaf = leaf_hash(proof.extra)
    size, root = checkpoint.size, checkpoint.root
    verify_inclusion(leaf=leaf, index=proof.index, size=size, proof=proof.proof, root=root)
    with pytest.raises(VerificationError):
        verify_inclusion(leaf=leaf, index=proof.index - 1, size=size, proof=proof.proof, root=root)


def test_the_log_only_grew():
    roots = [bytes.fromhex(root) for root in VECTORS["roots"]]
    for old, hashes in enumerate(VECTORS["consistency"]):
        verify_consistency(
            old_size=old,
            old_root=roots[old],
            new_size=7,
            new_root=roots[7],
            proof=[bytes.fromhex(value) for value in hashes],
        )
