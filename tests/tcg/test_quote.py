"""The numbered checks of quote verification, one field changed at a time."""

import hashlib
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.tcg.pcr import PcrSelection, composite, composite_of_banks
from attestd.tcg.quote import (
    join_quote,
    parse_quote,
    split_quote,
    verify_certify,
    verify_nv_certify,
    verify_quote,
    verify_quote_of_any_state,
)
from tests.tcg import build

AK = build.key(7)
EXTRA = hashlib.sha256(b"bound").digest()
SELECTION = PcrSelection("sha256", (0, 7))
VALUES = {0: b"0" * 32, 7: b"7" * 32}
NAME = b"\x00\x0b" + b"n" * 32


def quote(**changed):
    """The arguments of a quote that verifies, with some of what was signed, or of what is expected, changed."""
    pcrs = changed.pop("pcrs", SELECTION.marshal())
    hash_alg = changed.pop("hash_alg", "sha256")
    digest = changed.pop("digest", composite(SELECTION, VALUES, hash_alg=hash_alg))
    key = changed.pop("key", AK)
    body = changed.pop("body", build.quote_body(pcrs, digest))
    kind, magic = changed.pop("kind", build.QUOTE), changed.pop("magic", build.MAGIC)
    attest = build.attest(body, kind=kind, magic=magic, extra_data=changed.pop("signed_extra_data", EXTRA))
    arguments = {
        "ak_public_key": AK.public_key(),
        "attest": attest,
        "signature": build.ecdsa(key, attest, hash_alg),
        "extra_data": EXTRA,
        "selection": SELECTION,
        "values": VALUES,
    }
    return arguments | changed


def test_a_good_quote_verifies():
    arguments = quote()
    verified = verify_quote(**arguments)
    assert verified.attest == arguments["attest"]
    assert verified.selections == (SELECTION,)
    assert verified.pcr_digest == composite(SELECTION, VALUES)
    assert (verified.clock.reset_count, verified.firmware_version) == (7, 0x2019102300163636)


def test_a_digest_serves_instead_of_values():
    digest = composite(SELECTION, VALUES)
    assert verify_quote(**quote(values=None, pcr_digest=digest)).pcr_digest == digest


def test_the_composite_is_computed_with_the_hash_of_the_scheme():
    key = build.key(7, ec.SECP384R1())
    verified = verify_quote(**quote(hash_alg="sha384", key=key, ak_public_key=key.public_key()))
    assert len(verified.pcr_digest) == 48
    assert verified.hash_alg == "sha384"


def test_rsa_keys_quote_too(rsa_key):
    arguments = quote(ak_public_key=rsa_key.public_key())
    for sign in (build.rsassa, build.rsapss):
        assert verify_quote(**arguments | {"signature": sign(rsa_key, arguments["attest"])}).clock.safe


def test_several_banks():
    sha1 = PcrSelection("sha1", (10,))
    digest = composite_of_banks([(sha1, {10: b"v" * 20}), (SELECTION, VALUES)])
    pcrs = build.selection(("sha1", (10,)), ("sha256", (0, 7)))
    expected = {"selection": (sha1, SELECTION), "values": None, "pcr_digest": digest}
    assert verify_quote(**quote(pcrs=pcrs, digest=digest) | expected).selections == (sha1, SELECTION)
    with pytest.raises(VerificationError, match="the quote is over"):
        verify_quote(**quote(pcrs=pcrs, digest=digest) | expected | {"selection": (SELECTION, sha1)})
    with pytest.raises(UsageError, match="several banks"):
        verify_quote(**quote(pcrs=pcrs, digest=digest, selection=(sha1, SELECTION)))


def test_check_1_signature_by_another_key():
    with pytest.raises(VerificationError, match="signature does not verify"):
        verify_quote(**quote(key=build.key(8)))


