"""Endorsement keys are those of the TCG's templates, and nothing that only looks like one."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestd.errors import VerificationError
from attestd.tcg.endorsement import TEMPLATES, require_endorsement_key
from attestd.tcg.public import attestation_key_template, parse_public
from tests.tcg import build

KEYS: dict[str, ec.EllipticCurvePublicKey] = {
    "L-2": build.key(11).public_key(),
    "H-2": build.key(12).public_key(),
    "H-3": build.key(13, ec.SECP384R1()).public_key(),
}
RSA_BITS = {"L-1": 2048, "H-1": 2048, "H-6": 3072, "H-7": 4096}


def public_of(name: str) -> bytes:
    if name in KEYS:
        return build.ek_public(name, KEYS[name])
    # A modulus of that size, odd: that it is no product of primes, nobody can see.
    return build.ek_public(name, rsa.RSAPublicNumbers(65537, (1 << RSA_BITS[name]) - 1).public_key())


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_a_key_of_each_template(template):
    assert require_endorsement_key(parse_public(public_of(template.name))) is template


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_the_templates_are_those_of_tpm2_pytss(template):
    from tpm2_pytss.internal.templates import ek_template

    other = ek_template.lookup(template.name)
    assert other.cert_index == template.certificate
    assert other.template.publicArea.marshal() == template.public()
    assert (other.nonce_index is not None) is template.is_low


def test_a_nonce_of_the_manufacturer():
    [rsa_2048] = [template for template in TEMPLATES if template.name == "L-1"]
    assert rsa_2048.public(b"nonce") == rsa_2048.area + build.tpm2b(b"nonce" + bytes(251))
    assert TEMPLATES[0].public(b"n") == TEMPLATES[0].area + build.tpm2b(b"n" + bytes(31)) + build.tpm2b(
        bytes(32)
    )


LOW = public_of("L-2")
OTHERS = {
    "not restricted": (LOW, "000300b2", "000200b2"),
    "it may sign": (LOW, "000300b2", "000700b2"),
    "it may leave the TPM": (LOW, "000300b2", "000300b0"),
    "it may change its parent": (LOW, "000300b2", "000300a2"),
    "made outside": (LOW, "000300b2", "00030092"),
    "used with an auth value": (LOW, "000300b2", "000300f2"),
    "another policy": (LOW, "837197", "837198"),
    "another cipher": (LOW, "000600800043", "000601000043"),
    "another mode": (LOW, "000600800043", "000600800042"),
    "another hash": (public_of("H-3"), "0023000c000300f20030", "0023000b000300f20030"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_area_around_a_key(what):
    area, old, new = OTHERS[what]
    changed = area.hex().replace(old, new, 1)
    assert changed != area.hex()
    if what == "another hash":
        changed = changed.replace(build.EK_AREAS["H-3"][16:116], build.EK_AREAS["H-2"][16:84], 1)
    with pytest.raises(VerificationError, match="none of the TCG's templates L-2, L-1, H-3"):
        require_endorsement_key(parse_public(bytes.fromhex(changed)))


def test_a_key_that_is_none():
    point = KEYS["L-2"].public_numbers()
    area = attestation_key_template()[:-4] + build.tpm2b(point.x.to_bytes(32, "big"))
    with pytest.raises(VerificationError, match="not an endorsement key"):
        require_endorsement_key(parse_public(area + build.tpm2b(point.y.to_bytes(32, "big"))))
