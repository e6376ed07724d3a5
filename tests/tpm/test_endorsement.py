"""The EK is the one that the TPM's certificate speaks of; its chain is what an enroller verifies."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import crypto

from attestd.errors import TpmError
from attestd.tcg.nv import NvAttribute, nv_public
from attestd.tcg.public import host_id, parse_public
from attestd.tpm import endorsement
from attestd.tpm._commands import Cc, password, sized, u16, u32
from attestd.tpm.device import Tpm

PLATFORM = 0x4000000C
P256_CERTIFICATE, RSA_CERTIFICATE = 0x01C0000A, 0x01C00002


def remove(tpm: Tpm, index: int) -> None:
    params = u32(PLATFORM) + u32(index)
    tpm._channel.run(Cc.NV_UNDEFINE_SPACE, handles=params, auth=password())


def put(tpm: Tpm, index: int, data: bytes) -> None:
    attributes = NvAttribute.AUTHREAD | NvAttribute.AUTHWRITE | NvAttribute.NO_DA
    public = nv_public(index, attributes=attributes, auth_policy=b"", size=len(data))
    owner = u32(0x40000001)
    tpm._channel.run(Cc.NV_DEFINE_SPACE, handles=owner, auth=password(), params=sized(b"") + sized(public))
    for offset in range(0, len(data), 512):
        tpm._channel.run(
            Cc.NV_WRITE,
            handles=u32(index) * 2,
            auth=password(),
            params=sized(data[offset : offset + 512]) + u16(offset),
        )


def same_key(certificate: bytes, public: bytes) -> bool:
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    certified = x509.load_der_x509_certificate(certificate).public_key()
    return certified.public_bytes(*form) == parse_public(public).public_key().public_bytes(*form)


def test_p256_with_a_certificate_of_the_local_ca(tpm: Tpm, swtpm_template: Path) -> None:
    ek = tpm.endorsement_key()
    assert parse_public(ek.public).key_type == 0x0023
    assert len(host_id(ek.public)) == 64
    assert same_key(ek.certificate_chain[0], ek.public)
    store = crypto.X509Store()
    for name in ("issuercert.pem", "swtpm-localca-rootca-cert.pem"):
        store.add_cert(
            crypto.load_certificate(crypto.FILETYPE_PEM, (swtpm_template / "ca" / name).read_bytes())
        )
    leaf = crypto.load_certificate(crypto.FILETYPE_ASN1, ek.certificate_chain[0])
    crypto.X509StoreContext(store, leaf).verify_certificate()


def test_the_same_each_time(tpm: Tpm) -> None:
    assert tpm.endorsement_key() == tpm.endorsement_key()


@pytest.mark.parametrize("name", ["EK-ECC256", "EK-RSA2048"])
def test_our_templates_are_those_of_the_profile(name: str) -> None:
    from tpm2_pytss.utils import NoSuchIndex, create_ek_template

    def nothing(index: int) -> bytes:
        raise NoSuchIndex(index)

    kind = endorsement._P256 if name == "EK-ECC256" else endorsement._RSA_2048
    expected = create_ek_template(name, nothing)[1].publicArea.marshal()
    assert kind.template + sized(bytes(kind.unique_size)) * kind.unique_count == expected


def test_rsa_where_only_that_has_a_certificate(tpm: Tpm) -> None:
    remove(tpm, P256_CERTIFICATE)
    ek = tpm.endorsement_key()
    assert parse_public(ek.public).key_type == 0x0001
    assert same_key(ek.certificate_chain[0], ek.public)


def test_p256_without_certificates(tpm: Tpm) -> None:
    for index in (P256_CERTIFICATE, RSA_CERTIFICATE):
        remove(tpm, index)
    ek = tpm.endorsement_key()
    assert ek.certificate_chain == ()
    assert parse_public(ek.public).key_type == 0x0023


def test_the_chain_that_a_tpm_holds(tpm: Tpm, swtpm_template: Path) -> None:
    pem = x509.load_pem_x509_certificate((swtpm_template / "ca" / "issuercert.pem").read_bytes())
    issuer = pem.public_bytes(Encoding.DER)
    both = issuer + issuer + bytes(7)  # indices are longer than what is in them
    put(tpm, 0x01C00100, both[:900])
    put(tpm, 0x01C00101, both[900:])
    chain = tpm.endorsement_key().certificate_chain
    assert chain[1:] == (issuer, issuer)


def test_a_certificate_with_padding(tpm: Tpm) -> None:
    ek = tpm.endorsement_key()
    remove(tpm, P256_CERTIFICATE)
    put(tpm, P256_CERTIFICATE, ek.certificate_chain[0] + bytes(100))
    assert tpm.endorsement_key() == ek


def test_a_key_with_a_nonce_of_its_manufacturer(tpm: Tpm) -> None:
    plain = tpm.endorsement_key().public
    put(tpm, P256_CERTIFICATE + 1, b"nonce")
    with pytest.raises(TpmError, match="for another key"):
        tpm.endorsement_key()
    remove(tpm, P256_CERTIFICATE)
    remove(tpm, RSA_CERTIFICATE)
    assert tpm.endorsement_key().public != plain


def test_a_key_with_a_template_of_its_manufacturer(tpm: Tpm) -> None:
    plain = tpm.endorsement_key()
    put(tpm, P256_CERTIFICATE + 2, endorsement._P256.template + sized(bytes(32)) * 2)
    put(tpm, P256_CERTIFICATE + 1, b"not used: the template is complete")
    assert tpm.endorsement_key() == plain


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"-----BEGIN CERTIFICATE-----", "not DER"),
        (b"\x30", "not DER"),
        (b"\x30\x82\x10\x00abc", "truncated"),
        (b"\x30\x82\x00\x03abc", "does not parse"),
    ],
)
def test_damaged_certificates(tpm: Tpm, data: bytes, words: str) -> None:
    remove(tpm, P256_CERTIFICATE)
    put(tpm, P256_CERTIFICATE, data)
    with pytest.raises(TpmError, match=words):
        tpm.endorsement_key()
