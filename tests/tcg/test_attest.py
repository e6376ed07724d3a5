import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import MalformedError
from attestd.tcg.attest import CertifyInfo, ClockInfo, NvCertifyInfo, QuoteInfo, parse_attest
from attestd.tcg.pcr import PcrSelection
from tests.tcg import build

QUOTE = build.quote_body(build.selection(("sha1", (10,)), ("sha256", (0, 7))), b"d" * 32)
CERTIFY = build.tpm2b(b"\x00\x0b" + b"n" * 32) + build.tpm2b(b"\x00\x0b" + b"q" * 32)
NV = build.tpm2b(b"\x00\x0b" + b"n" * 32) + b"\x00\x00" + build.tpm2b(bytes(7) + b"\x09")


def test_quote():
    data = build.attest(QUOTE)
    attest = parse_attest(data)
    assert attest.raw == data
    assert attest.qualified_signer == b"\x00\x0b" + b"s" * 32
    assert attest.extra_data == b"e" * 32
    assert attest.clock == ClockInfo(clock=123_456, reset_count=7, restart_count=2, safe=True)
    assert attest.firmware_version == 0x2019102300163636
    assert attest.body == QuoteInfo((PcrSelection("sha1", (10,)), PcrSelection("sha256", (0, 7))), b"d" * 32)


def test_certify_and_nv_certify():
    assert parse_attest(build.attest(CERTIFY, kind=build.CERTIFY)).body == CertifyInfo(
        b"\x00\x0b" + b"n" * 32, b"\x00\x0b" + b"q" * 32
    )
    assert parse_attest(build.attest(NV, kind=build.NV)).body == NvCertifyInfo(
        b"\x00\x0b" + b"n" * 32, 0, bytes(7) + b"\x09"
    )


def test_an_unsafe_clock_is_reported():
    assert parse_attest(build.attest(QUOTE, safe=0)).clock.safe is False


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (build.attest(QUOTE, magic=0xFF544348), "not made by a TPM"),
        (build.attest(QUOTE, magic=0), "not made by a TPM"),
        (build.attest(QUOTE, safe=2), "safe is 2"),
        (build.attest(QUOTE) + b"\0", "1 trailing"),
        (build.attest(QUOTE, extra_data=b"e" * 67), "limit is 66"),
        (build.attest(QUOTE, signer=b"s" * 67), "limit is 66"),
        (build.attest(build.quote_body(build.selection(("sha256", (0,))), b"d" * 65)), "limit is 64"),
        (build.attest(build.quote_body(build.selection(("sha256", ())), b"d" * 32)), "at least one PCR"),
        (build.attest(build.quote_body(b"\0\0\0\0", b"d" * 32)), "0 banks"),
        (build.attest(b"", kind=0x8019), "type 0x8019"),
        (build.attest(CERTIFY, kind=0x801C), "type 0x801c"),
        (build.attest(CERTIFY, kind=build.NV), "trailing|truncated|limit"),
        (build.attest(build.tpm2b(b"n" * 67) + build.tpm2b(b""), kind=build.CERTIFY), "limit is 66"),
        (
            build.attest(build.tpm2b(b"n") + b"\0\0" + build.tpm2b(bytes(2049)), kind=build.NV),
            "limit is 2048",
        ),
    ],
)
def test_refuses(data, words):
    with pytest.raises(MalformedError, match=words):
        parse_attest(data)


@pytest.mark.parametrize(("body", "kind"), [(QUOTE, build.QUOTE), (CERTIFY, build.CERTIFY), (NV, build.NV)])
def test_refuses_every_truncation(body, kind):
    data = build.attest(body, kind=kind)
    for size in range(len(data)):
        with pytest.raises(MalformedError):
            parse_attest(data[:size])


@given(st.binary(max_size=120), st.integers(0, 120))
def test_hostile_bytes_parse_or_are_malformed(tail, kept):
    data = build.attest(QUOTE)[:kept] + tail
    try:
        attest = parse_attest(data)
    except MalformedError:
        return
    assert attest.raw == data
