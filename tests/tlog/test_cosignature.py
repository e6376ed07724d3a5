"""C2SP tlog-cosignature: both kinds, and everything that the text says a cosignature must be."""

from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.tlog.checkpoint import TreeHead, parse_tree_head
from attestd.tlog.cosignature import (
    Cosigner,
    cosignature_message,
    cosigner,
    mldsa_cosignature_message,
    verify_cosignature,
)
from attestd.tlog.note import NoteSignature, UntrustedNote
from attestd.tlog.vkey import SignatureType
from tests.tlog.keys import ed25519_vkey

TEXT = b"example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
HEAD = parse_tree_head(TEXT)
NAME = "witness.example/w1"
ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(32))
MLDSA = MLDSA44PrivateKey.from_seed_bytes(bytes(32))
KINDS = (cosigner(NAME, ED25519), cosigner(NAME, MLDSA))
kinds = pytest.mark.parametrize("witness", KINDS, ids=["ed25519", "mldsa44"])


def note(*lines: NoteSignature, text: bytes = TEXT) -> UntrustedNote:
    return UntrustedNote(text, lines)


@kinds
def test_what_is_cosigned_verifies(witness: Cosigner) -> None:
    for time in (1, 1679315147, 2**63 - 1):
        line = witness.cosign(TEXT, time=time)
        assert (line.name, line.key_id) == (NAME, witness.key.key_id)
        assert line.payload[:8] == time.to_bytes(8, "big")
        assert verify_cosignature(note(line), witness.key) == time


def test_sizes_and_key_ids_are_the_specifications() -> None:
    ed25519, mldsa = KINDS
    assert len(ed25519.cosign(TEXT, time=1).payload) == 8 + 64
    assert len(mldsa.cosign(TEXT, time=1).payload) == 8 + 2420
    assert (ed25519.key.algorithm, mldsa.key.algorithm) == (
        SignatureType.COSIGNATURE,
        SignatureType.MLDSA_COSIGNATURE,
    )
    for witness in KINDS:
        assert witness.key.key_id == sha256(NAME.encode() + b"\n" + witness.key.body).digest()[:4]


def test_messages_are_the_specifications() -> None:
    assert cosignature_message(TEXT, 1679315147) == b"cosignature/v1\ntime 1679315147\n" + TEXT
    assert mldsa_cosignature_message(NAME, HEAD, 0x0102030405060708) == (
        b"subtree/v1\n\0"
        b"\x12witness.example/w1"
        + bytes.fromhex("0102030405060708")
        + b"\x1bexample.com/behind-the-sofa"
        + bytes(8)
        + (20852163).to_bytes(8, "big")
        + HEAD.root
    )


def test_extension_lines_are_covered_by_ed25519_alone() -> None:
    """The specification says so; a host's checkpoint names its batch there, and its own signatures cover that."""
    extended = TEXT + b"an extension\n"
    ed25519, mldsa = KINDS
    with pytest.raises(VerificationError, match="is wrong"):
        verify_cosignature(note(ed25519.cosign(TEXT, time=1), text=extended), ed25519.key)
    assert verify_cosignature(note(mldsa.cosign(TEXT, time=1), text=extended), mldsa.key) == 1


@kinds
@pytest.mark.parametrize("change", ["origin", "size", "root", "time", "signature", "name"])
def test_one_change_and_it_does_not_verify(witness: Cosigner, change: str) -> None:
    line, text, key = witness.cosign(TEXT, time=1000), TEXT, witness.key
    if change == "origin":
        text = TEXT.replace(b"sofa", b"soft")
    elif change == "size":
        text = TEXT.replace(b"20852163", b"20852164")
    elif change == "root":
        text = TEXT.replace(b"CsUY", b"CsUZ")
    elif change == "time":
        line = NoteSignature(line.name, line.key_id, (1001).to_bytes(8, "big") + line.payload[8:])
    elif change == "signature":
        line = NoteSignature(line.name, line.key_id, line.payload[:-1] + bytes([line.payload[-1] ^ 1]))
    else:
        key = cosigner("witness.example/w2", witness.private_key).key
    with pytest.raises(VerificationError, match=r"is wrong|0 signatures"):
        verify_cosignature(note(line, text=text), key)


