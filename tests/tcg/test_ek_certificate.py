"""What is read of certificates as they are shipped, and that nothing else is."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import MalformedError
from attestd.tcg.ek_certificate import MAX_CERTIFICATE_BYTES, QUIRKS, parse_ek_certificate, split_certificates
from tests.tcg.ek_build import (
    P256,
    RSA,
    Authority,
    der,
    header,
    one_rdn,
    parts,
    resigned,
    say_not_critical,
    unsort_names,
)

ROOT = Authority.root()
EK = ROOT.ek()
LONG = ROOT.ek(RSA)
ODD_ROOT = Authority.root(one_rdn("odd"))

SHIPPED = {
    (): EK,
    ("padding",): EK + b"\xff" * (1600 - len(EK)),
    ("octet-string",): der(0x04, EK),
    ("padding", "octet-string"): der(0x04, EK) + bytes(9),
    ("unsorted-set",): resigned(ODD_ROOT.certificate, ODD_ROOT.key, unsort_names),
    ("default-encoded",): resigned(EK, ROOT.key, say_not_critical),
}


@pytest.mark.parametrize("quirks", SHIPPED, ids="+".join)
def test_as_shipped(quirks):
    found = parse_ek_certificate(SHIPPED[quirks])
    assert found.quirks == quirks
    assert found.der in SHIPPED[quirks]
    assert set(quirks) <= set(QUIRKS)
    assert found.public_key() == (ODD_ROOT.key if "unsorted-set" in quirks else P256).public_key()
    assert parse_ek_certificate(found.der).der == found.der


def test_each_quirk_is_shipped_here():
    assert {quirk for quirks in SHIPPED for quirk in quirks} == set(QUIRKS)


def test_cryptography_alone_reads_no_quirk():
    for quirks, data in SHIPPED.items():
        if quirks:
            with pytest.raises(ValueError, match=r"parsing|parse"):
                x509.load_der_x509_certificate(data)


def test_what_was_undone_says_the_same():
    odd = parse_ek_certificate(SHIPPED["unsorted-set",])
    assert odd.subject == odd.issuer == ODD_ROOT.name.public_bytes()
    said = parse_ek_certificate(SHIPPED["default-encoded",])
    assert list(said.fields.extensions) == list(parse_ek_certificate(EK).fields.extensions)


def test_both_in_one():
    odd = Authority.root(one_rdn("odd"), with_={"key id": (x509.SubjectKeyIdentifier(b"1234"), False)})

    def edit(fields):
        unsort_names(fields)
        say_not_critical(fields)

    assert parse_ek_certificate(resigned(odd.certificate, odd.key, edit)).quirks == (
        "unsorted-set",
        "default-encoded",
    )


def version_one(fields):
    del fields[0], fields[-1]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "found nothing"),
        (b"\x30", "truncated"),
        (EK[:-1], "truncated"),
        (EK[:4], "truncated"),
        (EK + b"\0\xff", "no padding"),
        (EK + EK, "no padding"),
        (EK + b"x", "no padding"),
        (b"\x10\x01\x00" + len(EK).to_bytes(2, "big") + EK, "expected DER with tag 0x30"),
        (b"-----BEGIN CERTIFICATE-----", "expected DER"),
        (der(0x04, der(0x04, EK)), "expected DER with tag 0x30, found 0482"),
        (der(0x04, EK, b"x"), "no padding"),
        (b"\x30\x80" + EK[4:] + b"\0\0", "a length that is not DER"),
        (b"\x30\x83\0" + EK[2:], "a length that is not DER"),
        (b"\x30\x81\x05hello", "a length that is not DER"),
        (b"\x30\x82\x00\x80" + bytes(128), "a length that is not DER"),
        (bytes(MAX_CERTIFICATE_BYTES + 1), "8193 bytes, the limit is 8192"),
        (bytes(4 << 20), "4194304 bytes, the limit"),
        (der(0x30), "not a certificate"),
        (der(0x30, der(0x30)), "not a certificate"),
        (der(0x30, der(0x02, b"\1")), "expected tag 0x30, found 02"),
        (der(0x30, der(0x30, *[der(0x30)] * 8)), r"not X\.509 in DER"),
        (der(0x30, der(0x30, *[der(0x30)] * 4, der(0x02, b"1"))), "expected tag 0x30"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_nothing_else_is_tolerated(data, words):
    with pytest.raises(MalformedError, match=words):
        parse_ek_certificate(data)


def serial_with_a_zero(fields):
    fields[1] = der(0x02, b"\0" + fields[1][2:])


def critical_as_one(fields):
    fields[-1] = fields[-1].replace(b"\1\1\xff", b"\1\1\1", 1)


def a_trailing_element(fields):
    fields.append(der(0x05))


@pytest.mark.parametrize("edit", [serial_with_a_zero, critical_as_one, a_trailing_element])
def test_other_ways_not_to_be_der(edit):
    with pytest.raises(MalformedError, match=r"not X\.509 in DER"):
        parse_ek_certificate(resigned(EK, ROOT.key, edit))


def test_a_quirk_does_not_excuse_another_fault():
    def edit(fields):
        say_not_critical(fields)
        serial_with_a_zero(fields)

    with pytest.raises(MalformedError, match=r"not X\.509"):
        parse_ek_certificate(resigned(EK, ROOT.key, edit))


def test_version_one_has_no_extensions_to_look_at():
    data = resigned(EK, ROOT.key, version_one)
    assert parse_ek_certificate(data).fields.version is x509.Version.v1
    with pytest.raises(MalformedError, match=r"not X\.509 in DER"):
        parse_ek_certificate(der(0x30, *parts(data)[:2], b"\x03\x03\x05ab"))


def with_extension(oid: str, value: bytes):
    def edit(fields):
        [sequence] = parts(fields[-1])
        encoded = x509.ObjectIdentifier(oid)
        name = x509.Name([x509.NameAttribute(encoded, "x")]).public_bytes()
        [rdn] = parts(name)
        [attribute] = parts(rdn)
        fields[-1] = der(0xA3, der(0x30, *parts(sequence), der(0x30, parts(attribute)[0], der(0x04, value))))

    return edit


def test_extensions_that_do_not_parse():
    again = parse_ek_certificate(resigned(EK, ROOT.key, with_extension("2.5.29.15", b"\x03\x02\x05\x20")))
    with pytest.raises(MalformedError, match=r"[Dd]uplicate"):
        again.extension(x509.KeyUsage)
    unknown = parse_ek_certificate(resigned(EK, ROOT.key, with_extension("2.5.29.18", b"not DER")))
    with pytest.raises(MalformedError, match="certificate: "):
        unknown.extension(x509.BasicConstraints)


def test_a_key_that_does_not_parse():
    def edit(fields):
        algorithm, _ = parts(fields[6])
        fields[6] = der(0x30, algorithm, der(0x03, b"\0\4" + bytes(64)))

    with pytest.raises(MalformedError, match="certificate: "):
        parse_ek_certificate(resigned(EK, ROOT.key, edit)).public_key()


def test_fields():
    certificate = parse_ek_certificate(LONG)
    assert certificate.public_key() == RSA.public_key()
    assert certificate.issuer == ROOT.name.public_bytes()
    assert certificate.signature_hash().name == "sha256"
    assert certificate.extension(x509.NameConstraints) is None
    assert isinstance(ROOT.key, ec.EllipticCurvePrivateKey)


def test_whose_issuer_it_is():
    root, ek = parse_ek_certificate(ROOT.certificate), parse_ek_certificate(EK)
    same_key = parse_ek_certificate(Authority.root("of another name", ROOT.key).certificate)
    same_name = parse_ek_certificate(Authority.root(key=P256).certificate)
    assert root.is_issuer_of(ek)
    assert root.is_issuer_of(root)
    for other in (same_key, same_name, ek):
        assert not other.is_issuer_of(ek)


class TestSplit:
    def test_one_after_the_other(self):
        assert split_certificates(EK + LONG + bytes(30)) == (EK, LONG)
        assert split_certificates(EK + b"\xff" * 3) == (EK,)
        assert split_certificates(b"") == ()

    def test_truncated(self):
        with pytest.raises(MalformedError, match="truncated"):
            split_certificates(EK + LONG[:-1])

    @given(st.binary(max_size=64))
    def test_anything(self, data):
        try:
            found = split_certificates(data)
        except MalformedError:
            return
        assert data.startswith(b"".join(found))
        assert all(header(one) <= len(one) for one in found)


@pytest.mark.parametrize("tag", [0x4C, 0x03], ids=["unknown", "BIT STRING"])
@pytest.mark.parametrize(("place", "member"), [(3, "issuer"), (5, "subject")])
def test_names_that_do_not_parse(place, member, tag):
    """Found by fuzzing: a certificate's names are parsed when they are asked for."""

    def edit(fields):
        fields[place] = der(0x30, der(0x31, der(0x30, der(0x06, b"\x55\x04\x03"), der(tag, b"\0root"))))

    found = parse_ek_certificate(resigned(EK, ROOT.key, edit))
    with pytest.raises(MalformedError, match="certificate: "):
        getattr(found, member)
