"""Authority keys: files that others cannot read, never overwritten, and signatures that attestd itself verifies."""

import os
import sys
import traceback
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, Key, Signature, Signer

from attestd.authorization.dsse import PublicKey
from attestd.distribution.signer import (
    KINDS,
    MAX_KEY_BYTES,
    generate,
    is_encrypted_file,
    load_authority,
    load_public,
    protect,
)
from attestd.errors import MalformedError, StoreError, UsageError
from tests.world import digest, spki


@pytest.mark.parametrize("kind", KINDS)
def test_generated_keys_sign_what_verifies(tmp_path: Path, kind: str) -> None:
    made = generate(kind, tmp_path / "key")
    for authority in (made, load_authority(f"file:{tmp_path}/key"), load_authority(str(tmp_path / "key"))):
        public, signature = authority.sign(b"message")
        assert public == made.public == load_public(tmp_path / "key.pub")
        public.verify(b"message", signature)


def test_modes(tmp_path: Path) -> None:
    generate("ed25519", tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" in (tmp_path / "key").read_bytes()
    assert b"PRIVATE" not in (tmp_path / "key.pub").read_bytes()


def test_never_overwritten(tmp_path: Path) -> None:
    generate("p256", tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(UsageError, match="never overwritten"):
        generate("p256", tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before


def test_unknown_kinds(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ed25519, p256"):
        generate("rsa", tmp_path / "key")
    assert list(tmp_path.iterdir()) == []


def test_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        generate("p256", tmp_path / "none/key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_keys_that_others_can_read(tmp_path: Path, mode: int) -> None:
    generate("p256", tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(UsageError, match="chmod 600"):
        load_authority(str(tmp_path / "key"))


def test_missing(tmp_path: Path) -> None:
    for load in (lambda: load_authority(f"file:{tmp_path}/none"), lambda: load_public(tmp_path / "none")):
        with pytest.raises(StoreError):
            load()


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    path.chmod(0o600)
    return str(path)


def test_no_key(tmp_path: Path) -> None:
    for data in (b"", b"x", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(MalformedError):
            load_authority(write(tmp_path / "key", data))
        with pytest.raises(MalformedError):
            load_public(tmp_path / "key")


def test_too_large(tmp_path: Path) -> None:
    name = write(tmp_path / "key", b"x" * (MAX_KEY_BYTES + 1))
    with pytest.raises(MalformedError, match="over"):
        load_authority(name)


def test_of_another_kind(tmp_path: Path) -> None:
    strange = rsa.generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    with pytest.raises(MalformedError):
        load_authority(write(tmp_path / "key", strange))


SECRET = "correct horse"


def answer(what: str) -> str:
    assert "passphrase of key" in what
    return SECRET


@pytest.mark.parametrize("kind", KINDS)
def test_encrypted_keys_sign_with_their_passphrase(tmp_path: Path, kind: str) -> None:
    made = generate(kind, tmp_path / "key", passphrase=SECRET)
    assert is_encrypted_file(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in (tmp_path / "key").read_bytes()
    public, signature = load_authority(str(tmp_path / "key"), ask=answer).sign(b"message")
    assert public == made.public
    public.verify(b"message", signature)
    with pytest.raises(UsageError, match="nobody is there to ask"):
        load_authority(str(tmp_path / "key"))


def test_a_wrong_passphrase_is_said_and_not_shown(tmp_path: Path) -> None:
    generate("p256", tmp_path / "key", passphrase=SECRET)
    for wrong in ("Correct horse", "x" * 1024):
        with pytest.raises(UsageError, match="wrong passphrase") as caught:
            load_authority(str(tmp_path / "key"), ask=lambda _, wrong=wrong: wrong)
        shown = "".join(traceback.format_exception(caught.value))
        assert wrong not in shown
        assert SECRET not in shown


@pytest.mark.parametrize("unusable", ["", "x" * 1025])
def test_unusable_passphrases(tmp_path: Path, unusable: str) -> None:
    with pytest.raises(UsageError, match="1 to 1024 bytes"):
        generate("p256", tmp_path / "key", passphrase=unusable)
    assert list(tmp_path.iterdir()) == []


def test_protect(tmp_path: Path) -> None:
    """The key stays the same, whatever its file looks like."""
    path = tmp_path / "key"
    made = generate("ed25519", path)
    clear = path.read_bytes()
    assert protect(path, ask=answer, passphrase=SECRET).public == made.public
    assert clear.splitlines()[1] not in path.read_bytes()
    assert load_authority(str(path), ask=answer).public == made.public
    with pytest.raises(UsageError, match="wrong passphrase"):
        protect(path, ask=lambda _: "x", passphrase=None)
    protect(path, ask=answer, passphrase="another")
    assert load_authority(str(path), ask=lambda _: "another").public == made.public
    protect(path, ask=lambda _: "another", passphrase=None)
    assert path.read_bytes() == clear
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["key", "key.pub"]


def test_encrypted_by_others(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(SECRET.encode()))
    assert load_authority(write(tmp_path / "key", pem), ask=answer).public == PublicKey(spki(key))


def test_tokens_need_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate("p256", tmp_path / "key")
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    monkeypatch.delitem(sys.modules, "attestd.distribution.hsm", raising=False)
    with pytest.raises(UsageError, match=r"attestd\[hsm\]"):
        load_authority("hsm:2", public_key=tmp_path / "key.pub")


def test_uris_that_need_a_public_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--public-key"):
        load_authority("awskms:2")
    generate("p256", tmp_path / "key")
    with pytest.raises(UsageError):
        load_authority("nonsense:1", public_key=tmp_path / "key.pub")


class Device(Signer):
    """A key in a device, as securesystemslib lets others add them; it may be unplugged."""

    def __init__(self, key: Key, name: str) -> None:
        self._key, self._name = key, name

    @property
    def public_key(self) -> Key:
        return self._key

    @classmethod
    def from_priv_key_uri(
        cls,
        priv_key_uri: str,
        public_key: Key,
        secrets_handler: object = None,  # noqa: ARG003 - the interface of Signer
    ) -> "Device":
        return cls(public_key, priv_key_uri.removeprefix("device:"))

    def sign(self, payload: bytes) -> Signature:
        if self._name == "unplugged":
            raise OSError("no such device")
        return Signature(self._key.keyid, digest(payload))


def test_keys_in_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "device", Device)
    public = generate("p256", tmp_path / "key").public
    plugged = load_authority("device:plugged", public_key=tmp_path / "key.pub")
    assert plugged.sign(b"x") == (public, bytes.fromhex(digest(b"x")))
    unplugged = load_authority("device:unplugged", public_key=tmp_path / "key.pub")
    with pytest.raises(StoreError, match="no such device"):
        unplugged.sign(b"x")


def test_uris_that_the_library_refuses(tmp_path: Path) -> None:
    generate("p256", tmp_path / "key")
    with pytest.raises(UsageError):
        load_authority("awskms:", public_key=tmp_path / "key.pub")


def test_the_private_key_is_not_shown(tmp_path: Path) -> None:
    authority = generate("ed25519", tmp_path / "key")
    secret = (tmp_path / "key").read_text().splitlines()[1]
    assert secret not in repr(authority)


def test_existing_pem_keys_are_read(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    loaded = load_authority(write(tmp_path / "key", pem))
    assert loaded.public == PublicKey(spki(key))
    assert os.listdir(tmp_path) == ["key"]
