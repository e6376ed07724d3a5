"""Certificates of attestation keys, as OpenSSL and cryptography judge them."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.governance.ak_certificate import (
    IssuerKey,
    host_uri,
    issue_ak_authority,
    issue_ak_certificate,
    parse_ak_certificate,
    require_issuer,
)
from tests.tcg import build
from tests.tcg.ek_build import NOW, parts, resigned
from tests.tcg.test_ek_certificate import EK, ROOT

HOST, DOMAIN = "ab" * 32, "example.com"
AK = build.key(61).public_key()
KEYS: dict[str, IssuerKey] = {
    "P-256": build.key(62),
    "P-384": build.key(63, ec.SECP384R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)),
}
START, END = NOW - timedelta(days=1), NOW + timedelta(days=3650)


def authority(key: IssuerKey = KEYS["P-256"], **changes: Any) -> x509.Certificate:
    arguments: dict[str, Any] = {
        "trust_domain": DOMAIN, "serial": bytes(16), "not_before": START, "not_after": END,
    }  # fmt: skip
    return x509.load_pem_x509_certificate(issue_ak_authority(key, **arguments | changes))


def issued(key: IssuerKey = KEYS["P-256"], **changes: Any) -> x509.Certificate:
    arguments: dict[str, Any] = {
        "host": HOST, "trust_domain": DOMAIN, "key": key, "serial": bytes(range(16)),
        "not_before": NOW, "not_after": NOW + timedelta(days=365),
    }  # fmt: skip
    arguments |= {"authority": authority(key)} | changes
    return x509.load_pem_x509_certificate(issue_ak_certificate(AK, **arguments))


def verify(ak: x509.Certificate, root: x509.Certificate) -> None:
    store = crypto.X509Store()
    store.set_time(NOW)
    store.set_flags(crypto.X509StoreFlags.X509_STRICT)
    store.add_cert(crypto.X509.from_cryptography(root))
    crypto.X509StoreContext(store, crypto.X509.from_cryptography(ak)).verify_certificate()


@pytest.mark.parametrize("kind", KEYS)
def test_openssl_verifies_it(kind: str) -> None:
    verify(issued(KEYS[kind]), authority(KEYS[kind]))
    issued(KEYS[kind]).verify_directly_issued_by(authority(KEYS[kind]))


def test_what_it_says() -> None:
    certificate = issued()
    assert certificate.public_key() == AK
    assert certificate.serial_number == 1 + int.from_bytes(bytes(range(16)), "big")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://example.com/host/{HOST}"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign) == (True, False)
    [purpose] = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert purpose.dotted_string == "2.23.133.8.3"


def test_another_authority_does_not_verify_it() -> None:
    with pytest.raises(crypto.X509StoreContextError):
        verify(issued(), authority(KEYS["P-384"]))


def test_an_authority_names_hosts_of_its_trust_domain_only() -> None:
    """Whoever takes its key can name no host elsewhere."""
    with pytest.raises(crypto.X509StoreContextError, match="permitted subtree violation"):
        verify(issued(trust_domain="example.org"), authority())


def test_it_does_not_outlive_its_authority() -> None:
    certificate = issued(not_before=START - timedelta(days=9), not_after=END + timedelta(days=9))
    assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == (START, END)
    old = authority(not_after=NOW - timedelta(hours=1))
    with pytest.raises(UsageError, match="ended at 2026-03-01T11:00:00"):
        issued(authority=old)


def test_an_authority_of_another_key() -> None:
    with pytest.raises(UsageError, match="do not belong together"):
        issued(authority=authority(KEYS["P-384"]))
    with pytest.raises(UsageError, match="do not belong together"):
        require_issuer(authority(), KEYS["Ed25519"])


def test_an_authority_whose_key_does_not_parse() -> None:
    def edit(fields: list[bytes]) -> None:
        fields[6] = fields[6][:-64] + bytes(64)

    broken = x509.load_der_x509_certificate(resigned(EK, ROOT.key, edit))
    assert parts(broken.public_bytes(Encoding.DER))
    with pytest.raises(MalformedError, match="the AK authority's certificate"):
        require_issuer(broken, KEYS["P-256"])


@pytest.mark.parametrize("domain", ["", "Example.com", "a/b", "a:1", "a" * 256, "é", "a\n"])
def test_a_trust_domain_that_is_none(domain: str) -> None:
    with pytest.raises(UsageError, match="trust domain"):
        host_uri(domain, HOST)
    with pytest.raises(UsageError, match="trust domain"):
        authority(trust_domain=domain)


@pytest.mark.parametrize("host", ["", "AB" * 32, HOST + "\n", "../" + HOST[3:]])
def test_a_host_that_is_none(host: str) -> None:
    with pytest.raises(UsageError, match="host id"):
        issued(host=host)


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_serial_that_is_none(size: int) -> None:
    with pytest.raises(UsageError, match="serial number"):
        issued(serial=bytes(size))


def test_a_long_trust_domain() -> None:
    domain = "a" * 63 + ".example.com"
    verify(
        issued(trust_domain=domain, authority=authority(trust_domain=domain)), authority(trust_domain=domain)
    )


def text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def test_what_a_host_takes() -> None:
    given = issued()
    assert parse_ak_certificate(text(given), ak=AK, host=HOST) == given


def test_what_a_host_does_not_take() -> None:
    with pytest.raises(VerificationError, match="another key"):
        parse_ak_certificate(text(issued()), ak=build.key(64).public_key(), host=HOST)
    with pytest.raises(VerificationError, match="this is host cdcd"):
        parse_ak_certificate(text(issued()), ak=AK, host="cd" * 32)
    for data in ("", "PEM", "é", text(authority()), text(issued())[:-200]):
        with pytest.raises((MalformedError, VerificationError)):
            parse_ak_certificate(data, ak=AK, host=HOST)
