"""Every field of a valid artifact, receipt, checkpoint and quote changed in turn: refused.

By structure, where other tests change bytes: the changed file is again well-formed. Trust files: tests/governance.
"""

import json
import struct
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from attestd.appraisal.document import parse_quote, verify_document
from attestd.authorization.dsse import PAYLOAD_TYPE, format_envelope, parse_envelope
from attestd.codes import Denied
from attestd.errors import MalformedError, VerificationError
from attestd.gate.decide import decide
from attestd.lineage.receipt import parse_receipt, sealed_by, verify_receipt
from attestd.strict import canonical
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.quote import join_quote, verify_quote
from attestd.tlog.checkpoint import Batch, BatchMode, Checkpoint, origin, parse_checkpoint
from attestd.tlog.note import NoteSignature, UntrustedNote, parse_note
from attestd.tlog.proof import format_proof, parse_proof
from tests.fuzz import valid
from tests.fuzz.valid import GRANTED, NOTE, TRUST, WORLD
from tests.governance.mutations import added, get, places, put, removed, replaced
from tests.world import SELECTION, b64, sign, sized, tpm_signature

REFUSED = (MalformedError, VerificationError)
LINES = parse_note(NOTE).signatures
CHECKPOINT = parse_checkpoint(valid.TEXT)


def other(value: Any) -> Any:
    """Another value of the same kind and, for text, of the same length."""
    if isinstance(value, str):
        return ("1" if value[:1] == "0" else "0") + value[1:]
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else ["x"]


def changes(value: Any) -> Iterator[Any]:
    """Every member another, of another kind, left out, or joined by an unknown one."""
    yield from (put(value, place, other(get(value, place))) for place in places(value))
    yield from (changed for _, _, changed in replaced(value))
    yield from (changed for _, changed in added(value))
    yield from (changed for _, changed in removed(value))


def refuse_artifact(data: bytes) -> None:
    assert decide(replace(WORLD.request(), artifact=data), valid.CONTEXT).denial is not None
    with pytest.raises(Denied):
        WORLD.release(GRANTED, artifact=data, trust=TRUST)


def test_artifact_statement() -> None:
    """Under the signatures of the original."""
    parsed = parse_envelope(GRANTED.artifact, payload_type=PAYLOAD_TYPE)
    count = 0
    for changed in changes(json.loads(valid.STATEMENT)):
        payload = canonical(changed)
        if payload != valid.STATEMENT:
            refuse_artifact(format_envelope(replace(parsed, payload=payload)))
            count += 1
    assert count > 700


def test_artifact_envelope() -> None:
    """But for the hint which key signed: without it every key is tried, and it is still a signature."""
    value = json.loads(GRANTED.artifact)
    sig = value["signatures"][0]["sig"]
    unnamed = [{**value, "signatures": [entry]} for entry in ({"sig": sig}, {"sig": sig, "keyid": ""})]
    for changed in changes(value):
        if changed != value and changed not in unnamed:
            refuse_artifact(json.dumps(changed).encode())
    for changed in unnamed:
        data = canonical(changed)
        assert decide(replace(WORLD.request(), artifact=data), valid.CONTEXT).denial is None


def receipts() -> Iterator[bytes]:
    proof = parse_proof(GRANTED.receipt)
    assert proof.extra is not None
    for changed in changes(json.loads(proof.extra)):
        yield format_proof(replace(proof, extra=canonical(changed)))
    for index in range(8):
        yield format_proof(replace(proof, index=index))
    for number, value in enumerate(proof.proof):
        for wrong in (bytes(32), value[::-1]):
            path = (*proof.proof[:number], wrong, *proof.proof[number + 1 :])
            yield format_proof(replace(proof, proof=path))
        yield format_proof(replace(proof, proof=proof.proof[:number] + proof.proof[number + 1 :]))
        yield format_proof(replace(proof, proof=(*proof.proof[:number], value, *proof.proof[number:])))
    for checkpoint in (valid.NOTE.replace(b"release", b"record"), parse_proof(valid.RECORDED).checkpoint):
        yield format_proof(replace(proof, checkpoint=checkpoint))


def test_receipt() -> None:
    count = 0
    for data in receipts():
        if data == GRANTED.receipt:
            continue
        with pytest.raises(REFUSED):
            verify_receipt(parse_receipt(data), trust=TRUST)
        count += 1
    assert count > 300


OTHER_CHECKPOINTS = [
    structs.replace(CHECKPOINT, origin=origin("00" * 32, "log-1")),
    structs.replace(CHECKPOINT, origin=origin(WORLD.host.id, "log-2")),
    structs.replace(CHECKPOINT, size=CHECKPOINT.size + 1),
    structs.replace(CHECKPOINT, root=bytes(32)),
    *(
        structs.replace(CHECKPOINT, batch=Batch(first, mode, counter))
        for first in range(CHECKPOINT.size)
        for mode in BatchMode
        for counter in (0, CHECKPOINT.batch.counter, 2**64 - 1)
        if Batch(first, mode, counter) != CHECKPOINT.batch
    ),
]