def test_the_name_is_signed_by_ml_dsa_alone() -> None:
    """The same key under two names: the reason why the specification forbids it with Ed25519."""
    other = "witness.example/w2"
    ed25519, mldsa = (cosigner(other, key) for key in (ED25519, MLDSA))
    line = KINDS[0].cosign(TEXT, time=1)
    assert verify_cosignature(note(NoteSignature(other, ed25519.key.key_id, line.payload)), ed25519.key) == 1
    line = KINDS[1].cosign(TEXT, time=1)
    with pytest.raises(VerificationError, match="is wrong"):
        verify_cosignature(note(NoteSignature(other, mldsa.key.key_id, line.payload)), mldsa.key)


@kinds
def test_a_cosignature_without_a_time_says_nothing_about_the_latest(witness: Cosigner) -> None:
    """As `sign-subtree` gives them; and beyond 2^63 - 1 there is no time."""
    for time in (0, 2**63):
        message = (
            cosignature_message(TEXT, time)
            if witness is KINDS[0]
            else mldsa_cosignature_message(NAME, HEAD, time)
        )
        payload = time.to_bytes(8, "big") + witness.private_key.sign(message)
        with pytest.raises(VerificationError, match="is 0, or beyond"):
            verify_cosignature(note(NoteSignature(NAME, witness.key.key_id, payload)), witness.key)
        with pytest.raises(UsageError, match="seconds since"):
            witness.cosign(TEXT, time=time)


@kinds
def test_short_missing_and_repeated_lines(witness: Cosigner) -> None:
    line = witness.cosign(TEXT, time=1)
    with pytest.raises(VerificationError, match="no signature"):
        verify_cosignature(note(NoteSignature(NAME, witness.key.key_id, bytes(8))), witness.key)
    with pytest.raises(VerificationError, match="0 signatures"):
        verify_cosignature(note(), witness.key)
    with pytest.raises(VerificationError, match="2 signatures"):
        verify_cosignature(note(line, line), witness.key)


@kinds
def test_what_is_no_checkpoint_is_not_cosigned(witness: Cosigner) -> None:
    with pytest.raises(MalformedError, match="checkpoint"):
        witness.cosign(b"attested\n", time=1)
    payload = (1).to_bytes(8, "big") + witness.private_key.sign(cosignature_message(b"attested\n", 1))
    with pytest.raises(MalformedError, match="checkpoint"):
        verify_cosignature(
            note(NoteSignature(NAME, witness.key.key_id, payload), text=b"attested\n"), witness.key
        )


def test_lengths_that_ml_dsa_has_no_room_for() -> None:
    head = TreeHead("é" * 128, 1, bytes(32))
    with pytest.raises(UsageError, match="origin has 256 bytes"):
        mldsa_cosignature_message(NAME, head, 1)
    with pytest.raises(UsageError, match="name has 256 bytes"):
        mldsa_cosignature_message("w" * 256, HEAD, 1)
    mldsa_cosignature_message("w" * 255, TreeHead("o" * 255, 1, bytes(32)), 1)
    long = TEXT.replace(b"example", b"e" * 256)
    with pytest.raises(VerificationError, match="origin has"):
        verify_cosignature(
            note(NoteSignature(NAME, KINDS[1].key.key_id, bytes(7) + b"\1" * 2421), text=long), KINDS[1].key
        )


def test_a_logs_key_is_no_witness() -> None:
    key = ed25519_vkey(NAME, ED25519.public_key().public_bytes_raw())
    with pytest.raises(UsageError, match="not a witness's"):
        verify_cosignature(note(), key)
