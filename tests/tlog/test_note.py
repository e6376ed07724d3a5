import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.tlog.cosignature import verify_cosignature
from attestd.tlog.note import (
    MAX_NOTE_BYTES,
    NoteSignature,
    UntrustedNote,
    format_note,
    parse_note,
    verify_ecdsa,
)
from attestd.tlog.vkey import cosignature_vkey, ecdsa_vkey, parse_vkey
from tests.tlog.keys import ed25519_vkey, verify_ed25519

# c2sp.org/signed-note, "Note".
C2SP_EXAMPLE = """\
Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
"""

# golang.org/x/mod/sumdb/note, package documentation: the implementation that the specification describes.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = """\
If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
"""

# Signed by real logs with 0x02 keys; from note/note_verifier_test.go of github.com/transparency-dev/formats.
ECDSA_NOTES = {
    "rekor.sigstore.dev+c0d23d6a+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBcK5AW5i0hrZLOC96l"
    "+smGNM7nwZ4QvFK/4sueRoVj//QP22Ni4Qt9DPfkWLc=": """\
Rekor
798034
f+7CoKgXKE/tNys9TTXcr/ad6U/K3xvznmzew9y6SP0=

— rekor.sigstore.dev wNI9ajBEAiARInWIWyCdyG27CO6LPnPekyw20qO0YJfoaPaowGp/XgIgc+qEHS3+GKVClgqq20uDLet7MCoTURUCRdxwWBHHufk=
""",
    "pixel6_transparency_log+91c16e30+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABN+4x0Jk1yTwvLFI9A4NDdGZcX0aiWVdWM5XJVy0"
    "M4VWD3AvyW5Q6Hs9A0mcDkpUoYgn+KKPNzFC0H3nN3q6JQ8=": """\
DEFAULT
10
bsWRucJU5xJPHb5eBdOm6+DM+VelCZBuvtI3sHERJ9Y=

