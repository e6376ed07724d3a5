"""What it means that a checkpoint's signatures hold."""

import pickle

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.errors import MalformedError, VerificationError
from attestd.lineage.checkpoint import LogKeys, VerifiedCheckpoint
from attestd.tcg.attest import ClockInfo
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.quote import join_quote
from attestd.tlog.note import NoteSignature, format_note, parse_note
from tests.audit.harness import BOOT, HOST_ID, NOW, Log, allow, record
from tests.audit.software_tpm import SoftwareTpm, spki


def verify(keys: LogKeys, note: bytes) -> VerifiedCheckpoint:
    return keys.verify(parse_note(note))


@pytest.fixture
def released(log: Log) -> bytes:
    return log.sealer().seal([allow()], now=NOW, boot=BOOT).note


def test_a_release_and_a_record_verify(log: Log, released: bytes):
    verified = verify(log.keys, released)
    assert (verified.checkpoint.origin, verified.clock) == (log.origin, log.tpm.clock)
    log.tpm.state = b"bad"
    [result] = log.seal([record()])
    other = verify(log.keys, result.note)
    assert other.pcr_digest != verified.pcr_digest


def test_a_signature_by_someone_else_is_no_matter(log: Log, released: bytes):
    """A witness's line, as signed notes may carry."""
    note = parse_note(released)
    line = NoteSignature("example.com/witness", b"wits", b"signature")
    assert verify(log.keys, format_note(note.text, [line, *note.signatures])) == verify(log.keys, released)


@pytest.mark.parametrize("index", [0, 1])
def test_a_missing_line(log: Log, released: bytes, index: int):
    note = parse_note(released)
    with pytest.raises(VerificationError, match="0 signatures"):
        verify(log.keys, format_note(note.text, [note.signatures[index]]))


def test_the_text_changed(log: Log, released: bytes):
    text = released.partition(b"\n\n")[0]
    changed = text.replace(b"\n1\n", b"\n2\n")
    assert changed != text
    with pytest.raises(VerificationError):
        verify(log.keys, released.replace(text, changed))


def test_a_record_made_a_release(log: Log):
    [result] = log.seal([record()])
    with pytest.raises(VerificationError, match="0 signatures"):
        verify(log.keys, result.note.replace(b" record ", b" release "))


def test_another_log(log: Log, released: bytes):
    with pytest.raises(VerificationError, match="a checkpoint of"):
        verify(log.tpm.keys(log.origin + "1"), released)


def _with_quote_line(log: Log, note: bytes, payload: bytes) -> bytes:
    parsed = parse_note(note)
    line = NoteSignature(log.origin, log.keys.attestation.key_id, payload)
    return format_note(parsed.text, [parsed.signatures[0], line])


def _quote(
    tpm: SoftwareTpm, data: bytes, *, purpose: Purpose = Purpose.CHECKPOINT, host_id: str = HOST_ID
) -> bytes:
    quote = tpm.quote(extra_data(purpose, host_id=host_id, data=data))
    return join_quote(quote.attest, quote.signature)


@pytest.mark.parametrize(
    "other",
    [
        {"purpose": Purpose.EVIDENCE},
        {"purpose": Purpose.QUOTE},
        {"host_id": "cd" * 32},
        {"data": b"another text"},
    ],
)
def test_a_quote_over_something_else(log: Log, released: bytes, other: dict):
    arguments = {"data": parse_note(released).text, **other}
    payload = _quote(log.tpm, **arguments)
    with pytest.raises(VerificationError, match="extraData"):
        verify(log.keys, _with_quote_line(log, released, payload))


def test_a_quote_by_another_key(log: Log, released: bytes):
    payload = _quote(SoftwareTpm(), parse_note(released).text)
    with pytest.raises(VerificationError):
        verify(log.keys, _with_quote_line(log, released, payload))


def test_a_certification_is_no_quote(log: Log, released: bytes):
    """TPMS_ATTEST of type certify, signed by the right key over the right extraData."""
    text = parse_note(released).text
    attest = log.tpm.quote(extra_data(Purpose.CHECKPOINT, host_id=HOST_ID, data=text)).attest
    head = attest[: attest.index(b"\0\0\0\1\0\x0b\3")].replace(b"\x80\x18", b"\x80\x17", 1)
    certify = head + b"\0\1n" + b"\0\1q"
    payload = join_quote(certify, log.tpm.sign_attest(certify))
    with pytest.raises(VerificationError, match="expected QuoteInfo"):
        verify(log.keys, _with_quote_line(log, released, payload))


@pytest.mark.parametrize("note", [b"", b"no note", b"text\n\n\xe2\x80\x94 name c2ln\n"])
def test_what_is_no_checkpoint(log: Log, note: bytes):
    with pytest.raises(MalformedError):
        verify(log.keys, note)


def test_keys_can_be_pickled_for_other_processes(log: Log, released: bytes):
    keys = pickle.loads(pickle.dumps(log.keys))  # noqa: S301 - our own bytes
    assert keys == log.keys
    assert verify(keys, released) == verify(log.keys, released)


def test_keys_are_p_256_and_of_a_log():
    key, large = (ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1()))
    origin = f"attestd/{HOST_ID}/log0"
    for arguments in (
        ("example.com/log", spki(key), spki(key)),
        (origin, spki(large), spki(key)),
        (origin, spki(key), spki(large)),
        (origin, spki(key), b""),
    ):
        with pytest.raises(MalformedError):
            LogKeys(*arguments)


def test_moments_of_one_tpm_are_ordered_by_resets_first():
    moments = [(9, 0, 0), (5, 0, 1), (7, 1, 0), (8, 1, 0)]
    clocks = [ClockInfo(clock=c, reset_count=r, restart_count=s, safe=True) for c, r, s in moments]
    assert sorted(clocks, key=lambda clock: clock.order) == clocks
