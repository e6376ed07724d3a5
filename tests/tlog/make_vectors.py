"""Writes vectors/log.json: one small log with everything that a receipt of it needs, byte for byte.

`python -m tests.tlog.make_vectors` from the top of the repository; test_vectors.py compares. The keys are for these
vectors only. ECDSA is deterministic here (RFC 6979), as TPMs' is not. The quote line's payload stands for
TPM2B_ATTEST ‖ TPMT_SIGNATURE, which tlog does not look into.
"""

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.tlog.checkpoint import Batch, BatchMode, Checkpoint, origin
from attestd.tlog.cosignature import cosigner
from attestd.tlog.note import NoteSignature, format_note
from attestd.tlog.proof import TlogProof, format_proof
from attestd.tlog.tiles import format_bundle, tiles
from attestd.tlog.tree import Frontier, consistency_proof, inclusion_proof, leaf_hash
from attestd.tlog.vkey import cosignature_vkey, ecdsa_vkey, format_vkey, tpm_quote_vkey

FILE = Path(__file__).parent / "vectors" / "log.json"
ENTRIES = [b'{"seq":%d}' % seq for seq in range(7)]
LEAF = 5
TIME = 1767225600
RELEASE = ec.derive_private_key(1, ec.SECP256R1())
QUOTE = ec.derive_private_key(2, ec.SECP256R1())
WITNESS = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def vectors() -> dict[str, object]:
    size = len(ENTRIES)
    frontier, nodes = Frontier().append(leaf_hash(entry) for entry in ENTRIES)
    rows = {(node.level, node.index): node.hash for node in nodes}

    def node(level: int, index: int) -> bytes:
        return rows[level, index]

    checkpoint = Checkpoint(
        origin("00" * 31 + "01", "1"), size, frontier.root(), Batch(4, BatchMode.RELEASE, 0x1F)
    )
    text, name = checkpoint.text(), checkpoint.origin
    release, quote = ecdsa_vkey(name, spki(RELEASE)), tpm_quote_vkey(name, spki(QUOTE))
    witness = cosignature_vkey("witness.example/1", WITNESS.public_key().public_bytes_raw())
    signature = RELEASE.sign(text, ec.ECDSA(SHA256(), deterministic_signing=True))
    note = format_note(
        text,
        [
            NoteSignature(release.name, release.key_id, signature),
            NoteSignature(quote.name, quote.key_id, b"TPM2B_ATTEST || TPMT_SIGNATURE"),
            cosigner(witness.name, WITNESS).cosign(text, time=TIME),
        ],
    )
    proof = TlogProof(ENTRIES[LEAF], LEAF, tuple(inclusion_proof(LEAF, size, node)), note)
    return {
        "entries": [entry.decode() for entry in ENTRIES],
        "nodes": {f"{node.level}/{node.index}": node.hash.hex() for node in nodes},
        "roots": [Frontier.load(n, node).root().hex() for n in range(size + 1)],
        "inclusion": [[h.hex() for h in inclusion_proof(index, size, node)] for index in range(size)],
        "consistency": [[h.hex() for h in consistency_proof(old, size, node)] for old in range(size + 1)],
        "vkeys": {
            "release": format_vkey(release),
            "quote": format_vkey(quote),
            "witness": format_vkey(witness),
        },
        "checkpoint": text.decode(),
        "note": note.decode(),
        "proof": format_proof(proof).decode(),
        "tiles": {tile.path: tile.data(node).hex() for tile in tiles(size)},
        "bundles": {
            tile.bundle_path: format_bundle(ENTRIES[i] for i in tile.span).hex()
            for tile in tiles(size)
            if tile.level == 0
        },
    }


def text() -> str:
    return json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