@pytest.mark.parametrize("position", range(0, 130, 7))
def test_check_1_a_bit_of_the_attestation_flipped(position):
    arguments = quote()
    attest = bytearray(arguments["attest"])
    attest[position % len(attest)] ^= 1
    with pytest.raises((VerificationError, MalformedError)) as refused:
        verify_quote(**arguments | {"attest": bytes(attest)})
    with suppress(VerificationError, MalformedError):
        parse_quote(attest=bytes(attest), signature=arguments["signature"], extra_data=EXTRA)
        assert "signature does not verify" in str(
            refused.value
        )  # whatever reads as a quote that was asked for


def test_check_2_magic():
    with pytest.raises(MalformedError, match="not made by a TPM"):
        verify_quote(**quote(magic=0x00544347))


def test_check_2_type():
    with pytest.raises(VerificationError, match="CertifyInfo, expected QuoteInfo"):
        verify_quote(**quote(kind=build.CERTIFY, body=build.tpm2b(NAME) * 2))


@pytest.mark.parametrize("signed", [b"", EXTRA[:-1], EXTRA + b"\0", b"other" * 6])
def test_check_3_extra_data(signed):
    with pytest.raises(VerificationError, match="extraData"):
        verify_quote(**quote(signed_extra_data=signed))


@pytest.mark.parametrize(
    "banks",
    [
        [("sha256", (0,))],
        [("sha256", (0, 7, 8))],
        [("sha384", (0, 7))],
        [("sha256", (0, 7)), ("sha1", (0,))],
        [("sha256", (23,))],
    ],
)
def test_check_4_selection(banks):
    with pytest.raises(VerificationError, match=r"the quote is over .*, expected sha256:0,7"):
        verify_quote(**quote(pcrs=build.selection(*banks)))


def test_check_5_composite_of_other_values():
    with pytest.raises(VerificationError, match="quoted PCR composite"):
        verify_quote(**quote(values={0: b"0" * 32, 7: b"8" * 32}))
    with pytest.raises(VerificationError, match="quoted PCR composite"):
        verify_quote(**quote(values=None, pcr_digest=bytes(32)))


def test_check_5_values_that_were_not_quoted_are_refused():
    with pytest.raises(MalformedError, match="only those"):
        verify_quote(**quote(values=VALUES | {10: bytes(32)}))


def test_check_5_nothing_expected_is_nothing_verified():
    with pytest.raises(VerificationError, match=r"expected $"):
        verify_quote(**quote(digest=b"", values=None, pcr_digest=b""))


@pytest.mark.parametrize(
    "wrong",
    [{"extra_data": b""}, {"selection": ()}, {"values": None}, {"pcr_digest": bytes(32)}],
    ids=["extraData", "selection", "neither", "both"],
)
def test_what_is_expected_must_be_said(wrong):
    with pytest.raises(UsageError):
        verify_quote(**quote(**wrong))


def test_any_state_still_means_signer_type_and_extra_data():
    names = ("ak_public_key", "attest", "signature", "extra_data")

    def verify(**changed):
        arguments = quote(**changed)
        return verify_quote_of_any_state(**{name: arguments[name] for name in names})

    assert verify(pcrs=build.selection(("sha1", (3,))), digest=b"x" * 32).pcr_digest == b"x" * 32
    with pytest.raises(VerificationError, match="signature"):
        verify(key=build.key(8))
    with pytest.raises(VerificationError, match="extraData"):
        verify(signed_extra_data=b"x" * 32)
    with pytest.raises(VerificationError, match="expected QuoteInfo"):
        verify(kind=build.CERTIFY, body=build.tpm2b(NAME) * 2)


def test_an_unrestricted_keys_signature_over_no_tpm_structure_is_refused():
    """A key that signs what its caller chose could sign anything: only the magic tells, and it is checked."""
    text = b"a checkpoint note, or anything else"
    signature = build.ecdsa(AK, text)
    with pytest.raises(MalformedError, match="not made by a TPM"):
        verify_quote(**quote() | {"attest": text, "signature": signature})


