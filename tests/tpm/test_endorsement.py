"""The EK is the one that the TPM's certificate speaks of; its chain is what an enroller verifies."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import crypto

from attestd.errors import TpmError, TpmRefusedError, VerificationError
from attestd.tcg.credential import Credential, make_credential
from attestd.tcg.endorsement import TEMPLATES, require_endorsement_key
from attestd.tcg.nv import NvAttribute, nv_public
from attestd.tcg.public import host_id, parse_public
from attestd.tpm import capabilities
from attestd.tpm._commands import Cc, password, sized, u16, u32
from attestd.tpm.device import Tpm
from attestd.tpm.endorsement import EndorsementKey
from tests.tpm.provisioned import Provisioned

PLATFORM = 0x4000000C
P256_CERTIFICATE, RSA_CERTIFICATE, P384_CERTIFICATE = 0x01C0000A, 0x01C00002, 0x01C00016


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


def test_rsa_where_only_that_has_a_certificate(tpm: Tpm) -> None:
    remove(tpm, P256_CERTIFICATE)
    ek = tpm.endorsement_key()
    assert parse_public(ek.public).key_type == 0x0001
    assert same_key(ek.certificate_chain[0], ek.public)


def test_p256_without_certificates(tpm: Tpm) -> None:
    for index in (P256_CERTIFICATE, RSA_CERTIFICATE, P384_CERTIFICATE):
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
    put(tpm, P256_CERTIFICATE + 2, TEMPLATES[0].public())
    put(tpm, P256_CERTIFICATE + 1, b"not used: the template is complete")
    assert tpm.endorsement_key() == plain


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"-----BEGIN CERTIFICATE-----", "expected DER"),
        (b"\x30", "truncated"),
        (b"\x30\x82\x10\x00abc", "truncated"),
        (b"\x30\x82\x00\x03abc", "a length that is not DER"),
        (b"\x30\x03abc", "truncated"),
    ],
)
def test_damaged_certificates(tpm: Tpm, data: bytes, words: str) -> None:
    remove(tpm, P256_CERTIFICATE)
    put(tpm, P256_CERTIFICATE, data)
    with pytest.raises(TpmError, match=words):
        tpm.endorsement_key()


class TestActivation:
    """What only the TPM with the EK can do, and only for the key whose Name the credential is for."""

    SECRET = bytes(range(32))

    @pytest.fixture(params=["L-2", "L-1", "H-3"])
    def ek(self, host: Provisioned, request: pytest.FixtureRequest) -> EndorsementKey:
        wanted = next(template for template in TEMPLATES if template.name == request.param)
        for template in TEMPLATES[: TEMPLATES.index(wanted)]:
            remove(host.tpm, template.certificate)
        found = host.tpm.endorsement_key()
        assert require_endorsement_key(parse_public(found.public)) is wanted
        return found

    def credential(self, ek: EndorsementKey, name: bytes) -> Credential:
        return make_credential(parse_public(ek.public), name=name, secret=self.SECRET, random=os.urandom)

    def activate(self, host: Provisioned, ek: EndorsementKey, made: Credential) -> bytes:
        before = handles(host.tpm)
        try:
            return host.tpm.activate_credential(
                ek_public=ek.public, id_object=made.id_object, encrypted_secret=made.encrypted_secret
            )
        finally:
            assert handles(host.tpm) == before

    def test_the_secret_comes_back(self, host: Provisioned, ek: EndorsementKey) -> None:
        name = parse_public(host.blobs.ak_public).name
        assert self.activate(host, ek, self.credential(ek, name)) == self.SECRET
        assert self.activate(host, ek, self.credential(ek, name)) == self.SECRET

    def test_for_another_attestation_key(self, host: Provisioned, ek: EndorsementKey) -> None:
        release = parse_public(host.blobs.release_public).name
        with pytest.raises(TpmRefusedError, match="TPM2_ActivateCredential"):
            self.activate(host, ek, self.credential(ek, release))

    @pytest.mark.parametrize("place", [2, 4, -1])
    @pytest.mark.parametrize("part", ["id_object", "encrypted_secret"])
    def test_changed_on_its_way(self, host: Provisioned, ek: EndorsementKey, part: str, place: int) -> None:
        made = self.credential(ek, parse_public(host.blobs.ak_public).name)
        data = bytearray(getattr(made, part))
        data[place] ^= 1
        with pytest.raises(TpmError):
            self.activate(host, ek, replace(made, **{part: bytes(data)}))

    def test_for_another_tpm(self, host: Provisioned) -> None:
        other = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
        point = sized(other.x.to_bytes(32, "big")) + sized(other.y.to_bytes(32, "big"))
        public = TEMPLATES[0].area + point
        made = self.credential(EndorsementKey(public, ()), parse_public(host.blobs.ak_public).name)
        with pytest.raises(TpmError, match="another one"):
            self.activate(host, EndorsementKey(public, ()), made)
        with pytest.raises(TpmRefusedError):
            self.activate(host, host.tpm.endorsement_key(), made)

    def test_not_an_endorsement_key(self, host: Provisioned) -> None:
        made = self.credential(host.tpm.endorsement_key(), b"\x00\x0b" + bytes(32))
        with pytest.raises(VerificationError, match="not an endorsement key"):
            self.activate(host, EndorsementKey(host.blobs.ak_public, ()), made)


@pytest.mark.parametrize("kind", ["ecc", "rsa"])
def test_a_credential_that_tpm2_makecredential_made(host: Provisioned, tmp_path: Path, kind: str) -> None:
    if kind == "rsa":
        remove(host.tpm, P256_CERTIFICATE)
    ek = host.tpm.endorsement_key()
    key = parse_public(ek.public).public_key()
    (tmp_path / "ek.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "secret").write_bytes(b"from other tools")
    name = parse_public(host.blobs.ak_public).name.hex()
    made = subprocess.run(
        [
            *("tpm2_makecredential", "-T", "none", "-u", "ek.pem", "-G", kind, "-s", "secret", "-n", name),
            *("-o", "credential"),
        ],
        cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    data = (tmp_path / "credential").read_bytes()[8:]  # a magic number and a version
    size = 2 + int.from_bytes(data[:2], "big")
    found = host.tpm.activate_credential(
        ek_public=ek.public, id_object=data[:size], encrypted_secret=data[size:]
    )
    assert found == b"from other tools"


def handles(tpm: Tpm) -> list[int]:
    kinds = (capabilities.TRANSIENT, capabilities.LOADED_SESSIONS, capabilities.SAVED_SESSIONS)
    return [handle for kind in kinds for handle in capabilities.handles(tpm._channel, kind)]