@pytest.mark.parametrize("checkpoint", OTHER_CHECKPOINTS, ids=lambda item: str(item.batch))
def test_checkpoint(checkpoint: Checkpoint) -> None:
    """Under the original's lines; and with either line made anew by its key, the other not."""
    text = checkpoint.text()
    release, quote = LINES
    signed = structs.replace(release, payload=sign(WORLD.host.release_key, text))
    body, signature = WORLD.host.quote(
        Purpose.CHECKPOINT, text, selection=SELECTION, pcr_digest=WORLD.pcr_digest
    )
    quoted = structs.replace(quote, payload=join_quote(body, signature))
    forged = [(release, quote), (signed, quote)]
    if checkpoint.batch.mode is BatchMode.RELEASE:
        forged.append((release, quoted))  # a record needs no line of the release key
    for lines in forged:
        with pytest.raises(REFUSED):
            sealed_by(UntrustedNote(text, lines), trust=TRUST)[1].verify(UntrustedNote(text, lines))


@pytest.mark.parametrize("number", range(len(LINES)))
def test_checkpoint_lines(number: int) -> None:
    line = LINES[number]
    wrong = [
        structs.replace(line, name=line.name.replace("log-1", "log-2")),
        structs.replace(line, key_id=bytes(4)),
        structs.replace(line, key_id=LINES[1 - number].key_id),
        structs.replace(line, payload=LINES[1 - number].payload),
        *(structs.replace(line, payload=_flip(line.payload, at)) for at in range(len(line.payload))),
        structs.replace(line, payload=line.payload[:-1]),
        structs.replace(line, payload=line.payload + b"\0"),
    ]
    for changed in wrong:
        lines: tuple[NoteSignature, ...] = (*LINES[:number], changed, *LINES[number + 1 :])
        with pytest.raises(REFUSED):
            sealed_by(UntrustedNote(valid.TEXT, lines), trust=TRUST)[1].verify(
                UntrustedNote(valid.TEXT, lines)
            )
    assert (
        sealed_by(UntrustedNote(valid.TEXT, LINES), trust=TRUST)[1]
        .verify(UntrustedNote(valid.TEXT, LINES))
        .released
    )


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# Name, first byte, size, and whether the TPM's own signature over the change makes it acceptable.
ATTEST_FIELDS = [
    ("magic", 0, 4, False),
    ("type", 4, 2, False),
    ("qualifiedSigner.size", 6, 2, False),
    ("qualifiedSigner", 8, 34, True),  # of no use to a verifier that pins the key
    ("extraData.size", 42, 2, False),
    ("extraData", 44, 32, False),
    ("clock", 76, 8, True),  # ordered by who has seen earlier quotes
    ("resetCount", 84, 4, True),
    ("restartCount", 88, 4, True),
    ("safe", 92, 1, True),
    ("firmwareVersion", 93, 8, True),
    ("pcrSelect.count", 101, 4, False),
    ("pcrSelect.hash", 105, 2, False),
    ("pcrSelect.sizeofSelect", 107, 1, False),
    ("pcrSelect.bitmap", 108, 3, False),
    ("pcrDigest.size", 111, 2, False),
    ("pcrDigest", 113, 32, False),
]


@pytest.mark.parametrize(
    ("start", "size", "free"), [item[1:] for item in ATTEST_FIELDS], ids=[i[0] for i in ATTEST_FIELDS]
)
def test_attest(start: int, size: int, free: bool) -> None:
    """Each bit of each field; and so changed, signed by the attestation key itself."""
    for bit in range(size * 8):
        changed = bytearray(valid.ATTEST)
        changed[start + bit // 8] ^= 1 << bit % 8
        body = bytes(changed)
        with pytest.raises(REFUSED):
            verify(body, valid.SIGNATURE)
        signature = tpm_signature(WORLD.host.ak, body)
        if free and body[92] <= 1:
            assert verify(body, signature)
        else:
            with pytest.raises(REFUSED):
                verify(body, signature)


def test_attest_fields_are_all() -> None:
    ends = [start + size for _, start, size, _ in ATTEST_FIELDS]
    assert [start for _, start, _, _ in ATTEST_FIELDS] == [0, *ends[:-1]]
    assert ends[-1] == len(valid.ATTEST)


def verify(attest: bytes, signature: bytes) -> Any:
    return verify_quote(
        ak_public_key=WORLD.host.ak.public_key(),
        attest=attest,
        signature=signature,
        extra_data=extra_data(Purpose.CHECKPOINT, host_id=WORLD.host.id, data=valid.TEXT),
        selection=SELECTION,
        values=WORLD.values,
    )


def test_signature() -> None:
    """Algorithm, hash, sizes, r and s: each bit; and numbers longer by zeros are the same numbers."""
    good = valid.SIGNATURE
    for at in range(len(good)):
        for bit in range(8):
            changed = bytearray(good)
            changed[at] ^= 1 << bit
            with pytest.raises(REFUSED):
                verify(valid.ATTEST, bytes(changed))
    r = good[6:38]
    with pytest.raises(REFUSED):
        verify(valid.ATTEST, struct.pack(">HH", 0x18, 0x0B) + sized(r) * 2)


def test_quote_document() -> None:
    value = json.loads(valid.quote_document())
    for changed in changes(value):
        if changed == value:
            continue
        with pytest.raises(REFUSED):
            verify_document(parse_quote(canonical(changed)), trust=TRUST, challenge=valid.CHALLENGE)
    for member in ("attest", "signature", "challenge"):
        data = b64decode(value[member])
        for at in range(len(data)):
            changed = {**value, member: b64(_flip(data, at))}
            with pytest.raises(REFUSED):
                verify_document(parse_quote(canonical(changed)), trust=TRUST, challenge=None)