def certify(**changed):
    signed = build.attest(
        build.tpm2b(changed.pop("signed_name", NAME)) + build.tpm2b(b"\x00\x0b" + b"q" * 32),
        kind=changed.pop("kind", build.CERTIFY),
        extra_data=EXTRA,
    )
    key = changed.pop("key", AK)
    arguments = {"ak_public_key": AK.public_key(), "attest": signed, "signature": build.ecdsa(key, signed)}
    return arguments | {"extra_data": EXTRA, "name": NAME} | changed


def test_certify():
    verified = verify_certify(**certify())
    assert (verified.name, verified.qualified_name) == (NAME, b"\x00\x0b" + b"q" * 32)
    assert verified.clock.restart_count == 2


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"signed_name": NAME[:-1] + b"x"}, VerificationError, "certified Name"),
        ({"signed_name": b""}, VerificationError, "certified Name"),
        ({"key": build.key(8)}, VerificationError, "signature"),
        ({"extra_data": b"x" * 32}, VerificationError, "extraData"),
        ({"extra_data": b""}, UsageError, "extraData"),
        ({"name": b""}, UsageError, "Name"),
    ],
)
def test_certify_refuses(changed, error, words):
    with pytest.raises(error, match=words):
        verify_certify(**certify(**changed))


def test_a_quote_is_no_certification():
    arguments = {name: value for name, value in quote().items() if name not in {"selection", "values"}}
    with pytest.raises(VerificationError, match="QuoteInfo, expected CertifyInfo"):
        verify_certify(**arguments, name=NAME)


def nv_certify(*, name=NAME, offset=0, contents=bytes(8), **changed):
    body = build.tpm2b(name) + offset.to_bytes(2, "big") + build.tpm2b(contents)
    signed = build.attest(body, kind=build.NV, extra_data=EXTRA)
    arguments = {"ak_public_key": AK.public_key(), "attest": signed, "signature": build.ecdsa(AK, signed)}
    return arguments | {"extra_data": EXTRA, "index_name": NAME, "size": 8} | changed


def test_nv_certify():
    verified = verify_nv_certify(**nv_certify(contents=bytes(7) + b"\x2a"))
    assert (verified.index_name, verified.contents) == (NAME, bytes(7) + b"\x2a")
    assert verified.clock.clock == 123_456


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"name": NAME[:-1] + b"x"}, VerificationError, "certified index"),
        ({"offset": 1}, VerificationError, "from offset 1"),
        ({"contents": bytes(7)}, VerificationError, "7 bytes"),
        ({"contents": b"", "size": 0}, UsageError, "size"),
        ({"index_name": b""}, UsageError, "Name"),
        ({"extra_data": b"x" * 32}, VerificationError, "extraData"),
    ],
)
def test_nv_certify_refuses(changed, error, words):
    with pytest.raises(error, match=words):
        verify_nv_certify(**nv_certify(**changed))


def test_a_quote_line_splits_into_what_was_joined():
    assert split_quote(join_quote(b"attest", b"signature")) == (b"attest", b"signature")


@pytest.mark.parametrize(
    "payload", [b"", b"\0", b"\0\0", b"\0\0sig", b"\0\x03abc", b"\0\x03ab", b"\xff\xffabc"]
)
def test_a_quote_line_needs_both_parts(payload):
    with pytest.raises(MalformedError, match="quote line"):
        split_quote(payload)


def test_the_key_is_loaded_once_and_verifies_many():
    key = AK.public_key()
    digests = {verify_quote(**quote(ak_public_key=key)).pcr_digest for _ in range(3)}
    assert digests == {composite(SELECTION, VALUES)}
    key.verify(
        AK.sign(b"still usable", ec.ECDSA(hashes.SHA256())), b"still usable", ec.ECDSA(hashes.SHA256())
    )
