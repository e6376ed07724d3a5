"""Keys encrypted at rest: other programs read them, only with the passphrase, and guessing it is dear."""

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from attestd.distribution.pkcs8 import MAX_PASSPHRASE_BYTES, encrypt_pkcs8, is_encrypted

KEYS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "rsa, of many bytes": rsa.generate_private_key(65537, 2048),
}


def der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("passphrase", [b"x", "pässwörd".encode(), b"y" * MAX_PASSPHRASE_BYTES])
def test_others_read_it(kind: str, passphrase: bytes) -> None:
    key = KEYS[kind]
    pem = encrypt_pkcs8(der(key), passphrase)
    assert der(load_pem_private_key(pem, password=passphrase)) == der(key)
    assert is_encrypted(pem)


def test_openssl_reads_it_and_sees_what_a_guess_costs(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(encrypt_pkcs8(der(KEYS["p256"]), b"secret"))

    def openssl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["openssl", *arguments], capture_output=True, text=True, check=False, timeout=60
        )

    read = openssl("pkey", "-in", str(path), "-passin", "pass:secret", "-text")
    assert "prime256v1" in read.stdout, read
    assert openssl("pkey", "-in", str(path), "-passin", "pass:Secret").returncode != 0
    parsed = openssl("asn1parse", "-in", str(path)).stdout
    for expected in (":PBES2", ":scrypt", "INTEGER           :4000", ":aes-256-cbc"):
        assert expected in parsed, parsed


def test_another_passphrase() -> None:
    pem = encrypt_pkcs8(der(KEYS["ed25519"]), b"secret")
    for wrong in (b"Secret", b"secret ", b"x"):
        with pytest.raises(ValueError, match=r".*"):
            load_pem_private_key(pem, password=wrong)


def test_twice_is_not_the_same() -> None:
    made = {encrypt_pkcs8(der(KEYS["ed25519"]), b"secret") for _ in range(2)}
    assert len(made) == 2


def test_what_is_encrypted() -> None:
    key = KEYS["p256"]
    clear = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    old = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"x"))
    assert not is_encrypted(clear)
    assert is_encrypted(old)