— pixel6_transparency_log kcFuMDBFAiEAhqMAP8P6qf6QxtUJhzMhbN+MbZ9dwfUHzGQJmffJHtoCIGD0cNe47dHWBoPwYdgBCepB06/+g5O1FmYjXl06owL4
""",
}

# A checkpoint of a certificate transparency log with its own Ed25519 line (0x01), one of type 0x05 that attestd does
# not know, and those of four witnesses, one of which is the key below.
CT_LOG_VKEY = "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
WITNESS_VKEY = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
CT_NOTE = """\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
— transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
— witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
— witness.stagemole.eu Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cUiOvKFYe/TmN9DAg==
"""

ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ED25519_RAW = ED25519.public_key().public_bytes_raw()
P256 = ec.derive_private_key(0xA77E57D, ec.SECP256R1())
SPKI = P256.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
TEXT = b"attested\n"


def sign(private: ec.EllipticCurvePrivateKey, text: bytes) -> bytes:
    return private.sign(text, ec.ECDSA(SHA256()))


def note(*signatures: NoteSignature, text: bytes = TEXT) -> UntrustedNote:
    return parse_note(format_note(text, signatures))


def test_c2sp_example_parses_and_is_written_back():
    parsed = parse_note(C2SP_EXAMPLE.encode())
    assert parsed.text.decode() == C2SP_EXAMPLE[: C2SP_EXAMPLE.index("\n— ")]
    (line,) = parsed.signatures
    assert (line.name, line.key_id.hex(), len(line.payload)) == (
        "quasimodo.example/salvatore",
        "367ba04b",
        64,
    )
    assert format_note(parsed.text, parsed.signatures) == C2SP_EXAMPLE.encode()


def test_go_note_verifies():
    verify_ed25519(parse_note(GO_NOTE.encode()), parse_vkey(GO_VKEY))
    with pytest.raises(VerificationError, match=r"PeterNeumann\+c74f20a3 is wrong"):
        verify_ed25519(parse_note(GO_NOTE.replace("crypto", "Crypto").encode()), parse_vkey(GO_VKEY))


@pytest.mark.parametrize("vkey", ECDSA_NOTES)
def test_ecdsa_notes_of_real_logs_verify(vkey: str):
    data = ECDSA_NOTES[vkey].encode()
    verify_ecdsa(parse_note(data), parse_vkey(vkey))
    with pytest.raises(VerificationError, match="is wrong"):
        verify_ecdsa(parse_note(b"x" + data), parse_vkey(vkey))


def test_cosignature_of_a_real_witness_verifies():
    parsed = parse_note(CT_NOTE.encode())
    assert verify_cosignature(parsed, parse_vkey(WITNESS_VKEY)) == 0x6A122120
    verify_ed25519(parsed, parse_vkey(CT_LOG_VKEY))
    for changed in ("1432088533", "143208853"):
        with pytest.raises(VerificationError, match="is wrong"):
            verify_cosignature(
                parse_note(CT_NOTE.replace("1432088532", changed).encode()), parse_vkey(WITNESS_VKEY)
            )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "blank line"),
        (b"text\n", "blank line"),
        (b"text\n\n", "blank line"),
        ("text\n— n AAAAAAA=\n".encode(), "blank line"),
        ("\n— n AAAAAAA=\n".encode(), "blank line"),
        ("text\n\n— n AAAAAAA=".encode(), "blank line"),
        ("text\n\n— n AAAAAAA=\n\n".encode(), "blank line"),
        ("te\txt\n\n— n AAAAAAA=\n".encode(), "control character"),
        ("text\r\n\n— n AAAAAAA=\n".encode(), "control character"),
        ("text\x00\n\n— n AAAAAAA=\n".encode(), "control character"),
        (b"te\xffxt\n\n\xe2\x80\x94 n AAAAAAA=\n", "not UTF-8"),
        (b"text\n\n\xe2\x80\x94 n\xff AAAAAAA=\n", "expected em dash"),
        (b"text\n\n\xed\xa0\x80 n AAAAAAA=\n", "em dash"),
        (b"text\n\n- n AAAAAAA=\n", "expected em dash"),
        ("text\n\n—  AAAAAAA=\n".encode(), "expected em dash"),
        ("text\n\n— AAAAAAA=\n".encode(), "expected em dash"),
        ("text\n\n— n n AAAAAAA=\n".encode(), "expected em dash"),
        ("text\n\n— n+n AAAAAAA=\n".encode(), "expected em dash"),
        ("text\n\n— n\u00a0n AAAAAAA=\n".encode(), "expected em dash"),
        ("text\n\n— n\u2003n AAAAAAA=\n".encode(), "expected em dash"),
        ("text\n\n— n\x7f AAAAAAA=\n".encode(), "expected em dash"),
        ("text\n\n— n AAAAAAA= \n".encode(), "expected em dash"),
        ("text\n\n— n AAAAAAA=\ntext\n".encode(), "expected em dash"),
        ("text\n\n— n AAAAAAA\n".encode(), "base64"),
        ("text\n\n— n AAAAAAB=\n".encode(), "canonical base64"),
        ("text\n\n— n AAAA_-A=\n".encode(), "base64"),
        ("text\n\n— n AAAA=AAA\n".encode(), "base64"),
        ("text\n\n— n \n".encode(), "is empty"),
        ("text\n\n— n AAAA\n".encode(), "is empty"),
        ("text\n\n— n AAAAAA==\n".encode(), "is empty"),
    ],
)
def test_malformed(data: bytes, words: str):
    with pytest.raises(MalformedError, match=words):
        parse_note(data)


def test_limits():
    line = "— n AAAAAAA=\n"
    assert len(parse_note(f"text\n\n{line * 16}".encode()).signatures) == 16
    with pytest.raises(MalformedError, match="17 signatures"):
        parse_note(f"text\n\n{line * 17}".encode())
    tail = f"\n\n{line}".encode()
    assert len(parse_note(b"t" * (MAX_NOTE_BYTES - len(tail)) + tail).text) == MAX_NOTE_BYTES - len(tail) + 1
    with pytest.raises(MalformedError, match="65537 bytes"):
        parse_note(b"t" * (MAX_NOTE_BYTES - len(tail) + 1) + tail)


def test_the_last_blank_line_separates():
    """Text may look like signatures; only what follows the last blank line is any."""
    data = "a\n\n— fake AAAAAAA=\n\n— n AAAAAAA=\n".encode()
    parsed = parse_note(data)
    assert parsed.text == "a\n\n— fake AAAAAAA=\n".encode()
    assert [line.name for line in parsed.signatures] == ["n"]
    assert parse_note("\n\n— n AAAAAAA=\n".encode()).text == b"\n"


@pytest.mark.parametrize(
    ("text", "signatures"),
    [
        (TEXT, []),
        (b"", [NoteSignature("n", b"1234", b"s")]),
        (b"no newline", [NoteSignature("n", b"1234", b"s")]),
        (b"tab\t\n", [NoteSignature("n", b"1234", b"s")]),
        (TEXT, [NoteSignature("n n", b"1234", b"s")]),
        (TEXT, [NoteSignature("\ud800", b"1234", b"s")]),
        (TEXT, [NoteSignature("n", b"1234", b"")]),
        (TEXT, [NoteSignature("n", b"123", b"ss")]),
        (TEXT, [NoteSignature("n", b"1234", b"s")] * 17),
        ("a\n\n— fake AAAAAAA=".encode(), [NoteSignature("n", b"1234", b"s")]),
        (TEXT, [NoteSignature("n AAAAAAA=\n— m", b"1234", b"s")]),
    ],
)
def test_what_would_be_read_as_another_note_is_not_written(text: bytes, signatures: list[NoteSignature]):
    with pytest.raises(UsageError, match="not a note"):
        format_note(text, signatures)


NAMES = st.text("az09./-_:é漢—", min_size=1, max_size=20)


@given(
    st.text(st.characters(codec="utf-8", min_codepoint=0x20), max_size=60),
    st.lists(
        st.builds(
            NoteSignature, NAMES, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=80)
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_round_trip(text: str, signatures: list[NoteSignature]):
    parsed = note(*signatures, text=f"{text}\n".encode())
    assert parsed == UntrustedNote(f"{text}\n".encode(), tuple(signatures))


@given(st.binary(max_size=200) | st.text(alphabet="ab=— \n", max_size=60).map(str.encode))
def test_whatever_parses_is_the_one_spelling_of_its_note(data: bytes):
    try:
        parsed = parse_note(data)
    except MalformedError:
        return
    assert format_note(parsed.text, parsed.signatures) == data


def test_ecdsa_signs_the_text_with_its_final_newline():
    key = ecdsa_vkey("host/log", SPKI)
    verify_ecdsa(note(NoteSignature("host/log", key.key_id, sign(P256, TEXT))), key)
    for message in (TEXT[:-1], TEXT + b"\n"):
        with pytest.raises(VerificationError, match="is wrong"):
            verify_ecdsa(note(NoteSignature("host/log", key.key_id, sign(P256, message))), key)


def test_ecdsa_signature_is_strict_der():
    key = ecdsa_vkey("host/log", SPKI)
    good = sign(P256, TEXT)
    long_form = b"\x30\x81" + good[1:]
    for payload in (good + b"\x00", good[:-1], long_form, b"\x00"):
        with pytest.raises(VerificationError, match="is wrong"):
            verify_ecdsa(note(NoteSignature("host/log", key.key_id, payload)), key)


def test_another_keys_signature_under_this_keys_id():
    key = ecdsa_vkey("host/log", SPKI)
    thief = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(VerificationError, match="is wrong"):
        verify_ecdsa(note(NoteSignature("host/log", key.key_id, sign(thief, TEXT))), key)


def test_a_line_counts_only_for_its_name_and_its_id():
    key = ecdsa_vkey("host/log", SPKI)
    payload = sign(P256, TEXT)
    strangers = [
        NoteSignature("host/other", key.key_id, payload),
        NoteSignature("host/log", b"\x00" * 4, payload),
    ]
    with pytest.raises(VerificationError, match="0 signatures"):
        verify_ecdsa(note(*strangers), key)
    verify_ecdsa(note(*strangers, NoteSignature("host/log", key.key_id, payload)), key)


def test_two_lines_of_one_key():
    key = ecdsa_vkey("host/log", SPKI)
    line = NoteSignature("host/log", key.key_id, sign(P256, TEXT))
    with pytest.raises(VerificationError, match="2 signatures"):
        verify_ecdsa(note(line, line), key)


def test_a_key_verifies_only_lines_of_its_type():
    parsed = parse_note(GO_NOTE.encode())
    keys = [cosignature_vkey("n", ED25519_RAW), ecdsa_vkey("n", SPKI), ed25519_vkey("n", ED25519_RAW)]
    for position, verify in enumerate((verify_cosignature, verify_ecdsa)):
        for other in keys[:position] + keys[position + 1 :]:
            with pytest.raises(UsageError, match=r"key of type|not a witness's"):
                verify(parsed, other)


def test_base64_of_the_payload_is_the_standard_alphabet():
    line = note(NoteSignature("n", b"\xfb\xff\xfe\xff", b"\xff")).signatures[0]
    assert base64.b64encode(line.key_id + line.payload) == b"+//+//8="
