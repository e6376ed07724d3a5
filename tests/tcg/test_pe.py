"""PE images: the hash that firmware measures, sections, certificates."""

import hashlib
import struct
import tracemalloc
import warnings

import pytest

from attestd.errors import MalformedError
from attestd.tcg import pe as module
from attestd.tcg.pe import certificates_of, parse_pe
from tests.tcg.build_pe import SIGNED, authority, pe, signature

KEY, CERTIFICATE = authority("signer")
SIGNATURE = signature(KEY, CERTIFICATE)
SECTIONS = {".text": b"code" * 200, ".data": b"data"}


def test_the_hash_is_what_another_program_signed():
    image = parse_pe(SIGNED.read_bytes())
    [signed] = image.signatures
    assert image.digest("sha256") in signed
    assert [item.subject.rfc4514_string() for item in image.certificates()] == ["CN=attestd test"]


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_what_is_hashed(plus, bank):
    data = pe(SECTIONS, plus=plus, tail=b"more", signatures=(SIGNATURE,))
    optional = 0x80 + 24
    table = optional + (112 if plus else 96) + 32
    end = int.from_bytes(data[table : table + 4], "little")
    covered = data[: optional + 64] + data[optional + 68 : table] + data[table + 8 : end]
    assert parse_pe(data).digest(bank) == hashlib.new(bank, covered).digest()


def test_what_is_not_hashed():
    unsigned = parse_pe(pe(SECTIONS))
    assert parse_pe(pe(SECTIONS, signatures=(SIGNATURE, SIGNATURE))).digest("sha256") == unsigned.digest(
        "sha256"
    )
    assert parse_pe(pe(SECTIONS, tail=b"x")).digest("sha256") != unsigned.digest("sha256")
    assert unsigned.signatures == ()
    assert unsigned.certificates() == ()


def test_sections():
    """Nobody is made to hold the zeros that a section is said to have in memory."""
    [linux, bss] = parse_pe(pe({".linux": b"kernel", ".bss": b""}, virtual=0xFFFFFFF0)).sections
    assert (linux.name, linux.content, linux.size) == (".linux", b"kernel".ljust(0x200, b"\0"), 0xFFFFFFF0)
    assert (bss.name, bss.content) == (".bss", b"")
    assert parse_pe(pe({".linux": b"kernel"}, virtual=2)).sections[0].content == b"ke"


def test_padding_of_a_signature_is_left_out():
    assert parse_pe(pe(SECTIONS, signatures=(SIGNATURE + bytes(5),))).signatures == (SIGNATURE,)
    assert parse_pe(pe(SECTIONS, signatures=(b"\x30\x02ab",))).signatures == (b"\x30\x02ab",)
    assert parse_pe(pe(SECTIONS, signatures=(b"\x30",))).signatures == (b"\x30",)
    assert parse_pe(pe(SECTIONS, signatures=(SIGNATURE,), kind=1)).signatures == ()


def test_a_signature_that_is_none():
    with warnings.catch_warnings(record=True) as seen:
        for wrong in (b"\x30\x02ab", b"", SIGNATURE[:-1], SIGNATURE + b"\0"):
            with pytest.raises(MalformedError, match="no PKCS #7"):
                certificates_of(wrong)
    assert seen == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "truncated"),
        (pe(SECTIONS)[:0x90], "truncated"),
        (b"ZM" + pe(SECTIONS)[2:], "no PE image"),
        (pe(SECTIONS, magic=0x107), "no PE image"),
        (pe(SECTIONS, start=0x84), "no PE image"),
        (pe(SECTIONS, start=0xFFFFFFF0), "truncated"),
        (pe(SECTIONS, count=0), "0 sections, expected 1 to 96"),
        (pe(SECTIONS, count=97), "97 sections"),
        (pe(SECTIONS, entries=4), "no entry for certificates"),
        (pe(SECTIONS, optional=112 + 32), "no entry for certificates"),
        (pe(SECTIONS, headers=0x100), "expected them to hold 2 sections"),
        (pe(SECTIONS, headers=0x10000), "expected them to hold 2 sections"),
        (pe(SECTIONS, signatures=(SIGNATURE,), at=0x400), "expected them at the end"),
        (pe(SECTIONS, signatures=(SIGNATURE,), length=8), "expected them at the end"),
        (pe(SECTIONS, gap=0x200), "expected it at byte"),
        (pe(SECTIONS)[:-0x200], "sections end at byte"),
    ],
)
def test_refused(data, words):
    with pytest.raises(MalformedError, match=words):
        parse_pe(data)


def test_certificates_that_lie():
    good = pe(SECTIONS, signatures=(SIGNATURE,))
    start = len(good) - (-(-(len(SIGNATURE) + 8) // 8) * 8)
    for length in (0, 8, len(good)):
        with pytest.raises(MalformedError, match="a certificate says"):
            parse_pe(good[:start] + length.to_bytes(4, "little") + good[start + 4 :])
    table = 0x80 + 24 + 112 + 32
    short = (
        good[:table] + start.to_bytes(4, "little") + (4).to_bytes(4, "little") + good[table + 8 : start + 4]
    )
    with pytest.raises(MalformedError, match="in the middle"):
        parse_pe(short)


def test_limit(monkeypatch):
    monkeypatch.setattr(module, "MAX_PE_BYTES", 100)
    with pytest.raises(MalformedError, match="the limit is 100"):
        parse_pe(pe(SECTIONS))


def test_sections_that_are_all_the_file_take_no_room():
    """They overlap, and are refused before anybody copies them."""
    size, table = 4 << 20, 0x80 + 24 + 112 + 16 * 8
    data = bytearray(pe({f".{n}": b"" for n in range(96)}) + bytes(size))
    for n in range(96):
        struct.pack_into("<8sIIII", data, table + 40 * n, b".x", size, 0, size, len(data) - size)
    hostile = bytes(data)
    tracemalloc.start()
    with pytest.raises(MalformedError, match="expected it at byte"):
        parse_pe(hostile)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size
